"""A journal that grows as that of a run with preemptions; a program for tests of readers that are killed meanwhile.

    python tests/helpers/growing_journal.py RUN_DIRECTORY SECONDS

An attempt that was preempted resumes at an earlier step and repeats the steps since. Values follow from the step, so a
reader can be compared with `expected_steps`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from journal_events import started, stepped

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, EpochEnded, Evaluated
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.metrics import Losses, Metrics

STEPS_PER_EPOCH, EPOCHS, STEPS_PER_LINE = 50, 8, 2
LAST_STEP = STEPS_PER_EPOCH * EPOCHS
PREEMPTIONS = ((0, 137, False), (120, 300, True), (250, LAST_STEP, True))  # from, to, whether its end is recorded


def expected_steps() -> list[int]:
    """Return the steps of the series."""
    return list(range(STEPS_PER_LINE, LAST_STEP + 1, STEPS_PER_LINE))


def loss_at(step: int) -> float:
    """Return the loss that is logged at `step`."""
    return 1.0 + 1.0 / step


def events() -> Iterator[tuple[int, AnyEvent]]:
    """Yield (attempt, event) pairs of the whole run."""
    for number, (first, last, has_end) in enumerate(PREEMPTIONS, start=1):
        yield number, started(step=first, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
        for step in range(first + STEPS_PER_LINE - first % STEPS_PER_LINE, last + 1, STEPS_PER_LINE):
            yield from ((number, event) for event in _events_at(step))
        is_last = last == LAST_STEP
        outcome = AttemptEnded.FINISHED if is_last else AttemptEnded.STOPPED
        if has_end:
            yield (
                number,
                AttemptEnded(outcome=outcome, epoch=last // STEPS_PER_EPOCH, step=last, requeued=not is_last),
            )


def _events_at(step: int) -> Iterator[AnyEvent]:
    epoch = (step - 1) // STEPS_PER_EPOCH
    losses: Losses = {"box": loss_at(step), "obj": 0.5}
    yield stepped(step=step, epoch=epoch, losses=losses, rank_data_wait_s=[0.0])
    if step % STEPS_PER_EPOCH == 0:
        yield EpochEnded(epoch=epoch, step=step, losses=losses, lr=0.1, images_per_s=9.0, seconds=1.0)
        yield Evaluated(
            epoch=epoch,
            step=step,
            num_images=1,
            metrics=Metrics(map50=step / LAST_STEP),
            images_per_s=1.0,
            seconds=1.0,
            is_best=True,
            classes=[],
        )


def write_journal(run: RunDirectory, seconds: float = 0.0) -> None:
    """Write the journal of `run` in about that time."""
    whole = list(events())
    writers = [JournalWriter(run.journal, number) for number in range(len(PREEMPTIONS) + 1)]
    for number, event in whole:
        writers[number].write(event)
        time.sleep(seconds / len(whole))


if __name__ == "__main__":
    write_journal(RunDirectory(Path(sys.argv[1])), float(sys.argv[2]))
