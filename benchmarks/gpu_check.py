"""Check on one GPU that training is correct there, and measure what it does in a second; in at most nine minutes.

Each part has a limit; what does not fit into the time is left out and named. A part that fails does not end the others.
With --dry all parts run on a CPU at toy sizes, so that they do not fail at first sight of a GPU.

python benchmarks/gpu_check.py [--result RESULT.json] [--seconds 500] [--parts resume,loaded] [--dry]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gpu_exact
import gpu_input
import gpu_speed
import torch
from gpu_card import DRY, WHOLE, Card

SECONDS = 500.0


class Part(NamedTuple):
    """A part and the seconds that it may take.

    Attributes:
        least_s: below which it is not begun; one that measures rows needs them for the first, and ends with the last
            that fits.
    """

    name: str
    least_s: float
    limit_s: float
    run: Callable[[Card], Any]


PARTS = (
    Part("waits", 10, 30, gpu_speed.waits),
    Part("drawn_images", 10, 25, gpu_input.drawn_images),
    Part("overflow", 5, 10, gpu_exact.overflow),
    Part("one_rank_group", 5, 15, gpu_exact.one_rank_group),
    Part("resume", 30, 40, gpu_exact.resume),
    Part("learning", 20, 50, gpu_exact.learning),
    Part("saves", 8, 20, gpu_exact.saves),
    Part("loaded", 15, 110, gpu_input.loaded),
    Part("kernels", 8, 20, gpu_speed.kernels),
    Part("speeds", 12, 130, gpu_speed.speeds),
    Part("variants", 12, 110, gpu_speed.variants),
)


def main() -> None:
    """Print and write all values; exit with 1 where a part has failed."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, help="JSON file for the values")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that all may take")
    parser.add_argument("--parts", default=",".join(names), help="of " + ", ".join(names))
    parser.add_argument("--dry", action="store_true", help="toy sizes, on the CPU")
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        sys.exit("no GPU here: torch.cuda.is_available() is False; --dry runs at toy sizes on the CPU")
    chosen = arguments.parts.split(",")
    if unknown := sorted(set(chosen) - set(names)):
        sys.exit(f"--parts: there is no {', '.join(unknown)}; there are {', '.join(names)}")
    device = torch.device("cpu") if arguments.dry else torch.device("cuda", 0)
    card = Card(device, DRY if arguments.dry else WHOLE, time.monotonic() + arguments.seconds)
    results = run_parts(card, [part for part in PARTS if part.name in chosen], arguments.result)
    if results["failed"]:
        sys.exit(f"failed: {', '.join(results['failed'])}")


def run_parts(card: Card, parts: list[Part], result: Path | None) -> dict[str, Any]:
    """Return the values of `parts` by name, those that failed, and the seconds of each; written after each part."""
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if card.is_gpu else "cpu",
        "torch": torch.__version__,
        "cpus": len(os.sched_getaffinity(0)),
        "failed": {},
        "left_out": [],
        "seconds": {},
    }
    print(results, flush=True)
    for part in parts:
        if card.left_s < part.least_s:
            results["left_out"].append(part.name)
            continue
        started_s = time.monotonic()
        print(f"\n{part.name}, {card.left_s:.0f} s left", flush=True)
        try:
            results[part.name] = part.run(card.within(part.limit_s))
        except Exception as error:  # whatever it is: the time on a GPU is for the other parts too
            traceback.print_exc()
            results["failed"][part.name] = f"{type(error).__name__}: {error}"
        results["seconds"][part.name] = time.monotonic() - started_s
        if result is not None:
            result.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nseconds: {results['seconds']}\nleft out: {results['left_out']}\nfailed: {results['failed']}", flush=True)
    return results


if __name__ == "__main__":
    main()
