"""Plans of submissions: executor, tasks, GPUs, script, and fields that may change between submissions."""

import os
import sys

import msgspec
import pytest

from hpc_yolo.cluster import site
from hpc_yolo.core.errors import ClusterError, RunError, SpecError
from hpc_yolo.launch.local_gpus import local_tasks, visible_gpus
from hpc_yolo.launch.plan import Plan, choose_executor, make_plan, plan_at_site, planned_run, slurm_plan
from hpc_yolo.launch.prepare import prepare_run, require_same_training
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.train import TrainSpec


def spec_of(tmp_path, *, train=None, **cluster) -> Spec:
    return Spec(
        name="run",
        model="yolov5n",
        data=DataSpec(path="/data.yaml"),
        output=str(tmp_path / "runs"),
        cluster=ClusterSpec(**({"executor": "local"} | cluster)),
        train=TrainSpec(**(train or {})),
    )


def plan_of_job(spec: Spec) -> Plan:
    return slurm_plan(spec, planned_run(spec), "", {})


@pytest.mark.parametrize(
    ("cluster", "batch", "num_gpus", "num_cpus", "expected"),
    [
        ({"gpus_per_node": 0, "tasks_per_node": 2}, 16, 0, 8, (2, 0)),
        ({"gpus_per_node": 0, "tasks_per_node": 8}, 16, 0, 2, (2, 0)),
        ({"gpus_per_node": 8, "nodes": 4}, 64, 4, 16, (4, 4)),
        ({"gpus_per_node": 8, "nodes": 4}, 64, 3, 16, (2, 2)),
        ({"gpus_per_node": 8, "nodes": 4}, 32, 0, 6, (4, 0)),
        ({"gpus_per_node": 0, "tasks_per_node": 2}, 16, 8, 8, (2, 0)),
        ({"gpus_per_node": 1}, 7, 0, 1, (1, 0)),
    ],
)
def test_local_tasks_fit_the_machine_and_divide_the_batch(cluster, batch, num_gpus, num_cpus, expected):
    assert local_tasks(ClusterSpec(**cluster), batch, num_gpus, num_cpus) == expected


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("", ()),
        (" ", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("none", ()),
        ("void", ()),
        ("0", ("0",)),
        (" 0 , 3 ", ("0", "3")),
        ("0,3", ("0", "3")),
        ("00,1", ("0", "1")),
        ("0,-1,1", ("0",)),  # the list ends where CUDA stops reading it
        ("1,NoDevFiles", ("1",)),
        ("0,,1", ("0",)),
        ("0,0", ()),  # repeated: CUDA sees none
        ("GPU-aa, GPU-bb", ("GPU-aa", "GPU-bb")),
        ("MIG-aa", ("MIG-aa",)),
        ("MIG-aa,MIG-bb", ("MIG-aa",)),  # a process sees one slice
        ("MIG-GPU-aa/1/0", ("MIG-GPU-aa/1/0",)),
    ],
)
def test_visible_gpus_are_those_of_cuda_visible_devices(variable, expected):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": variable}) == expected


@pytest.mark.parametrize(
    ("device", "expected"),
    [("auto", ("4", "5")), ("1", ("5",)), ("0", ("4",)), ("cpu", ())],
)
def test_local_run_uses_the_visible_gpus_only(tmp_path, device, expected):
    """train.device is an index into CUDA_VISIBLE_DEVICES, as on a shared workstation."""
    gpus = {"auto": 2, "cpu": 2}.get(device, 1)
    spec = spec_of(tmp_path, train={"device": device}, gpus_per_node=gpus)
    plan = make_plan(spec, environ={"CUDA_VISIBLE_DEVICES": "4,5"})
    assert plan.local_gpus == expected
    assert plan.gpus_per_node == len(expected)


def test_gpu_index_out_of_range_is_refused(tmp_path):
    spec = spec_of(tmp_path, train={"device": "0,7"}, gpus_per_node=2)
    with pytest.raises(ClusterError, match="no GPU 7, this machine has 2 GPUs"):
        make_plan(spec, environ={"CUDA_VISIBLE_DEVICES": "4,5"})


def test_plan_reports_fewer_tasks_than_requested(tmp_path):
    plan = make_plan(spec_of(tmp_path, nodes=4, gpus_per_node=0, tasks_per_node=4), environ={})
    assert plan.world_size <= len(os.sched_getaffinity(0))
    assert "the spec requests 16 (the batch is unchanged)" in plan.why
    assert plan.script is None
    assert not plan.run.path.exists(), "a plan changes nothing"


def test_debug_plan_has_one_task(tmp_path):
    plan = make_plan(spec_of(tmp_path, executor="debug", gpus_per_node=0, tasks_per_node=2), environ={})
    assert (plan.executor, plan.world_size) == ("debug", 1)


@pytest.mark.parametrize(
    ("wanted", "has_sbatch", "expected"),
    [
        ("auto", False, ("local", "sbatch is not installed here, so local processes train")),
        ("auto", True, ("slurm", "sbatch is installed here")),
        ("slurm", False, ("slurm", "set by the spec")),
        ("local", True, ("local", "set by the spec")),
    ],
)
def test_auto_chooses_slurm_where_sbatch_is_installed(tmp_path, monkeypatch, wanted, has_sbatch, expected):
    """A login node must not train because the controller does not answer for a moment."""
    if has_sbatch:
        (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_executor(wanted) == expected


def test_plan_lists_applied_and_ignored_sbatch_variables(tmp_path):
    spec = spec_of(tmp_path, executor="slurm", partition="gpu")
    environ = {"SBATCH_ACCOUNT": "vision", "SBATCH_PARTITION": "high"}
    variables = [decision for what, decision in make_plan(spec, environ).decisions() if what == "environment"]
    assert variables == [
        "SBATCH_ACCOUNT=vision applies to the job",
        "SBATCH_PARTITION=high is ignored: overridden by the spec",
    ]
    assert "--partition=gpu" in make_plan(spec, environ).script
    inside = make_plan(spec, environ | {"SLURM_JOB_ID": "7"})
    assert not inside.variables, "inside a job they belong to that job"


@pytest.mark.parametrize("directory", ["a\\b", "a\nb"])
def test_directory_in_which_slurm_cannot_write_a_log_is_refused(tmp_path, directory):
    """Slurm removes backslashes from the name of a log: the job failed at its start and left nothing."""
    spec = msgspec.structs.replace(spec_of(tmp_path, executor="slurm"), output=str(tmp_path / directory))
    with pytest.raises(SpecError, match="Slurm cannot write a log to a path with a backslash or a line break"):
        make_plan(spec, {})


def test_partition_and_time_limit_of_the_shell_are_those_of_the_plan(tmp_path):
    """The default partition was checked, and the signal was sent 120 s before the end of a job of two minutes."""
    environ = {"SBATCH_PARTITION": "high", "SBATCH_TIMELIMIT": "2", "SBATCH_QOS": "long", "SBATCH_ACCOUNT": "a"}
    cluster = make_plan(spec_of(tmp_path, executor="slurm", qos="short"), environ).spec.cluster
    assert (cluster.partitions, cluster.time, cluster.qos) == (["high"], "2", "short")
    assert cluster.account == "a", "the stages, which a job queues, are charged to it too"
    script = make_plan(spec_of(tmp_path, executor="slurm"), environ).script
    assert "#SBATCH --partition=high\n" in script and "#SBATCH --signal=USR2@60\n" in script
    refused_by_sbatch = make_plan(spec_of(tmp_path, executor="slurm"), {"SBATCH_TIMELIMIT": "soon"})
    assert refused_by_sbatch.spec.cluster.time is None


def test_time_limit_of_the_shell_before_the_signal_is_refused(tmp_path):
    """The tasks refused the spec of the run, which could not be resumed either."""
    spec = spec_of(tmp_path, executor="slurm", signal_before_s=300)
    with pytest.raises(SpecError, match="signal_before_s: 300 s is not before the end of a job of 120 s"):
        make_plan(spec, {"SBATCH_TIMELIMIT": "2"})


@pytest.mark.parametrize(
    ("cluster", "tasks_python", "sure_python"),
    [
        ({}, sys.executable, sys.executable),
        ({"python": "/my env/bin/python"}, "'/my env/bin/python'", "'/my env/bin/python'"),
        ({"python": "python3"}, "python3", sys.executable),
    ],
)
def test_tasks_and_last_command_use_cluster_python(tmp_path, cluster, tasks_python, sure_python):
    """A bare name needs the PATH that the setup defines, so after a failed setup the submitting Python is used."""
    plan = plan_of_job(spec_of(tmp_path, **cluster, setup=["true"]))
    lines, run = plan.script.splitlines(), tmp_path / "runs" / "run"
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert srun.endswith(f" {tasks_python} -u -m hpc_yolo train {run}")
    assert f"{tasks_python} -m hpc_yolo after-job {run} --exit-code $?" in lines
    assert lines[-1].startswith(f"exec {sure_python} -m hpc_yolo after-job {run} --failed-setup ")
    assert f"{plan.spec.cluster.python or sys.executable} (" in dict(plan.decisions())["python"]


@pytest.mark.parametrize(("options", "mode"), [({}, "chain"), ({"hold": False}, "chain"), ({"hold": True}, "requeue")])
def test_held_job_is_requeued_instead_of_chained(tmp_path, options, mode):
    settings = site.parse_site_settings("KillWait = 30 sec\nAuthInfo = (null)\n")
    plan = plan_at_site(plan_of_job(spec_of(tmp_path, sbatch=options)), settings)
    assert plan.requeue.mode == mode


def test_local_run_uses_the_submitting_python(tmp_path):
    plan = make_plan(spec_of(tmp_path, python="/my/python"), environ={})
    assert plan.python == sys.executable
    assert "cluster.python is for Slurm jobs" in dict(plan.decisions())["python"]


@pytest.mark.parametrize(
    ("cluster", "batch", "text"),
    [
        ({"gpus_per_node": 0, "tasks_per_node": 1}, 1, "1 = 1 node x 1 task, CPUs only"),
        ({"nodes": 2, "gpus_per_node": 1}, 2, "2 = 2 nodes x 1 task, 1 GPU per node"),
        ({"nodes": 2, "gpus_per_node": 4}, 8, "8 = 2 nodes x 4 tasks, 4 GPUs per node"),
    ],
)
def test_decisions_use_singular_and_plural(tmp_path, cluster, batch, text):
    decisions = dict(plan_of_job(spec_of(tmp_path, train={"batch": batch}, **cluster)).decisions())
    assert decisions["world size"] == text
    assert decisions["batch"].startswith("1 image per step" if batch == 1 else f"{batch} images per step")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"train": {"epochs": 7, "workers": 1, "patience": 3}}, None),
        ({"nodes": 3, "partition": "other"}, None),
        ({"train": {"batch": 8}}, "train.batch: 16 -> 8"),
        ({"train": {"seed": 1, "imgsz": 320}}, "train.imgsz: 640 -> 320, train.seed: 0 -> 1"),
    ],
)
def test_run_may_continue_elsewhere_and_longer_but_not_with_other_training_settings(tmp_path, changes, text):
    run = RunDirectory(tmp_path / "runs" / "run")
    (tmp_path / "data.yaml").write_text("train: a\nval: b\nnames: [cat]\n")
    # In YAML the name of the model is checked, so a whole spec is stored as submit stores it.
    prepare_run(run, msgspec.structs.replace(spec_of(tmp_path), data=DataSpec(path=str(tmp_path / "data.yaml"))))
    changed = msgspec.structs.replace(spec_of(tmp_path, **changes), data=DataSpec(path=str(tmp_path / "data.yaml")))
    if text is None:
        require_same_training(run, changed)
    else:
        with pytest.raises(RunError) as caught:
            require_same_training(run, changed)
        assert text in str(caught.value)
        assert "--set name=NAME" in str(caught.value)
