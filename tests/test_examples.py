"""Every public name has a runnable example, and so has every public method of every public class; all of them run.

A method's example stands in its own docstring or in that of its class or of one that the class inherits from: it is called there.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import warnings
from types import ModuleType
from typing import Any

import pytest

import analytic
import numeric

PACKAGES = (numeric, analytic)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def shown(text: str | None) -> str:
    """The lines of code of a docstring's examples that are run."""
    examples = doctest.DocTestParser().get_examples(text or "")
    return "\n".join(e.source for e in examples if not e.options.get(doctest.SKIP))


def functions_of(cls: type) -> dict[str, Any]:
    """Public methods and properties of a class that this project wrote."""
    out = {}
    for name, value in inspect.getmembers_static(cls):
        found = value.fget if isinstance(value, property) else getattr(value, "__func__", None) or getattr(value, "func", value)
        if not name.startswith("_") and inspect.isfunction(found) and found.__module__.split(".")[0] in ("numeric", "analytic"):
            out[name] = found
    return out


def without_example(names: dict[str, Any]) -> list[str]:
    """Public objects and methods whose docstrings show nothing that runs."""
    out = []
    for name, item in names.items():
        if not shown(item.__doc__):
            out.append(name)
        if inspect.isclass(item):
            of_classes = "\n".join(shown(cls.__dict__.get("__doc__")) for cls in item.__mro__)
            for method, function in functions_of(item).items():
                if not shown(function.__doc__) and not re.search(rf"\.{method}\b", of_classes):
                    out.append(f"{name}.{method}")
    return out


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_has_an_example(package: ModuleType) -> None:
    names = {name: getattr(package, name) for name in package.__all__}
    assert len(names) > 20 and without_example(names) == []


def test_what_has_none_is_found() -> None:
    class Shown:
        """A class.

        >>> Shown().first()
        1
        """

        def first(self) -> int:
            return 1

        def second(self) -> int:
            """Skipped examples are none.

            >>> Shown().second()  # doctest: +SKIP
            2
            """
            return 2

    Shown.first.__module__ = Shown.second.__module__ = "numeric.made_up"
    assert without_example({"Shown": Shown, "plain": lambda: None}) == ["Shown.second", "plain"]


def modules() -> list[str]:
    """Modules that the public names, and the classes they inherit from, live in."""
    homes = {package._WHERE[name] for package in PACKAGES for name in package.__all__}
    for package in PACKAGES:
        for name in package.__all__:
            item = getattr(package, name)
            homes |= {cls.__module__ for cls in getattr(item, "__mro__", ()) if cls.__module__.startswith(("numeric", "analytic"))}
            homes.add(item.__module__)
    return sorted(homes)


@pytest.mark.parametrize("module", modules())
def test_the_examples_run(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """As printed, in a fresh folder."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = doctest.testmod(importlib.import_module(module), optionflags=FLAGS)
    assert found.failed == 0
