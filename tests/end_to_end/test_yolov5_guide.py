"""The commands of the YOLOv5 multi-GPU guide, on CPUs."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from spec_runs import NETWORK
from waiting import PATIENCE_S, wait_until

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import NameTakenError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptStarted, Evaluated, StepLogged, WarningRaised, WeightsLoaded
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.sweep import SweepDirectory
from hpc_yolo.spec.load import load_resolved_spec, load_spec

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
TASK = ("-m", "hpc_yolo", "train")
SMALL = ("--img", 64, "--epochs", 1, "--workers", 0, "--noplots", "--cfg", NETWORK, "--weights", "", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_shapes_dataset(tmp_path_factory.mktemp("guide") / "shapes", num_train=8, num_val=4)


@pytest.fixture
def environ(tmp_path) -> dict[str, str]:
    return os.environ | {"COLUMNS": "120", "OMP_NUM_THREADS": "1", "HPC_YOLO_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def run_command(tmp_path, environ, data):
    """Run commands in an empty directory; `DATA` is replaced by the dataset."""

    def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(data) if argument == "DATA" else str(argument) for argument in arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path, env=environ, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def train(run_command):
    return lambda *arguments, **options: run_command(sys.executable, "-m", "hpc_yolo", "train", *arguments, **options)


def only_attempt(run: Path) -> AttemptStarted:
    (started,) = [event for event in read_events(RunDirectory(run).journal) if isinstance(event, AttemptStarted)]
    return started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_runs_on_one_device_have_numbered_names(train, tmp_path):
    """The second begins with the weights of the first, and so with its model."""
    first = train("--data", "DATA", "--batch", 4, *SMALL, "--cfg", "yolov5n.yaml")
    assert "epoch 1/1" in first.stdout and "run directory" in first.stdout
    best = tmp_path / "runs" / "train" / "exp" / "checkpoints" / "best.safetensors"
    small = ("--img", 64, "--epochs", 1, "--workers", 0, "--noplots", "--device", "cpu", "--weights", best)
    train("--data", "DATA", "--batch-size", 4, "--multi-scale", "--cos-lr", "--noautoanchor", "--noval", *small)
    runs = tmp_path / "runs" / "train"
    assert sorted(path.name for path in runs.iterdir()) == ["exp", "exp2"]
    assert only_attempt(runs / "exp").world_size == 1
    spec = load_spec(runs / "exp2" / "spec.yaml")
    assert (spec.weights, spec.train.imgsz, spec.train.batch, spec.train.val_every) == (str(best), 64, 4, 0)
    assert spec.train.multi_scale and spec.train.cos_lr and not spec.train.autoanchor
    events = read_events(RunDirectory(runs / "exp2").journal)
    assert [event for event in events if isinstance(event, Evaluated)]
    (loaded,) = [event for event in events if isinstance(event, WeightsLoaded)]
    assert (loaded.num_kept, loaded.num_tensors) == (349, 349)


def test_run_whose_name_another_command_takes_gets_the_next_name(data, tmp_path, monkeypatch):
    """Of runs that began together the later ones trained into the directory of the first."""
    named = []

    def carry_out(plan, **_options):
        named.append(plan.run.name)
        if len(named) == 1:  # another command has found the same name
            plan.run.create()
            raise NameTakenError("taken")

    monkeypatch.setattr("hpc_yolo.cli.train.carry_out", carry_out)
    monkeypatch.chdir(tmp_path)
    flags = ["train", "--data", str(data), "--weights", "", "--cfg", "yolov5n", "--device", "cpu"]
    result = CliRunner().invoke(cli, flags, catch_exceptions=False)
    assert (result.exit_code, named) == (0, ["exp", "exp2"])


def test_torchrun_starts_tasks_of_one_run(run_command, tmp_path):
    launcher = Path(sys.executable).with_name("torchrun")
    arguments = ("--data", "DATA", "--batch", 4, "--sync-bn", "--name", "pair", *SMALL)
    run_command(launcher, "--nproc_per_node", 2, "--master_port", free_port(), *TASK, *arguments)
    runs = tmp_path / "runs" / "train"
    assert [path.name for path in runs.iterdir()] == ["pair"]
    started = only_attempt(runs / "pair")
    assert (started.world_size, started.num_nodes, started.launcher) == (2, 1, "torchrun")


@pytest.mark.soak
def test_torchrun_starts_the_workers_again_that_lost_one(environ, data, tmp_path):
    run = RunDirectory(tmp_path / "runs" / "train" / "exp")
    options = ("--standalone", "--nproc_per_node", 2, "--max-restarts", 1)
    command = [*TORCHRUN, *options, *TASK, "--data", data, "--batch", 4, *SMALL, "--epochs", 30]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(list(map(str, command)), cwd=tmp_path, env=environ, **pipes) as launcher:
        wait_until(lambda: [event for event in read_events(run.journal) if isinstance(event, StepLogged)], "a step")
        (first,) = [event for event in read_events(run.journal) if isinstance(event, AttemptStarted)]
        os.kill(first.ranks[1].pid, signal.SIGKILL)
        output = launcher.communicate(timeout=PATIENCE_S)[0]
    assert launcher.returncode == 0, output
    assert [event.attempt for event in read_events(run.journal) if isinstance(event, AttemptStarted)] == [1, 2]
    assert sorted(path.name for path in run.path.parent.iterdir()) == ["exp"]


@pytest.mark.soak
def test_torchrun_on_several_nodes_starts_one_run(environ, data, tmp_path):
    """Two launchers, as on two nodes with a common file system."""
    port = free_port()
    launchers = []
    for node in (0, 1):
        node_options = ("--nnodes", 2, "--node_rank", node, "--nproc_per_node", 1)
        address = ("--master_addr", "127.0.0.1", "--master_port", port)
        command = [*TORCHRUN, *node_options, *address, *TASK, "--data", data, "--batch", 4, *SMALL]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        launchers.append(subprocess.Popen(list(map(str, command)), cwd=tmp_path, env=environ, **pipes))
    outputs = [launcher.communicate(timeout=PATIENCE_S)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], "\n".join(outputs)
    started = only_attempt(tmp_path / "runs" / "train" / "exp")
    assert (started.world_size, started.num_nodes) == (2, 2)


def test_data_parallel_trains_in_one_process_with_warning(train, tmp_path):
    train("--data", "DATA", "--batch", 4, "--data-parallel", *SMALL)
    events = read_events(RunDirectory(tmp_path / "runs" / "train" / "exp").journal)
    assert any(isinstance(event, WarningRaised) and "one task a GPU" in event.message for event in events)


def test_resume_of_finished_run_needs_more_epochs(train, tmp_path):
    train("--data", "DATA", "--batch", 4, "--project", "runs/mine", "--name", "first", *SMALL)
    refused = train("--resume", check=False)
    assert refused.returncode == 6
    assert "is finished: 1 epoch;" in refused.stderr and "--epochs 2" in refused.stderr
    train("--resume", "runs/mine/first", "--epochs", 2)
    run = RunDirectory(tmp_path / "runs" / "mine" / "first")
    first_epochs = [event.epoch for event in read_events(run.journal) if isinstance(event, AttemptStarted)]
    assert first_epochs == [0, 1]


@pytest.mark.soak
def test_evolve_trains_trials_with_other_hyperparameters(train, tmp_path):
    done = train("--data", "DATA", "--batch", 4, *SMALL, "--evolve", 2)
    assert "trials         2: 2 new" in done.stdout
    sweep = SweepDirectory(tmp_path / "runs" / "train" / "exp")
    trials = [sweep.trial(trial.name) for trial in sweep.trials()]
    drawn = [load_resolved_spec(run.spec).train.hyp_overrides for run in trials]
    assert [len(values) for values in drawn] == [24, 24] and drawn[0]["lr0"] != drawn[1]["lr0"]
    assert all(run.best.exists() for run in trials)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("--batch", 4, *SMALL), 2, "--data is missing"),
        (
            ("--data", "DATA", "--sync-bn", *SMALL),
            2,
            "--sync-bn: needs several tasks",
        ),
        (("--data", "DATA", *SMALL[:-1], "0,1", "--batch", 5), 2, "5 is not a multiple of the world size 2"),
        (("--data", "DATA", *SMALL[:-1], "0,1", "--batch", 5), 2, "allowed: 4 or 6"),
        (("--data", "DATA", *SMALL[:-1], 7), 4, "no GPU 7"),
        (("--data", "DATA", "--quad"), 2, "--quad: not supported"),
        (("--data", "DATA", "--evolve", "0", *SMALL), 2, "--evolve 0: sweep.search.trials: '0' is not allowed"),
        (("--data", "DATA", "--no", 1), 2, "is ambiguous: --noautoanchor, --nodes, --noplots, --nosave, --noval"),
        (("--data", "nothing.yaml", *SMALL), 3, "nothing.yaml"),
        (("--data", "DATA", "--epochs", "ten", *SMALL[4:]), 2, "--epochs ten: train.epochs: 'ten' is not allowed"),
        (("--data", "DATA", "--cfg", "yolov5q"), 2, "--cfg yolov5q: model: there is no model"),
        (("--resume", "elsewhere"), 6, "is not a run directory"),
    ],
)
def test_invalid_flag_error_quotes_flag(train, arguments, exit_code, message):
    done = train(*arguments, check=False)
    assert message in done.stderr + done.stdout
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr


def test_indivisible_batch_under_torchrun_error_suggests_multiples(run_command):
    arguments = ("--data", "DATA", "--batch", 5, *SMALL)
    done = run_command(*TORCHRUN, "--nproc_per_node", 2, "--master_port", free_port(), *TASK, *arguments, check=False)
    assert done.returncode != 0
    assert "5 is not a multiple of the world size 2" in done.stderr and "4 or 6" in done.stderr
