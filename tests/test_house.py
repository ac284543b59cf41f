"""The house: imports run downwards only, no two files import each other, and the front doors are light."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Wings from the bottom to the top; a folder or a single file each, "*" all files without a folder that are not listed (the
# ground).  A file may import from its own wing and from lower ones.
WINGS = {
    "numeric": ["*", "scores", "evaluation", "baselines", "figures", "claims", "commands", "__main__", "__init__"],
    "analytic": ["errors", "algebra", "numbers", "text", "theory", "score", "parse", "cli", "__main__", "__init__"],
}


def arrows(package: str, root: Path = ROOT) -> dict[str, set[str]]:
    """``{module: modules of the same package that it imports}`` of every file, read from the source (nothing is run).

    Every import counts: at the top, inside a function, under ``TYPE_CHECKING``, relative or not.
    """
    files = {_module(path, root): path for path in sorted((root / package).rglob("*.py"))}
    return {module: _imports(module, path, files) for module, path in files.items()}


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(module: str, path: Path, files: dict[str, Path]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # a relative import: one dot is the package that the file lies in
                parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.add(name if name in files else base)
    return (found & files.keys()) - {module}


def wing(module: str, package: str, wings: list[str]) -> int:
    """Height of a module: the place of its folder (or file) in the list of wings.

    Raises:
        KeyError: a file that belongs to no wing.
    """
    rest = module.removeprefix(package).lstrip(".") or "__init__"
    name = rest.split(".")[0]
    if name not in wings and "." not in rest and "*" in wings:
        name = "*"
    if name not in wings:
        raise KeyError(f"{module} belongs to no wing of {package}: {', '.join(wings)}")
    return wings.index(name)


def upward(package: str, wings: list[str], root: Path = ROOT) -> list[str]:
    """Arrows that point up, as ``a -> b``."""
    return [
        f"{module} -> {other}"
        for module, others in arrows(package, root).items()
        for other in sorted(others)
        if wing(other, package, wings) > wing(module, package, wings)
    ]


def circle(package: str, root: Path = ROOT) -> list[str]:
    """A circle of files that import each other, or nothing."""
    try:
        TopologicalSorter(arrows(package, root)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", WINGS)
def test_imports_run_downwards(package: str) -> None:
    """No arrow from a lower wing to a higher one, and no circle between files, inside a function or under TYPE_CHECKING."""
    assert len(arrows(package)) > 20  # the files are found, or this test would show nothing
    assert upward(package, WINGS[package]) == []
    assert circle(package) == []


@pytest.mark.parametrize(
    "low",
    [
        "from house.top.roof import tile\n",
        "def late():\n    from house.top import roof\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.top.roof\n",
        "from ..top import roof\n",
    ],
)
def test_a_wrong_arrow_is_found(low: str, tmp_path: Path) -> None:
    """The test can fail: an upward arrow and a circle, however the import is written."""
    for name, text in {"ground/floor": low, "top/roof": "import house.ground.floor\n"}.items():
        file = tmp_path / "house" / f"{name}.py"
        file.parent.mkdir(parents=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text)
    (tmp_path / "house/__init__.py").touch()
    assert upward("house", ["ground", "top", "__init__"], tmp_path) == ["house.ground.floor -> house.top.roof"]
    assert set(circle("house", tmp_path)) == {"house.ground.floor", "house.top.roof"}
    with pytest.raises(KeyError, match="no wing"):
        upward("house", ["ground", "__init__"], tmp_path)


@pytest.mark.parametrize("package, heavy", [("analytic", ["sympy", "mpmath", "numpy"]), ("numeric", ["torch", "numpy"])])
def test_the_front_door_is_light(package: str, heavy: list[str]) -> None:
    """``import package`` loads nothing heavy; every public name is found when it is asked for."""
    script = (
        f"import sys, {package} as p; assert not set({heavy!r}) & set(sys.modules); "
        f"assert len(p.__all__) > 5 and set(p.__all__) <= set(dir(p)); [getattr(p, name) for name in p.__all__]"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", WINGS)
def test_no_file_holds_two_ideas(package: str) -> None:
    """A file above 500 lines holds two ideas."""
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in (ROOT / package).rglob("*.py")}
    assert {name: lines for name, lines in long.items() if lines > 500} == {}
