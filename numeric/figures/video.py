"""What time is worth beside space: the own readout on moving digits with neighbours and a wavelet in time, in space, in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt

from numeric.arguments import as_list
from numeric.data import ImageSet
from numeric.evaluation.sweep import measure as errors_of
from numeric.evaluation.sweep import paired_ratio
from numeric.figures.base import FigureMaker, Parameters
from numeric.figures.foresee import Work, own_work
from numeric.figures.style import (
    COLOURS,
    STYLE,
    fitted_on,
    legend_figure,
    plain_log,
    plus_minus,
    select,
    sigma_colours,
    sigma_handles,
)
from numeric.moving import moving_digits
from numeric.progress import progress_bar
from numeric.scores.video import VideoScore
from numeric.video import time_matrix

REFERENCE = "one coefficient of one frame"
IN_TIME: dict[str, dict[str, Any]] = {
    "nothing in time": {"time_wavelet": None, "time_radius": 0},
    "neighbouring frames": {"time_wavelet": None, "time_radius": 1},
    "wavelet in time": {"time_radius": 0},
    "wavelet and neighbours in time": {"time_radius": 1},
}
"""What a coefficient knows of time."""
IN_SPACE = {"one coefficient": "independent", "neighbours in space": "local"}
"""What it knows of space: the family."""
COLOUR = dict(zip(IN_TIME, (COLOURS["black"], COLOURS["sky"], COLOURS["orange"], COLOURS["vermilion"])))
MARKER = dict(zip(IN_TIME, "osD^"))
MAIN = {
    REFERENCE: ("one coefficient", "nothing in time"),
    "space only": ("neighbours in space", "nothing in time"),
    "time only": ("one coefficient", "wavelet and neighbours in time"),
    "space and time": ("neighbours in space", "wavelet and neighbours in time"),
}
"""The comparison that is followed over speeds."""


@dataclass(kw_only=True)
class VideoConfig(Parameters):
    """Parameters of the video figure.

    Attributes:
        digit_size, size, frames, per_video: side of a digit and of the square it moves in, frames and digits of a video.
        speeds: pixels a frame; all comparisons are made at the first, the main ones at each.
        n_train, n_eval: videos to fit on and held-out ones (of held-out digits).
        degree: of the features. time_wavelet, time_levels: of the wavelet in time. ridge: of all readouts.
        sigmas: VE noise levels.
    """

    name: str = "video"
    digit_size: int = 14
    size: int = 32
    frames: int = 8
    per_video: int = 2
    speeds: Sequence[float] = (1.0, 0.25, 0.5, 2.0, 4.0)
    n_train: int = 1000
    n_eval: int = 100
    degree: int = 2
    time_wavelet: str = "haar"
    time_levels: int | None = None
    ridge: float = 1e-6
    sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0)

    notebook: ClassVar[str] = "video"
    lists: ClassVar[dict[str, Any]] = {**Parameters.lists, "speeds": float}

    def check(self) -> None:
        self.speeds = as_list(self.speeds, float, "speeds")
        if not self.speeds or min(self.speeds) < 0:
            raise ValueError(f"speeds are one or more numbers of pixels a frame >= 0, got {self.speeds}")
        if min(self.n_train, self.n_eval) < 2 or self.degree < 1 or self.per_video < 1:
            raise ValueError(
                f"need n_train >= 2, n_eval >= 2, degree >= 1 and per_video >= 1, got {self.n_train}, {self.n_eval}, {self.degree} "
                f"and {self.per_video}"
            )
        if not 2 <= self.digit_size <= self.size:
            raise ValueError(f"need 2 <= digit_size <= size, got {self.digit_size} and {self.size}")
        time_matrix(self.frames, self.time_wavelet, self.time_levels)

    def work(self, train: int) -> list[Work]:
        side = round(self.size * self.frames**0.5)
        models = len(IN_SPACE) * len(IN_TIME) + len(MAIN) * (len(self.speeds) - 1)
        features = 1 + self.degree + 5 * self.degree * (self.degree + 1)  # of a ball of nine and two in time
        solves = Work("small systems", 30.0 * models * len(self.sigmas) * side**2 * features**3)
        return [own_work(side, self.n_train, models, len(self.sigmas), self.n_eval), solves]

    def videos(self, split: str, speed: float) -> ImageSet:
        """Videos of the digits of a split, in memory."""
        digits = self.images(split, self.digit_size)
        count = self.n_train if split == "train" else self.n_eval
        made = moving_digits(
            digits, count=count, frames=self.frames, size=self.size, per_video=self.per_video, speed=speed, seed=self.seed + (split == "test")
        )
        return made

    def readout(self, space: str, time: str) -> VideoScore:
        settings = {"time_wavelet": self.time_wavelet, "time_levels": self.time_levels, **IN_TIME[time]}
        return VideoScore(IN_SPACE[space], self.degree, ridge=self.ridge, **settings)


def measure(config: VideoConfig, progress: bool = True) -> dict[str, Any]:
    """Held-out error of every combination at the first speed, of the main ones at each, paired with one coefficient's."""
    every = [(space, time) for space in IN_SPACE for time in IN_TIME]
    rows: list[dict[str, Any]] = []
    data: dict[str, Any] = {}
    runs = len(every) + len(MAIN) * (len(config.speeds) - 1)
    with progress_bar(runs, "videos", progress, "model") as bar:
        for number, speed in enumerate(config.speeds):
            train, test = config.videos("train", speed), config.videos("test", speed)
            data[f"speed {speed:g}"] = {"fit": train.provenance, "held_out": test.provenance}
            base: dict[float, Any] = {}
            for space, time in every if number == 0 else MAIN.values():
                model = config.readout(space, time).fit(train, batch_size=100)
                for place, sigma in enumerate(config.sigmas):
                    key = (config.seed, number, place)
                    errors = errors_of({"video": (model, None)}, test, sigma, key=key, batch_size=50)["video", None]
                    base.setdefault(sigma, errors)  # the reference comes first
                    rows.append({
                        "speed": speed, "space": space, "time": time, "sigma": sigma, "mse": float(errors.mean()), "n": errors.shape[1],
                        "expected_unclamped": model.expected_mse(sigma), "ratio": paired_ratio(errors, base[sigma]),
                    })  # fmt: skip
                bar.update()
    return {"data": data, "rows": rows}


def row_of(record: dict[str, Any], name: str, sigma: float, speed: float) -> dict[str, Any]:
    """The row of one of the main comparisons."""
    space, time = MAIN[name]
    return select(record["rows"], space=space, time=time, sigma=sigma, speed=speed)[0]


def findings(record: dict[str, Any]) -> list[str]:
    """Sentences read off the record."""
    p, out = record["parameters"], []
    first = p["speeds"][0]
    for sigma in p["sigmas"]:
        texts = []
        for name in list(MAIN)[1:]:
            ratio = row_of(record, name, sigma, first)["ratio"]
            texts.append(f"{name} {plus_minus(100 * (1 - ratio['ratio']), 100 * ratio['se'])} %")
        values = {name: row_of(record, name, sigma, first)["ratio"]["ratio"] for name in MAIN}
        alone = (1 - values["space only"]) + (1 - values["time only"])
        both = 1 - values["space and time"]
        out.append(
            f"sigma {sigma:g}, {first:g} pixels a frame, held out: error saved against {REFERENCE}: {', '.join(texts)}; both together save "
            f"{both / alone:.2f} of the sum of each alone"
        )
    for sigma in p["sigmas"]:
        time, space = ([row_of(record, name, sigma, speed)["mse"] for speed in sorted(p["speeds"])] for name in ("time only", "space only"))
        better = [f"{speed:g}" for speed, a, b in zip(sorted(p["speeds"]), time, space) if a < b]
        asked = ", ".join(f"{speed:g}" for speed in sorted(p["speeds"]))
        out.append(f"sigma {sigma:g}: time alone is worth more than space alone at speeds {', '.join(better) or 'none'} of {asked} pixels a frame")
    best = {s: min(select(record["rows"], sigma=s, speed=first), key=lambda r: r["mse"]) for s in p["sigmas"]}
    out.append("lowest of all at the first speed: " + "; ".join(f"sigma {s:g} {r['space']}, {r['time']} ({r['mse']:.5f})" for s, r in best.items()))
    return out


def draw(record: dict[str, Any]) -> Any:
    """(a) every combination at the first speed, (b) the main ones as the digits move faster."""
    p = record["parameters"]
    colours = sigma_colours(p["sigmas"])
    combinations = [(space, time) for space in IN_SPACE for time in IN_TIME][1:]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5.0), gridspec_kw={"width_ratios": [1.15, 1]})
        figure.subplots_adjust(left=0.245, right=0.985, top=0.85, bottom=0.21, wspace=0.2)
        for number, (space, time) in enumerate(combinations):
            for shift, sigma in enumerate(p["sigmas"]):
                row = select(record["rows"], space=space, time=time, sigma=sigma, speed=p["speeds"][0])[0]
                left.errorbar(
                    row["ratio"]["ratio"], number + 0.17 * (shift - (len(p["sigmas"]) - 1) / 2), xerr=row["ratio"]["se"], color=colours[sigma],
                    marker="s", markersize=4.5, capsize=2, markerfacecolor="white",
                )  # fmt: skip
            if number % 2:
                left.axhspan(number - 0.5, number + 0.5, color="0.5", alpha=0.07, linewidth=0)
        left.axvline(1.0, color="0.4", linewidth=0.8)
        left.set_yticks(range(len(combinations)), [f"{space},\n{time}" for space, time in combinations])
        left.set_ylim(len(combinations) - 0.5, -0.5)
        left.grid(False, axis="y")
        left.set_xlabel(f"held-out MSE over that of {REFERENCE}")
        left.set_title(f"(a) {p['speeds'][0]:g} pixel{'' if p['speeds'][0] == 1 else 's'} a frame (left is better)")
        speeds = sorted(p["speeds"])
        looks: dict[str, tuple[Any, str]] = {"space only": (":", "o"), "time only": ("--", "D"), "space and time": ("-", "^")}
        for name, (line, marker) in looks.items():
            for sigma in p["sigmas"]:
                rows = [row_of(record, name, sigma, speed) for speed in speeds]
                right.errorbar(
                    speeds, [r["ratio"]["ratio"] for r in rows], yerr=[r["ratio"]["se"] for r in rows], color=colours[sigma], linestyle=line,
                    marker=marker, markersize=4, capsize=2,
                )  # fmt: skip
        right.axhline(1.0, color="0.4", linewidth=0.8)
        if min(speeds) > 0 and len(speeds) > 1:
            plain_log(right, "x")
            right.set_xticks(speeds, [f"{s:g}" for s in speeds])
        right.set_xlabel("speed of the digits, pixels a frame")
        right.set_ylabel("MSE ratio, as in (a)")
        right.set_title("(b) as the digits move faster")
        side = p["size"]
        figure.suptitle(
            f"What time is worth beside space: own readouts of degree {p['degree']}, {p['frames']} frames of {side}x{side}, "
            f"{p['n_train']:,} videos",
            fontsize=11, y=0.965,
        )  # fmt: skip
        handles = sigma_handles(p["sigmas"]) + [plt.Line2D([], [], color="0.3", linestyle=a, marker=b, markersize=4, label=n) for n, (a, b) in looks.items()]
        legend_figure(figure, handles, f"bars: ± 1 standard error over held-out videos, paired; {fitted_on(record)}")
    return figure


make_figure = FigureMaker(measure, draw, findings)
