"""Output of all ranks in one stream: with rank and attempt, each line once and complete."""

from itertools import count, islice

import pytest
from click.testing import CliRunner
from journal_events import started

from hpc_yolo.cli.logs import later_lines
from hpc_yolo.cli.main import cli
from hpc_yolo.cluster.jobs import JobWatch
from hpc_yolo.core.errors import RunError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded
from hpc_yolo.runs.failures import Failure, write_failure
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.logs import OutputLine, OutputReader
from hpc_yolo.runs.submissions import Submission, add_submission

FAILED = AttemptEnded(outcome=AttemptEnded.FAILED, epoch=1, step=2)
START = "submitit INFO (2026-11-23 17:42:39,229) - Starting with JobEnvironment(job_id=7)"


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """A run that was submitted twice: job 9 first."""
    run = RunDirectory(tmp_path / "first")
    run.create()
    run.spec.write_text("name: first\n")
    for time, job_id in ((1.0, "9"), (2.0, "7")):
        size = {"host": "elsewhere", "num_nodes": 1, "tasks_per_node": 2, "gpus_per_node": 0}
        add_submission(run, Submission(time=time, executor="slurm", job_id=job_id, **size))
    return run


def write(run: RunDirectory, name: str, *lines: str) -> None:
    with (run.jobs / name).open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def test_lines_have_rank_and_attempt_across_requeues_and_jobs(run):
    write(run, "7.log", f"0: {START}", "0: attempt 4: 2 ranks on a (cpu)", f"1: {START}", "1: four")
    one = ["slurmstepd: launching", f"1: {START}", f"0: {START}", "0: attempt 1: 2 ranks on a (cpu)", "1: one"]
    write(run, "9.log", *one, f" 1: {START}", " 1: two", f" 0: {START}", " 0: two too", " 1:", "no task: a line")
    lines = [(line.job_id, line.rank, line.attempt, line.text) for line in OutputReader(run).new_lines()]
    assert [line for line in lines if START not in line[3]] == [
        ("9", None, 1, "slurmstepd: launching"),
        ("9", 0, 1, "attempt 1: 2 ranks on a (cpu)"),
        ("9", 1, 1, "one"),
        ("9", 1, 2, "two"),
        ("9", 0, 2, "two too"),
        ("9", 1, 2, ""),
        ("9", None, 2, "no task: a line"),
        ("7", 0, 4, "attempt 4: 2 ranks on a (cpu)"),
        ("7", 1, 4, "four"),
    ]


def test_each_line_is_returned_once_and_complete(run):
    reader = OutputReader(run)
    (run.jobs / "30_1_log.out").write_bytes(b"one\nhal")
    (run.jobs / "30_submitted.pkl").write_bytes(b"none of ours\n")
    assert [(line.rank, line.text) for line in reader.new_lines()] == [(1, "one")]
    with (run.jobs / "30_1_log.out").open("ab") as file:
        file.write(b"f\n10%\r20%\r\n\xff\nrest")
    assert [line.text for line in reader.new_lines()] == ["half", "20%", "�"]
    assert [line.text for line in reader.new_lines(also_unfinished=True)] == ["rest"]


def call(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["logs", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_command_filters_by_rank_attempt_and_number_of_lines(run):
    write(run, "9.log", f"0: {START}", "0: a", "1: b", f"0: {START}", "0: c", f"1: {START}", "1: d")
    assert call(run.path, "-n", 1).splitlines() == ["1: d"]
    assert call(run.path, "--rank", 0, "--attempt", 2).splitlines() == [f"0: {START}", "0: c"]
    assert len(call(run.path, "--all").splitlines()) == 7
    with pytest.raises(RunError, match="no line is of that rank") as refusal:
        call(run.path, "--rank", 5)
    assert refusal.value.hint == "there are ranks 0 to 1 and attempts 1 to 2"


def test_truncated_file_is_read_from_its_beginning(run):
    reader = OutputReader(run)
    write(run, "9.log", "0: a line", "0: another")
    assert len(list(reader.new_lines())) == 2
    (run.jobs / "9.log").write_text("0: new\n")
    assert [line.text for line in reader.new_lines()] == ["new"]
    (run.jobs / "9.log").unlink()
    assert list(reader.new_lines()) == []


def test_output_that_would_steer_the_terminal_is_printed_as_text(run):
    write(run, "9.log", "0: \x1b]0;title\x07 \x1b[2J \x9b31m \x1b[1;31mred\x1b[0m\ttab")
    shown = CliRunner().invoke(cli, ["logs", str(run.path)], color=True).output
    assert shown == "0: \\x1b]0;title\\x07 \\x1b[2J \\x9b31m \x1b[1;31mred\x1b[0m\ttab\n"


def test_follow_of_a_run_that_is_removed_ends(run):
    write(run, "9.log", "0: a")
    lines = later_lines(run, OutputReader(run).new_lines)
    assert next(lines).text == "a"
    run.path.rename(run.path.with_name("elsewhere"))
    with pytest.raises(RunError, match="has been moved or removed"):
        next(lines)


def test_follow_ends_with_the_run_and_prints_its_last_lines(run):
    write(run, "9.log", "0: a")
    journal = JournalWriter(run.journal, 1)
    journal.write(AttemptEnded(outcome="finished", epoch=1, step=2, detail=""))
    assert call(run.path, "--follow").splitlines() == ["0: a"]


def test_follow_of_a_resubmitted_run_waits_for_the_end_of_the_new_job(run, monkeypatch):
    """The journal still ends with the failure of the job before."""
    monkeypatch.setattr(JobWatch, "is_alive", lambda _watch: True)
    write(run, "9.log", "0: a")
    JournalWriter(run.journal, 1, clock=lambda: 1.5).write(FAILED)
    line = OutputLine("7", 0, 2, "of job 7")
    lines = later_lines(run, lambda: iter([line]))
    assert next(lines) == line
    JournalWriter(run.journal, 2).write(FAILED)
    assert list(lines) == [line]


def test_follow_of_a_resubmitted_run_ends_with_a_job_that_never_began(run, monkeypatch):
    JournalWriter(run.journal, 1, clock=lambda: 1.5).write(FAILED)
    monkeypatch.setattr(JobWatch, "is_alive", lambda _watch: False)
    line = OutputLine("9", 0, 1, "of job 9")
    assert list(islice(later_lines(run, lambda: iter([line])), 2)) == [line]


@pytest.mark.parametrize(
    ("message", "traceback", "expected"),
    [
        ("m", "Traceback\n  frames\nValueError: m\n", "ValueError: m"),
        ("no image\n  hint: use another", "", "rank 0 on gpu1 failed: no image"),
    ],
)
def test_headline_of_a_failure_is_its_error_and_not_its_hint(message, traceback, expected):
    fields = {"job_id": "9", "kind": "ValueError", "exit_code": 1, "host": "gpu1", "rank": 0, "is_echo": False}
    assert Failure(time=1.0, message=message, traceback=traceback, **fields).headline == expected


def test_errors_begin_with_the_rank_that_failed_first(run):
    fields = {"job_id": "9", "kind": "ValueError", "message": "m", "exit_code": 1, "host": "gpu1"}
    write_failure(run, Failure(time=1.0, rank=0, traceback="lost a peer\n", is_echo=True, **fields))
    write_failure(run, Failure(time=2.0, rank=3, traceback="Traceback\nValueError: m\n", is_echo=False, **fields))
    printed = call(run.path, "--errors").splitlines()
    assert printed[0] == "rank 3 on gpu1 failed in attempt 1, after step 0:"
    assert printed[2] == "ValueError: m"
    assert printed[4].startswith("rank 0 on gpu1 lost its connection to another rank")
    with pytest.raises(RunError, match="no failure of rank 2 is recorded"):
        call(run.path, "--errors", "--rank", 2)


def test_failure_before_the_training_is_of_its_own_attempt(run):
    """Attempt 2 found no data: its only event is its end."""
    JournalWriter(run.journal, 1, clock=lambda: 10.0).write(started(job_id="9"))
    JournalWriter(run.journal, 1, clock=lambda: 20.0).write(FAILED)
    JournalWriter(run.journal, 2, clock=lambda: 40.0).write(FAILED)
    fields = {"host": "gpu1", "kind": "DataError", "traceback": "", "exit_code": 3}
    for time, restart, message in ((19.0, 1, "first"), (21.0, 1, "echo"), (39.0, 2, "no data")):
        failure = Failure(
            time=time, rank=0, job_id="9", restart=restart, message=message, is_echo=message == "echo", **fields
        )
        write_failure(run, failure)
    assert call(run.path, "--errors") == "rank 0 on gpu1 failed in attempt 2, after step 0:\nno data\n"
    first, echo = call(run.path, "--errors", "--attempt", 1).split("\n\n")
    assert (first.splitlines()[1], echo.splitlines()[1]) == ("first", "echo")


@pytest.mark.parametrize("job_id", [None, "12"], ids=["no job", "one process id"])
def test_failures_of_attempts_without_a_job_of_slurm_are_told_apart_by_time(run, job_id):
    fields = {"rank": 0, "host": "gpu1", "job_id": job_id, "kind": "E", "traceback": "", "exit_code": 1}
    clock = count(10.0, 10.0)  # 10 and 20 in attempt 1, 30 and 40 in attempt 2
    for number in (1, 2):
        journal = JournalWriter(run.journal, number, clock=lambda: next(clock))
        journal.write(started(job_id=job_id))
        write_failure(run, Failure(time=20.0 * number - 1, message=f"cause {number}", is_echo=False, **fields))
        journal.write(FAILED)
    assert call(run.path, "--errors") == "rank 0 on gpu1 failed in attempt 2, after step 0:\ncause 2\n"
