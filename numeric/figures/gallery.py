"""Run the notebooks that are out of date: ``python -m numeric figures --help`` (:mod:`numeric.figures.page` shows what they wrote).

A notebook is run again only if something it depends on has changed: its own source, its parameters, the modules behind
its imports (:mod:`numeric.fingerprint`), the data, the weights, or the results it wrote last time.  What made each figure is
kept beside the figures (``state.json``), with those that are shipped too: a fresh clone need not make them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from numeric.data import FallbackDataWarning, load_mnist
from numeric.fingerprint import code_hash, imports, modules_behind, weights_hash
from numeric.progress import progress_bar
from numeric.results import atomic_path, read_json, write_json

FULL: dict[str, dict[str, Any]] = {
    "fig5": {"n_eval": None, "n_trained": 500},
    "fig6": {"n_eval": 5000, "n_trained": 100},
    "fig7": {"n_eval": [5000, 1000], "shared_large": ["independent:3"]},
    "fig8": {"n_eval": 1000},
    "fig9": {"n_eval": 2000},
    "fig10": {"n_eval": 2000},
    "fig11": {"wiener": ["pixel:3"], "potential": ["pixel:3"]},
    "beyond": {"potential": ["pixel:3"]},
}
"""What ``--full`` sets beyond the defaults (which already fit on all the images there are)."""
SUFFIXES = (".png", ".pdf", ".json", ".md")
SHIPPED = Path(__file__).parents[2] / "paper_figures"
STATE = "state.json"


class GalleryError(ValueError):
    """The gallery cannot be made as asked; the message names the value and the fix."""


@dataclass(frozen=True)
class Notebook:
    """A notebook on disk: its title, the names of its parameters and the project modules it imports."""

    path: Path
    content: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Notebook:
        return cls(path, read_json(path))

    @property
    def name(self) -> str:
        return self.path.stem

    def sources(self, kind: str = "code") -> list[str]:
        """The text of its cells of one kind."""
        return ["".join(c["source"]) for c in self.content["cells"] if c["cell_type"] == kind]

    @property
    def title(self) -> str:
        """Its first heading."""
        for text in self.sources("markdown"):
            for line in text.splitlines():
                if line.startswith("#"):
                    return line.lstrip("# ").strip()
        return self.name

    @property
    def parameters(self) -> set[str]:
        """Names assigned in the cell tagged ``parameters``."""
        cells = [c for c in self.content["cells"] if "parameters" in c["metadata"].get("tags", [])]
        return {name for c in cells for name in re.findall(r"^(\w+)\s*=", "".join(c["source"]), re.MULTILINE)}

    @property
    def modules(self) -> set[str]:
        return {name for text in self.sources() for name in imports(text)}


def order(name: str) -> tuple[Any, ...]:
    """Figures by number, then tables, then the rest by name."""
    match = re.fullmatch(r"(fig|table)(\d+)", name)
    return (0 if match.group(1) == "fig" else 1, int(match.group(2)), "") if match else (2, 0, name)


def find_notebooks(folder: Path, only: Sequence[str] = ()) -> list[Notebook]:
    """The notebooks of a folder in the gallery's order.

    Raises:
        GalleryError: a name in ``only`` that is no notebook there.
    """
    found = {path.stem: path for path in folder.glob("*.ipynb")}
    unknown = [name for name in only if name not in found]
    if unknown:
        raise GalleryError(f"no notebook {unknown[0]!r} in {folder}: there are {', '.join(sorted(found, key=order))}")
    return [Notebook.read(found[name]) for name in sorted(only or found, key=order)]


def data_identity(root: str | None = None) -> str:
    """Hash of the images that notebooks will find; with ``root`` those that have it as their ``data_root``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackDataWarning)
        return "-".join(load_mnist(split, size=None, root=root).sha256[:16] for split in ("train", "test"))


def run_key(notebook: Notebook, parameters: dict[str, Any], data: str) -> str:
    """Hash of everything a run depends on."""
    code = code_hash(*sorted(notebook.modules))
    networks = "numeric.baselines.network" in modules_behind(notebook.modules)
    weights = weights_hash(parameters.get("weights")) if networks else ""
    cells = [(c["cell_type"], "".join(c["source"])) for c in notebook.content["cells"] if c["cell_type"] == "code"]
    parts = [cells, parameters, data, code, weights]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def parameters_for(notebook: Notebook, given: dict[str, Any], full: bool) -> dict[str, Any]:
    """Parameters of one notebook from ``--full`` and ``--parameters`` (``all`` reaches only those that a notebook has).

    Raises:
        GalleryError: a parameter given to this notebook by name that it does not have.
    """
    own = notebook.parameters
    chosen = {k: v for k, v in FULL.get(notebook.name, {}).items() if full and k in own}
    chosen |= {k: v for k, v in given.get("all", {}).items() if k in own}
    named = given.get(notebook.name, {})
    unknown = sorted(set(named) - own)
    if unknown:
        raise GalleryError(f"{notebook.name} has no parameter {unknown[0]!r}: it has {', '.join(sorted(own))}")
    return chosen | named


def read_parameters(text: str | None) -> dict[str, Any]:
    """``{notebook: {name: value}}`` from YAML or JSON text, or from a file that holds it."""
    if not text:
        return {}
    source = Path(text).read_text() if Path(text).is_file() else text
    try:
        given = yaml.safe_load(source)
    except yaml.YAMLError as error:
        raise GalleryError(f"--parameters is neither a file nor YAML: {error}") from error
    if not isinstance(given, dict) or not all(isinstance(v, dict) for v in given.values()):
        raise GalleryError(
            f"--parameters must map notebooks to parameters, as in 'fig5: {{n_train: 2000}}', got {text!r}"
        )
    return given


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def written_by(output: Path) -> dict[str, float]:
    """Result files below a folder with their time stamps."""
    return {str(p.relative_to(output)): p.stat().st_mtime for p in output.rglob("*.json") if p.name != STATE} if output.is_dir() else {}


def execute(notebook: Notebook, parameters: dict[str, Any], output: Path, work: Path, threads: int) -> dict[str, Any]:
    """Run one notebook by papermill from the repository's root; returns its outcome, never raises for its failure."""
    work.mkdir(parents=True, exist_ok=True)
    settings = work / f"{notebook.name}.yaml"
    own = {"output": str(output.resolve())} if "output" in notebook.parameters else {}
    settings.write_text(yaml.safe_dump({**parameters, **own}))
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(notebook.path.resolve()),
        str(work.resolve() / f"{notebook.name}.ipynb"),
    ]
    command += ["-f", str(settings.resolve()), "--no-progress-bar", "--log-level", "WARNING"]
    # What the user has set wins: on a busy machine two threads that wait for each other cost several times the work.
    # MKL's own setting follows OpenMP's: one library with more threads than the others waits for cores that they hold.
    each = os.environ.get("OMP_NUM_THREADS", str(threads))
    environment = {"OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each, **os.environ}
    start, clock = time.time(), time.perf_counter()
    root = notebook.path.resolve().parents[1]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    seconds = time.perf_counter() - clock
    files = sorted(name for name, stamp in written_by(output).items() if stamp >= start - 1)
    (work / f"{notebook.name}.log").write_text(done.stdout + done.stderr)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr).replace(f"{root}{os.sep}", "")
    message = "" if done.returncode == 0 else "\n".join(plain.strip().splitlines()[-8:])
    return {"ok": done.returncode == 0, "seconds": seconds, "files": files, "message": message}


def file_hashes(output: Path, files: Sequence[str]) -> dict[str, str]:
    return {f: hashlib.sha256((output / f).read_bytes()).hexdigest() for f in files if (output / f).is_file()}


def read_state(folder: Path) -> dict[str, dict[str, Any]]:
    """What made the figures of a folder, by notebook; of none, where nothing is said."""
    return read_json(folder / STATE) if (folder / STATE).exists() else {}


def up_to_date(last: dict[str, Any], key: str, folder: Path) -> bool:
    """Was a notebook's last run of this key, and do its results lie in the folder as it wrote them?"""
    unchanged = bool(last.get("hashes")) and file_hashes(folder, list(last["hashes"])) == last["hashes"]
    return bool(last.get("ok")) and last.get("key") == key and unchanged


def copy_results(last: dict[str, Any], source: Path, target: Path) -> None:
    """Copy what a notebook wrote, with the figures beside its results files."""
    for name in last["hashes"]:
        for path in ((source / name).with_suffix(suffix) for suffix in SUFFIXES):
            if path.is_file():
                target.mkdir(parents=True, exist_ok=True)
                with atomic_path(target / path.name) as temporary:
                    shutil.copyfile(path, temporary)


def run_all(
    notebooks: Sequence[Notebook],
    output: Path,
    work: Path,
    *,
    given: dict[str, Any] | None = None,
    full: bool = False,
    jobs: int = 1,
    force: bool = False,
    progress: bool = True,
    shipped: Path = SHIPPED,
) -> dict[str, dict[str, Any]]:
    """Run the notebooks that are out of date; returns the state of each: ok, skipped, seconds, files, message.

    The state is written after every notebook (``output/state.json``), so that an interrupted run takes up where it stopped.
    A figure that is shipped, and was made from what a run would be made from now, is copied.
    """
    given = given or {}
    unknown = sorted(set(given) - {n.name for n in notebooks} - {"all"})
    if unknown:
        raise GalleryError(f"--parameters names {unknown[0]!r}, which is not among the notebooks to run")
    state, there = read_state(output), read_state(shipped)
    chosen = {n.name: parameters_for(n, given, full) for n in notebooks}
    roots = {n.name: chosen[n.name].get("data_root") for n in notebooks}
    data = {root: data_identity(root) for root in set(roots.values())}
    keys = {n.name: run_key(n, chosen[n.name], data[roots[n.name]]) for n in notebooks}
    waiting = []
    for notebook in notebooks:
        last, other, key = state.get(notebook.name, {}), there.get(notebook.name, {}), keys[notebook.name]
        if not force and up_to_date(last, key, output):
            last["skipped"] = True
        elif not force and up_to_date(other, key, shipped):
            copy_results(other, shipped, output)
            state[notebook.name] = {**other, "skipped": True}
            write_json(output / STATE, state)
        else:
            waiting.append(notebook)
    threads = max(1, available_cores() // max(jobs, 1))
    with (
        progress_bar(len(waiting), "notebooks", progress, "notebook") as bar,
        ThreadPoolExecutor(max_workers=max(jobs, 1)) as pool,
    ):
        running = {pool.submit(execute, n, chosen[n.name], output, work, threads): n for n in waiting}
        for future in as_completed(running):
            notebook = running[future]
            outcome = future.result()
            # With several jobs a notebook may see another's file appear: its own name is the one that counts then.
            mine = [f for f in outcome["files"] if Path(f).stem == notebook.name] or outcome["files"]
            outcome |= {
                "key": keys[notebook.name],
                "parameters": chosen[notebook.name],
                "hashes": file_hashes(output, mine),
                "skipped": False,
            }
            state[notebook.name] = outcome
            write_json(output / STATE, state)
            bar.update(1)
            bar.write(f"{notebook.name}: {'ok' if outcome['ok'] else 'FAILED'}, {outcome['seconds']:.0f} s")
            if not outcome["ok"]:
                bar.write(outcome["message"])
    return {n.name: state[n.name] for n in notebooks}
