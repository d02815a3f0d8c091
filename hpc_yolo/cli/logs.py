"""`hpc-yolo logs`: the output of all ranks in one stream."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator

import click

from hpc_yolo.cli.run_argument import RUN, named_run
from hpc_yolo.cluster.jobs import JobWatch
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.text import harmless
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.failures import all_failures
from hpc_yolo.runs.journal import JournalReader, read_events
from hpc_yolo.runs.logs import OutputLine, OutputReader
from hpc_yolo.runs.submissions import last_chain

LOG_LINES = 40
POLL_S = 0.3
LAST_LINES_S = 1.0  # between the end in the journal and the last line of a task


@click.command()
@RUN
@click.option("-f", "--follow", is_flag=True, help="Print new lines too, across requeues, until the run ends.")
@click.option("--rank", metavar="N", type=click.IntRange(min=0), help="Only lines of this rank.")
@click.option("--attempt", metavar="N", type=click.IntRange(min=1), help="Only this attempt of the run.")
@click.option("--errors", is_flag=True, help="Print errors: of the rank that failed first, then of the others.")
@click.option(
    "-n", "--lines", default=LOG_LINES, show_default=True, type=click.IntRange(min=1), help="Number of last lines."
)
@click.option("--all", "show_all", is_flag=True, help="Print every line, from the first attempt on.")
def logs(
    written: str, follow: bool, rank: int | None, attempt: int | None, errors: bool, lines: int, show_all: bool
) -> None:
    """Print the last lines of Slurm and of all ranks of RUN, each with its rank; --rank and --attempt select.

    Lines of a Slurm job are in the order of printing; those of a local run are grouped by rank.
    """
    run = named_run(written)
    if errors:
        show_errors(run, rank, attempt)
    else:
        show_output(run, rank, attempt, None if show_all else lines, follow=follow)


def show_errors(run: RunDirectory, rank: int | None, attempt: int | None) -> None:
    """Print the failures of `attempt`, or of the newest attempt that has any: the first cause first.

    Raises:
        RunError: there are none.
    """
    events = read_events(run.journal)
    attempts, failures = list(Attempts(events)), all_failures(run)
    begins = [attempt.training_begin for attempt in attempts if attempt.started is not None]
    # The first failure in a start of a job comes before the record of its end; an echo may come after it. Attempts
    # outside of Slurm may have the same id, or none.
    keys = [(one.job_id, one.restart, sum(begin <= one.time for begin in begins)) for one in failures]
    first_times: dict[tuple[str | None, int, int], float] = {}
    for key, failure in zip(keys, failures, strict=True):
        first_times[key] = min(first_times.get(key, failure.time), failure.time)
    by_attempt: dict[int, list[str]] = {}
    for key, failure in zip(keys, failures, strict=True):
        first_time = first_times[key]
        ended_later = (attempt.number for attempt in attempts if attempt.end >= first_time)
        number = next(ended_later, attempts[-1].number if attempts else 1)
        if rank in (None, failure.rank):
            step = Attempts(event for event in events if event.time <= failure.time).last_step
            how = "lost its connection to another rank" if failure.is_echo else "failed"
            head = f"rank {failure.rank} on {failure.host} {how} in attempt {number}, after step {step}:"
            by_attempt.setdefault(number, []).append(f"{head}\n{(failure.traceback or failure.message).rstrip()}")
    chosen = attempt if attempt is not None else max(by_attempt, default=0)
    if chosen not in by_attempt:
        of = "" if attempt is None else f" in attempt {attempt}"
        of = of if rank is None else f" of rank {rank}{of}"
        raise RunError(f"{run.name}: no failure{of} is recorded", hint=f"hpc-yolo logs {run.name} shows the output")
    click.echo(harmless("\n\n".join(by_attempt[chosen])))


def show_output(run: RunDirectory, rank: int | None, attempt: int | None, lines: int | None, *, follow: bool) -> None:
    """Print the last `lines` (None: all) of `rank` and `attempt`, and with `follow` those that are written later.

    Raises:
        RunError: there is no output, or none of that rank or attempt.
    """
    reader = OutputReader(run)

    def is_wanted(line: OutputLine) -> bool:
        return rank in (None, line.rank) and attempt in (None, line.attempt)

    shown: deque[OutputLine] = deque(maxlen=lines)
    ranks, attempts = set[int | None](), set[int]()
    for line in reader.new_lines(also_unfinished=not follow):
        ranks.add(line.rank)
        attempts.add(line.attempt)
        if is_wanted(line):
            shown.append(line)
    if not (shown or follow):
        raise _nothing_to_show(run, ranks, attempts)
    for line in shown:
        echo(line)
    if follow:
        for line in later_lines(run, reader.new_lines):
            if is_wanted(line):
                echo(line)


def _nothing_to_show(run: RunDirectory, found: Collection[int | None], attempts: Collection[int]) -> RunError:
    """Return the error for output in which no line is wanted; `found`: its ranks."""
    if not attempts:
        return RunError(f"{run.path}: no job has printed anything yet", hint="hpc-yolo status shows its state")
    ranks, hint = [rank for rank in found if rank is not None], "leave out --rank"
    if ranks:
        hint = f"there are ranks {min(ranks)} to {max(ranks)} and attempts {min(attempts)} to {max(attempts)}"
    return RunError(f"{run.name}: no line is of that rank and attempt", hint=hint)


def later_lines(run: RunDirectory, new_lines: Callable[[], Iterator[OutputLine]]) -> Iterator[OutputLine]:
    """Yield lines as they are written, until the newest attempt has ended and neither it nor a later job goes on."""
    journal, attempts, watch = JournalReader(run.journal), Attempts(), JobWatch(run)
    while True:
        if not run.path.exists():
            raise RunError(f"{run.path}: has been moved or removed")
        for event in journal.new_events(max_steps=1):
            attempts.add(event)
        is_over = attempts.newest is not None and not attempts.newest.goes_on
        if is_over and attempts.newest is not None and (chain := last_chain(run)):
            is_own = attempts.newest.is_of([one.job_id for one in chain], chain[0].time)
            is_over = is_own or not watch.is_alive()  # a job may end in the queue
        if is_over:
            time.sleep(LAST_LINES_S)
        yield from new_lines()
        if is_over:
            return
        time.sleep(POLL_S)


def echo(line: OutputLine) -> None:
    """Print `line` after its rank."""
    click.echo(harmless(line.text if line.rank is None else f"{line.rank}: {line.text}"))
