"""How a spec becomes tasks on the machine at hand, and what may change between two submissions of a run."""

import os
import sys

import msgspec
import pytest

from hpc_yolo.cluster import site
from hpc_yolo.core.errors import ClusterError, RunError
from hpc_yolo.launch.plan import choose_executor, local_tasks, make_plan, plan_at_site, slurm_plan, visible_gpus
from hpc_yolo.launch.prepare import prepare_run, require_same_training
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.schema import ClusterSpec, Spec, TrainSpec


def spec_of(tmp_path, *, train=None, **cluster) -> Spec:
    return Spec(
        name="run",
        model="yolov5n",
        data="/data.yaml",
        output=str(tmp_path / "runs"),
        cluster=ClusterSpec(**({"executor": "local"} | cluster)),
        train=TrainSpec(**(train or {})),
    )


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
def test_as_many_local_tasks_as_fit_and_divide_the_batch(cluster, batch, num_gpus, num_cpus, expected):
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
        ("0,0", ()),  # named twice: CUDA sees none
        ("GPU-aa, GPU-bb", ("GPU-aa", "GPU-bb")),
        ("MIG-aa", ("MIG-aa",)),
        ("MIG-aa,MIG-bb", ("MIG-aa",)),  # a process sees one slice
        ("MIG-GPU-aa/1/0", ("MIG-GPU-aa/1/0",)),
    ],
)
def test_visible_gpus_are_those_that_cuda_may_see(variable, expected):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": variable}) == expected


@pytest.mark.parametrize(
    ("device", "expected"),
    [("auto", ("4", "5")), ("1", ("5",)), ("0", ("4",)), ("cpu", ())],
)
def test_a_local_run_uses_the_gpus_that_were_given_and_no_others(tmp_path, device, expected):
    """On a shared workstation CUDA_VISIBLE_DEVICES=4,5 says which GPUs are ours; train.device counts among them."""
    gpus = {"auto": 2, "cpu": 2}.get(device, 1)
    spec = spec_of(tmp_path, train={"device": device}, gpus_per_node=gpus)
    plan = make_plan(spec, environ={"CUDA_VISIBLE_DEVICES": "4,5"})
    assert plan.local_gpus == expected
    assert plan.gpus_per_node == len(expected)


def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    spec = spec_of(tmp_path, train={"device": "0,7"}, gpus_per_node=2)
    with pytest.raises(ClusterError, match="names GPU 7, and this machine shows 2 GPUs"):
        make_plan(spec, environ={"CUDA_VISIBLE_DEVICES": "4,5"})


def test_fewer_tasks_than_asked_for_are_said(tmp_path):
    plan = make_plan(spec_of(tmp_path, nodes=4, gpus_per_node=0, tasks_per_node=4), environ={})
    assert plan.world_size <= len(os.sched_getaffinity(0))
    assert "where the spec asks for 16 (the batch stays)" in plan.why
    assert plan.script is None
    assert not plan.run.path.exists(), "deciding touches nothing"


def test_debug_is_one_task_in_this_process(tmp_path):
    plan = make_plan(spec_of(tmp_path, executor="debug", gpus_per_node=0, tasks_per_node=2), environ={})
    assert (plan.executor, plan.world_size) == ("debug", 1)


@pytest.mark.parametrize(
    ("wanted", "has_sbatch", "expected"),
    [
        ("auto", False, ("local", "sbatch is not installed here, so local processes train")),
        ("auto", True, ("slurm", "sbatch is installed here")),
        ("slurm", False, ("slurm", "as the spec says")),
        ("local", True, ("local", "as the spec says")),
    ],
)
def test_auto_is_slurm_where_sbatch_is_installed(tmp_path, monkeypatch, wanted, has_sbatch, expected):
    """A controller that is silent for a moment must not make a login node train a spec of 32 GPUs."""
    if has_sbatch:
        (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_executor(wanted) == expected


def test_the_plan_names_the_variables_that_apply_and_those_that_do_not(tmp_path):
    spec = spec_of(tmp_path, executor="slurm", partition="gpu")
    environ = {"SBATCH_ACCOUNT": "vision", "SBATCH_PARTITION": "high"}
    told = [decision for what, decision in make_plan(spec, environ).decisions() if what == "environment"]
    assert told == ["SBATCH_ACCOUNT=vision applies to the job", "SBATCH_PARTITION=high is ignored: the spec decides"]
    inside = make_plan(spec, environ | {"SLURM_JOB_ID": "7"})
    assert not inside.variables, "inside of a job they are that job's"


@pytest.mark.parametrize(
    ("cluster", "tasks_python", "sure_python"),
    [
        ({}, sys.executable, sys.executable),
        ({"python": "/my env/bin/python"}, "'/my env/bin/python'", "'/my env/bin/python'"),
        ({"python": "python3"}, "python3", sys.executable),
    ],
)
def test_tasks_and_the_last_line_run_the_python_of_the_spec(tmp_path, cluster, tasks_python, sure_python):
    """A name is looked up in what the setup leaves; where the setup failed, nothing can be looked up."""
    plan = slurm_plan(spec_of(tmp_path, **cluster, setup=["true"]), "", {})
    lines, run = plan.script.splitlines(), tmp_path / "runs" / "run"
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert srun.endswith(f" {tasks_python} -u -m hpc_yolo train {run}")
    assert f"{tasks_python} -m hpc_yolo after-job {run} --exit-code $?" in lines
    assert lines[-1].startswith(f"exec {sure_python} -m hpc_yolo after-job {run} --failed-setup ")
    assert f"{plan.spec.cluster.python or sys.executable} (" in dict(plan.decisions())["python"]


@pytest.mark.parametrize(("options", "mode"), [({}, "chain"), ({"hold": False}, "chain"), ({"hold": True}, "requeue")])
def test_a_held_job_gets_no_successors_that_nobody_releases(tmp_path, monkeypatch, options, mode):
    settings = site.parse_site_settings("KillWait = 30 sec\nAuthInfo = (null)\n")
    monkeypatch.setattr(site, "site_settings", lambda **_: settings)
    plan = plan_at_site(slurm_plan(spec_of(tmp_path, sbatch=options), "", {}))
    assert plan.requeue.mode == mode


def test_on_this_machine_the_python_is_the_one_that_submits(tmp_path):
    plan = make_plan(spec_of(tmp_path, python="/my/python"), environ={})
    assert plan.python == sys.executable
    assert "cluster.python is for Slurm jobs" in dict(plan.decisions())["python"]


@pytest.mark.parametrize(
    ("cluster", "batch", "words"),
    [
        ({"gpus_per_node": 0, "tasks_per_node": 1}, 1, "1 = 1 node x 1 task, CPUs only"),
        ({"nodes": 2, "gpus_per_node": 1}, 2, "2 = 2 nodes x 1 task, 1 GPU a node"),
        ({"nodes": 2, "gpus_per_node": 4}, 8, "8 = 2 nodes x 4 tasks, 4 GPUs a node"),
    ],
)
def test_numbers_of_one_and_of_many_are_worded_so(tmp_path, cluster, batch, words):
    decisions = dict(slurm_plan(spec_of(tmp_path, train={"batch": batch}, **cluster), "", {}).decisions())
    assert decisions["world size"] == words
    assert decisions["batch"].startswith("1 image a step" if batch == 1 else f"{batch} images a step")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": {"epochs": 7, "workers": 1, "patience": 3}}, None),
        ({"nodes": 3, "partition": "other"}, None),
        ({"train": {"batch": 8}}, "train.batch: 16 -> 8"),
        ({"train": {"seed": 1, "imgsz": 320}}, "train.imgsz: 640 -> 320, train.seed: 0 -> 1"),
    ],
)
def test_a_run_may_go_on_elsewhere_and_longer_but_not_learn_something_else(tmp_path, changes, words):
    run = RunDirectory(tmp_path / "runs" / "run")
    (tmp_path / "data.yaml").write_text("train: a\nval: b\nnames: [cat]\n")
    # In YAML the name of the model is checked, so a whole spec is stored as submit stores it.
    prepare_run(run, msgspec.structs.replace(spec_of(tmp_path), data=str(tmp_path / "data.yaml")))
    changed = msgspec.structs.replace(spec_of(tmp_path, **changes), data=str(tmp_path / "data.yaml"))
    if words is None:
        require_same_training(run, changed)
    else:
        with pytest.raises(RunError) as caught:
            require_same_training(run, changed)
        assert words in str(caught.value)
        assert "--set name=NAME" in str(caught.value)
