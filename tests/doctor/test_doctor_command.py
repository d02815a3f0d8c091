"""`hpc-yolo doctor` as people type it: on the real test cluster, where Slurm is silent, and without Slurm."""

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
from hpc_yolo.doctor import find_measured
from hpc_yolo.launch.partition_checks import partition_warnings
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
    """Write a run of this network that saved once, in so many seconds."""

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


@pytest.mark.slurm_quick("doctor")
@pytest.mark.usefixtures("in_slurm")
def test_on_the_real_cluster_it_tells_the_seconds_of_a_preempted_job(spec_path, saved_run):
    code, report = report_of()
    assert (code, report["answers"], report["stop_s"]) == (0, True, {"gpu": 5, "preempt": 25, "high": 5})
    code, report = report_of(spec_path)
    assert (code, report["stop_s"], report["save_times"], report["signal_before_s"]) == (0, {"preempt": 25}, None, 120)
    assert partition_warnings(load_spec(spec_path)) == []
    saved_run("new", 11.0)
    code, report = report_of(spec_path)
    assert (code, report["measured_in"], report["signal_before_s"]) == (4, "new", 63)
    plan = make_plan(load_spec(spec_path))
    for script in (plan.script, CliRunner().invoke(cli, ["render", str(spec_path)]).output):
        assert "#SBATCH --signal=USR2@63\n" in script
    (warning,) = partition_warnings(load_spec(spec_path))
    assert warning.startswith("save time: 11.00 s for 22 MB")
    with pytest.raises(ClusterError, match="no partition 'none'"):
        CliRunner().invoke(cli, ["doctor", str(spec_path), "--partition", "none"], catch_exceptions=False)
    with pytest.raises(ClusterError, match="has 2 nodes, the spec asks for 4"):
        partition_warnings(load_spec(spec_path, [Override("cluster.nodes", "4", "--nodes 4")]))


def test_without_slurm_it_says_what_ctrl_c_does(spec_path, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, report = report_of(spec_path)
    assert (code, report["answers"], report["slurm"]) == (0, None, "Slurm is not installed here")
    assert "Ctrl-C" in report["findings"][0]["why"]


def test_a_silent_slurm_is_told_in_time_and_by_the_exit_code(spec_path, monkeypatch, tmp_path):
    """The controller may hang for minutes; a person who asks then wants an answer, a script an exit code."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\nexec {shutil.which('sleep')} 60\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(site, "QUERY_TIMEOUT_S", 0.2)
    code, report = report_of(spec_path)
    assert (code, report["answers"]) == (5, False)
    assert "scontrol gave no answer within 0.2 s" in report["slurm"]
    assert partition_warnings(load_spec(spec_path)) == []


def test_figures_are_the_runs_own_else_those_of_the_newest_beside_it_with_its_network(spec_path, saved_run):
    spec = load_spec(spec_path)
    run = RunDirectory(Path(spec.output) / spec.name)
    assert find_measured(run, spec.model_source) is None
    saved_run("old", 0.3, written=1000.0)
    saved_run("newer", 0.4, written=2000.0)
    saved_run("larger", 9.0, model="yolov5x", written=3000.0)
    beside = find_measured(run, spec.model_source)
    assert (beside.run_name, beside.times.save_s, beside.is_own) == ("newer", 0.4, False)
    saved_run("new", 0.2, written=500.0)
    own = find_measured(run, spec.model_source)
    assert (own.run_name, own.times.save_s, own.is_own) == ("new", 0.2, True)


def test_options_without_a_spec_are_refused():
    result = CliRunner().invoke(cli, ["doctor", "--partition", "gpu"], standalone_mode=True)
    assert result.exit_code == 2
    assert "hpc-yolo doctor SPEC" in result.output


def test_a_person_reads_seconds_and_advice(spec_path, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    text = CliRunner().invoke(cli, ["doctor", str(spec_path)]).output
    assert text.splitlines()[0] == "Slurm is not installed here"
    assert "-> submit the spec again to go on" in text
