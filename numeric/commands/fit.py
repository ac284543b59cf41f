"""``python -m numeric fit``: fit the moments of a family on MNIST or an array file, save the model, print its exact errors."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer


def read_images(images: Path | None, size: int | None, count: int | None) -> Any:
    """MNIST's training images, or what the path holds (:func:`numeric.sources.as_image_set`), read from disk in batches."""
    from numeric.data import as_image_set, load_mnist

    if images is None:
        return load_mnist("train", size=size, count=count)
    return as_image_set(images).resized(size).take(count)


def sharded_images(images: Path | None, size: int | None, count: int | None, channels: int | None, cluster: str) -> Any:
    """The same in shards, read by a cluster: of files and folders of them each is a shard, of anything else runs of images."""
    from numeric.data import as_image_set, load_mnist
    from numeric.shards import as_shards

    if images is None:
        return as_shards(load_mnist("train", size=size, count=count), client=cluster)
    if count is not None:
        return as_shards(as_image_set(images).resized(size).take(count), client=cluster)
    return as_shards(images, size=size, channels=channels, client=cluster)


def fitted_images(path: Path) -> int | None:
    """How many images the model in a file was fitted on; None where there is no model."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    number = metadata.get("count", metadata.get("images"))
    return int(number) if number is not None else None


def keep_longer(output: Path, data: Any, overwrite: bool) -> None:
    """Refuse to replace a model of more images by one of fewer; shards are counted where they lie, only if there is a model."""
    from numeric.scores.totals import count

    kept = fitted_images(output)
    if kept is None or overwrite:
        return
    number = count(data)
    if kept > number:
        raise ValueError(f"{output} was fitted on {kept:,} images, more than these {number:,}: give another file, or --overwrite")


def overcomplete_errors(model: Any, data: Any, batch: int, progress: bool) -> tuple[Any, str]:
    """The joint moments that exact errors in an over-complete basis need, or None and the reason why they cannot be had."""
    if model.readout != "own" or model.transform_.is_orthonormal:
        return None, ""
    try:
        return model.joint(data, batch_size=batch, progress=progress), ""
    except MemoryError as error:  # the model itself is fitted and saved
        return None, str(error)


def main(
    output: Annotated[
        Path, typer.Argument(help="model file to write (safetensors); it is also the checkpoint's neighbour")
    ],
    images: Annotated[
        Path | None,
        typer.Option(help=".npy, .npz, .tar file, picture or folder of pictures; with --cluster also 'PATTERN-*.tar' or a folder of files; MNIST if not given"),
    ] = None,
    size: Annotated[int | None, typer.Option(help="side to resize to, pixels")] = 32,
    count: Annotated[int | None, typer.Option(help="only the first so many images")] = None,
    family: Annotated[str, typer.Option(help="independent, band, local, parent or joint")] = "independent",
    degree: Annotated[int, typer.Option(help="polynomial degree")] = 3,
    radius: Annotated[int, typer.Option(help="of the local and joint families")] = 1,
    interactions: Annotated[str, typer.Option(help="pairwise or full")] = "pairwise",
    channels_coupled: Annotated[bool, typer.Option(help="couple colour channels")] = False,
    wavelet: Annotated[str, typer.Option(help="any PyWavelets wavelet")] = "db2",
    levels: Annotated[int | None, typer.Option(help="levels of the transform")] = None,
    mode: Annotated[str, typer.Option(help="boundary mode; all but periodization are over-complete")] = "periodization",
    synthesis: Annotated[
        str, typer.Option(help="of an over-complete basis: pseudo-inverse (W^+) or per-level")
    ] = "pseudo-inverse",
    basis: Annotated[str, typer.Option(help="monomial or hermite")] = "monomial",
    readout: Annotated[
        str, typer.Option(help="own (a coefficient sees its features), shared (all) or wiener (all, of the linear estimate)")
    ] = "own",
    coordinates: Annotated[str, typer.Option(help="of the wiener readout: wavelet, pixel or both")] = "both",
    of: Annotated[str, typer.Option(help="of the wiener readout: features of the wiener estimate or the noisy image")] = "wiener",
    pixel_family: Annotated[str, typer.Option(help="of the wiener readout: independent or local")] = "independent",
    ridge: Annotated[str | None, typer.Option(help="a number, gcv or gcv-band (default: the readout's)")] = None,
    batch: Annotated[int, typer.Option(help="images per batch")] = 1000,
    cluster: Annotated[
        str | None, typer.Option(help="sum shards of the images elsewhere: the ADDRESS of a Dask scheduler, or local:N for N processes here")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="with --cluster: read pictures with 1 (grey) or 3 channels")] = None,
    resume: Annotated[bool, typer.Option(help="keep a checkpoint and take up from it after a kill")] = True,
    every: Annotated[float, typer.Option(help="seconds between checkpoints")] = 30.0,
    device: Annotated[str, typer.Option(help="torch device")] = "cpu",
    sigma: Annotated[list[float], typer.Option(help="noise levels (VE) to report")] = [0.1, 0.25, 0.5, 1.0],  # noqa: B006
    overwrite: Annotated[bool, typer.Option(help="replace a model in OUTPUT that was fitted on more images")] = False,
    report_file: Annotated[Path | None, typer.Option("--report", help="also write the errors as JSON")] = None,
    progress: Annotated[bool, typer.Option(help="progress bar")] = True,
) -> None:
    """Fit, save, and print the exact expected MSE per pixel at each noise level.

    With --cluster the images are summed in shards, on a Dask cluster or by N processes here (pip install "wavelet-score[cluster]"); the model
    is the same to the last bit whoever sums them, and a fit that was killed takes up the shards that are not finished.
    """
    from numeric.cluster import check_client
    from numeric.noise import ve
    from numeric.results import check_output, provenance, write_json
    from numeric.scores.own import WaveletScore
    from numeric.scores.shared import SharedWaveletScore
    from numeric.scores.totals import clear, look
    from numeric.scores.wiener import WienerScore

    readouts: dict[str, Any] = {"own": WaveletScore, "shared": SharedWaveletScore, "wiener": WienerScore}
    if readout not in readouts:
        raise ValueError(f"unknown readout {readout!r}: use own, shared or wiener")
    settings: dict[str, Any] = {
        "family": family, "degree": degree, "radius": radius, "interactions": interactions,
        "channels_coupled": channels_coupled, "wavelet": wavelet, "levels": levels, "mode": mode,
        "synthesis": synthesis, "basis": basis, "device": device,
    }  # fmt: skip
    if readout == "wiener":
        if basis != "monomial" or synthesis != "pseudo-inverse":
            raise ValueError("the wiener readout has monomials and reads out pixels: leave --basis and --synthesis out")
        del settings["basis"], settings["synthesis"]
        settings |= {"coordinates": coordinates, "of": of, "pixel_family": pixel_family}
    if ridge is not None:
        try:
            settings["ridge"] = ridge if ridge.startswith("gcv") else float(ridge)
        except ValueError:
            raise ValueError(f"unknown ridge {ridge!r}: use a number >= 0, 'gcv' or 'gcv-band'") from None
    levels_ = [ve(s) for s in sigma]  # what cannot be reported is said before the fit
    model = readouts[readout](**settings)
    model.check_settings()
    check_client(cluster)
    for path in (output, report_file):
        if path is not None:
            check_output(path)
    if cluster is None:
        if channels is not None:
            raise ValueError("--channels is of the pictures that --cluster reads: leave it out, or give --cluster local:0 (this process)")
        data: Any = read_images(images, size, count)
    else:
        data = sharded_images(images, size, count, channels, cluster)
    with contextlib.ExitStack() as stack:
        if cluster is not None:
            stack.enter_context(data.connected())
            look(data)
        keep_longer(output, data, overwrite)
        typer.echo(
            f"{model.label}, degree {degree}: "
            + (f"{len(data):,} images" if cluster is None else f"{len(data.shards):,} shards, summed by {cluster},")
            + f" of {data.source}, {' x '.join(map(str, data.shape))}; writes {output}" + (f", resumable from {output.name}.checkpoint" if resume else "")
        )
        checkpoint = output.with_name(output.name + ".checkpoint") if resume else None
        model.fit(data, batch_size=batch, progress=progress, checkpoint=checkpoint, checkpoint_seconds=every)
        finished = output.with_name(output.name + ".levels") if resume else None
        if isinstance(model, WienerScore):  # a level needs a pass over the images, so the levels are part of the model
            model.prepare_levels(levels_, range(1, degree + 1), checkpoint=finished, progress=progress)
        model.save(output)
        for path in (checkpoint, finished):
            if path is not None:
                clear(path)  # the model holds the same sums
        joint, reason = overcomplete_errors(model, data, batch, progress)
    more = {"joint": joint} if joint is not None else {}
    rows = [
        {"sigma": s, "degree": d, "expected_mse": model.expected_mse(s, d, **more)}
        for s in ([] if reason else (level.sigma for level in levels_))
        for d in range(1, model.degree + 1)
    ]
    typer.echo(f"{model!r}\nsaved to {output}")
    if rows:
        typer.echo("exact expected MSE per pixel on the fitted images, before clamping:")
        typer.echo("  sigma  " + "".join(f"{f'degree {d}':>12}" for d in range(1, degree + 1)))
        for s in sigma:
            values = [row["expected_mse"] for row in rows if row["sigma"] == s]
            typer.echo(f"  {s:<7g}" + "".join(f"{value:12.6f}" for value in values))
    else:
        typer.echo(f"no exact pixel errors, which need the moments of all coefficients together: {reason}")
    if report_file is not None:
        write_json(
            report_file,
            {"model": model.plain_params(), "pixel_range": list(model.pixel_range_), "errors": rows, "data": data.provenance, "provenance": provenance()},
        )
