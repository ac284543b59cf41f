"""Networks against the analytic path: denoising speed, and training time to the error of a closed form.

``python -m benchmarks.networks`` uses the GPU where there is one, else the CPU, says which, and writes
``benchmarks/networks.json``.  Wall and CPU seconds are given; ratios use CPU seconds on a CPU (they do not depend on
what else the machine does) and wall seconds on a GPU.

Training throughput, before and after in one run: a step of every configuration in PyTorch's usual layout with its own kernels
("before") and channels last with the fused normalisation ("after"), both in bf16, alternating; in images a second, in arithmetic
of the convolutions and linear layers, and as a share of what one large convolution reaches on the same machine.

Time to equal error: every shipped network's record holds its held-out error along training.  The closed forms are
measured here on the same images and the same noise; the first point of the curve at which the network is at or below them,
times the seconds an image takes in training, measured in this run, is set against the closed form's fit and solve, measured in
this run.  Points are a factor of sqrt(2) apart in images (of 2 in older records), so a ratio overstates the training time by
up to that; where a curve begins below the closed form, the ratio is an upper bound and said to be one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from numeric.baselines import trained
from numeric.baselines.clock import machine_name
from numeric.baselines.configs import CONFIGS
from numeric.baselines.edm import EDM
from numeric.baselines.linear import LinearDenoiser
from numeric.baselines.network import NetworkDenoiser
from numeric.baselines.optimal import OptimalDenoiser
from numeric.baselines.plateau import SIGMAS, images_seen
from numeric.baselines.schedule import Schedule
from numeric.baselines.train import Trainer, measure
from numeric.data import ImageSet, load_mnist
from numeric.denoiser import Denoiser
from numeric.evaluation.sweep import noise_like
from numeric.results import provenance, write_json
from numeric.scores.own import WaveletScore
from numeric.scores.shared import SharedWaveletScore

OUTPUT = Path(__file__).with_suffix(".json")


def timed(action: Callable[[], Any], device: str, repeat: int = 3) -> dict[str, float]:
    """Least wall and CPU seconds of ``repeat`` runs after one unmeasured run."""
    action()
    best = {"wall": float("inf"), "cpu": float("inf")}
    for _ in range(repeat):
        if device == "cuda":
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        best = {
            "wall": min(best["wall"], time.perf_counter() - wall),
            "cpu": min(best["cpu"], time.process_time() - cpu),
        }
    return best


def once(action: Callable[[], Any]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def closed_forms(train: ImageSet, device: str) -> tuple[dict[str, Denoiser], dict[str, dict[str, float]]]:
    """Fitted models and the seconds of fit plus solve at all four noise levels."""
    models: dict[str, Any] = {"linear": LinearDenoiser()}
    for name, degree in (("independent", 3), ("band", 3), ("local", 3)):
        model = WaveletScore(name, degree, device=device)
        models[f"{model.label}, degree {degree}"] = model
    shared = SharedWaveletScore("independent", 2)
    models[f"{shared.label}, degree 2"] = shared
    seconds = {}
    probe = train[:1].to(device)

    def fit(model: Any) -> None:
        model.fit(train)
        for sigma in SIGMAS:
            model.denoise(probe, sigma)

    for label, model in models.items():
        seconds[label] = once(lambda model=model: fit(model))
    return models, seconds


def convolution_peak(batch: int = 32, repeat: int = 5) -> float:
    """Floating point operations a second of the fastest of a few large convolutions, forward, bf16, channels last, on a CPU."""
    best = 0.0
    for channels, side in ((64, 32), (64, 8), (128, 16)):
        layout = torch.channels_last
        x = torch.randn(batch, channels, side, side).bfloat16().contiguous(memory_format=layout)
        w = torch.randn(channels, channels, 3, 3).bfloat16().contiguous(memory_format=layout)
        seconds = timed(lambda x=x, w=w: torch.nn.functional.conv2d(x, w, padding=1), "cpu", repeat)["cpu"]
        best = max(best, 2 * 9 * channels**2 * batch * side**2 / seconds)
    return best


def training_throughput(size: int, batch: int = 32, repeat: int = 5) -> list[dict[str, Any]]:
    """Forward and backward of every configuration: before and after, alternating, the best of ``repeat`` each."""
    peak, rows = convolution_peak(), []
    for config in CONFIGS.values():
        nets = {
            "before": config.build().train(),
            "after": config.build().train().to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        }
        x, sigma = torch.rand(batch, 1, size, size), torch.rand(batch) + 0.1
        noise = torch.randn_like(x)

        def step(net: Any, last: bool, x: Any = x, sigma: Any = sigma, noise: Any = noise) -> None:
            layout = torch.channels_last if last else torch.contiguous_format
            with torch.autocast("cpu", torch.bfloat16):
                loss = EDM().loss(net, x, sigma, noise, layout).mean()
            loss.backward()

        with FlopCounterMode(display=False) as counter:
            step(nets["before"], False)
        seconds: dict[str, list[float]] = {"before": [], "after": []}
        for _ in range(repeat + 1):
            for name, net in nets.items():
                start = time.process_time()
                step(net, name == "after")
                seconds[name].append(time.process_time() - start)
        row: dict[str, Any] = {"network": config.name, "size": size, "batch": batch}
        for name, values in seconds.items():
            rate = counter.get_total_flops() / min(values[1:])
            row[name] = {"images_per_second": batch / min(values[1:]), "flops": rate, "share_of_convolution_peak": rate / peak}
        row["speed_up"] = row["after"]["images_per_second"] / row["before"]["images_per_second"]
        rows.append(row)
        typer.echo(
            f"train {config.name}: {row['before']['images_per_second']:.0f} to {row['after']['images_per_second']:.0f} images/s "
            f"(x {row['speed_up']:.2f}); {100 * row['after']['share_of_convolution_peak']:.0f} % of the convolution peak of "
            f"{peak / 1e9:.0f} Gflop/s"
        )
    return rows


def step_seconds(record: dict[str, Any], train: ImageSet, device: str) -> dict[str, float]:
    """Seconds of one training step of a record's configuration, batch size and precision, measured now."""
    s = record["schedule"]
    schedule = Schedule(10, s["batch_size"], s["learning_rate"], bf16=s["bf16"], device=device)
    trainer = Trainer(CONFIGS[record["config"]["name"]], train.take(1000), schedule)
    return timed(trainer.advance, device, repeat=3)


def to_equal_error(record: dict[str, Any], sigma: str, target: float) -> tuple[int | None, bool]:
    """Images at the first point of a record's error curve at or below ``target``, or None; and whether that is the curve's first point.

    Then it was reached at some earlier time, long before where the curve was begun late: after an earlier schedule.
    """
    for number, point in enumerate(record["held_out_curve"]):
        if point["mse"][sigma] <= target:
            return int(point.get("images", point.get("step", 0) * record["schedule"]["batch_size"])), number == 0
    return None, False


def main(
    size: Annotated[int, typer.Option(help="image side, pixels")] = 32,
    n_train: Annotated[int | None, typer.Option(help="images to fit on (default: all)")] = None,
    n_denoise: Annotated[int, typer.Option(help="images to denoise for the speeds")] = 500,
    n_optimal: Annotated[int, typer.Option(help="training images of the optimal empirical denoiser")] = 10_000,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    output: Annotated[Path, typer.Option(help="results file")] = OUTPUT,
) -> None:
    """Measure, print the ratios and write the results file."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock = "wall" if device == "cuda" else "cpu"
    hardware = machine_name(device) + (f", {threads} thread(s)" if device == "cpu" else "")
    typer.echo(f"on {hardware}; ratios of {clock} seconds")
    throughput = training_throughput(size) if device == "cpu" else []
    train = load_mnist("train", size=size, count=n_train)
    test = load_mnist("test", size=size)
    models, fit = closed_forms(train, device)
    optimal = OptimalDenoiser().fit(train.take(n_optimal))
    networks = trained(size)
    x = test[:n_denoise].to(device)
    y = x + 0.5 * noise_like(x, 0)
    speeds = {}
    for label, model in {**models, f"optimal empirical, {len(optimal.data_):,} images": optimal, **networks}.items():
        if isinstance(model, NetworkDenoiser):
            model.bf16 = bool(model.record["schedule"]["bf16"])
        seconds = timed(lambda model=model: model.denoise(y, 0.5), device, repeat=2)
        speeds[label] = {**seconds, "images_per_second": len(y) / seconds[clock]}
        typer.echo(f"denoise {label}: {speeds[label]['images_per_second']:,.0f} images/s")
    for label in speeds:
        speeds[label]["ratio_to_linear"] = speeds[label][clock] / speeds["linear"][clock]
    equal = []
    counts = {network.record["held_out_curve_images"] for network in networks.values()}
    closed = {n: {k: measure(m, test.take(n), SIGMAS) for k, m in models.items()} for n in counts}  # type: ignore[arg-type]
    for label, network in networks.items():
        record = network.record
        step = step_seconds(record, train, device)
        count = record["held_out_curve_images"]
        for name, errors in closed[count].items():
            for sigma in errors:
                target = errors[sigma]["mse"]
                reached, at_first = to_equal_error(record, sigma, target)
                row = {
                    "network": label,
                    "closed_form": name,
                    "sigma": float(sigma),
                    "closed_form_mse": target,
                    "network_last_mse": record["held_out_curve"][-1]["mse"][sigma],
                    "held_out_images": count,
                    "fit_seconds": fit[name],
                    "step_seconds": step,
                    "reached_at_images": reached,
                    "images_seen": images_seen(record),
                }
                images = images_seen(record) if reached is None else reached
                seconds = images * step[clock] / record["schedule"]["batch_size"]
                row["training_over_fit"] = seconds / fit[name][clock]
                row |= {"is_lower_bound": reached is None, "is_upper_bound": at_first}
                equal.append(row)
        for sigma in (f"{s:g}" for s in SIGMAS):
            parts = [r for r in equal if r["network"] == label and f"{r['sigma']:g}" == sigma]
            text = "; ".join(
                f"{r['closed_form']} {'> ' if r['is_lower_bound'] else '< ' if r['is_upper_bound'] else ''}{r['training_over_fit']:,.1f}"
                for r in parts
            )
            typer.echo(f"{label}, sigma {sigma}: training time to equal held-out error over fit time: {text}")
    command = f"python -m benchmarks.networks --size {size} --threads {threads}" + (
        f" --n-train {n_train}" if n_train else ""
    )
    write_json(
        output,
        {
            **provenance(command, 0),
            "hardware": hardware,
            "clock_of_ratios": clock,
            "data": {"fit": train.provenance, "held_out": test.provenance},
            "fit_and_solve_seconds": fit,
            "training": throughput,
            "denoise": speeds,
            "equal_error": equal,
        },
    )
    typer.echo(f"written: {output.name}")


if __name__ == "__main__":
    typer.run(main)
