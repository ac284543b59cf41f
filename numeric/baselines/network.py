"""A trained network under the common denoiser interface, and the weights shipped with the package."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from numeric.baselines.configs import CONFIGS, NetworkConfig, get_config
from numeric.baselines.edm import EDM
from numeric.baselines.plateau import state
from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel, as_levels
from numeric.results import FileError, load_tensors, read_json, reading, save_tensors, stored
from numeric.scores.stored import pixel_range

WEIGHTS = Path(__file__).with_name("weights")
"""Shipped networks: ``<name>_<size>.safetensors`` with ``<name>_<size>.json`` (the training record) beside each."""


@dataclass(frozen=True)
class _Levels:
    """A noise level for every image: what :class:`NoiseLevel` holds, as tensors ``(n, 1, 1, 1)``."""

    alpha: Tensor
    sigma: Tensor

    @property
    def effective_sigma(self) -> Tensor:
        return self.sigma / self.alpha


class NetworkDenoiser(Denoiser):
    """``D(y; sigma)`` of an EDM network; any VE or VP level comes in by its effective sigma, at ``y / alpha``.

    Differentiable with respect to ``y``, also by ``torch.func``; float64 images are denoised in float64.  Noise levels that
    differ from image to image cost what one level does.

    Args:
        network: ``(images, c_noise) -> images``, or None to read ``path`` at first use.
        edm: its preconditioning (``scale`` and ``shift`` bring [0, 1] images to the network's units).
        label: for figures. record: of its training. path: weights file. batch_size: images at a time.
        bf16: run in bfloat16 (about 1e-3 relative).

    Example:
        >>> import torch
        >>> from numeric import trained, ve
        >>> (network,) = trained(32, ['cnn']).values()
        >>> y = torch.rand(2, 1, 32, 32)
        >>> network.denoise(y, [0.3, 0.5]).shape, network.estimate(y, ve(0.3)).shape
        (torch.Size([2, 1, 32, 32]), torch.Size([2, 1, 32, 32]))
        >>> type(network.network).__name__, network.edm.sigma_data > 0
        ('CNN', True)
        >>> network.by_level(y, 0.3, lambda part, level: part).shape, len(network.made_of())
        (torch.Size([2, 1, 32, 32]), 4)
    """

    def __init__(
        self,
        network: nn.Module | None,
        edm: EDM | None,
        label: str = "network",
        record: dict[str, Any] | None = None,
        path: Path | None = None,
        batch_size: int = 250,
        bf16: bool = False,
    ) -> None:
        self._network, self._edm = network, edm
        self.label, self.record, self.path = label, record or {}, path
        self.batch_size, self.bf16 = batch_size, bf16
        low, high = self.record.get("data", {}).get("pixel_range", Denoiser.pixel_range_)
        self.pixel_range_ = (float(low), float(high))

    def _load(self) -> None:
        if self.path is None:
            raise ValueError("a NetworkDenoiser needs a network or the path of its weights")
        loaded = load_network(self.path)
        self._network, self._edm = loaded._network, loaded._edm

    @property
    def network(self) -> nn.Module:
        if self._network is None:
            self._load()
        assert self._network is not None
        return self._network

    @property
    def edm(self) -> EDM:
        if self._edm is None:
            self._load()
        assert self._edm is not None
        return self._edm

    def made_of(self) -> list[Any]:
        """What the numbers of a network in memory are made from, for a cache's key (:func:`numeric.evaluation.identity.state_hash`)."""
        return [self.network.eval(), self.edm, self.bf16, self.pixel_range_]

    def divergence(self, y: Any, noise: Any, probes: int | None = None, generator: torch.Generator | None = None) -> Any:
        """As every denoiser's; levels that differ from image to image are gone through one by one."""
        levels = as_levels(noise, len(y) if hasattr(y, "__len__") else 1)
        if isinstance(levels, NoiseLevel):
            return super().divergence(y, levels, probes, generator)
        return torch.cat([super(NetworkDenoiser, self).divergence(y[i : i + 1], level, probes, generator) for i, level in enumerate(levels)])

    def by_level(self, y: Any, noise: Any, use: Callable[..., Tensor], axis: int = 0) -> Any:
        """As every denoiser's, but images of different levels go through the network together."""
        count = len(y) if hasattr(y, "__len__") else 1
        levels = as_levels(noise, count)
        if isinstance(levels, NoiseLevel) or axis != 0:
            return super().by_level(y, noise, use, axis)

        def together(part: Tensor, _: NoiseLevel) -> Tensor:
            table = torch.tensor([[level.alpha, level.sigma] for level in levels], dtype=part.dtype, device=part.device)
            return use(part, _Levels(*table.T[:, :, None, None, None]))

        return super().by_level(y, levels[0], together)

    def estimate(self, y: Tensor, noise: NoiseLevel | _Levels) -> Tensor:
        network = self.network.eval()
        # The weights as constants, of the images' type and on their device: gradients flow to the images only.
        weights = {k: v.detach().to(y.device, y.dtype) for k, v in network.named_parameters()}

        def call(images: Tensor, c_noise: Tensor) -> Tensor:
            return torch.func.functional_call(network, weights, (images, c_noise))

        bf16 = self.bf16 and y.dtype != torch.float64
        sigma = torch.as_tensor(noise.effective_sigma, dtype=y.dtype, device=y.device).reshape(-1).expand(len(y))
        pairs = zip((y / noise.alpha).split(self.batch_size), sigma.split(self.batch_size))
        with torch.autocast(y.device.type, torch.bfloat16) if bf16 else nullcontext():
            parts = [self.edm.denoise(call, part, level).to(y.dtype) for part, level in pairs]
        return torch.cat(parts) if parts else y.clone()


def save_network(
    path: str | Path,
    network: nn.Module,
    config: NetworkConfig,
    edm: EDM,
    channels: int,
    dtype: torch.dtype = torch.float16,
    pixel_range: Sequence[float] = Denoiser.pixel_range_,
) -> None:
    """Write weights (rounded to ``dtype``) with what is needed to build the network again.

    Args:
        channels: of its images. pixel_range: to which its images are clamped.
    """
    meta = {
        "config": config.name,
        "base_channels": str(config.base_channels),
        "channels": str(channels),
        "edm": json.dumps(edm.to_dict()),
        "pixel_range": json.dumps([float(value) for value in pixel_range]),
    }
    save_tensors(path, {k: v.to(dtype) for k, v in network.state_dict().items()}, meta)


def load_network(path: str | Path, label: str = "network", record: dict[str, Any] | None = None) -> NetworkDenoiser:
    """Read what :func:`save_network` wrote.

    Raises:
        FileError: the file is truncated, not safetensors, of another program, or its weights are not those of its configuration.

    Example:
        >>> from numeric import load_network
        >>> from numeric.baselines.network import WEIGHTS
        >>> load_network(WEIGHTS / 'cnn_32.safetensors').label
        'network'
    """
    tensors, meta = load_tensors(path)
    if "config" not in meta or "edm" not in meta:
        raise FileError(f"{path} holds no network of this package: its metadata name no configuration")
    with reading(path, "file of a network"):
        config, channels = get_config(meta["config"]).with_base_channels(int(meta["base_channels"])), int(meta["channels"])
        with torch.device("meta"):  # shapes only: the file may claim any width
            shapes = {name: tuple(value.shape) for name, value in config.build(channels).state_dict().items()}
        if shapes.keys() != tensors.keys():
            raise ValueError(f"it holds {len(tensors)} tensors, {config.name} has {len(shapes)} of other names")
        weights = {name: stored(tensors, name, shape, path).float() for name, shape in shapes.items()}
        network, edm = config.build(channels), EDM(**json.loads(meta["edm"]))
        network.load_state_dict(weights)
        limits = pixel_range(json.loads(meta["pixel_range"])) if "pixel_range" in meta else Denoiser.pixel_range_  # absent in older files
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the faster layout
    denoiser = NetworkDenoiser(network.eval(), edm, label, record, Path(path))
    denoiser.pixel_range_ = limits
    return denoiser


def trained_label(config: NetworkConfig, record: dict[str, Any]) -> str:
    """``U-Net 4blocks_noattn, in training (300,000 images)``: no network is shown without what it has seen."""
    return f"{config.title}, {state(record)}"


def trained(
    size: int, names: str | Sequence[str] | None = None, folder: str | Path | None = None
) -> dict[str, NetworkDenoiser]:
    """Trained networks for images of ``size`` pixels a side: label -> denoiser; empty where there are none.

    Only the small records are read here; weights are read when a network is first used.

    Args:
        names: which to take (None: all), by the one rule of :func:`choose`. folder: where to look (None: inside the package).

    Raises:
        ValueError: a name that no network there has (the message lists those there are), no such folder, or a folder that was
            given and holds none of this size.

    Example:
        >>> from numeric import trained
        >>> [label.split(',')[0] for label in trained(32, ['cnn'])]
        ['CNN']
    """
    place = Path(folder) if folder is not None else WEIGHTS
    if not place.is_dir():
        raise ValueError(f"there is no folder of weights {str(place)!r}: give one that `python -m numeric train` wrote")
    out: dict[str, NetworkDenoiser] = {}
    order = list(CONFIGS)
    records = [(read_json(p), p.with_suffix(".safetensors")) for p in sorted(place.glob("[!.]*.json"))]
    records = [(r, p) for r, p in records if "config" in r and p.is_file()]
    sizes = sorted({r["size"] for r, _ in records if r.get("size") is not None})
    records = [(r, p) for r, p in records if r.get("size") == size]
    if folder is not None and not records and names != []:
        there = f"networks of {', '.join(f'{s} x {s}' for s in sizes)} pixels are" if sizes else "no networks are"
        raise ValueError(f"{there} in the folder of weights {str(place)!r}, none for {size} x {size} images: give another folder or size")
    for record, path in sorted(records, key=lambda item: order.index(get_config(item[0]["config"]["name"]).name)):
        label = trained_label(get_config(record["config"]["name"]), record)
        if label in out:  # another width or seed
            label = f"{label} [{path.stem}]"
        out[label] = NetworkDenoiser(None, None, label, record, path)
    return choose(out, names, f"networks for {size} x {size} images")


def records_alone(size: int, folder: str | Path | None = None) -> list[dict[str, Any]]:
    """Records of networks for images of ``size`` pixels a side whose weights were left out, being too large: their curves are there."""
    place = Path(folder) if folder is not None else WEIGHTS
    records = [read_json(path) for path in sorted(place.glob("[!.]*.json")) if not path.with_suffix(".safetensors").is_file()]
    return [record for record in records if "config" in record and record.get("size") == size]


def trained_at(
    sizes: Sequence[int], names: str | Sequence[str] | None = None, folder: str | Path | None = None
) -> dict[int, dict[str, NetworkDenoiser]]:
    """:func:`trained` at several sizes, size -> label -> denoiser; a name or folder must match at one of them at least.

    Raises:
        ValueError: as :func:`trained` at the first size, where it matches at none.
    """
    out: dict[int, dict[str, NetworkDenoiser]] = {size: {} for size in sizes}
    for wanted in [None] if names is None else [[name] for name in ([names] if isinstance(names, str) else names)]:
        errors = []
        for size in sizes:
            try:
                out[size] |= trained(size, wanted, folder)
            except ValueError as error:
                errors.append(error)
        if errors and len(errors) == len(sizes):
            raise errors[0]
    return out


def choose(
    networks: Mapping[str, NetworkDenoiser], names: str | Sequence[str] | None, what: str = "networks"
) -> dict[str, NetworkDenoiser]:
    """Those networks that ``names`` name, in the order they have; all for None.

    The one rule: a name matches a configuration's name, the title (``U-Net 4blocks_noattn``), the whole label or the stem of the
    weights file, in capitals or not.  ``names`` may be one name.

    Raises:
        ValueError: a name that matches nothing; the message lists the names there are.
    """
    if names is None:
        return dict(networks)
    chosen: set[str] = set()
    for name in [names] if isinstance(names, str) else names:
        found = {label for label, network in networks.items() if name.lower() in _names(label, network)}
        if not found:
            there = ", ".join(network.record["config"]["name"] for network in networks.values())
            raise ValueError(f"no network is called {name!r}: the {what} there are: {there or 'none'}")
        chosen |= found
    return {label: network for label, network in networks.items() if label in chosen}


def _names(label: str, network: NetworkDenoiser) -> set[str]:
    config = get_config(network.record["config"]["name"])
    stem = network.path.stem if network.path is not None else label
    return {text.lower() for text in (label, config.name, config.title, stem)}


def overlap_caution(sources: Mapping[str, str | None], held_out: str) -> list[str]:
    """A sentence where networks were trained on other data than those evaluated, which may contain the held-out images.

    The fall-back's held-out digits belong to MNIST's training set, which shipped networks have seen.

    Args:
        sources: label -> source of the network's training images. held_out: source of the held-out ones.
    """
    seen = [label for label, source in sources.items() if source != held_out]
    if not seen:
        return []
    return [
        f"caution: the held-out images here are {held_out}, and these networks were trained on other data, which may contain "
        f"them: {', '.join(seen)}"
    ]


def data_source(denoiser: Denoiser) -> str | None:
    """Where a network's training images came from, by its record."""
    return getattr(denoiser, "record", {}).get("data", {}).get("source")
