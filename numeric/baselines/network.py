"""A trained network under the common denoiser interface, and the weights shipped with the package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from numeric.baselines.configs import NetworkConfig, get_config
from numeric.baselines.edm import EDM
from numeric.denoiser import Denoiser
from numeric.noise import NoiseLevel
from numeric.results import load_tensors, read_json, save_tensors

WEIGHTS = Path(__file__).with_name("weights")
"""Shipped networks: ``<name>_<size>.safetensors`` with ``<name>_<size>.json`` (the training record) beside each."""


class NetworkDenoiser(Denoiser):
    """``D(y; sigma)`` of an EDM network; any VE or VP level comes in by its effective sigma, at ``y / alpha``.

    Args:
        network: ``(images, c_noise) -> images``, or None to read ``path`` at first use.
        edm: its preconditioning (``scale`` and ``shift`` bring [0, 1] images to the network's units).
        label: for figures. record: of its training. path: weights file. batch_size: images at a time.
        bf16: run in bfloat16 (about 1e-3 relative).
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

    @torch.no_grad()
    def estimate(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        network = self.network.to(y.device).eval()
        context = torch.autocast(y.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with context:
            parts = [
                self.edm.denoise(network, part / noise.alpha, noise.effective_sigma).to(y.dtype)
                for part in y.float().split(self.batch_size)
            ]
        return torch.cat(parts) if parts else y.clone()


def save_network(
    path: str | Path,
    network: nn.Module,
    config: NetworkConfig,
    edm: EDM,
    channels: int,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write weights (rounded to ``dtype``) with what is needed to build the network again."""
    meta = {
        "config": config.name,
        "base_channels": str(config.base_channels),
        "channels": str(channels),
        "edm": json.dumps(edm.to_dict()),
    }
    save_tensors(path, {k: v.to(dtype) for k, v in network.state_dict().items()}, meta)


def load_network(path: str | Path, label: str = "network", record: dict[str, Any] | None = None) -> NetworkDenoiser:
    """Read what :func:`save_network` wrote.

    Raises:
        ValueError: the file is truncated, not safetensors, or of another program.
    """
    tensors, meta = load_tensors(path)
    if "config" not in meta or "edm" not in meta:
        raise ValueError(f"{path} holds no network of this package: its metadata name no configuration")
    config = get_config(meta["config"]).with_base_channels(int(meta["base_channels"]))
    network = config.build(int(meta["channels"]))
    network.load_state_dict({k: v.float() for k, v in tensors.items()})
    return NetworkDenoiser(network.eval(), EDM(**json.loads(meta["edm"])), label, record, Path(path))


def trained_label(config: NetworkConfig, steps: int) -> str:
    """``U-Net 4blocks_noattn (1,500 steps)``: no shipped network is shown without its steps."""
    return f"{config.title} ({steps:,} steps)"


def trained(
    size: int, names: Sequence[str] | None = None, folder: str | Path | None = None
) -> dict[str, NetworkDenoiser]:
    """Shipped networks for images of ``size`` pixels a side: label -> denoiser; empty where there are none.

    Only the small records are read here; weights are read when a network is first used.

    Args:
        names: configurations to take (all). folder: where to look (default: inside the package).

    Raises:
        ValueError: a name that no configuration has.
    """
    place = Path(folder) if folder is not None else WEIGHTS
    wanted = [get_config(name).name for name in names] if names is not None else None
    out: dict[str, NetworkDenoiser] = {}
    order = {name: i for i, name in enumerate(_order())}
    records = [(read_json(p), p.with_suffix(".safetensors")) for p in sorted(place.glob("*.json"))]
    records = [(r, p) for r, p in records if "config" in r and r.get("size") == size and p.is_file()]
    for record, path in sorted(records, key=lambda item: order[item[0]["config"]["name"]]):
        name = record["config"]["name"]
        if wanted is None or name in wanted:
            label = trained_label(get_config(name), record["steps"])
            out[label] = NetworkDenoiser(None, None, label, record, path)
    return out


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


def _order() -> list[str]:
    from numeric.baselines.configs import CONFIGS

    return list(CONFIGS)
