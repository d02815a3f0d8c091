"""The one table of columns: what `status` shows of a run in its live list, in its plain table and as JSON.

A new column is one entry here. Its value is a property of `RunFacts` of that name, or any function of the facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from hpc_yolo.core.units import short_bytes, short_time
from hpc_yolo.monitor.blocks import bar, trend_line
from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.runs.event_lines import three_decimals

UNKNOWN = "-"


@dataclass(frozen=True)
class Column:
    """One fact of a run.

    Attributes:
        name: its key in JSON.
        header: over the column; "" for a fact that only JSON has.
        width: cells in the live list; 0: not in the list.
        text: (a value that is known, the run) -> its text on screens.
        value: the run -> its JSON value; None: the property `name`.
        min_terminal: width of the narrowest terminal whose list has the column; a plain table of 100 has all.
        in_table: the plain table has the column.
        is_number: aligned to the right.
        help: its text in the help of the live screen.
    """

    name: str
    header: str = ""
    width: int = 0
    text: Callable[[Any, RunFacts], str] = lambda value, _: str(value)
    value: Callable[[RunFacts], Any] | None = None
    min_terminal: int = 0
    in_table: bool = False
    is_number: bool = True
    help: str = ""

    def value_of(self, run: RunFacts) -> Any:
        """Return the JSON value of the column."""
        return (self.value or attrgetter(self.name))(run)

    def text_of(self, run: RunFacts) -> str:
        """Return the text of the column, a dash for what is not known."""
        value = self.value_of(run)
        return UNKNOWN if value is None else self.text(value, run)


def _each(text: Callable[[Any], str]) -> Callable[[Any, RunFacts], str]:
    return lambda value, _: text(value)


def _metric(name: str) -> Callable[[RunFacts], float | None]:
    return lambda run: None if run.metrics is None else float(getattr(run.metrics, name))


SCORE, DURATION, PERCENT = _each(three_decimals), _each(short_time), _each("{:.0%}".format)
COLUMNS = (
    Column("name", "run", in_table=True, is_number=False),
    Column("path"),
    Column("sweep"),
    Column("num_trials"),
    Column("state", "state", 10, in_table=True, is_number=False),
    Column("detail"),
    Column("executor"),
    Column("job_id", "job", 9, min_terminal=80, in_table=True, is_number=False),
    Column("num_nodes", "nodes x tasks", 13, lambda nodes, run: f"{nodes} x {run.tasks_per_node}", min_terminal=110,
           in_table=True),
    Column("tasks_per_node"),
    Column("gpus_per_node"),
    Column("epoch", "epoch", 9, lambda epoch, run: f"{epoch + 1}/{run.epochs}", in_table=True),
    Column("epochs"),
    Column("step", "step", min_terminal=100, text=lambda step, run: f"{step}/{run.total_steps}", in_table=True),
    Column("total_steps"),
    Column("fraction_done", "done", 8, _each(lambda fraction: bar(fraction, 8)), min_terminal=210, is_number=False),
    Column("losses"),
    Column("loss", "loss", 6, SCORE, min_terminal=56, in_table=True),
    Column("precision", value=_metric("precision")),
    Column("recall", value=_metric("recall")),
    Column("map50", "mAP50", 6, SCORE, _metric("map50"), min_terminal=120, in_table=True),
    Column("map50_95", "mAP", 6, SCORE, _metric("map50_95"), in_table=True),
    Column("best_epoch"),
    Column("lr", "lr", 8, _each("{:.2e}".format), lambda run: None if run.progress is None else run.progress.lr, 220),
    Column("images_per_s", "img/s", 7, _each("{:.1f}".format), min_terminal=80, in_table=True),
    Column("data_wait_fraction", "wait", 5, PERCENT, min_terminal=130,
           help="fraction of a step spent waiting for data"),
    Column("device_use", "GPU", 5, PERCENT, min_terminal=136, help="how busy the GPUs were in the last moments"),
    Column("mem_bytes", "memory", 9, _each(short_bytes), min_terminal=145),
    Column("attempts", "attempts", 8, min_terminal=100, in_table=True),
    Column("causes", "ended by", 25, lambda _, run: run.causes_text, min_terminal=200, is_number=False),
    Column("updated"),
    Column("checkpoint_time"),
    Column("since_checkpoint_s", "since checkpoint", 16, DURATION, min_terminal=160,
           help="age of the newest checkpoint at the last event"),
    Column("eta_s", "ETA", 11, DURATION, min_terminal=90,
           help="until the last step at this speed, without evaluations"),
    Column("job_time_left_s"),
    Column("jobs_needed"),
    Column("slurm_time"),
    Column("problems"),
    Column("stages"),
    Column("loss_trend", "loss trend", 10, _each(trend_line), min_terminal=170, is_number=False,
           help="from the first step to now, lowest to highest"),
    Column("map_trend", "mAP trend", 10, _each(trend_line), min_terminal=180, is_number=False),
)  # fmt: skip
LIST_COLUMNS = tuple(column for column in COLUMNS if column.width)
TABLE_COLUMNS = tuple(column for column in COLUMNS if column.in_table)


def run_json(run: RunFacts) -> dict[str, Any]:
    """Return all facts of `run` as JSON values."""
    return {column.name: msgspec.to_builtins(column.value_of(run)) for column in COLUMNS}
