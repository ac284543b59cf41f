"""Parts of results that were taken from an earlier run: what must agree, and whose they are.

What is slow and did not change need not be made again.  It is taken from a results file where the settings and the images agree
(:func:`same`), and the new record says whose it is (:func:`taken`), however often it was taken before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MADE_BY = ("command", "seed", "written", "code", "versions")
"""What is said of the run whose parts were taken."""


def made_by(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a results file says of who made it."""
    return {name: record[name] for name in MADE_BY}


def same(path: Path, wanted: Mapping[str, Any], found: Mapping[str, Any], what: str, option: str) -> None:
    """Make sure that a results file was made as asked for now: every wanted value is there.

    Args:
        what: what cannot be taken otherwise. option: the parameter that asked for it.

    Raises:
        ValueError: one differs.
    """
    for name, value in wanted.items():
        if value != found.get(name):
            raise ValueError(f"no {what} can be taken from {path}: {name} is {found.get(name)} there, {value} here; leave {option} out")


def taken(names: Iterable[str], record: Mapping[str, Any], what: str) -> list[dict[str, Any]]:
    """Who made the named parts of a results file, one entry a run; what that file had taken itself keeps its origin.

    Args:
        record: of the file; its own ``taken`` is such a list. what: key of the names in an entry (``methods``, ``claims``).
    """
    origins: dict[str, dict[str, Any]] = {name: entry for entry in record.get("taken", []) for name in entry[what]}
    groups: dict[str, dict[str, Any]] = {}
    for name in names:
        origin = {k: v for k, v in origins.get(name, made_by(record)).items() if k != what}
        groups.setdefault(repr(origin), {what: [], **origin})[what].append(name)
    return list(groups.values())


def taken_note(record: Mapping[str, Any], what: str = "methods") -> list[str]:
    """For a figure's legend: how many parts were taken, and of what day; empty where none were."""
    return [f"{len(entry[what])} {what} as measured on {entry['written'][:10]}" for entry in record.get("taken", [])]


def taken_findings(record: Mapping[str, Any], what: str = "methods") -> list[str]:
    """Which parts were taken from an earlier run, and of what day."""
    return [f"taken from the run of {entry['written'][:10]}: {', '.join(entry[what])}" for entry in record.get("taken", [])]
