"""What a submission says about the staging of the dataset."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.staging.measure import quick_size_bytes
from hpc_yolo.launch import staging_plan
from hpc_yolo.launch.plan import planned_run, slurm_plan
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.launch.staging_plan import staging_decision, staging_warnings
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec


@pytest.fixture
def data(tmp_path) -> Path:
    """A dataset YAML with 3 x 1,000 bytes of images and a file that is no image."""
    for name in ("train/a.jpg", "train/b/c.JPG", "train/notes.txt", "val/d.png"):
        path = tmp_path / "set" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    content = {"path": str(tmp_path / "set"), "train": "images/train", "val": "images/val", "names": ["a"]}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "d.yaml"


def spec_of(data: Path | str, tmp_path: Path, stage: str, size_limit: str | None = None, **cluster: Any) -> Spec:
    section = DataSpec(path=str(data), stage=stage, size_limit=size_limit)
    cluster = {"executor": "slurm", "gpus_per_node": 0} | cluster
    return Spec(
        name="run", model="yolov5n", data=section, output=str(tmp_path / "runs"), cluster=ClusterSpec(**cluster)
    )


@pytest.mark.parametrize(
    ("stage", "size_limit", "for_slurm", "line"),
    [
        ("off", None, True, None),
        ("$SLURM_TMPDIR", None, True, "staged to $SLURM_TMPDIR on each node (3 KiB)"),
        ("$SLURM_TMPDIR", "100G", True, "staged to $SLURM_TMPDIR on each node (3 KiB, limit 100G)"),
        ("/fast", "100G", False, "staged to /fast on each node (3 KiB, limit 100G)"),
        ("/fast", "1K", True, "not staged: 3 KiB are more than data.size_limit, 1K"),
        ("auto", None, True, "staged to the first of $SLURM_TMPDIR, $LOCAL_SCRATCH, $TMPDIR and /dev/shm with room on"),
        ("auto", None, False, "not staged: data.stage is auto, and this is no Slurm job; a directory stages here too"),
    ],
)
def test_line_of_a_dry_run(stage, size_limit, for_slurm, line, data, tmp_path):
    spec = spec_of(data, tmp_path, stage, size_limit)
    found = staging_decision(planned_run(spec), spec, for_slurm=for_slurm)
    assert len(found) == (0 if line is None else 1)
    assert all(subject == "data" and text.startswith(line) for subject, text in found)


def test_size_of_a_dataset_on_the_nodes_is_left_out(tmp_path):
    spec = spec_of("$NOPE/d.yaml", tmp_path, "/fast", "1G")
    assert staging_decision(planned_run(spec), spec, for_slurm=True) == [
        ("data", "staged to /fast on each node (limit 1G)")
    ]


def test_plan_and_preflight_have_them(data, tmp_path):
    spec = spec_of(data, tmp_path, "$NOPE")
    plan = slurm_plan(spec, planned_run(spec), "", {})
    assert ("data", "staged to $NOPE on each node (3 KiB)") in plan.decisions()
    warnings = preflight(spec, plan.run, for_slurm=True, slurm_answers=False)
    assert any(warning.startswith("data.stage: $NOPE: the variable NOPE may not be set") for warning in warnings)


@pytest.mark.parametrize(
    ("stage", "environ", "cluster", "for_slurm", "warning"),
    [
        ("off", {}, {}, True, None),
        ("auto", {}, {}, True, None),
        ("$SLURM_TMPDIR", {}, {}, True, None),
        ("$LOCAL_SCRATCH/me", {"LOCAL_SCRATCH": "/lustre"}, {}, True, None),
        ("$FAST", {"FAST": "/fast"}, {}, True, None),
        ("$FAST", {"FAST": "/fast"}, {"sbatch": {"export": "NONE"}}, True, "the variable FAST may not be set in the"),
        ("$FAST", {}, {}, True, "the variable FAST may not be set in the jobs: without it images are read from the"),
        ("$FAST", {}, {"env": {"FAST": "/fast"}}, True, None),
        ("$FAST", {}, {"setup": "export FAST=/fast"}, True, None),
        ("$FAST", {}, {"setup": "export FASTER=/fast"}, True, "the variable FAST may not be set"),
        ("$SLURM_TMPDIR", {}, {}, False, "the variable SLURM_TMPDIR is not set here: images are read from the"),
        ("$WORK", {"WORK": "{here}/lustre"}, {}, True, "is on a file system of several machines here (lustre)"),
        ("{here}/lustre", {}, {}, True, "is on a file system of several machines here (lustre)"),
        ("{here}/gone", {}, {}, True, None),
        ("{here}", {}, {}, True, None),
    ],
)
def test_warning_about_a_stage_that_nodes_may_not_have(
    stage, environ, cluster, for_slurm, warning, tmp_path, monkeypatch
):
    (tmp_path / "lustre").mkdir()
    monkeypatch.setattr(staging_plan, "is_local", lambda path: path.name != "lustre")
    monkeypatch.setattr(staging_plan, "file_system", lambda path: path.name)
    stage, environ = stage.format(here=tmp_path), {name: text.format(here=tmp_path) for name, text in environ.items()}
    spec = spec_of("/d.yaml", tmp_path, stage, **cluster)
    found = staging_warnings(spec, environ, for_slurm=for_slurm)
    assert len(found) == (0 if warning is None else 1)
    assert all(text.startswith(f"data.stage: {stage}") and warning in text for text in found)


def test_quick_size_gives_up(data, tmp_path):
    def dataset(*train: Path, **fields: object) -> Dataset:
        return cast("Dataset", SimpleNamespace(**{"train": train, "val": (), "format": "yolo", "images": {}} | fields))

    images = tmp_path / "set" / "images"
    assert quick_size_bytes(dataset(data, format="coco", images={"train": images, "val": images})) == 3000
    assert quick_size_bytes(dataset(images, format="voc")) is None, "images are elsewhere"
    assert quick_size_bytes(dataset(images)) == 3000
    assert quick_size_bytes(dataset(images), timeout_s=-1) is None
    assert quick_size_bytes(dataset(data)) is None  # a list
