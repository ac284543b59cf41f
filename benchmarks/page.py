"""Sections of ``README.md`` that are written from results files, between marks."""

from __future__ import annotations

from pathlib import Path

from numeric.results import atomic_path

PAGE = Path(__file__).with_name("README.md")


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Put a section between its marks ``<!-- name -->`` and ``<!-- end of name -->``, which the page must have.

    Raises:
        ValueError: it has none.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, found, rest = page.read_text().partition(start)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no marks {start} and {end}: put them where the section belongs")
    with atomic_path(page) as temporary:
        temporary.write_text(f"{head}{start}\n{text}\n{end}{tail}")
