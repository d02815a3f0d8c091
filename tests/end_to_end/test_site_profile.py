"""A run with a site profile on a real Slurm: the profile is read at submission only."""

from __future__ import annotations

import re

import pytest
import yaml

from hpc_yolo.runs.events import AttemptEnded, AttemptStarted

PROFILE = """\
cluster_names: ["*"]
network: lo
paths: {scratch: /tmp}
cluster: {env: {SITE: ours}}
gpus:
  pair:
    partition: gpu
    gpus_per_node: 2
    cpus_per_task: 1
    modules: [/appl/modules]
    gpu_cpus: ["0", "1"]
"""
MODULE = '() {  echo "module: $*"; [ "$2" != missing ]; }'  # what `module` is where the environment has it


@pytest.fixture
def site(in_slurm, tmp_path, monkeypatch):
    directory = tmp_path / "sites"
    directory.mkdir()
    monkeypatch.setenv("HPC_YOLO_SITES", str(directory))
    monkeypatch.setenv("BASH_FUNC_module%%", MODULE)
    (directory / "ours.yaml").write_text(PROFILE)
    return directory / "ours.yaml"


def test_run_with_profile_needs_it_at_submission_only(in_slurm, site, write_spec, hpc_yolo, events_of, tmp_path):
    cluster = {"gpu": "pair", "cpu_bind": "auto", "modules": ["cuda"], "setup": ["cd ${site.scratch}", "pwd"]}
    spec = write_spec("profiled", cluster=cluster, train={"epochs": 1})
    text = yaml.safe_load(spec.read_text())
    del text["cluster"]["gpus_per_node"], text["cluster"]["cpus_per_task"]
    spec.write_text(yaml.safe_dump(text))
    shown = hpc_yolo("submit", spec, "--dry-run").stdout
    assert re.search(r"^site           ours: for cluster ", shown, re.MULTILINE)
    assert "ours.yaml:" in shown
    queued = hpc_yolo("submit", spec).stdout
    site.unlink()
    job_id = re.findall(r"queued as job (\d+)", queued)[0]
    assert in_slurm.wait_for_state(job_id, ("COMPLETED", "FAILED")) == "COMPLETED", (
        tmp_path / "runs" / "profiled" / "jobs" / f"{job_id}.log"
    ).read_text()
    run = tmp_path / "runs" / "profiled"
    assert shown.endswith("\n\n" + (run / "job.sbatch").read_text())
    log = (run / "jobs" / f"{job_id}.log").read_text()
    assert log.index("module: use /appl/modules") < log.index("module: load cuda") < log.index("\n/tmp\n")
    assert "--cpu-bind=mask_cpu:0x1,0x2" in (run / "job.sbatch").read_text()
    (started,) = events_of("profiled", AttemptStarted)
    assert len(started.ranks) == 2
    resolved = yaml.safe_load((run / "spec.yaml").read_text())
    assert (resolved["site"], resolved["cluster"]["partition"], resolved["cluster"]["env"]["SITE"]) == (
        *("ours", "gpu", "ours"),
    )
    wrong = hpc_yolo("resume", run, "--set", "cluster.gpu=other", check=False)
    assert "cluster.gpu: is resolved at submission" in wrong.stderr


def test_module_that_is_missing_ends_the_job_and_is_named(in_slurm, site, write_spec, hpc_yolo, events_of, tmp_path):
    spec = write_spec("missing", cluster={"modules": ["missing"], "tasks_per_node": 1})
    done = hpc_yolo("submit", spec, "--follow", check=False)
    assert done.returncode != 0
    (ended,) = events_of("missing", AttemptEnded)
    assert "cluster.modules failed with exit status 1: module load missing" in ended.detail
