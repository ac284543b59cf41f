"""Which symbolic systems SymPy holds in a minute, by family, interactions, radius and degree.

    python -m benchmarks.families                   # writes benchmarks/families.json

Each case runs in its own process with a limit on its processor time (default 60 s; other load on the machine does not
count) over five stages: ``system`` (G, b and all noisy moments),
``print`` (text and LaTeX), ``derivation`` (all steps, each recomputed), ``twin`` (the Hermite proof) and ``program`` (a
straight-line program and its C source).  A stage that is not reached in time is null.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from analytic.algebra.families import family
from numeric.results import provenance, read_json, versions, write_json

OUTPUT = Path(__file__).with_suffix(".json")
KEYS = ("name", "degree", "interactions", "radius")
STAGES = ("system", "print", "derivation", "twin", "program")
CASES: list[dict[str, Any]] = [
    *({"name": "independent", "degree": n} for n in (1, 2, 3, 4, 5, 6, 8, 12)),
    *({"name": "band", "degree": n} for n in (1, 2, 3, 4, 5)),
    *({"name": "local", "degree": n, "interactions": "pairwise", "radius": 1} for n in (1, 2, 3, 4, 5)),
    *({"name": "local", "degree": n, "interactions": "pairwise", "radius": 2} for n in (1, 2, 3, 4)),
    *({"name": "local", "degree": n, "interactions": "full", "radius": 1} for n in (1, 2, 3, 4)),
    *({"name": "local", "degree": n, "interactions": "full", "radius": 2} for n in (1, 2)),
]

CHILD = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), int(sys.argv[2]) + 1))
case = json.loads(sys.argv[1])
from analytic import ScoreCoefficient
from analytic.theory.derivation import Derivation
from analytic.theory.hermite import HermiteTwin
options = {k: case[k] for k in ("interactions", "radius") if k in case}
c = ScoreCoefficient(case["name"], case["degree"], "vp", **options)
def system(): c.gram; c.rhs; len(c.noisy_moments); return True
def show(): return len(str(c)) + len(c.latex()) > 0
def derivation(): return all(Derivation(c).check().values())
def twin(): return HermiteTwin(c).holds
def program(): return len(c.code("c")) > 0
for name, stage in zip(%r, (system, show, derivation, twin, program)):
    start = time.process_time()
    holds = stage()
    print(json.dumps([name, time.process_time() - start, bool(holds)]), flush=True)
"""


def measure(case: dict[str, Any], limit: float) -> dict[str, Any]:
    """Seconds of every stage of one case (null where the limit came first) and whether all checks held."""
    options = {k: case[k] for k in ("interactions", "radius") if k in case}
    record = {**case, "features": len(family(case["name"], case["degree"], **options)), "holds": True}
    record["seconds"] = dict.fromkeys(STAGES)
    command = [sys.executable, "-c", CHILD % (STAGES,), json.dumps(case), str(round(limit))]
    done_process = subprocess.run(command, capture_output=True, text=True)
    if done_process.returncode > 0:  # not the signal of the limit
        raise RuntimeError(f"{case}: {done_process.stderr[-500:]}")
    text = done_process.stdout
    for line in text.splitlines():
        name, seconds, holds = json.loads(line)
        record["seconds"][name], record["holds"] = seconds, record["holds"] and holds
    done = [value for value in record["seconds"].values() if value is not None]
    record["all_in_time"] = len(done) == len(STAGES)
    return record


def main(
    limit: Annotated[float, typer.Option(help="Processor seconds per case.")] = 60.0,
    output: Annotated[Path, typer.Option(help="JSON file.")] = OUTPUT,
) -> None:
    """Derive every family at rising degree, each case in its own process, and write what a minute holds.

    The file is written after every case; a case it already holds at the same limit and versions is not run again.
    """
    command = f"python -m benchmarks.families --limit {limit:g}"
    records: list[dict[str, Any]] = []
    if output.exists():
        stored = read_json(output)
        if stored["limit_seconds"] == limit and stored["versions"] == versions():
            records = stored["records"]
    known = [{k: r.get(k) for k in KEYS} for r in records]
    for case in CASES:
        if {k: case.get(k) for k in KEYS} in known:
            continue
        record = measure(case, limit)
        records.append(record)
        shown = "  ".join(f"{k} {'-' if v is None else format(v, '.1f')}" for k, v in record["seconds"].items())
        name = f"{case['name']} {case.get('interactions', '')} {'r=' + str(case['radius']) if 'radius' in case else ''}"
        print(f"{name:24} n = {case['degree']:2}  {record['features']:4} features  {shown}", flush=True)
        missing = len(CASES) - len(records)
        write_json(output, {**provenance(command), "limit_seconds": limit, "not_run_yet": missing, "records": records})


if __name__ == "__main__":
    typer.run(main)
