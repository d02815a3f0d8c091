"""`hpc-yolo bench scaling`: runs with one and two CPU ranks, submitted here as any run, become a table."""

from __future__ import annotations

import json
import os
import re

import pytest
from click.testing import CliRunner

from hpc_yolo.bench import scaling_runs
from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import RunError, SpecError, TrainingError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.load import Override, load_spec


@pytest.fixture
def spec_path(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    data = write_shapes_dataset(tmp_path / "set", num_train=16, num_val=4, image_size=(64, 48))
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"name: small\nmodel: yolov5n\ndata: {data}\noutput: {tmp_path / 'runs'}\n"
        "cluster: {executor: local, gpus_per_node: 0}\n"
        "train: {epochs: 9, batch: 4, imgsz: 64, workers: 1, device: cpu, autoanchor: false}\n"
    )
    return path


def call(*arguments):
    return CliRunner().invoke(cli, ["bench", "scaling", *map(str, arguments)])


@pytest.mark.soak
def test_runs_of_one_and_two_ranks_are_measured_once(spec_path, tmp_path):
    done = call(spec_path, "--ranks", "1,2", "--epochs", 2, "--json")
    assert done.exit_code == 0, done.output
    one, two = json.loads(done.stdout)
    assert [row["row"]["batch"] for row in (one, two)] == [4, 8]
    assert [row["row"]["ranks"] for row in (one, two)] == [1, 2]
    assert (one["efficiency"], one["communication"]) == (1.0, 0.0)
    assert two["ring_bytes"] > 1e6
    assert all(row["images_per_s"] > 0 and row["row"]["val_s"] > 0 for row in (one, two))
    assert {path.name for path in (tmp_path / "runs" / "small-scaling").iterdir()} == {"1-ranks", "2-ranks"}

    again = call(spec_path, "--ranks", "1,2", "--epochs", 2, "--bandwidth", 1)
    assert again.exit_code == 0, again.output
    assert again.output.count("measured before") == 2
    assert "efficiency" in again.output and "limit" in again.output


def test_ranks_are_checked_before_anything_is_submitted(spec_path, tmp_path):
    assert call(spec_path, "--ranks", "1,x").exit_code == 2
    assert isinstance(call(spec_path, "--ranks", "3", "--same-batch").exception, SpecError)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "cores", "message"),
    [
        (["--ranks", "2,4"], 2, "--ranks 4: each rank needs a core, and 2 fit this machine.*--ranks up to 2"),
        (["--set", "cluster.tasks_per_node=3"], 1, "--ranks 2: each rank needs a core, and 1 fit"),
        (["--set", "cluster.gpus_per_node=2"], 2, "--ranks 1: each rank needs a GPU, and 0 fit .*gpus_per_node=0"),
        (["--set", "cluster.executor=debug", "--ranks", "2"], 2, "--ranks 2: executor debug runs 1 rank"),
    ],
    ids=["more than cores", "usual ranks", "no GPU", "debug"],
)
def test_ranks_that_do_not_fit_this_machine_are_refused(spec_path, tmp_path, monkeypatch, arguments, cores, message):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    spec_path.write_text(spec_path.read_text().replace("batch: 4", "batch: 12"))
    failed = call(spec_path, *arguments)
    assert isinstance(failed.exception, SpecError), failed.output
    assert re.search(message, str(failed.exception), re.DOTALL)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["--ranks", "1"], ["--ranks", "1,2"], "cluster.env: {'OMP_NUM_THREADS': '2'} -> {'OMP_NUM_THREADS': '1'}"),
        (["--epochs", "2"], ["--epochs", "4"], "train.epochs: 2 -> 4"),
        ([], ["--set", "train.cache=ram"], "train.cache: auto -> ram"),
        ([], [], None),
    ],
    ids=["threads", "epochs", "cache", "same"],
)
def test_runs_of_other_conditions_are_not_mixed(spec_path, monkeypatch, first, second, message):
    def prepare(plans, _say):
        for plan in plans:
            prepare_run(plan.run, plan.spec)
        raise TrainingError("not trained here")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(scaling_runs, "run_all", prepare)
    assert isinstance(call(spec_path, *first).exception, TrainingError)
    again = call(spec_path, *second).exception
    assert isinstance(again, TrainingError if message is None else RunError), again
    assert message is None or (message in str(again) and "--set name=NAME" in str(again))


def test_run_of_the_spec_itself_does_not_matter(spec_path, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "runs" / "small")
    prepare_run(run, load_spec(spec_path, [Override("train.imgsz", "96", "--set")]))
    monkeypatch.setattr(scaling_runs, "run_all", lambda plans, _say: None)
    failed = call(spec_path, "--ranks", 1).exception
    assert isinstance(failed, RunError) and "a run has no whole epoch" in str(failed)
