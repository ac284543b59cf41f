"""The gallery: one HTML page of every results file below a folder, from the template ``page.html``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from numeric.figures.gallery import STATE, SUFFIXES, Notebook, order
from numeric.results import atomic_path, read_json

TABLES = ("claims", "rows", "table", "scores")
"""Fields of a record that are shown as tables."""


def data_sources(value: Any) -> Iterator[str]:
    """Every data set recorded anywhere in a record: split, count, source and the start of its hash."""
    if isinstance(value, dict):
        if {"source", "count", "sha256"} <= set(value):
            shape = "x".join(map(str, value.get("shape", [])[1:]))
            used = f"; used: {value['used']}" if "used" in value else ""
            yield f"{value.get('split', '')} {value['count']:,} of {value['source']} ({shape}, sha256 {value['sha256'][:8]}{used})"
        else:
            for part in value.values():
                yield from data_sources(part)
    elif isinstance(value, list):
        for part in value:
            yield from data_sources(part)


def provenance_line(record: dict[str, Any]) -> str:
    """One line: data, seed, command, versions, time."""
    parts = []
    sources = list(dict.fromkeys(data_sources(record.get("data", {}))))
    if sources:
        parts.append("data: " + "; ".join(sources))
    if record.get("seed") is not None:
        parts.append(f"seed {record['seed']}")
    for key in ("command", "written"):
        if record.get(key):
            parts.append(str(record[key]))
    shown = [
        f"{k} {v}"
        for k, v in record.get("versions", {}).items()
        if k in ("wavelet-score", "python", "torch", "PyWavelets")
    ]
    return " · ".join([*parts, ", ".join(shown)] if shown else parts)


def cell_text(value: Any) -> str:
    """A value of a table as text: numbers short, a value with its standard error as ``v ± e``."""
    if isinstance(value, dict) and "value" in value:
        error = value.get("se")
        return cell_text(value["value"]) + (f" ± {cell_text(error)}" if error is not None else "")
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(cell_text, value))
    return str(value)


def plain_columns(rows: Sequence[dict[str, Any]], most: int = 12) -> list[str]:
    """Columns that fit a table; those that hold nested or long values are left to the JSON file."""

    def plain(value: Any) -> bool:
        if isinstance(value, list):
            return not any(isinstance(part, dict | list) for part in value)
        return (not isinstance(value, dict) or "value" in value) and len(cell_text(value)) <= 400

    return [key for key in dict.fromkeys(k for row in rows for k in row) if all(plain(row.get(key)) for row in rows)][:most]


def section(path: Path, output: Path, titles: dict[str, str], state: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """What the page says of one results file; None for a file that is none."""
    record, base = read_json(path), path.with_suffix("")
    if not isinstance(record, dict) or not ("findings" in record or path.with_suffix(".png").exists()):
        return None
    tables = {key: record[key] for key in TABLES if isinstance(record.get(key), list) and record[key]}
    tables = {key: rows for key, rows in tables.items() if all(isinstance(row, dict) for row in rows)}
    return {
        "base": str(base.relative_to(output)),
        "title": titles.get(path.stem, path.stem),
        "files": [suffix for suffix in SUFFIXES if path.with_suffix(suffix).exists()],
        "findings": [str(line) for line in record.get("findings", [])],
        "tables": {key: (plain_columns(rows), rows) for key, rows in tables.items()},
        "outcome": state.get(path.stem),
        "provenance": provenance_line(record),
    }


def build_page(output: Path, notebooks: Sequence[Notebook], state: dict[str, dict[str, Any]]) -> Path:
    """Write ``output/index.html`` from every results file below ``output``; links are relative, every text is escaped."""
    titles = {n.name: n.title for n in notebooks}
    paths = sorted((p for p in output.rglob("[!.]*.json") if p.name != STATE), key=lambda p: order(p.stem))
    sections = [found for path in paths if (found := section(path, output, titles, state)) is not None]
    environment = Environment(loader=PackageLoader("numeric.figures", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = cell_text
    failed = {name: outcome for name, outcome in state.items() if not outcome["ok"]}
    target = output / "index.html"
    with atomic_path(target) as temporary:
        temporary.write_text(environment.get_template("page.html").render(sections=sections, failed=failed, limit=40) + "\n")
    return target
