"""The probe of a plan: what its spec leaves out, and real ones on this machine and in Slurm."""

import json
import os

import pytest
from click.testing import CliRunner

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import HpcYoloError, RunError, TrainingError
from hpc_yolo.launch import probe
from hpc_yolo.runs.index import indexed_runs, state_directory
from hpc_yolo.spec.load import dump_spec, load_resolved_spec, load_spec


def plan_of(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["plan", *map(str, words)])
    if isinstance(result.exception, HpcYoloError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_probe_asks_for_the_same_nodes_and_leaves_out_what_follows(write_spec, tmp_path):
    cluster = {
        **{"nodes": 2, "tasks_per_node": 2, "time": "8:00:00", "requeue": "requeue"},
        "sbatch": {"mail-user": "me@example.org", "hold": True, "exclusive": True},
    }
    spec = load_spec(
        write_spec("new", cluster=cluster, then=[{"shell": "true"}], validate="aside", output_mode="group")
    )
    made = probe.probe_spec(spec, tmp_path)
    assert (made.cluster.nodes, made.cluster.time, made.cluster.requeue) == (2, "00:15:00", "off")
    assert made.cluster.sbatch == {"exclusive": True}
    assert (made.then, made.validate, made.train, made.data) == ([], "in_job", spec.train, spec.data)
    short = load_spec(write_spec("short", cluster={"time": "00:03:00"}))
    assert probe.probe_spec(short, tmp_path).cluster.time == "00:03:00"


def test_tasks_of_a_probe_can_read_its_spec(write_spec, tmp_path):
    """Those of a spec whose signal comes an hour before the end refused it."""
    spec = load_spec(write_spec("far", {"executor": "slurm", "time": "1-0", "signal_before_s": 3600}))
    (tmp_path / "spec.yaml").write_text(dump_spec(probe.probe_spec(spec, tmp_path)))
    assert load_resolved_spec(tmp_path / "spec.yaml").cluster.time == "00:15:00"


def test_probe_on_this_machine_measures_and_leaves_nothing(write_spec, tmp_path):
    spec = write_spec("new", train={"epochs": 2})
    code, shown, said = plan_of(spec, "--local", "--probe", "--epochs", 2, "--json")
    found = json.loads(shown)["forecast"]
    assert code == 0
    assert [one["name"] for one in found["learned_from"]] == ["probe"]
    assert found["work"]["epochs"] == 2
    assert found["wall_s"]["expected"] > 0
    assert "trains for 120 s and is removed" in said
    assert list((tmp_path / "runs").iterdir()) == []
    assert indexed_runs(state_directory(os.environ)) == []


def test_probe_that_fails_shows_the_error_of_its_rank_and_is_removed(write_spec, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no weights")
    with pytest.raises(HpcYoloError) as caught:
        plan_of(write_spec("new", weights=str(broken)), "--local", "--probe")
    assert "broken.pt" in caught.value.message
    assert list((tmp_path / "runs").iterdir()) == []


def test_probe_needs_a_writable_output(write_spec, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="is a file"):
        plan_of(write_spec("new"), "--local", "--probe")


@pytest.mark.usefixtures("in_slurm")
def test_probe_in_slurm_ends_its_job_after_its_time(write_spec, tmp_path, in_slurm, monkeypatch):
    monkeypatch.setattr(probe, "TRAINING_S", 3.0)
    spec = write_spec("new", cluster={"executor": "slurm", "time": "00:30:00"}, train={"epochs": 5000})
    code, shown, said = plan_of(spec, "--probe", "--no-queue")
    assert code == 0
    assert "probe: Slurm job" in said
    assert "measured in    probe (" in shown
    assert "5000 epochs of 5 steps" in shown
    assert in_slurm.run("squeue", "--noheader") == ""
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.usefixtures("in_slurm")
def test_probe_whose_setup_fails_says_so(write_spec, tmp_path, in_slurm):
    spec = write_spec("new", cluster={"executor": "slurm", "setup": ["exit 3"]})
    with pytest.raises(TrainingError, match=r"the probe failed: .*cluster\.setup"):
        plan_of(spec, "--probe", "--no-queue")
    assert list((tmp_path / "runs").iterdir()) == []
