"""`hpc-yolo doctor`: on the real test cluster, with a Slurm that does not answer, and without Slurm."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from hpc_yolo.cli.main import cli
from hpc_yolo.cluster import site
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.doctor import find_measured, partition_warnings
from hpc_yolo.launch.plan import make_plan
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import CheckpointSaved
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.spec.load import Override, load_spec


@pytest.fixture
def spec_path(tmp_path):
    path = tmp_path / "spec.yaml"
    fields = {"name": "new", "model": "yolov5n", "data": "data.yaml", "output": str(tmp_path / "runs")}
    path.write_text(yaml.safe_dump(fields | {"cluster": {"partition": "preempt", "time": "01:00:00"}}))
    return path


@pytest.fixture
def saved_run(tmp_path, spec_path):
    """Write a run of this model that saved once, in `seconds`."""

    def save(name: str, seconds: float, model: str = "yolov5n", written: float = 1000.0) -> None:
        run = RunDirectory(tmp_path / "runs" / name)
        run.create()
        fields = yaml.safe_load(spec_path.read_text()) | {"name": name, "model": model}
        run.spec.write_text(yaml.safe_dump(fields))
        path = "checkpoints/state-0001-000000008.safetensors"
        event = CheckpointSaved(epoch=0, step=8, path=path, size_bytes=22_000_000, seconds=seconds)
        JournalWriter(run.journal, attempt=1).write(event)
        os.utime(run.journal, (written, written))

    return save


def report_of(*words):
    result = CliRunner().invoke(cli, ["doctor", "--json", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout)


def warnings_for(spec):
    measured = find_measured(RunDirectory(Path(spec.output) / spec.name), spec.model_source)
    return partition_warnings(spec.cluster, spec.checkpoint, measured)


@pytest.mark.slurm_quick("doctor")
@pytest.mark.usefixtures("in_slurm")
def test_seconds_of_a_preempted_job_on_the_real_cluster(spec_path, saved_run):
    code, report = report_of()
    assert (code, report["answers"], report["stop_s"]) == (0, True, {"gpu": 5, "preempt": 25, "high": 5})
    code, report = report_of(spec_path)
    assert (code, report["stop_s"], report["save_times"], report["signal_before_s"]) == (0, {"preempt": 25}, None, 120)
    assert warnings_for(load_spec(spec_path)) == []
    saved_run("new", 11.0)
    code, report = report_of(spec_path)
    assert (code, report["measured_in"], report["signal_before_s"]) == (4, "new", 63)
    plan = make_plan(load_spec(spec_path))
    for script in (plan.script, CliRunner().invoke(cli, ["render", str(spec_path)]).output):
        assert "#SBATCH --signal=USR2@63\n" in script
    (warning,) = warnings_for(load_spec(spec_path))
    assert warning.startswith("save time: 11.00 s for 22 MB")
    with pytest.raises(ClusterError, match="no partition 'none'"):
        CliRunner().invoke(cli, ["doctor", str(spec_path), "--partition", "none"], catch_exceptions=False)
    with pytest.raises(ClusterError, match="has 2 nodes, the spec requests 4"):
        warnings_for(load_spec(spec_path, [Override("cluster.nodes", "4", "--nodes 4")]))


def test_report_without_slurm_describes_ctrl_c(spec_path, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, report = report_of(spec_path)
    assert (code, report["answers"], report["slurm"]) == (0, None, "Slurm is not installed here")
    assert "Ctrl-C" in report["findings"][0]["why"]


def test_slurm_without_answer_has_an_exit_code_of_its_own(spec_path, monkeypatch, tmp_path):
    """The controller may hang for minutes; scripts need an exit code."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\nexec {shutil.which('sleep')} 60\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(site, "QUERY_TIMEOUT_S", 0.2)
    code, report = report_of(spec_path)
    assert (code, report["answers"]) == (5, False)
    assert "scontrol gave no answer within 0.2 s" in report["slurm"]
    assert warnings_for(load_spec(spec_path)) == []


def test_save_times_are_those_of_the_run_or_of_the_newest_sibling_with_its_model(spec_path, saved_run):
    spec = load_spec(spec_path)
    run = RunDirectory(Path(spec.output) / spec.name)
    assert find_measured(run, spec.model_source) is None
    saved_run("old", 0.3, written=1000.0)
    saved_run("newer", 0.4, written=2000.0)
    saved_run("larger", 9.0, model="yolov5x", written=3000.0)
    sibling = find_measured(run, spec.model_source)
    assert (sibling.run_name, sibling.times.save_s, sibling.is_own) == ("newer", 0.4, False)
    saved_run("new", 0.2, written=500.0)
    own = find_measured(run, spec.model_source)
    assert (own.run_name, own.times.save_s, own.is_own) == ("new", 0.2, True)


def test_options_without_a_spec_are_refused():
    result = CliRunner().invoke(cli, ["doctor", "--partition", "gpu"], standalone_mode=True)
    assert result.exit_code == 2
    assert "hpc-yolo doctor SPEC" in result.output


def test_printed_report_has_the_advice(spec_path, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    text = CliRunner().invoke(cli, ["doctor", str(spec_path)]).output
    assert text.splitlines()[0] == "Slurm is not installed here"
    assert "-> submit the spec again to continue" in text
