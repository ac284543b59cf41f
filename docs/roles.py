"""Docstrings are written with reStructuredText's roles (``:class:`~numeric.noise.NoiseLevel```); Markdown pages want links."""

from __future__ import annotations

import re
from typing import Any

import griffe

import analytic
import numeric

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`~?([\w.]+)`")
PUBLIC = {f"{package._WHERE[name]}.{name}" for package in (numeric, analytic) for name in package.__all__}


def as_markdown(text: str) -> str:
    """A role as a link where its target has an entry on the site, else as code; ``double`` backticks stay code in Markdown."""

    def link(match: re.Match[str]) -> str:
        target = match.group(1)
        name = target.split(".")[-1]
        return f"[`{name}`][{target}]" if target in PUBLIC else f"`{name}`"

    return ROLE.sub(link, text)


class Roles(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
