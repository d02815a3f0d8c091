"""Runs on a real Slurm cluster of two nodes."""

import json
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from waiting import wait_until

from hpc_yolo.cluster import sbatch
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Cause, Evaluated
from hpc_yolo.spec.schema import ClusterSpec

ROOT = Path(__file__).parents[2]
TWO_BY_TWO = {"nodes": 2, "tasks_per_node": 2}
LOCATIONS = [(0, 0, 0, "gpu01"), (1, 1, 0, "gpu01"), (2, 0, 1, "gpu02"), (3, 1, 1, "gpu02")]


@pytest.fixture
def on_path(monkeypatch):
    """Make `python` in the script of a job the interpreter of the tests."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.fixture
def idle_nodes(in_slurm):
    """Wait until all nodes are idle, which takes a moment after a restart of the controller."""
    wait_until(
        lambda: set(in_slurm.run("sinfo", "--noheader", "-o", "%T").split()) == {"idle"}, "all nodes are idle", 60
    )


def locations(started: AttemptStarted) -> list[tuple[int, int, int, str]]:
    return [(rank.rank, rank.local_rank, rank.node_rank, rank.host) for rank in started.ranks]


def assert_finished_on_both_nodes(events) -> None:
    (started,) = [event for event in events if isinstance(event, AttemptStarted)]
    (ended,) = [event for event in events if isinstance(event, AttemptEnded)]
    assert locations(started) == LOCATIONS
    assert ended.outcome == AttemptEnded.FINISHED
    assert any(isinstance(event, Evaluated) for event in events)


@pytest.mark.slurm_quick("submit")
def test_submit_trains_on_all_ranks_in_private_run_directory(in_slurm, write_spec, hpc_yolo, events_of, tmp_path):
    spec = write_spec("submitted", cluster=TWO_BY_TWO, train={"sync_bn": True})
    done = hpc_yolo("submit", spec, "--follow")
    assert "mAP50" in done.stdout
    assert_finished_on_both_nodes(events_of("submitted"))
    run = tmp_path / "runs" / "submitted"
    job_id = json.loads((run / "submissions.jsonl").read_text())["job_id"]
    assert in_slurm.wait_for_state(job_id, "COMPLETED") == "COMPLETED"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    names = {path.name for path in run.iterdir()}
    assert names >= {"spec.yaml", "origin.json", "packages.txt", "job.sbatch", "journal.jsonl", "checkpoints"}
    assert "torch==" in (run / "packages.txt").read_text()
    assert not list(run.glob("jobs/*.pkl")), "a task reads the run directory"
    status = json.loads(hpc_yolo("status", "--root", run.parent, "--json").stdout)
    assert [(row["name"], row["state"], row["num_nodes"], row["tasks_per_node"]) for row in status] == [
        ("submitted", "done", 2, 2)
    ]
    assert hpc_yolo("list", cwd=Path("/")).stdout.split() == [str(run)]  # without a directory of runs there


def test_submitted_script_equals_output_of_dry_run_and_render(in_slurm, idle_nodes, write_spec, hpc_yolo, tmp_path):
    cluster = {"gpus_per_node": 2, "sbatch": {"hold": True}, "setup": "true\n", "env": {"A": "it's"}}
    spec = write_spec("shown", cluster=TWO_BY_TWO | cluster)
    shown = hpc_yolo("submit", spec, "--dry-run").stdout
    assert not (tmp_path / "runs").exists(), "a dry run creates no files"
    assert "on gpu[01-02], as estimated by Slurm" in shown
    with in_slurm.without("slurmctld"):
        without_controller = hpc_yolo("submit", spec, "--dry-run").stdout
        rendered = hpc_yolo("render", spec).stdout
    assert "start          not known: " in without_controller
    queued = hpc_yolo("submit", spec).stdout
    run = tmp_path / "runs" / "shown"
    assert "hpc-yolo follow" in queued
    submitted = (run / "job.sbatch").read_text()
    assert submitted.startswith("#!/bin/bash\n")
    assert (
        shown.endswith(f"\n\n{submitted}") and without_controller.endswith(f"\n\n{submitted}") and rendered == submitted
    )
    job_id = json.loads((run / "submissions.jsonl").read_text())["job_id"]
    assert in_slurm.run("scontrol", "write", "batch_script", job_id, "-").strip() == submitted.strip()
    again = hpc_yolo("submit", spec, check=False)
    assert again.returncode == 6
    assert "already queued" in again.stderr


def test_rendered_script_trains_rendered_spec(in_slurm, write_spec, hpc_yolo, events_of, tmp_path):
    """In a job without the variables and the PATH of the submitting user, submitted from another directory."""
    cluster = {"sbatch": {"export": "NONE"}, "setup": ["set -euo pipefail", "export A=1", "cd /"]}
    spec = write_spec("rendered", cluster=cluster)
    script = tmp_path / "job.sbatch"
    script.write_text(hpc_yolo("render", spec, "--set", "train.epochs=1").stdout)
    spec.unlink()
    job_id = in_slurm.run("sbatch", "--parsable", str(script), cwd="/").strip()
    log = tmp_path / "runs" / "rendered" / "jobs" / f"{job_id}.log"
    state = in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED"})
    assert state == "COMPLETED", log.read_text()
    assert events_of("rendered", AttemptEnded)[-1].outcome == AttemptEnded.FINISHED
    assert not log.with_suffix(".setup").exists()


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, {"export": "NONE"}),
        ({}, {"export": ["NIL", "X=1"]}),
        ({"SBATCH_EXPORT": "NONE"}, {}),
        ({"SLURM_EXPORT_ENV": "NONE", "SRUN_EXPORT_ENV": "NONE"}, {}),
        ({"SBATCH_EXPORT": "NONE", "SLURM_EXPORT_ENV": "NIL"}, {"get-user-env": True}),
        ({}, {"export-file": "{directory}/variables"}),
        ({}, {"chdir": "{directory}", "verbose": True, "ignore-pbs": True, "input": "/dev/null", "wckey": "w"}),
    ],
    ids=str,
)
def test_tasks_have_variables_of_script_with_any_sbatch_export(in_slurm, tmp_path, variables, options):
    (tmp_path / "variables").write_bytes(b"FROM_FILE=1\0")
    options = {
        name: value.format(directory=tmp_path) if isinstance(value, str) else value for name, value in options.items()
    }
    cluster = ClusterSpec(gpus_per_node=0, cpus_per_task=1, env={"OWN": "it's"}, setup="export SET=up", sbatch=options)
    values = "['task', e['SET'], e['OWN'], str(bool(e.get('PATH')))]"
    command = f"import os; e = os.environ; os.write(1, (' '.join({values}) + chr(10)).encode())"
    script = tmp_path / "job.sbatch"
    task = shlex.join([sys.executable, "-c", command])
    text = sbatch.script("exports", cluster, task, "echo ended", log=f"{tmp_path}/%j.log")
    script.write_text(text)
    submitted = in_slurm.run("sbatch", str(script), env=variables)
    job_id = submitted.split()[-1]
    in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED"})
    log = (tmp_path / f"{job_id}.log").read_text()
    assert "0: task up it's True\n" in log and "ended --exit-code 0" in log, log


def test_tasks_run_python_of_spec_from_path_of_setup(in_slurm, write_spec, hpc_yolo, events_of, tmp_path):
    """An environment activated in setup does not change the interpreter of the tasks, unless the spec has a python."""
    wrapper = tmp_path / "bin" / "my-python"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "$3 $4" >> {tmp_path}/calls\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    setup = f"set -u\nexport PATH={wrapper.parent}:$PATH\n"
    spec = write_spec("named", cluster={"python": "my-python", "setup": setup}, train={"epochs": 1})
    assert "python         my-python (set by cluster.python)" in hpc_yolo("submit", spec, "--wait").stdout
    assert events_of("named", AttemptEnded)[-1].outcome == AttemptEnded.FINISHED
    assert (tmp_path / "calls").read_text().split("\n") == [
        "hpc_yolo train",
        "after-job " + str(tmp_path / "runs" / "named"),
        "",
    ]


@pytest.mark.parametrize(
    ("setup", "status", "message"),
    [
        (["true", "module load nope/1.2"], 127, "line 2 failed with exit status 127: module load nope/1.2"),
        ("set -e\nfalse\n", 1, "line 2 failed with exit status 1: false"),
        (["trap 'exit 0' EXIT", "exec bash -c 'exit 7'"], 7, "line 2 failed with exit status 7: exec bash -c 'exit 7'"),
        ("exit 0", 1, "line 1 ended the job before its tasks: exit 0"),
    ],
    ids=str,
)
def test_failed_setup_fails_run_and_error_names_line(
    in_slurm, write_spec, hpc_yolo, events_of, tmp_path, setup, status, message
):
    spec = write_spec("setup", cluster={"setup": setup})
    done = hpc_yolo("submit", spec, "--follow", check=False)
    assert done.returncode == 8
    assert f"error: cluster.setup: {message}" in done.stderr and "Traceback" not in done.stderr
    job_id = json.loads((tmp_path / "runs" / "setup" / "submissions.jsonl").read_text())["job_id"]
    assert in_slurm.wait_for_state(job_id, {"FAILED", "COMPLETED"}) == "FAILED"
    assert f"ExitCode={status}:0" in in_slurm.run("scontrol", "show", "job", job_id)
    (ended,) = events_of("setup")
    assert (ended.outcome, ended.cause, ended.requeued) == (AttemptEnded.FAILED, Cause.ERROR, False)
    (row,) = json.loads(hpc_yolo("status", "--root", tmp_path / "runs", "--json").stdout)
    assert (row["state"], row["detail"]) == ("failed", f"cluster.setup: {message}")
    assert message in hpc_yolo("logs", tmp_path / "runs" / "setup").stdout


def test_dataset_of_nodes_is_read_and_checked_on_each(in_slurm, write_spec, hpc_yolo, events_of, shapes, tmp_path):
    """Each node has a copy, in a directory that only its own variables lead to."""
    disks, run = tmp_path / "disks", tmp_path / "runs" / "staged"
    for node in ("gpu01", "gpu02"):
        shutil.copytree(shapes.parent, disks / node / "shapes", ignore=shutil.ignore_patterns("*.npz", "*.lock"))
    data = f"{disks}/$SLURMD_NODENAME/shapes/{shapes.name}"
    spec = write_spec("staged", cluster={"nodes": 2}, train={"epochs": 1}, data=data)
    shown = hpc_yolo("submit", spec, "--dry-run")
    assert f"data           {data} is expanded where the tasks run\n" in shown.stdout
    assert "is not checked here, since SLURMD_NODENAME is set in the job" in shown.stderr
    hpc_yolo("submit", spec, "--wait")
    assert events_of("staged", AttemptEnded)[-1].outcome == AttemptEnded.FINISHED
    assert f"path: {disks}/$SLURMD_NODENAME/shapes\n" in (run / "inputs" / "dataset.yaml").read_text()
    assert not list(run.glob("labels-*.npz")), "each node has the cache beside its labels"
    (disks / "gpu02").rename(disks / "unmounted")
    done = hpc_yolo("submit", spec, "--wait", "--set", "train.epochs=2", check=False)
    assert done.returncode == 3, done.stdout
    message = f"rank 1 on gpu02 failed: data: there is no dataset {disks}/gpu02/shapes/dataset.yaml"
    assert f"error: {message}" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("template", "tasks_per_node"), [("train.sbatch", 1), ("train_torchrun.sbatch", 2)])
def test_template_trains(in_slurm, on_path, write_spec, events_of, tmp_path, template, tasks_per_node):
    name = template.removesuffix(".sbatch")
    spec = write_spec(name, train={"epochs": 1})
    log = tmp_path / "job.log"
    options = (f"--output={log}", *([] if tasks_per_node == 2 else [f"--ntasks-per-node={tasks_per_node}"]))
    job_id = in_slurm.run("sbatch", "--parsable", *options, f"slurm/{template}", str(spec), cwd=str(ROOT)).strip()
    ended = in_slurm.wait_for_state(job_id, {"COMPLETED", "FAILED"})
    assert ended == "COMPLETED", log.read_text() if log.exists() else ""
    events = events_of(name)
    (started,) = [event for event in events if isinstance(event, AttemptStarted)]
    expected = [(rank, rank % tasks_per_node, rank // tasks_per_node) for rank in range(2 * tasks_per_node)]
    assert [location[:3] for location in locations(started)] == expected
    assert events[-1].outcome == AttemptEnded.FINISHED


def test_array_trains_one_run_per_line(in_slurm, on_path, write_spec, events_of, tmp_path):
    spec = write_spec("array", train={"epochs": 1})
    runs = tmp_path / "runs.txt"
    runs.write_text(f"{spec} --name first --set train.seed=1\n{spec} --name second --set train.seed=2\n")
    options = (f"--output={tmp_path}/job-%a.log", "--ntasks-per-node=1")
    job_id = in_slurm.run("sbatch", "--parsable", *options, "slurm/array.sbatch", str(runs), cwd=str(ROOT)).strip()
    for task in (1, 2):
        ended = in_slurm.wait_for_state(f"{job_id}_{task}", {"COMPLETED", "FAILED"})
        assert ended == "COMPLETED", (tmp_path / f"job-{task}.log").read_text()
    for name in ("first", "second"):
        assert events_of(name)[-1].outcome == AttemptEnded.FINISHED


def signal_every_task(cluster, job_id: str) -> None:
    cluster.run("scancel", "--signal=TERM", job_id)


def test_refused_requeue_is_recorded_in_journal(in_slurm, write_spec, hpc_yolo, events_of, tmp_path):
    spec = write_spec("forbidden", train={"epochs": 4000, "val_every": 4000})
    hpc_yolo("submit", spec)
    job_id = json.loads((tmp_path / "runs" / "forbidden" / "submissions.jsonl").read_text())["job_id"]
    wait_until(lambda: len(events_of("forbidden")) > 5, "the run trains")
    in_slurm.run("scontrol", "update", f"JobId={job_id}", "Requeue=0")
    signal_every_task(in_slurm, job_id)
    in_slurm.wait_for_state(job_id, {"FAILED", "COMPLETED", "CANCELLED"})
    last = events_of("forbidden", AttemptEnded)[-1]
    assert not last.requeued
    assert "not queued again" in last.detail
    (row,) = json.loads(hpc_yolo("status", "--root", tmp_path / "runs", "--json").stdout)
    assert (row["state"], row["step"]) == ("stopped", last.step)


@pytest.mark.slurm_quick("cancel")
def test_cancelled_job_is_not_requeued(in_slurm, write_spec, hpc_yolo, events_of, tmp_path):
    spec = write_spec("cancelled", cluster={"nodes": 2}, train={"epochs": 4000, "val_every": 4000})
    hpc_yolo("submit", spec)
    job_id = json.loads((tmp_path / "runs" / "cancelled" / "submissions.jsonl").read_text())["job_id"]
    wait_until(lambda: len(events_of("cancelled")) > 5, "the run trains")
    in_slurm.run("scancel", job_id)
    wait_until(lambda: not in_slurm.run("squeue", "--noheader", f"--jobs={job_id}", check=False).strip(), "its end")
    assert in_slurm.job_state(job_id) == "CANCELLED"
    ended = events_of("cancelled", AttemptEnded)
    assert [event.requeued for event in ended] in ([], [False]), "the job may be killed before it writes the event"


def test_job_that_slurm_refuses_is_reported(in_slurm, write_spec, hpc_yolo):
    spec = write_spec("refused", cluster=TWO_BY_TWO)
    table = [
        (("--partition", "nope"), "there is no partition 'nope' here; there are gpu, high, preempt"),
        (("--partition", "gpu,nope"), "there is no partition 'nope' here; there are gpu, high, preempt"),
        (("--nodes", "8", "--set", "train.batch=16"), "partition gpu has 2 nodes, the spec requests 8"),
        (("--set", "cluster.constraint=nope"), "Slurm refuses the job: sbatch: Batch job submission failed"),
    ]
    for options, message in table:
        done = hpc_yolo("submit", spec, *options, check=False)
        assert done.returncode == 4, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count(message) == 1


def test_submit_without_controller_does_not_train_on_login_node(in_slurm, write_spec, hpc_yolo, tmp_path):
    with in_slurm.without("slurmctld"):
        for executor in ("auto", "slurm"):
            spec = write_spec(executor, cluster={"tasks_per_node": 2, "executor": executor})
            assert (
                "\nstart          not known: the Slurm controller is down"
                in hpc_yolo("submit", spec, "--dry-run").stdout
            )
            done = hpc_yolo("submit", spec, check=False)
            assert done.returncode == 5, done.stderr
            assert "the Slurm controller is down" in done.stderr
            assert "--local" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_spec_has_priority_over_sbatch_variables(in_slurm, write_spec, hpc_yolo, monkeypatch, tmp_path):
    """sbatch gives them priority over the script; variables that apply are reported before the job is queued."""
    for name, value in {"PARTITION": "high", "TIMELIMIT": "1", "NO_REQUEUE": "1", "OUTPUT": "/nowhere/%j"}.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    monkeypatch.setenv("SBATCH_RESERVATION", "")
    monkeypatch.setenv("SBATCH_EXCLUSIVE", "user")
    spec = write_spec("shell", cluster={"partition": "gpu", "sbatch": {"hold": True}})
    done = hpc_yolo("submit", spec)
    assert "SBATCH_PARTITION=high is ignored" in done.stdout
    assert "SBATCH_EXCLUSIVE=user applies" in done.stdout
    job_id = json.loads((tmp_path / "runs" / "shell" / "submissions.jsonl").read_text())["job_id"]
    shown = in_slurm.run("scontrol", "--oneliner", "show", "job", job_id)
    for setting in (
        "Partition=gpu",
        "TimeLimit=00:05:00",
        "Requeue=1",
        f"StdOut={tmp_path}/runs/shell/jobs/{job_id}.log",
    ):
        assert setting in shown
    assert re.search("(OverSubscribe|Exclusive)=USER", shown), "26.05 has another name for it"


def test_commands_query_cluster_of_run(in_slurm, write_spec, hpc_yolo, tmp_path, monkeypatch):
    (name,) = re.findall(r"ClusterName *= (\S+)", in_slurm.run("scontrol", "show", "config"))
    spec = write_spec("far", cluster={"sbatch": {"clusters": name, "hold": True}})
    wrappers, log = tmp_path / "bin", tmp_path / "calls"
    wrappers.mkdir()
    for command in ("squeue", "scancel", "scontrol", "sacct"):
        program = f'#!/bin/sh\necho {command} "$@" >> {log}\nexec {shutil.which(command)} "$@"\n'
        (wrappers / command).write_text(program)
        (wrappers / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrappers}:{os.environ['PATH']}")
    hpc_yolo("submit", spec)
    run = tmp_path / "runs" / "far"
    submission = json.loads((run / "submissions.jsonl").read_text())
    assert submission["cluster"] == name
    assert "already queued" in hpc_yolo("submit", spec, check=False).stderr

    def state() -> str:
        monkeypatch.setenv("XDG_STATE_HOME", tempfile.mkdtemp(dir=tmp_path))  # the cache of the last reply of Slurm
        return json.loads(hpc_yolo("status", "--root", run.parent, "--json").stdout)[0]["state"]

    assert state() == "queued"
    hpc_yolo("doctor", spec, check=False)
    hpc_yolo("cancel", run, "--yes")
    in_slurm.wait_for_state(submission["job_id"], "CANCELLED")
    assert state() == "cancelled"
    own = f"scontrol --oneliner show job {submission['job_id']}"  # of wait_for_state
    calls = [call for call in log.read_text().splitlines() if call != own]
    assert [call for call in calls if f"--clusters={name}" not in call] == []
    assert {call.split()[0] for call in calls} >= {"squeue", "scancel", "scontrol"}


def test_dry_run_of_refused_job_prints_script_and_exits_with_4(idle_nodes, write_spec, hpc_yolo):
    spec = write_spec("refused", cluster=TWO_BY_TWO)
    for option in ("cluster.constraint=nope", "cluster.sbatch.reservation=nope", "cluster.sbatch.no-such-option=1"):
        done = hpc_yolo("submit", spec, "--dry-run", "--set", option, check=False)
        assert done.returncode == 4, done.stdout
        assert "\nstart          Slurm refuses the job: " in done.stdout and "#SBATCH --nodes=2\n" in done.stdout


def test_job_that_slurm_accepts_is_not_refused(in_slurm, idle_nodes, write_spec, hpc_yolo):
    """Several partitions, all memory, no limit. A job over the limit of a partition may be allowed by a QOS."""
    spec = write_spec("accepted", cluster=TWO_BY_TWO)
    in_slurm.run("scontrol", "create", "PartitionName=short", "Nodes=ALL", "MaxTime=2")
    table = [
        (("--partition", "short,gpu"), None),
        (("--set", "cluster.partition=[gpu, high]", "--set", "cluster.mem=0"), None),
        (("--time", "2-00:00:00"), "cluster.time: 2-00:00:00 is over the 01:00:00 of partition gpu"),
        (("--time", "UNLIMITED"), "cluster.time: UNLIMITED is over the 01:00:00 of partition gpu"),
        (("--partition", "short"), "cluster.time: 00:05:00 is over the 00:02:00 of partition short"),
        (("--partition", "short,gpu", "--time", "3:00:00"), "is over the 01:00:00 of partition gpu"),
    ]
    try:
        for options, warning in table:
            done = hpc_yolo("submit", spec, "--dry-run", *options)
            warned = [line for line in done.stderr.splitlines() if "cluster.time" in line or "cluster.nodes" in line]
            if warning is None:
                assert warned == [], done.stderr
            else:
                assert any(f"warning: {warning}; Slurm accepts the job" in line or warning in line for line in warned)
    finally:
        in_slurm.run("scontrol", "delete", "PartitionName=short")
