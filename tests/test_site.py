"""The documentation site: what it gathers, that no link on it is broken, and that a telephone can show it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")

ROOT = Path(__file__).resolve().parent.parent
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
WIDTH = 400


def module(name: str):
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


class Page(HTMLParser):
    """Targets that a page refers to, and the anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.viewport = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value and tag != "base":
                self.links.add(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)
        self.viewport |= tag == "meta" and ("name", "viewport") in attrs


def broken(site: Path) -> list[str]:
    """Internal links of every page of a folder whose file or anchor is not there."""
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}
    out = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link in ("#", "."):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            wanted = unquote(parts.fragment)
            if not target.is_file() or (wanted and not wanted.startswith("__") and target in pages and wanted not in pages[target].anchors):
                out.append(f"{path.relative_to(site)} -> {link}")
    return sorted(out)


def test_pages_hold_every_public_name_and_notebook() -> None:
    """The gathered pages, without building the site."""
    import analytic
    import numeric

    hooks = module("hooks")
    for package in (numeric, analytic):
        text = hooks.entries(package)
        assert all(f"::: {package._WHERE[name]}.{name}\n" in text for name in package.__all__)
    page = hooks.notebook_page()
    assert all(f"notebooks/{path.name}" in page for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_roles_become_links_only_where_there_is_an_entry() -> None:
    roles = module("roles")
    text = roles.as_markdown("A :class:`~numeric.noise.NoiseLevel`, by :func:`numeric.noise.as_levels`.")
    assert text == "A [`NoiseLevel`][numeric.noise.NoiseLevel], by `as_levels`."


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<h1 id="x">a</h1><a href="b.html#y">b</a><a href="b.html#z">b</a><a href="c.html">c</a><a href="#x">x</a>')
    (tmp_path / "b.html").write_text('<p id="y">b</p><img src="no.png"><a href="https://example.org/">out</a>')
    assert broken(tmp_path) == ["a.html -> b.html#z", "a.html -> c.html", "b.html -> no.png"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning is an error."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.slow
def test_no_link_is_broken(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 9 and (site / "paper_figures/fig5.png").is_file()
    assert all(Page(path.read_text()).viewport for path in pages)
    assert broken(site) == []
    text = (site / "api/numeric.html").read_text()
    assert 'id="numeric.scores.own.WaveletScore"' in text and ":class:" not in text and ":func:" not in text


@pytest.mark.slow
def test_pages_fit_a_telephone(site: Path) -> None:
    """In a headless browser 400 pixels wide no page scrolls sideways and no image is missing."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 800})
        faults = []
        for path in site.rglob("*.html"):
            page.goto(path.as_uri(), timeout=600_000, wait_until="load")
            for image in page.locator("img").all():
                image.scroll_into_view_if_needed()
            wide = page.evaluate("document.documentElement.scrollWidth")
            missing = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
            if wide > WIDTH or missing:
                faults.append(f"{path.relative_to(site)}: {wide} pixels wide, missing {missing}")
        browser.close()
    assert faults == []
