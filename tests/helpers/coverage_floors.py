"""Check the coverage that `pytest --cov` measured against floors; a program, run by `make test`.

    python tests/helpers/coverage_floors.py

Lines of the whole package, and lines and branches of the packages whose mistakes cost a run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Floor(NamedTuple):
    """The least percentage of `kind` (lines or branches) of the files whose path starts with `path`."""

    path: str
    kind: str
    percent: float


FLOORS = (
    Floor("hpc_yolo/", "lines", 92),
    Floor("hpc_yolo/spec/", "lines", 95),
    Floor("hpc_yolo/spec/", "branches", 95),
    Floor("hpc_yolo/runs/", "lines", 95),
    Floor("hpc_yolo/cluster/", "lines", 95),
    Floor("hpc_yolo/resilience/", "branches", 95),
)
COUNTS = {"lines": ("covered_lines", "num_statements"), "branches": ("covered_branches", "num_branches")}


def percentage(summaries: Iterable[Mapping[str, int]], kind: str) -> float:
    """Return the covered percentage of `kind` over files; 0 where there is nothing to cover."""
    covered, total = COUNTS[kind]
    sums = [(summary[covered], summary[total]) for summary in summaries]
    return 100 * sum(part for part, _ in sums) / max(sum(whole for _, whole in sums), 1)


def below(files: Mapping[str, Any], floors: Iterable[Floor] = FLOORS) -> list[str]:
    """Print a line for each floor; return those that are not reached.

    Args:
        files: path -> entry of coverage's JSON report.
    """
    missed = []
    for floor in floors:
        summaries = [entry["summary"] for path, entry in files.items() if path.startswith(floor.path)]
        found = percentage(summaries, floor.kind)
        line = f"{floor.kind:8} of {floor.path:22} {found:5.1f} % (at least {floor.percent:g} %)"
        print(line)
        if found < floor.percent:
            missed.append(line)
    return missed


def main() -> None:
    """Read .coverage in the working directory; exit with 1 where a floor is not reached."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "coverage.json"
        subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", str(report)], check=True)
        files = json.loads(report.read_text())["files"]
    if missed := below(files):
        sys.exit(f"coverage is too low: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
