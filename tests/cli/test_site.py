"""`hpc-yolo site`, and a dry run with a profile."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import ClusterError, SpecError

PROFILE = """\
description: ours
cluster: {qos: normal}
gpus: {a100: {partition: gpu, modules: [cuda], max_time: 1-00:00:00, by_time: [{up_to: "1:00:00", qos: short}]}}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture
def sites(tmp_path, monkeypatch):
    """Two directories of profiles, and no Slurm."""
    directory = tmp_path / "group"
    directory.mkdir()
    (directory / "ours.yaml").write_text(PROFILE)
    monkeypatch.setenv("HPC_YOLO_SITES", f"{directory}:{tmp_path}/nowhere")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    which = shutil.which
    monkeypatch.setattr("shutil.which", lambda name, *rest: None if name == "sbatch" else which(name, *rest))
    return directory


def test_list_shows_profiles_with_the_one_that_applies(sites, monkeypatch):
    shown = run("site", "list")
    assert f"  ours        ours  ({sites}/ours.yaml)" in shown.output
    assert "none applies here" in shown.output
    assert "/nowhere: no such directory" in shown.output
    monkeypatch.setenv("HPC_YOLO_SITE", "ours")
    assert "ours applies here: named by HPC_YOLO_SITE" in run("site", "list").output
    listed = json.loads(run("site", "list", "--json").stdout.partition("HPC_YOLO_SITES")[0])
    assert [row["name"] for row in listed["sites"] if row["applies"]] == ["ours"]
    (sites / "ours.yaml").write_bytes(b"\xff")
    assert "not readable" in run("site", "list").output


def test_show_prints_the_table_of_gpu_types(sites):
    shown = run("site", "show", "ours").output
    assert "qos: normal" in shown
    header, row = shown.splitlines()[-2:]
    assert header.split() == ["gpu", "partition", "max_time", "by_time", "modules"]
    assert row.split() == ["a100", "gpu", "1-00:00:00", "≤1:00:00", "qos=short", "cuda"]
    assert json.loads(run("site", "show", "ours", "--json").output)["gpus"]["a100"]["modules"] == ["cuda"]
    assert "lumi is the nearest" in str(run("site", "show", "luni").exception)


def test_check_reports_mistakes_and_new_writes_what_it_accepts(sites, tmp_path):
    assert run("site", "check", "ours").output == f"{sites}/ours.yaml: valid, 1 types of GPU\n"
    (sites / "ours.yaml").write_text("gpus: {a: {qoss: x}}\n")
    wrong = run("site", "check", sites / "ours.yaml").exception
    assert isinstance(wrong, SpecError) and "1 mistake in the profile ours" in wrong.message
    written = run("site", "new", "mine").output.splitlines()[0]
    assert Path(written) == tmp_path / "config" / "hpc-yolo" / "sites" / "mine.yaml"
    assert "valid" in run("site", "check", "mine").output
    before = Path(written).read_text()
    assert "is not overwritten" in str(run("site", "new", "mine").exception)
    assert Path(written).read_text() == before
    assert run("site", "new", "a/b").exit_code == 2
    (tmp_path / "file").write_text("")
    assert "cannot be written" in str(run("site", "new", "x", "-o", tmp_path / "file" / "x.yaml").exception)


def test_dry_run_shows_profile_and_origin_of_each_line(sites, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    (tmp_path / "d.yaml").write_text("train: train\nval: val\nnames: [thing]\n")
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"name: a\nmodel: yolov5n\ndata: d.yaml\nsite: ours\noutput: {tmp_path}/runs\ncluster: {{gpu: a100}}\n"
    )
    shown = run("submit", spec, "--dry-run", "--set", "cluster.executor=slurm", "--time", "30").output
    assert f"site           ours: named by the spec, {sites}/ours.yaml" in shown
    rows = [line.partition("  <- ") for line in shown.splitlines() if "  <- " in line]
    table = {line.rstrip(): origin for line, _, origin in rows}
    assert table["#SBATCH --partition=gpu"] == "ours.yaml:3"
    assert table["#SBATCH --qos=short"] == "ours.yaml:3"
    assert table["#SBATCH --time=30"] == "--time 30"
    assert table["module load cuda"] == "ours.yaml:3"
    rendered = run("render", spec, "--time", "30")
    assert shown.endswith(f"\n\n{rendered.stdout}")
    assert "module load cuda" in rendered.stderr
    options = ("--set", "cluster.executor=slurm", "--set", "cluster.gpu=null")
    assert "ours.yaml; cluster.gpu is not set, there are a100\n" in run("submit", spec, "--dry-run", *options).output
    local = run("submit", spec, "--dry-run", "--local").output
    assert "site           ours: not used, as this is no Slurm job" in local
    assert ", site ours (named by the spec)" in run("check", spec).output


def test_example_of_the_page_has_the_origins_that_it_shows(sites, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "sites.md").read_text()
    (tmp_path / "spec.yaml").write_text(re.findall(r"```yaml\n(name: .*?)```", page, re.DOTALL)[0])
    shown = run("render", tmp_path / "spec.yaml", "--set", f"output={tmp_path}/runs").stderr
    rows = {
        tuple(line.split("<-")[0].split()): line.split("<-")[1].strip() for line in shown.splitlines() if "<-" in line
    }
    expected = re.findall(r"```text\n(#SBATCH.*?)```", page, re.DOTALL)[0].splitlines()
    assert len(expected) > 5
    for line in expected:
        text, origin = line.split("<-")
        assert rows[tuple(text.split())] == origin.strip()


def test_new_and_check_ask_the_slurm_of_this_machine(in_slurm, hpc_yolo, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    hpc_yolo("site", "new", "here")
    text = (tmp_path / "hpc-yolo" / "sites" / "here.yaml").read_text()
    assert "not answered" not in text, text
    assert "cluster_names: [" in text
    assert "partition: gpu\n    cpus_per_task: " in text
    assert "valid" in hpc_yolo("site", "check", "here").stdout
    assert "* here" in hpc_yolo("site", "list").stdout
    (tmp_path / "hpc-yolo" / "sites" / "here.yaml").write_text("cluster: {partition: gpux, qos: no, account: no}\n")
    wrong = hpc_yolo("site", "check", "here", check=False)
    assert wrong.returncode == ClusterError.exit_code
    assert "3 mistakes in the profile here" in wrong.stderr
    assert "here.yaml:1:22: cluster.partition: the Slurm of this machine has no partition 'gpux'" in wrong.stderr
