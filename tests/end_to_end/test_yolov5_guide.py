"""Each line of the YOLOv5 multi-GPU guide, typed as people know it, on CPUs: what trains is what the line says."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S

from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptStarted, Evaluated, WarningRaised, WeightsLoaded
from hpc_yolo.runs.journal import read_events
from hpc_yolo.spec.load import load_spec

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
TASK = ("-m", "hpc_yolo", "train")
SMALL = ("--img", 64, "--epochs", 1, "--workers", 0, "--cfg", "yolov5n.yaml", "--weights", "", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_shapes_dataset(tmp_path_factory.mktemp("guide") / "shapes", num_train=8, num_val=4)


@pytest.fixture
def environ(tmp_path) -> dict[str, str]:
    return os.environ | {"COLUMNS": "120", "OMP_NUM_THREADS": "1", "HPC_YOLO_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def type_in(tmp_path, environ, data):
    """Run a command line in an empty directory, `DATA` standing for the dataset."""

    def run(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(data) if word == "DATA" else str(word) for word in words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path, env=environ, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def train(type_in):
    return lambda *words, **options: type_in(sys.executable, "-m", "hpc_yolo", "train", *words, **options)


def only_attempt(run: Path) -> AttemptStarted:
    (started,) = [event for event in read_events(RunDirectory(run).journal) if isinstance(event, AttemptStarted)]
    return started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_one_device_and_names_that_count_up(train, tmp_path):
    first = train("--data", "DATA", "--batch", 4, *SMALL)
    assert "epoch 1/1" in first.stdout and "run directory" in first.stdout
    train("--data", "DATA", "--batch-size", 4, "--multi-scale", "--cos-lr", "--noautoanchor", "--noval", *SMALL)
    runs = tmp_path / "runs" / "train"
    assert sorted(path.name for path in runs.iterdir()) == ["exp", "exp2"]
    assert only_attempt(runs / "exp").world_size == 1
    spec = load_spec(runs / "exp2" / "spec.yaml")
    assert (spec.model, spec.train.imgsz, spec.train.batch, spec.train.val_every) == ("yolov5n", 64, 4, 0)
    assert spec.train.multi_scale and spec.train.cos_lr and not spec.train.autoanchor
    assert [event for event in read_events(RunDirectory(runs / "exp2").journal) if isinstance(event, Evaluated)]


@pytest.mark.parametrize(
    "launcher", [(str(Path(sys.executable).with_name("torchrun")),), TORCHRUN], ids=["program", "module"]
)
def test_torchrun_makes_every_process_a_task_of_one_run(type_in, tmp_path, launcher):
    words = ("--data", "DATA", "--batch", 4, "--sync-bn", "--name", "pair", *SMALL)
    type_in(*launcher, "--nproc_per_node", 2, "--master_port", free_port(), *TASK, *words)
    runs = tmp_path / "runs" / "train"
    assert [path.name for path in runs.iterdir()] == ["pair"]
    started = only_attempt(runs / "pair")
    assert (started.world_size, started.num_nodes, started.launcher) == (2, 1, "torchrun")


def test_several_machines_are_one_run(environ, data, tmp_path):
    """Two launchers, as on two machines, that share a file system."""
    port = free_port()
    launchers = []
    for node in (0, 1):
        place = ("--nnodes", 2, "--node_rank", node, "--nproc_per_node", 1)
        address = ("--master_addr", "127.0.0.1", "--master_port", port)
        command = [*TORCHRUN, *place, *address, *TASK, "--data", data, "--batch", 4, *SMALL]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        launchers.append(subprocess.Popen(list(map(str, command)), cwd=tmp_path, env=environ, **pipes))
    outputs = [launcher.communicate(timeout=PATIENCE_S)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], "\n".join(outputs)
    started = only_attempt(tmp_path / "runs" / "train" / "exp")
    assert (started.world_size, started.num_nodes) == (2, 2)


def test_data_parallel_trains_in_one_process_with_the_guides_warning(train, tmp_path):
    train("--data", "DATA", "--batch", 4, "--data-parallel", *SMALL)
    events = read_events(RunDirectory(tmp_path / "runs" / "train" / "exp").journal)
    assert any(isinstance(event, WarningRaised) and "one task a GPU" in event.message for event in events)


def test_a_run_goes_on_with_resume_and_longer_with_epochs(train, tmp_path):
    train("--data", "DATA", "--batch", 4, "--project", "runs/mine", "--name", "first", *SMALL)
    nothing = train("--resume", check=False)
    assert nothing.returncode == 6
    assert "is finished: 1 epoch;" in nothing.stderr and "--epochs 2" in nothing.stderr
    train("--resume", "runs/mine/first", "--epochs", 2)
    run = RunDirectory(tmp_path / "runs" / "mine" / "first")
    starts = [event.epoch for event in read_events(run.journal) if isinstance(event, AttemptStarted)]
    assert starts == [0, 1]


def test_weights_of_a_run_begin_another_and_bring_their_network(train, tmp_path):
    train("--data", "DATA", "--batch", 4, "--name", "first", *SMALL)
    best = tmp_path / "runs" / "train" / "first" / "checkpoints" / "best.safetensors"
    train(
        "--data", "DATA", "--batch", 4, "--img", 64, "--epochs", 1, "--workers", 0, "--device", "cpu", "--weights", best
    )
    events = read_events(RunDirectory(tmp_path / "runs" / "train" / "exp").journal)
    (loaded,) = [event for event in events if isinstance(event, WeightsLoaded)]
    assert (loaded.num_kept, loaded.num_tensors) == (349, 349)


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
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
        (("--data", "DATA", "--evolve"), 2, "--evolve: not supported"),
        (("--data", "DATA", "--no", 1), 2, "is ambiguous: --noautoanchor, --nodes, --noplots, --nosave, --noval"),
        (("--data", "nothing.yaml", *SMALL), 3, "nothing.yaml"),
        (("--data", "DATA", "--epochs", "ten", *SMALL[4:]), 2, "--epochs ten: train.epochs: 'ten' is not allowed"),
        (("--data", "DATA", "--cfg", "yolov5q"), 2, "--cfg yolov5q: model: there is no model"),
        (("--resume", "elsewhere"), 6, "is not a run directory"),
    ],
)
def test_what_cannot_be_is_said_in_the_flags_own_words(train, words, exit_code, said):
    done = train(*words, check=False)
    assert said in done.stderr + done.stdout
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_batch_that_does_not_fit_under_torchrun_is_refused_with_the_two_nearest(type_in):
    words = ("--data", "DATA", "--batch", 5, *SMALL)
    done = type_in(*TORCHRUN, "--nproc_per_node", 2, "--master_port", free_port(), *TASK, *words, check=False)
    assert done.returncode != 0
    assert "5 is not a multiple of the world size 2" in done.stderr and "4 or 6" in done.stderr
