"""Methods as commands and notebook parameters write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from numeric.baselines.patches import LocalScoreMachine
from numeric.baselines.pspc import PSPCDenoiser
from numeric.baselines.sides import PatchDenoiser, Sides
from numeric.scores.refined import LISTS, RefinedScore

MACHINES: dict[str, Callable[[Sides], PatchDenoiser]] = {
    "LS": lambda patch: LocalScoreMachine(patch, equivariant=False, n_train=None),
    "PSPC": lambda patch: PSPCDenoiser(patch, n_train=None),
}
"""Patch machines that sum over all images."""


def patch_machine(text: str) -> PatchDenoiser:
    """``"PSPC:5"``, or with a side for each noise level ``"PSPC:0.1=5/0.25=7"``: unfitted, to sum over all images.

    Raises:
        ValueError: another machine, no side, or one that the machine does not take.

    Example:
        >>> patch_machine("LS:3").label, patch_machine("PSPC:0.1=5/1=23").patch_at(0.2)
        ('LS machine 3x3, broken border', 5)
    """
    name, _, sides = text.partition(":")
    level = r"[\d.]+(?:e-?\d+)?=\d+"
    if name not in MACHINES or not re.fullmatch(rf"\d+|{level}(?:/{level})*", sides):
        raise ValueError(
            f"a patch machine is written as one of {', '.join(MACHINES)} and its side, such as PSPC:5, or a side for each sigma, "
            f"PSPC:0.1=5/0.25=7; got {text!r}"
        )
    if sides.isdigit():
        return MACHINES[name](int(sides))
    try:
        return MACHINES[name]({float(sigma): int(side) for sigma, side in (pair.split("=") for pair in sides.split("/"))})
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error


def refined_settings(text: str) -> dict[str, Any]:
    """``"readouts=both:5,both:3:local experts=1,256 pixels=8e6"`` as arguments of :class:`~numeric.scores.refined.RefinedScore`.

    An empty list is written ``none``, estimators as in :func:`patch_machine`; a number alone is ``components``.

    Raises:
        ValueError: a name that it does not have, no ``name=value``, or a value that is no number where one is needed.
    """
    usual = RefinedScore().get_params()
    out: dict[str, Any] = {}
    of: dict[str, Callable[[str], Any]] = {"experts": int, "estimators": patch_machine}
    for item in (f"components={text}" if text.strip().isdigit() else text).split():
        name, _, value = item.partition("=")
        if name not in usual or not value:
            raise ValueError(f"{item!r}: write name=value with a name among {', '.join(usual)}")
        kind = type(usual[name])
        try:
            if name in LISTS:
                parts = () if value == "none" else value.split(",")
                out[name] = tuple(of.get(name, str)(part) for part in parts)
            else:
                out[name] = kind(float(value)) if kind in (int, float) else value
        except ValueError as error:
            if name == "estimators":
                raise ValueError(f"{item!r}: {error}") from error
            shown = ",".join(map(str, usual[name])) if name in LISTS else usual[name]
            raise ValueError(f"{item!r}: {value!r} is no number: write {name}={shown}") from error
    return out
