"""Programs of which each rank of a group runs one process."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from waiting import PATIENCE_S


def results_of_ranks(directory: Path, program: str, arguments: Sequence[str]) -> list[Any]:
    """Run `program` with the path of a store, a rank and one of `arguments` for each rank; return what each prints."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(directory / "store"), str(rank), argument],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, argument in enumerate(arguments)
    ]
    return [json.loads(rank.communicate(timeout=PATIENCE_S)[0]) for rank in ranks]
