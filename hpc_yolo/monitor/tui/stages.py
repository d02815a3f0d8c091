"""The stages of a run as lines of its page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.text import Text

from hpc_yolo.core.units import short_time
from hpc_yolo.resilience.stage_state import LOST, SKIPPED, WAITING, StageStatus
from hpc_yolo.runs.stages import DONE, FAILED, NOT_RUN, RUNNING

STYLES = {
    WAITING: "yellow",
    RUNNING: "green",
    DONE: "bold green",
    FAILED: "bold red",
    LOST: "bold red",
    NOT_RUN: "red",
    SKIPPED: "dim",
}


def stage_lines(stages: Sequence[StageStatus], now: float, width: int) -> list[Text]:
    """Return a title, a header and a line for each stage, with more lines for its detail; [] without any."""
    if not stages:
        return []
    header = f"{'stage':12}  {'state':8}  {'ran':>12}  {'job':12}  {'when':7}  output"
    lines = [Text(""), Text("stages after the training", style="bold underline"), Text(header, style="bold")]
    for stage in stages:
        seconds = "-" if stage.began is None else short_time((stage.ended or now) - stage.began)
        job = "-" if stage.job_id is None else f"job {stage.job_id}"
        rest = f"  {seconds:>12}  {job:12}  {stage.when:7}  {stage.log}".rstrip()
        lines.append(Text.assemble(f"{stage.name:12}  ", (f"{stage.state:8}", STYLES[stage.state]), rest))
        if stage.detail and stage.state != DONE:
            wrapped = textwrap.wrap(stage.detail, max(width - 6, 20))
            lines += [Text(f"      {line}", style="dim") for line in wrapped]
    return lines
