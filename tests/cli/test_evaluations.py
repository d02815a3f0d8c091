"""Commands of batch scripts for `validate: aside`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from hpc_yolo.cli.evaluations import evaluate, queue
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import dump_spec
from hpc_yolo.spec.schema import ClusterSpec, Spec


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.create()
    cluster = ClusterSpec(gpus_per_node=0, setup=["true", "module load nope"])
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path="/d.yaml"), output=str(tmp_path), cluster=cluster)
    write_atomic(run.spec, dump_spec(msgspec.structs.replace(spec, validate="aside")))
    return run


def test_failed_setup_of_evaluation_is_named(run: RunDirectory, tmp_path: Path) -> None:
    record = tmp_path / "7.setup"
    record.write_text("2\n")
    done = CliRunner().invoke(evaluate, [str(run.path), "--failed-setup", str(record), "--exit-code", "127"])
    assert done.exit_code == 127 and not record.exists()
    assert "line 2 failed with exit status 127: module load nope" in done.output


@pytest.mark.parametrize("command", [evaluate, queue])
def test_directory_without_run_is_refused(tmp_path: Path, command: object) -> None:
    done = CliRunner().invoke(command, [str(tmp_path)])
    assert isinstance(done.exception, RunError)


def test_job_without_waiting_models_ends_at_once(run: RunDirectory) -> None:
    done = CliRunner().invoke(evaluate, [str(run.path)])
    assert (done.exit_code, done.output) == (0, "")
