"""`hpc-yolo train SPEC` as a task."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from hpc_yolo.cli.main import cli
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import LeaseError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.resilience import lease
from hpc_yolo.resilience.lease import Heartbeat, require_free, take_lease
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.load import load_spec

ALONE = ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single")


def test_run_that_another_process_trains_keeps_its_spec(tmp_path: Path) -> None:
    """The message said that nothing was changed, and the next attempt trained as many epochs as the refused command."""
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1)
    path, run = tmp_path / "spec.yaml", RunDirectory(tmp_path / "run")
    path.write_text(yaml.safe_dump({"name": "run", "model": "yolov5n", "data": str(data), "output": str(tmp_path)}))
    prepare_run(run, load_spec(path))
    before = run.spec.read_bytes()
    with Heartbeat(take_lease(run, ALONE), interval_s=0.05):
        result = CliRunner().invoke(cli, ["train", str(path), "--set", "train.epochs=9"])
    assert isinstance(result.exception, LeaseError), result.exception
    assert "is training this run; this process ends and has changed nothing" in str(result.exception)
    assert run.spec.read_bytes() == before


def test_holder_that_was_watched_before_the_run_is_prepared_is_not_watched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the loss of a node each start watched its lease for 10 s, prepared the run, and watched it once more."""
    run = RunDirectory(tmp_path / "run")
    run.create()
    take_lease(run, ALONE)
    (run.leases / "000001.json").write_bytes(b"damaged, so that nothing shows that the holder has ended")
    monkeypatch.setattr(lease, "WATCH_S", 0.3)
    require_free(run, ALONE)
    monkeypatch.setattr("time.sleep", lambda _seconds: pytest.fail("the lease is watched again"))
    assert take_lease(run, ALONE, watch_s=0.3).attempt == 2
