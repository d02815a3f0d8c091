"""Jobs whose container does not start: one sentence in log and journal, and no second attempt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sandbox_image import container_section, library_mounts, runtime_here

import hpc_yolo as package
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import all_submissions

TASKS = {"nodes": 1, "tasks_per_node": 1, "time": "00:02:00"}


@pytest.fixture
def other_version(tmp_path) -> Path:
    """A directory with a package of another version, which reads no spec."""
    directory = tmp_path / "other"
    shutil.copytree(Path(package.__file__).parent, directory / "hpc_yolo", ignore=shutil.ignore_patterns("__pycache__"))
    init = directory / "hpc_yolo" / "__init__.py"
    init.write_text(init.read_text().replace(f'"{package.__version__}"', '"0.0.9"'))
    with (directory / "hpc_yolo" / "spec" / "load.py").open("a") as file:
        file.write("\n\ndef load_resolved_spec(*_args):\n    raise RuntimeError('not read')\n")
    return directory


def test_container_that_does_not_start_ends_with_one_sentence(
    in_slurm, other_version, write_spec, hpc_yolo, tmp_path, monkeypatch
):
    good = container_section(tmp_path / "image") | runtime_here(monkeypatch)
    mounts = library_mounts()
    version = (
        f"the container has hpc-yolo 0.0.9 ({other_version}/hpc_yolo), and {package.__version__} submitted this run"
    )
    cases = {
        "unset": ({"image": "$NOWHERE_SET/image"}, "cluster.container.image: the variable NOWHERE_SET is not set"),
        "no-mount": ({"mounts": [*mounts, "$PWD/nothing:/x"]}, "/nothing does not exist on gpu0"),
        "no-python": ({"python": "/opt/nopython"}, "/opt/nopython"),
        "version": (
            {"code": "image", "env": {"PYTHONPATH": str(other_version)}, "mounts": [*mounts, str(other_version)]},
            version,
        ),
    }
    for name, (fields, _) in cases.items():
        hpc_yolo("submit", write_spec(name, cluster=TASKS | {"container": good | fields}))
    for name, (_, message) in cases.items():
        run = RunDirectory(tmp_path / "runs" / name)
        job_id = all_submissions(run)[0].job_id
        assert in_slurm.wait_for_state(job_id, {"FAILED"}) == "FAILED"
        log = (run.jobs / f"{job_id}.log").read_text()
        assert message in log
        assert "Traceback" not in log
    shown = json.loads(hpc_yolo("status", "--root", tmp_path / "runs", "--json").stdout)
    assert {facts["name"]: facts["state"] for facts in shown} == dict.fromkeys(cases, "failed")
    details = {facts["name"]: facts["detail"] for facts in shown}
    assert [name for name, (_, message) in cases.items() if message not in details[name]] == []
