"""What all figures share: how parameters are read and checked, the data, and the way from a run to its files.

A figure's own file says only what it measures and how that is drawn: a dataclass of parameters on :class:`Parameters`, a
function ``measure(config, progress)``, a function ``draw(record)``, a function ``findings(record)``, and
``make_figure = FigureMaker(measure, draw, findings)``, which notebooks and commands call.
"""

from __future__ import annotations

import ast
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml

from numeric.arguments import as_list
from numeric.data import ImageSet, load_mnist
from numeric.figures.foresee import Work, foresee
from numeric.fingerprint import code_hash
from numeric.results import keep_larger, provenance, read_json, save_figure
from numeric.scores.coordinates import wiener_settings
from numeric.scores.families import FAMILIES

Made = tuple[Any, dict[str, Any], list[Path]]
"""A figure, its record and the paths written."""

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ERROR_BARS = ("seeds", "images")
PLACES = ("cache", "data_root", "output")
"""Parameters that say where things lie on a machine: they change no number and are not recorded."""


@dataclass(kw_only=True)
class Parameters:
    """Parameters that every figure has.

    Attributes:
        seed: of all noise drawn. data_root: folder of the data (or ``$WAVELET_SCORE_DATA``).
        name: of the files written. cache: folder of finished parts; an interrupted run takes up from them.
    """

    seed: int = 0
    data_root: str | None = None
    name: str = ""
    cache: str = "runs"

    notebook: ClassVar[str] = ""
    lists: ClassVar[dict[str, Callable[[Any], Any]]] = {
        "sigmas": float, "digit_sigmas": float, "degrees": int, "sizes": int, "families": str, "shared": str, "networks": str,
        "wavelets": str, "ablation_families": str,
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name, kind in self.lists.items():
            if vars(self).get(name) is not None:
                setattr(self, name, as_list(getattr(self, name), kind, name))
        values = vars(self)
        for name in ("sigmas", "digit_sigmas"):
            if name in values and (not values[name] or min(values[name]) <= 0):
                raise ValueError(f"{name} must be > 0, got {values[name]}")
        if "degrees" in values and (not values["degrees"] or min(values["degrees"]) < 1):
            raise ValueError(f"degrees must be whole numbers >= 1, got {values['degrees']}")
        for text in [*values.get("families", ()), *values.get("shared", ())]:
            family_degree(text)
        if values.get("error_bar", "seeds") not in ERROR_BARS:
            raise ValueError(f"unknown error_bar {values['error_bar']!r}: use one of {', '.join(ERROR_BARS)}")
        if "seeds" in values and (self.seeds < 1 or (self.seeds == 1 and values.get("error_bar") == "seeds")):  # type: ignore[attr-defined]
            raise ValueError(f"seeds must be >= 2 for error bars over seeds, got {values['seeds']}: or error_bar='images'")
        if str(values.get("device", "cpu")).startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {values['device']!r} was asked for but torch sees no GPU: use device='cpu'")
        self.check()

    def check(self) -> None:
        """Raise ValueError for parameters that do not go together (before anything long starts)."""

    def work(self, train: int) -> list[Work]:
        """What is ahead, for :func:`numeric.figures.foresee.foresee`, with so many images to fit on; empty: seconds."""
        return []

    @property
    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, in plain types."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in PLACES}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}

    def images(self, split: str, size: int, count: int | None = None) -> ImageSet:
        """The first ``count`` images of MNIST's ``"train"`` or ``"test"`` split at a size."""
        return load_mnist(split, size=size, count=count, root=self.data_root)

    @property
    def _notebook(self) -> str:
        return self.name if (NOTEBOOKS / f"{self.name}.ipynb").is_file() else self.notebook

    @property
    def only_in_python(self) -> list[str]:
        """Parameters that the notebook does not have and that are not at their defaults: no command of the notebook sets them."""
        known = notebook_defaults(NOTEBOOKS / f"{self._notebook}.ipynb")
        usual = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(self)}
        return [k for k, v in self.settings.items() if k not in known and k != "name" and not _same(v, usual[k])]

    @property
    def command(self) -> str:
        """The command that makes this figure again: every parameter that differs from the notebook's default."""
        name = self._notebook
        defaults = notebook_defaults(NOTEBOOKS / f"{name}.ipynb")
        given = {k: v for k, v in self.settings.items() if k in defaults and not _same(v, defaults[k])}
        text = yaml.safe_dump(given, default_flow_style=True, width=10**9, sort_keys=False).strip()
        return f"papermill notebooks/{name}.ipynb out.ipynb" + (f" -y {shlex.quote(text)}" if given else "")


def _same(value: Any, default: Any) -> bool:
    as_lists = [list(v) if isinstance(v, tuple | list) else [v] for v in (value, default)]
    return as_lists[0] == as_lists[1]


def family_degree(text: str, highest: int | None = None) -> tuple[str, int | None]:
    """``"local:2"`` as ``("local", 2)``; without a degree, ``highest``.

    Raises:
        ValueError: a family that does not exist, or a degree that is no whole number >= 1.
    """
    name, colon, degree = text.partition(":")
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}: use any of {', '.join(FAMILIES)}")
    if colon and not (degree.isdigit() and int(degree) >= 1):
        raise ValueError(f"a family is written name:degree with a degree >= 1, such as 'local:3', got {text!r}")
    return name, int(degree) if colon else highest


def required_degree(text: str) -> tuple[str, int]:
    """The same where a degree has to be given.

    Raises:
        ValueError: as :func:`family_degree`, or there is none.
    """
    family, degree = family_degree(text)
    if degree is None:
        raise ValueError(f"families are given as family:degree, such as 'local:3', got {text!r}: a family is written name:degree")
    return family, degree


def coordinates_degree(text: str) -> tuple[str, int]:
    """``"both:3"`` as ``("both", 3)``: what a :class:`numeric.scores.wiener.WienerScore` is of.

    Raises:
        ValueError: other coordinates than it takes, or a degree that is no whole number >= 1.
    """
    settings = wiener_settings(text)
    if settings["pixel_family"] != "independent":
        raise ValueError(f"only coordinates:degree are drawn, such as both:3; got {text!r}")
    return settings["coordinates"], settings["degree"]


def assigned(source: str) -> Iterator[tuple[str, Any]]:
    """Names and values that a cell of parameters assigns."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, ast.literal_eval(node.value)


def notebook_defaults(path: Path) -> dict[str, Any]:
    """Parameters of a notebook with their defaults (from the cell tagged ``parameters``); of none, where it is not there."""
    cells = read_json(path)["cells"] if path.is_file() else []
    return dict(p for c in cells if "parameters" in c["metadata"].get("tags", []) for p in assigned("".join(c["source"])))


@dataclass(frozen=True)
class FigureMaker:
    """The way of every figure: measure, draw, say what was found, write ``output/<name>.{png,pdf,json}``.

    Attributes:
        measure: ``(config, progress)`` -> the record, or a tuple of the record and of pictures that only ``draw`` needs.
        draw: ``(record, *pictures)`` -> the figure. findings: sentences read off the record.
    """

    measure: Callable[..., Any]
    draw: Callable[..., Any]
    findings: Callable[[dict[str, Any]], list[str]]

    def __call__(self, config: Any, output: str | Path, progress: bool = True) -> Made:
        """Make the figure; with ``progress``, say first how long it will take.

        Raises:
            FileError: what is there was made from more images (:func:`numeric.results.keep_larger`).
        """
        count = getattr(config, "n_train", 0)
        there = Path(output) / f"{config.name}.json"
        if count is None and (progress or there.is_file()):
            count = len(config.images("train", 32))
        if hasattr(config, "n_train") and there.is_file():
            keep_larger(there, count)
        if progress:
            foresee(config.work(count))
        with torch.random.fork_rng(devices=[]):  # nothing here depends on, or moves, the global generator
            measured = self.measure(config, progress)
        record, *pictures = measured if isinstance(measured, tuple) else (measured,)
        about = provenance(self.command(config), config.seed, code=code_hash(self.measure.__module__))
        record = {**about, "parameters": config.settings, **record}
        record["findings"] = self.findings(record)
        figure = self.draw(record, *pictures)
        return figure, record, save_figure(figure, Path(output) / config.name, record)

    def command(self, config: Any) -> str:
        """The notebook's command; in Python, where a parameter is not at its default that the notebook does not have."""
        if not config.only_in_python:
            return config.command
        module, kind = self.measure.__module__, type(config)
        name = next(name for name, value in vars(sys.modules[module]).items() if value is self)
        text = f"from {kind.__module__} import {kind.__name__}; from {module} import {name}; "
        text += f"{name}({kind.__name__}(**{config.settings!r}), 'runs/figures')"
        return f"python -c {shlex.quote(text)}"

    def redraw(self, path: str | Path) -> Made:
        """Draw a results file again, without measuring: its numbers and where they came from stay as they are."""
        path, record = Path(path), read_json(path)
        record["findings"] = self.findings(record)
        figure = self.draw(record)
        return figure, record, save_figure(figure, path.with_suffix(""), record)
