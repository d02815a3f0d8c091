"""Jobs whose ids sbatch could not report are found again, and none is queued twice."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from hpc_yolo.cluster.queueing import KEEP_S, TOKEN_PREFIX, adopt_lost_jobs, queue_script, require_not_active
from hpc_yolo.cluster.slurm_command import Finished
from hpc_yolo.core.errors import ClusterError, RunError, SchedulerUnavailable
from hpc_yolo.core.files import write_struct
from hpc_yolo.launch.actions import cancel_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, all_submissions, stage_submissions

PLANNED = Submission(
    time=0.0, executor="slurm", job_id="", host="login", num_nodes=1, tasks_per_node=1, gpus_per_node=0
)


@pytest.fixture
def script(run) -> Path:
    run.script.write_text("#!/bin/bash\n#SBATCH --comment='nightly run'\ntrue\n")
    return run.script


class Controller:
    """A controller that queues the script even if the reply of sbatch is lost."""

    def __init__(self, directory: Path) -> None:
        self.queue, self.cancelled, self.is_up = directory / "queue", directory / "cancelled", directory / "up"
        self.queue.write_text("5|other work\n")
        self.is_up.touch()
        self.options: list[str] = []
        no_answer = f"[ -e {self.is_up} ] || {{ echo 'error: Unable to contact slurm controller' >&2; exit 1; }}"
        self._program(directory / "squeue", f"{no_answer}\ncat {self.queue}")
        self._program(directory / "scancel", f'{no_answer}\nshift; echo "$@" >> {self.cancelled}')

    def _program(self, path: Path, body: str) -> None:
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def sbatch(self, arguments: Sequence[str], _timeout_s: float) -> Finished:
        self.options = [word for word in arguments if word.startswith("--")]
        comment = next(word.partition("=")[2] for word in arguments if word.startswith("--comment="))
        with self.queue.open("a") as file:
            file.write(f"7|{comment}\n")
        return Finished(0, "7\n", "")

    def lose_reply(self, arguments: Sequence[str], timeout_s: float) -> Finished:
        self.sbatch(arguments, timeout_s)
        raise SchedulerUnavailable("sbatch gave no answer within 120 s")

    def interrupt(self, arguments: Sequence[str], timeout_s: float) -> Finished:
        self.sbatch(arguments, timeout_s)
        raise KeyboardInterrupt


def never_reached(_words: Sequence[str], _timeout_s: float) -> Finished:
    raise SchedulerUnavailable("sbatch gave no answer within 120 s")


def refuse(_words: Sequence[str], _timeout_s: float) -> Finished:
    return Finished(1, "", "sbatch: error: Batch job submission failed: Invalid qos specification\n")


@pytest.fixture
def controller(tmp_path, monkeypatch) -> Controller:
    controller = Controller(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "Vision")
    return controller


def records(run: RunDirectory) -> list[Path]:
    return list(run.jobs.glob(f"{TOKEN_PREFIX}*"))


@pytest.mark.parametrize(("suffix", "expected"), [("", "7"), ("_3", "7_3")])
def test_job_is_recorded_with_a_token_appended_to_the_comment(run, script, controller, suffix, expected):
    planned = msgspec.structs.replace(PLANNED, job_id=suffix)
    submission = queue_script(run, script, planned, options=["--hold"], sbatch=controller.sbatch)
    assert (submission.job_id, all_submissions(run)) == (expected, [submission])
    assert submission.home == "vision"
    hold, comment = controller.options[1:]
    assert hold == "--hold"
    assert re.fullmatch(rf"--comment=nightly run {TOKEN_PREFIX}[0-9a-f]+", comment)
    assert records(run) == []


def test_comment_option_replaces_that_of_the_script_and_earlier_tokens(run, script, controller):
    options = [f"--comment=typed one {TOKEN_PREFIX}0a0a"]
    queue_script(run, script, PLANNED, options=options, sbatch=controller.sbatch)
    (comment,) = controller.options[1:]
    assert re.fullmatch(rf"--comment=typed one {TOKEN_PREFIX}(?!0a0a)[0-9a-f]+", comment)


def test_job_with_a_lost_reply_is_found_by_its_token(run, script, controller):
    """sbatch gave up and the job was queued: a second submission would queue a second job."""
    submission = queue_script(run, script, PLANNED, sbatch=controller.lose_reply)
    assert submission.job_id == "7"
    assert records(run) == []


def test_job_whose_comment_has_a_bar_is_found_by_its_token(run, script, controller):
    script.write_text("#!/bin/bash\n#SBATCH --comment='day|night'\ntrue\n")
    assert queue_script(run, script, PLANNED, sbatch=controller.lose_reply).job_id == "7"


def test_job_that_appears_later_is_adopted_by_the_next_command(run, script, controller):
    controller.is_up.unlink()
    with pytest.raises(SchedulerUnavailable, match="may be queued anyway") as caught:
        queue_script(run, script, PLANNED, sbatch=controller.lose_reply)
    assert "submit again" in str(caught.value.hint)
    assert all_submissions(run) == []
    assert adopt_lost_jobs(run) == {}, "Slurm does not say yet"
    controller.is_up.touch()
    with pytest.raises(RunError, match="already queued or running, as Slurm job 7"):
        require_not_active(run, slurm_answers=True)
    assert [submission.job_id for submission in all_submissions(run)] == ["7"]
    assert adopt_lost_jobs(run) == {}, "once is enough"


def test_lost_job_of_a_stage_is_not_taken_for_the_job_that_is_queued_now(run, script, controller):
    controller.is_up.unlink()
    with pytest.raises(SchedulerUnavailable):
        queue_script(run, script, msgspec.structs.replace(PLANNED, stage="val"), sbatch=controller.lose_reply)
    controller.is_up.touch()
    with pytest.raises(SchedulerUnavailable):
        queue_script(run, script, PLANNED, sbatch=never_reached)
    assert [submission.job_id for submission in stage_submissions(run)] == ["7"]
    assert all_submissions(run) == []


def test_lost_job_can_be_cancelled(run, script, controller):
    controller.is_up.unlink()
    with pytest.raises(SchedulerUnavailable):
        queue_script(run, script, PLANNED, sbatch=controller.lose_reply)
    controller.is_up.touch()
    controller.queue.write_text(controller.queue.read_text() + "7|RUNNING|None|n1|N/A|1:00|0:0|\n")
    cancel_run(run)
    assert controller.cancelled.read_text() == "7\n"


def test_record_of_a_job_that_never_appears_is_removed(run, script, controller):
    with pytest.raises(SchedulerUnavailable):
        queue_script(run, script, msgspec.structs.replace(PLANNED, time=time.time()), sbatch=never_reached)
    adopt_lost_jobs(run)
    (record,) = records(run)
    old = msgspec.structs.replace(PLANNED, time=time.time() - KEEP_S - 1)
    write_struct(record, old)
    adopt_lost_jobs(run)
    assert records(run) == []


def test_refused_job_leaves_no_record(run, script, controller):
    with pytest.raises(ClusterError, match="Invalid qos specification"):
        queue_script(run, script, PLANNED, sbatch=refuse)
    assert (records(run), all_submissions(run)) == ([], [])


@pytest.mark.parametrize(
    ("is_up", "expected"), [(True, "cancelled job 7, which was already queued"), (False, "the job may be queued")]
)
def test_ctrl_c_while_sbatch_waits_cancels_the_job(run, script, controller, is_up, expected):
    if not is_up:
        controller.is_up.unlink()
    with pytest.raises(KeyboardInterrupt, match=expected):
        queue_script(run, script, PLANNED, sbatch=controller.interrupt)
    assert controller.cancelled.exists() == is_up
    assert all_submissions(run) == []
