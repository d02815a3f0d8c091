"""Staging on a real Slurm cluster of two nodes, which are one machine here: a variable gives each its own directory."""

import json
from pathlib import Path

import pytest

from hpc_yolo.runs.events import AttemptEnded, DataStaging, StepLogged, WarningRaised

TWO_BY_TWO = {"nodes": 2, "tasks_per_node": 2}


def test_each_node_has_one_copy_and_losses_are_those_without(
    in_slurm, write_spec, hpc_yolo, events_of, shapes, tmp_path
):
    train = {"log_every_steps": 1, "epochs": 1, "sync_bn": True, "precision": "fp64"}
    stage = tmp_path / "stage"
    stage.mkdir()
    staged = {"path": str(shapes), "stage": f"{stage}/$SLURMD_NODENAME", "size_limit": "1G"}
    specs = {
        "plain": write_spec("plain", train=train),
        "staged": write_spec("staged", cluster=TWO_BY_TWO, train=train, data=staged),
    }
    shown = hpc_yolo("submit", specs["staged"], "--dry-run").stdout
    assert f"data           staged to {stage}/$SLURMD_NODENAME on each node (" in shown
    for name, spec in specs.items():
        hpc_yolo("submit", spec)
        job_id = json.loads((tmp_path / "runs" / name / "submissions.jsonl").read_text())["job_id"]
        assert in_slurm.wait_for_state(job_id, "COMPLETED") == "COMPLETED"
    images = [path for path in (shapes.parent / "images").rglob("*") if path.is_file()]
    copies = {node: copied_files(stage / node) for node in ("gpu01", "gpu02")}
    assert copies == dict.fromkeys(("gpu01", "gpu02"), sorted(images))
    (staging,) = events_of("staged", DataStaging)
    assert (staging.num_nodes, staging.is_over) == (2, True)
    assert staging.copied_bytes == staging.done_bytes == 2 * sum(path.stat().st_size for path in images)
    assert [event.message for event in events_of("staged", WarningRaised) if "stage" in event.message] == []
    plain, steps = events_of("plain", StepLogged), events_of("staged", StepLogged)
    assert len(steps) == len(plain) == 5
    for ours, theirs in zip(steps, plain, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-6)
    assert [event.outcome for event in events_of("staged", AttemptEnded)] == [AttemptEnded.FINISHED]


@pytest.mark.soak
@pytest.mark.parametrize("form", ["coco", "voc"])
def test_other_formats_are_staged_and_train_alike(form, in_slurm, write_spec, hpc_yolo, events_of, shapes, tmp_path):
    """Their labels and images lie in different directories; the labels are in the index, so images alone are copied."""
    train = {"log_every_steps": 1, "epochs": 1, "sync_bn": True, "precision": "fp64"}
    hpc_yolo("data", "convert", shapes, tmp_path / form, "--to", form)
    (written,) = (tmp_path / form).glob("*.yaml")
    stage = tmp_path / "stage"
    stage.mkdir()
    staged = {"path": str(written), "stage": f"{stage}/$SLURMD_NODENAME", "size_limit": "1G"}
    for name, options in {"plain": {"data": str(written)}, form: {"cluster": TWO_BY_TWO, "data": staged}}.items():
        hpc_yolo("submit", write_spec(name, train=train, **options))
        job_id = json.loads((tmp_path / "runs" / name / "submissions.jsonl").read_text())["job_id"]
        assert in_slurm.wait_for_state(job_id, "COMPLETED") == "COMPLETED"
    images = sorted(path for path in (shapes.parent / "images").rglob("*") if path.is_file())
    assert [copied_files(stage / node) for node in ("gpu01", "gpu02")] == [images] * 2
    plain, steps = events_of("plain", StepLogged), events_of(form, StepLogged)
    assert len(steps) == len(plain) == 5
    for ours, theirs in zip(steps, plain, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-6)


def copied_files(directory: Path) -> list[Path]:
    """Return the paths of the files of which the node with the stage `directory` has a copy."""
    (files,) = directory.glob("hpc-yolo-*/*/files")
    return sorted(Path("/", path.relative_to(files)) for path in files.rglob("*") if path.is_file())
