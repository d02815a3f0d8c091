"""Run stages after the training: in the job of the run, in a job of their own, or on this machine."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import msgspec

from hpc_yolo.cluster.local_process import machine_id, process_start
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.core.files import file_mode, make_directory
from hpc_yolo.core.units import short_time
from hpc_yolo.launch.stage_commands import shell_variables, stage_command
from hpc_yolo.launch.stage_container import needs_container, prepare_container
from hpc_yolo.resilience.requeue import own_job_record, slurm_job_id
from hpc_yolo.resilience.stage_state import is_due
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.stages import DONE, FAILED, NOT_RUN, RUNNING, StageRecord, claim_stage, write_stage
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.stages import Stage, named_stages

MIN_LEFT_S = 60.0  # less of the job's time than this is no time to begin a stage
END_MARGIN_S = 20.0  # before the time limit, in which a stage is ended and its record is written
STOP_S = 10.0  # from SIGTERM to SIGKILL
END_TIME_VARIABLE = "SLURM_JOB_END_TIME"


def run_job_stages(run: RunDirectory, spec: Spec, process: ProcessInfo, end: RunEnd, *, refusal: str = "") -> None:
    """Run the stages of `in: job` that follow `end`, in their order, while the time of the job suffices.

    Args:
        process: the batch script's last command, on the first node of the job.
        refusal: why none can run; they are recorded as not run.
    """
    deadline = job_end(process)
    for name, stage in named_stages(spec.then).items():
        if stage.has_own_job or not is_due(stage, end):
            continue
        left_s = None if deadline is None else deadline - time.time()
        why_not = refusal
        if not why_not and left_s is not None and left_s < MIN_LEFT_S:
            why_not = f"only {short_time(max(left_s, 0))} are left of the time of job {process.job_id}"
        log = run.stage_log(name, process.job_id or "local")
        run_stage(run, spec, name, end, process, log=log, deadline=deadline, refusal=why_not)


def run_local_stages(run: RunDirectory, spec: Spec, end: RunEnd, numbers: Mapping[str, int]) -> bool:
    """Run stages of a run that has trained on this machine, one after the other; return True if all are done.

    Args:
        numbers: of the try of each stage, by name.
    """
    process = ProcessInfo.alone({})
    records = [
        run_stage(run, spec, name, end, process, number=number, log=run.stage_log(name, "local"))
        for name, number in numbers.items()
    ]
    return all(record is not None and record.state == DONE for record in records)


def run_stage(
    run: RunDirectory,
    spec: Spec,
    name: str,
    end: RunEnd,
    process: ProcessInfo,
    *,
    log: Path,
    number: int = 1,
    deadline: float | None = None,
    refusal: str = "",
) -> StageRecord | None:
    """Run the stage `name` unless this try of it is taken; print and return its record, None if it is taken.

    Args:
        end: of the run, which the stage follows.
        number: of the try.
        log: file for its output.
        deadline: when the stage is ended, in seconds since 1970, with a margin.
        refusal: why it cannot run.
    """
    stage = named_stages(spec.then)[name]
    log_name = str(log.relative_to(run.path))
    record = _begun_record(process, stage=name, end=end.attempt, number=number, log=log_name, step=stage.step)
    if not claim_stage(run, record):
        print(f"hpc-yolo: stage {name}: another process has run it, or is running it", flush=True)
        return None
    record = _ended(record, NOT_RUN, refusal) if refusal else _with_result(run, spec, stage, record, end, deadline)
    write_stage(run, record)
    with contextlib.suppress(OSError):
        run.settle_modes()
    print(f"hpc-yolo: stage {name}: {record.state}{f', {record.detail}' if record.detail else ''}", flush=True)
    return record


def _begun_record(process: ProcessInfo, **fields: Any) -> StageRecord:
    """Return the record of a stage that this process begins now."""
    return StageRecord(
        state=RUNNING,
        began=time.time(),
        job_id=slurm_job_id(process),
        restart=process.attempt,
        machine=machine_id(),
        host=platform.node(),
        pid=os.getpid(),
        pid_start=process_start(os.getpid()),
        **fields,
    )


def job_end(process: ProcessInfo) -> float | None:
    """Return when Slurm ends the job of this process, in seconds since 1970; None without a limit or outside Slurm."""
    if slurm_job_id(process) is None:
        return None
    if (job := own_job_record(process)) is not None:
        return job.end
    with contextlib.suppress(ValueError):
        return float(current_environment().get(END_TIME_VARIABLE, ""))
    return None


def _with_result(
    run: RunDirectory, spec: Spec, stage: Stage, record: StageRecord, end: RunEnd, deadline: float | None
) -> StageRecord:
    """Run the command of `stage` and return `record` with its result; Ctrl-C ends the command, and is raised."""
    variables = {} if stage.shell is None else shell_variables(run, record.stage, end)
    environ = {**current_environment(), **variables}
    limit_s = None if deadline is None else max(deadline - END_MARGIN_S - time.time(), 0.0)
    try:
        if needs_container(spec, stage):
            prepare_container(run, spec, stage)
        command = stage_command(run, spec, record.stage, stage)
        with _opened(run.path / record.log) as output:
            print(f"hpc-yolo: stage {record.stage}, try {record.number}", file=output, flush=True)
            status = _run(command, environ, output, limit_s)
    except HpcYoloError as error:  # of the container
        return _ended(record, NOT_RUN, error.message)
    except OSError as error:
        return _ended(record, FAILED, f"{error.filename or record.log}: {error.strerror}")
    if status is None:
        return _ended(record, FAILED, f"ended shortly before the time limit of job {record.job_id}")
    record = msgspec.structs.replace(record, exit_code=status.code)
    if status.code == 0:
        return _ended(record, DONE, f"in {short_time(time.time() - record.began)}")
    how = f"killed by {status.signal.name}" if status.signal is not None else f"exit code {status.code}"
    return _ended(record, FAILED, f"{how}; its output is in {record.log}")


def _run(command: list[str], environ: Mapping[str, str], output: IO[str], limit_s: float | None) -> ExitStatus | None:
    """Run `command` and return its exit status; None where it has not ended within `limit_s`, and is ended."""
    with _leaving_at_signals() as begin:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,  # its children are ended with it
        )
        try:
            begin()
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _stop(child)
    return ExitStatus(code) if code >= 0 else ExitStatus.of_signal(-code)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End `child` and its children, if it still runs."""
    if child.poll() is not None:
        return
    os.killpg(child.pid, signal.SIGTERM)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_S)
    finally:  # a second Ctrl-C ends the wait
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@contextlib.contextmanager
def _leaving_at_signals() -> Iterator[Callable[[], None]]:
    """Leave the block at SIGTERM, SIGHUP and Ctrl-C, so that what runs in it is ended with this process.

    A signal that comes before the block has called the yielded function leaves it there: what is being started by then
    could not be ended.
    """
    received: list[int] = []
    has_begun = False

    def leave(number: int, _frame: object) -> None:
        received.append(number)
        if has_begun:
            _leave(number)

    def begin() -> None:
        nonlocal has_begun
        has_begun = True
        if received:
            _leave(received[0])

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # as with nohup
                signal.signal(number, leave)
        yield begin
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(ExitStatus.of_signal(number).code)


def _ended(record: StageRecord, state: str, detail: str) -> StageRecord:
    return msgspec.structs.replace(record, state=state, detail=detail, ended=time.time())


@contextlib.contextmanager
def _opened(log: Path) -> Iterator[IO[str]]:
    """Open `log` for appending, with the mode of its directory."""
    make_directory(log.parent)
    with log.open("a") as file:
        os.fchmod(file.fileno(), file_mode(log.parent))
        yield file
