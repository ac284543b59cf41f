"""What a result depends on, as a hash: the project's own modules, followed along their imports, and files beside them."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("analytic", "numeric")
WEIGHTS = Path(__file__).parent / "baselines" / "weights"


@cache
def imports(source: str) -> frozenset[str]:
    """Modules of this project that the source names in its imports (names imported from a package count as modules too)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in found if name.split(".")[0] in PACKAGES)


def _file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):  # "numeric.noise.ve" is a function, not a module
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def modules_behind(roots: Iterable[str]) -> dict[str, Path]:
    """Every module of this project reached from the roots along imports: name -> file, sorted."""
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        path = None if name in found else _file(name)
        if path is not None:
            found[name] = path
            waiting += imports(path.read_text())
    return dict(sorted(found.items()))


def files_hash(paths: Iterable[Path]) -> str:
    """sha256 over names and contents of files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def meaning(source: str) -> str:
    """The source without comments, docstrings and layout: what changes when the code does something else."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return _written(tree)


def _written(node: Any) -> str:
    """A syntax tree as text, without empty fields and empty parts of f-strings: which there are is a matter of Python's version."""
    if isinstance(node, ast.JoinedStr):
        node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    if isinstance(node, ast.AST):
        given = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
        return f"{type(node).__name__}({', '.join(f'{name}={_written(value)}' for name, value in given.items())})"
    return f"[{', '.join(map(_written, node))}]" if isinstance(node, list) else repr(node)


@cache
def _meaning_hash(source: str) -> str:
    return hashlib.sha256(meaning(source).encode()).hexdigest()


def source_hash(module: str) -> str:
    """sha256 of the meaning of one module alone, not of what it imports."""
    path = _file(module)
    if path is None:
        raise ValueError(f"there is no module {module!r}")
    return _meaning_hash(path.read_text())


def code_hash(*roots: str) -> str:
    """sha256 of the meaning of the modules behind the roots (see :func:`modules_behind`), and of a C file of a module's name."""
    digest = hashlib.sha256()
    for name, path in modules_behind(roots).items():
        digest.update(f"{name}\0{_meaning_hash(path.read_text())}\n".encode())
        if path.with_suffix(".c").is_file():
            digest.update(path.with_suffix(".c").read_bytes())
    return digest.hexdigest()


def modules_of(model: Any) -> list[str]:
    """The module of a model's class, and those of the estimators that it was given."""
    return sorted({type(model).__module__, *(type(one).__module__ for one in getattr(model, "estimators", ()))})


def weights_hash(place: str | Path | None = None) -> str:
    """sha256 of the trained weights in a file or folder (None: those that are shipped; of nothing, where there are none)."""
    path = Path(place) if place is not None else WEIGHTS
    if path.is_file():
        return files_hash([path])
    return files_hash(p for p in path.glob("[!.]*") if p.is_file()) if path.is_dir() else files_hash([])
