"""The container of a job: what is mounted, the plan that shows it, and the version of the package in the image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

import hpc_yolo
from hpc_yolo.core import package_data
from hpc_yolo.core.errors import ClusterError, InstallationError, SpecError
from hpc_yolo.launch import container_job
from hpc_yolo.launch.container_job import code_mount, data_paths, job_facts, weight_paths, with_runtime
from hpc_yolo.launch.plan import make_plan, planned_run, slurm_plan
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.failures import all_failures
from hpc_yolo.spec.container import ContainerSpec, Mount
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec

NAMES = {"names": ["a"]}


def write_dataset(file: Path, **content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(NAMES | content))
    return file


def spec_of(data: Path | str, tmp_path: Path, weights: str = "", executor: str = "slurm", **container: object) -> Spec:
    section = ContainerSpec(**{"image": "/i/t.sif", "runtime": "apptainer"} | container)
    cluster = ClusterSpec(container=section, executor=executor, gpus_per_node=0)
    return Spec(
        name="run",
        model="yolov5n",
        data=DataSpec(path=str(data)),
        weights=weights,
        output=str(tmp_path / "runs"),
        cluster=cluster,
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"path": "{t}/d", "train": "images/train", "val": "images/val"}, {"{t}/d"}),
        ({"train": "images/train", "val": "images/val"}, {"{t}/y"}),
        ({"path": "{t}/d", "train": "{t}/e/images/train", "val": "images/val"}, {"{t}/d", "{t}/e"}),
        ({"path": "{t}/d", "train": "{t}/lists/train.txt", "val": "images/val"}, {"{t}/d", "{t}/lists"}),
        ({"path": "$SLURM_TMPDIR/d", "train": "images/train", "val": "images/val"}, {"$SLURM_TMPDIR/d"}),
        ({"path": "{t}/link", "train": "images/train", "val": "images/val"}, {"{t}/link", "{t}/real"}),
        ({"path": "{t}/linked", "train": "images/train", "val": "images/val"}, {"{t}/linked", "{t}/real/images/train"}),
        (
            {"format": "coco", "train": "{t}/lists/a.json", "val": "{t}/lists/a.json", "images": "{t}/e"},
            {"{t}/y", "{t}/lists", "{t}/e"},
        ),
        (
            {"format": "voc", "train": "{t}/lists/train.txt", "val": "{t}/e", "annotations": "{t}/real"},
            {"{t}/y", "{t}/lists", "{t}", "{t}/real"},
        ),
    ],
)
def test_directories_of_the_dataset_are_mounted_and_where_links_lead(tmp_path, content, expected):
    for directory in ("d", "e", "real"):
        (tmp_path / directory / "images" / "train").mkdir(parents=True)
        (tmp_path / directory / "images" / "val").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "linked" / "images" / "val").mkdir(parents=True)
    (tmp_path / "linked" / "images" / "train").symlink_to(tmp_path / "real" / "images" / "train")
    written = {name: value.format(t=tmp_path) for name, value in content.items()}
    spec = spec_of(write_dataset(tmp_path / "y" / "data.yaml", **written), tmp_path)
    found = set(data_paths(spec, planned_run(spec)))
    roots = {value.format(t=tmp_path) for value in expected}
    assert roots <= found
    assert all(any(path == root or path.startswith(f"{root}/") for root in roots) for path in found)


def test_dataset_of_the_spec_itself_is_mounted(tmp_path):
    data = DataSpec(format="coco", train="/s/a.json", val=["/s/b.json"], images="$DISK/c", names=["cat"])
    spec = msgspec.structs.replace(spec_of("", tmp_path), data=data)
    assert set(data_paths(spec, RunDirectory(tmp_path / "runs" / "run"))) == {"/s", "$DISK/c"}
    spec = msgspec.structs.replace(spec, data=msgspec.structs.replace(data, names=[]))
    assert set(data_paths(spec, RunDirectory(tmp_path / "runs" / "run"))) == {"/s", "$DISK"}, "not readable here"


def test_dataset_that_is_not_here_is_mounted_by_the_directory_of_its_yaml(tmp_path):
    spec = spec_of("$SLURM_TMPDIR/coco/data.yaml", tmp_path)
    facts = job_facts(spec, planned_run(spec))
    assert (list(facts.paths), list(facts.variables)) == (["$SLURM_TMPDIR/coco"], ["SLURM_TMPDIR"])
    spec = spec_of("/nowhere/$x/data.yaml", tmp_path)
    assert job_facts(spec, planned_run(spec)).paths == ["/nowhere/$x"]


@pytest.mark.parametrize(
    ("stage", "mounts", "variables"),
    [
        ("off", [], []),
        ("auto", [], []),
        ("/dev/shm/sets", [], []),
        ("$SLURM_TMPDIR/sets", ["$SLURM_TMPDIR/sets"], ["SLURM_TMPDIR"]),
        ("/local/me", ["/local/me"], []),
    ],
)
def test_stage_directory_is_mounted(tmp_path, stage, mounts, variables):
    spec = spec_of("/nowhere/data.yaml", tmp_path)
    spec = msgspec.structs.replace(spec, data=DataSpec(path="/nowhere/data.yaml", stage=stage))
    facts = job_facts(spec, planned_run(spec))
    assert (list(facts.paths), list(facts.variables)) == (["/nowhere", *mounts], variables)


def test_weights_are_mounted_by_their_directories(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "w.pt").touch()
    (tmp_path / "w.pt").symlink_to("real/w.pt")
    spec = spec_of("/d.yaml", tmp_path, weights=str(tmp_path / "w.pt"))
    run = planned_run(spec)
    assert list(weight_paths(spec, run)) == [str(tmp_path), str(tmp_path / "real")]
    assert list(weight_paths(spec_of("/d.yaml", tmp_path), run)) == []


def test_weights_that_are_gone_are_not_mounted_for_a_run_that_goes_on_without_them(tmp_path, shapes):
    """No runtime starts with a mount that does not exist."""
    spec = spec_of(shapes, tmp_path, weights=str(tmp_path / "gone" / "w.pt"))
    run = planned_run(spec)
    assert f"{tmp_path}/gone" in slurm_plan(spec, run, "", {}).script
    prepare_run(run, spec)
    (run.checkpoints / "state-0001-000000003.safetensors").touch()
    assert f"{tmp_path}/gone" not in slurm_plan(spec, run, "", {}).script
    (tmp_path / "gone").mkdir()
    assert f"{tmp_path}/gone" in slurm_plan(spec, run, "", {}).script, "as in the script of an earlier job"


def test_package_is_mounted_as_a_checkout_or_alone(monkeypatch, tmp_path):
    checkout = str(Path(hpc_yolo.__file__).parents[1])
    assert code_mount() == (Mount(checkout, checkout), checkout)
    package = Path(hpc_yolo.__file__).parent
    monkeypatch.setattr(container_job, "resource_directory", lambda name: package / name)
    assert code_mount() == (Mount(str(package), "/opt/hpc-yolo/hpc_yolo"), "/opt/hpc-yolo")
    assert package_data.resource_directory("configs").is_dir()


def test_plan_shows_runtime_mounts_and_what_is_expanded(tmp_path):
    data = write_dataset(tmp_path / "d" / "data.yaml", path=str(tmp_path / "d"), train="images/t", val="images/v")
    spec = spec_of(data, tmp_path, mounts=["$SCRATCH/x:/x:ro"], env={"A": "$HOME"}, code="mounted")
    plan = slurm_plan(spec, planned_run(spec), "", {})
    shown = [f"{subject}: {decision}" for subject, decision in plan.decisions()]
    assert "container: apptainer with /i/t.sif; python3 runs this package, mounted" in shown
    assert "mount: $SCRATCH/x at /x, read only" in shown
    assert f"mount: {tmp_path}/d" in shown and f"mount: {plan.run.path}" in shown
    assert "container: cluster.container.mounts[0]: $SCRATCH/x:/x:ro is expanded where the tasks run" in shown
    assert "container: cluster.container.env.A: $HOME is expanded where the tasks run" in shown
    (python,) = [line for line in shown if line.startswith("python: ")]
    assert python.endswith("runs the batch script, outside of the container)")
    before, srun, after = plan.script.rstrip().splitlines()[-3:]
    assert before == f"{sys.executable} -m hpc_yolo before-job {plan.run.path} &&"
    assert " apptainer exec --bind=" in srun and srun.endswith(f" python3 -u -m hpc_yolo train {plan.run.path}")
    assert after.startswith(f"exec {sys.executable} -m hpc_yolo after-job {plan.run.path}")


def test_runtime_that_is_open_is_chosen_once_and_kept(tmp_path, monkeypatch):
    """A job that is requeued, and the last command of its script, use the one of the script."""
    monkeypatch.setattr(container_job, "is_installed", lambda name: name == "singularity")
    spec = spec_of("/d.yaml", tmp_path, runtime="auto")
    plan = slurm_plan(spec, planned_run(spec), "", {})
    assert plan.spec.cluster.container.runtime == "singularity"
    assert " singularity exec " in plan.script
    assert with_runtime(plan.spec) is plan.spec


@pytest.mark.parametrize("executor", ["auto", "local", "debug"])
def test_run_on_this_machine_refuses_a_container(tmp_path, monkeypatch, executor):
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.is_installed", lambda: False)
    spec = spec_of("/d.yaml", tmp_path, executor=executor)
    with pytest.raises(ClusterError, match="not supported for tasks on this machine"):
        make_plan(spec, environ={})
    without = msgspec.structs.replace(spec.cluster, container=None)
    assert make_plan(msgspec.structs.replace(spec, cluster=without), environ={}).script is None


def test_missing_image_is_refused_before_anything_is_queued(tmp_path, shapes):
    spec = spec_of(shapes, tmp_path, image=str(tmp_path / "none.sif"))
    with pytest.raises(SpecError, match=r"cluster.container.image: .*none\.sif does not exist"):
        preflight(spec, planned_run(spec), for_slurm=True, slurm_answers=False)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("version", "ends"), [("0.0.0", True), (hpc_yolo.__version__, False), (None, False)])
def test_package_of_another_version_ends_the_task_with_one_sentence(tmp_path, shapes, version, ends):
    spec = spec_of(shapes, tmp_path)
    run = RunDirectory(tmp_path / "runs" / "run")
    prepare_run(run, spec)
    if ends:
        run.spec.write_text("a field of another version: 1\n")
    else:
        run.spec.unlink()
    environ = os.environ | ({} if version is None else {"HPC_YOLO_VERSION": version}) | {"SLURM_JOB_ID": "7"}
    command = [sys.executable, "-m", "hpc_yolo", "train", str(run.path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    message = f"the container has hpc-yolo {hpc_yolo.__version__} ("
    assert (message in done.stderr) == ends
    assert (done.returncode == InstallationError.exit_code) == ends, done.stderr
    assert "Traceback" not in done.stderr
    failures = all_failures(run)
    assert [failure.exit_code for failure in failures] == ([InstallationError.exit_code] if ends else [])
    if ends:
        assert "0.0.0 submitted this run" in failures[0].message
