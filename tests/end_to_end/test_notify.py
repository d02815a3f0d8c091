"""Messages of real runs: one at the end, to servers on the loopback interface, and nothing else changes by them."""

from __future__ import annotations

import functools
import json

import pytest
from loopback_servers import MailServer, WebServer, closed_port, serving, silent_port
from spec_runs import SLOW_MODEL
from waiting import wait_until

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, Cause, StepLogged
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.notices import read_notices
from hpc_yolo.runs.submissions import all_submissions

SECRET = "/hooks/" + "x7q9zk3m5t8w2yb4c6v1"


@pytest.fixture
def web(monkeypatch):
    """A web server whose address with a secret is in SLACK_WEBHOOK."""
    server = WebServer()
    monkeypatch.setenv("SLACK_WEBHOOK", f"{server.address}{SECRET}")
    with serving(server):
        yield server


def has_come_to(run: RunDirectory, attempt: int) -> bool:
    steps = (event for event in read_events(run.journal) if isinstance(event, StepLogged))
    return any(event.attempt == attempt for event in steps)


def require_no_secret(run: RunDirectory) -> None:
    for path in run.path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_local_run_sends_one_message_an_end(write_spec, hpc_yolo, web, tmp_path):
    mails = MailServer()
    notify = {"mail": "me@example.org", "smtp": mails.host, "webhook": "${SLACK_WEBHOOK}"}
    then = [{"shell": "exit 3", "when": "always"}]
    spec = write_spec("local", cluster={"executor": "local"}, train={"epochs": 1}, notify=notify, then=then)
    run = RunDirectory(tmp_path / "runs" / "local")
    with serving(mails):
        tried = hpc_yolo("notify", "test", spec)
        assert tried.stdout == "mail: sent\nwebhook: sent\n"
        done = hpc_yolo("submit", spec)
        hpc_yolo("resume", run.path, "--set", "train.epochs=2")
    assert (
        "notify         me@example.org, webhook: finished, failed, problem\n"
        in hpc_yolo("submit", spec, "--dry-run", "--set", "train.epochs=3").stdout
    )
    assert (
        "hpc-yolo: notify: mail about finished: sent\nhpc-yolo: notify: webhook about finished: sent\n" in done.stdout
    )
    events = [facts["event"] for _, facts in web.posts]
    assert events == ["test", *["finished", "problem"] * 2] and len(mails.mails) == 5
    finished = web.posts[1][1]
    assert (finished["epochs_done"], finished["epochs"], finished["directory"]) == (1, 1, str(run.path))
    assert web.posts[3][1]["epochs_done"] == 2
    assert web.posts[2][1]["reason"].startswith("stage shell failed: exit code 3")
    assert mails.mails[1]["Subject"] == finished["subject"]
    require_no_secret(run)


def test_run_does_not_depend_on_its_messages(write_spec, hpc_yolo, tmp_path):
    """No server exists and the command fails: the run and its exit code are as without messages."""
    port = closed_port()
    notify = {"mail": "me@example.org", "smtp": f"127.0.0.1:{port}", "webhook": "${UNSET_HOOK}", "command": "exit 4"}
    spec = write_spec("alone", cluster={"executor": "local"}, train={"epochs": 1}, notify=notify)
    done = hpc_yolo("submit", spec)
    assert "warning: notify.webhook: the variable UNSET_HOOK is not set" in done.stderr
    (notice,) = read_notices(RunDirectory(tmp_path / "runs" / "alone"))
    assert (notice.state, notice.results) == (
        "failed",
        {
            "mail": f"127.0.0.1:{port}: Connection refused",
            "webhook": "the variable UNSET_HOOK is not set",
            "command": "exit code 4",
        },
    )
    tried = hpc_yolo("notify", "test", tmp_path / "runs" / "alone", check=False)
    assert tried.returncode == 1 and "webhook: not sent: the variable UNSET_HOOK is not set\n" in tried.stdout


@pytest.mark.soak
def test_local_sweep_sends_one_message(write_spec, hpc_yolo, web, tmp_path):
    notify = {"webhook": "$SLACK_WEBHOOK"}
    cluster = {"executor": "local"}
    spec = write_spec("varied", cluster=cluster, train={"epochs": 1}, notify=notify, sweep={"seeds": 2})
    hpc_yolo("submit", spec, "--wait", "--parallel", 2)
    ((_, facts),) = web.posts
    assert (facts["event"], facts["name"], facts["trials"]) == ("finished", "varied", 2)
    assert facts["directory"] == str(tmp_path / "runs" / "varied")
    assert hpc_yolo("notify", "test", tmp_path / "runs" / "varied").stdout == "webhook: sent\n"
    require_no_secret(RunDirectory(tmp_path / "runs" / "varied"))


def test_task_without_a_launcher_reports_its_error(write_spec, hpc_yolo, web, shapes):
    spec = write_spec("bad", train={"epochs": 1, "batch": 8}, notify={"webhook": "$SLACK_WEBHOOK"})
    images = shapes.parent / "images"
    moved = images.rename(images.with_name("moved"))
    try:
        done = hpc_yolo("train", spec, check=False)
    finally:
        moved.rename(images)
    assert done.returncode == 3
    ((_, facts),) = web.posts
    assert (facts["event"], facts["reason"]) == ("failed", Cause.ERROR)
    assert any("images" in line for line in facts["error"])


@pytest.mark.soak
def test_preempted_run_sends_nothing_at_the_requeue_and_one_message_at_its_end(
    in_slurm, write_spec, hpc_yolo, events_of, web, tmp_path
):
    """A second server never answers: the requeue and the job's exit code are those of a run without messages."""
    with silent_port() as port:
        notify = {"webhook": "${SLACK_WEBHOOK}", "mail": "me@example.org", "smtp": f"127.0.0.1:{port}"}
        train = {"epochs": 5, "val_every": 5}
        checkpoint = {"every_steps": 10, "every_s": None}
        cluster = {"partition": "preempt", "requeue": "requeue"}
        spec = write_spec("told", cluster=cluster, train=train, checkpoint=checkpoint, notify=notify, model=SLOW_MODEL)
        hpc_yolo("submit", spec)
        run = RunDirectory(tmp_path / "runs" / "told")
        (submission,) = all_submissions(run)
        wait_until(functools.partial(has_come_to, run, 1), "the first step")
        in_slurm.submit("#!/bin/sh\ntrue\n", "--partition=high", "--nodes=2", "--exclusive")
        wait_until(functools.partial(has_come_to, run, 2), "the second attempt")
        assert web.posts == []
        # Slurm 24.11 shows a job as PREEMPTED that was preempted and has completed since.
        wait_until(lambda: not in_slurm.run("squeue", "--noheader").strip(), "the job to leave the queue")
    log = (run.jobs / f"{submission.job_id}.log").read_text()
    assert in_slurm.job_state(submission.job_id) in ("COMPLETED", "PREEMPTED"), log
    assert [event.cause for event in events_of("told", AttemptEnded)] == [Cause.PREEMPTED, Cause.FINISHED]
    ((path, facts),) = web.posts
    assert (path, facts["event"], facts["attempts"], facts["epochs_done"]) == (SECRET, "finished", 2, 5)
    assert "hpc-yolo: notify: webhook about finished: sent\n" in log
    assert f"hpc-yolo: notify: mail about finished: not sent: 127.0.0.1:{port}: no answer within 10 s\n" in log
    require_no_secret(run)


def test_job_whose_setup_fails_and_jobs_that_are_cancelled(in_slurm, write_spec, hpc_yolo, web, tmp_path):
    """The first sends its failing line at each submission; one that a person stops sends what the spec asks for."""
    notify = {"webhook": "$SLACK_WEBHOOK"}
    cluster = {"partition": "gpu", "setup": ["true", "cat /no/such/file"]}
    spec = write_spec("setup", cluster=cluster, notify=notify)
    for _ in range(2):
        hpc_yolo("submit", spec)
        run = RunDirectory(tmp_path / "runs" / "setup")
        job_id = all_submissions(run)[-1].job_id
        assert in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED"}) == "FAILED"
    assert [facts["event"] for _, facts in web.posts] == ["failed"] * 2
    assert "line 2 failed with exit status 1: cat /no/such/file" in json.dumps(web.posts[0][1]["error"])
    for name, on, expected in (("silent", ["failed"], []), ("asked", ["cancelled"], ["cancelled"])):
        spec = write_spec(name, cluster={"partition": "gpu"}, train={"epochs": 4000}, notify=notify | {"on": on})
        hpc_yolo("submit", spec)
        run = RunDirectory(tmp_path / "runs" / name)
        wait_until(functools.partial(has_come_to, run, 1), "the first step")
        hpc_yolo("cancel", "--yes", run.path)
        wait_until(lambda: not in_slurm.run("squeue", "--noheader").strip(), "the job to leave the queue")
        assert [facts["event"] for _, facts in web.posts[2:]] == expected
        assert [notice.event for notice in read_notices(run)] == expected
