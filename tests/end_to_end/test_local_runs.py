"""Runs in processes of this machine, as on a laptop: output, resume and failures."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from spec_runs import NETWORKS
from waiting import PATIENCE_S, wait_until

from hpc_yolo.checkpoint import load_model
from hpc_yolo.cluster.local_process import process_start
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, CheckpointSaved, Evaluated, StepLogged

ROOT = Path(__file__).parents[2]
LOCAL_PAIR = {"executor": "local", "tasks_per_node": 2}


@pytest.mark.parametrize("head", NETWORKS)
def test_one_rank_and_two_ranks_have_equal_losses(head, write_spec, hpc_yolo, events_of):
    """In double precision, since an untrained model doubles rounding errors at every step."""
    train = {"epochs": 2, "batch": 4, "sync_bn": True, "precision": "fp64", "val_every": 2}
    steps = []
    for num_tasks in (1, 2):
        name = f"ranks{num_tasks}"
        cluster = {"executor": "local", "tasks_per_node": num_tasks}
        spec = write_spec(name, model=str(NETWORKS[head]), cluster=cluster, train=train)
        hpc_yolo("submit", spec)
        assert events_of(name, AttemptStarted)[0].world_size == num_tasks
        steps.append([[*event.losses.values(), event.grad_norm] for event in events_of(name, StepLogged)])
    assert len(steps[0]) == 20
    for one_rank, two_ranks in zip(*steps, strict=True):
        assert two_ranks == pytest.approx(one_rank, rel=1e-6)


@pytest.mark.measured
def test_run_prints_metrics_and_second_submit_resumes(write_spec, hpc_yolo, events_of, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    spec = write_spec("twice", cluster=LOCAL_PAIR | {"env": {"MASTER_PORT": str(port)}})
    done = hpc_yolo("submit", spec)
    for text in ("epoch 2/2", "mAP50-95", "circle", "img/s", "best.safetensors", "last.safetensors"):
        assert text in done.stdout
    (rendezvous,) = (tmp_path / "runs" / "twice" / "rendezvous").iterdir()
    assert json.loads(rendezvous.read_text())["master_port"] == port, "a set MASTER_PORT wins"
    hpc_yolo("submit", spec, "--set", "train.epochs=3")
    first, second = events_of("twice", AttemptStarted)
    assert (first.attempt, first.step, second.attempt, second.step) == (1, 0, 2, 10)
    assert events_of("twice", AttemptEnded)[-1].step == 15
    run = tmp_path / "runs" / "twice"
    assert load_model(run / "checkpoints" / "best.safetensors")[1].names == ["circle", "square", "triangle", "star"]
    assert not list(run.rglob("*.part")), "a temporary file is left"
    other = hpc_yolo("submit", spec, "--set", "train.batch=4", check=False)
    assert other.returncode == 6
    assert "train.batch: 8 -> 4" in other.stderr


def test_run_with_weights_of_another_run_finishes(write_spec, hpc_yolo, events_of, tmp_path):
    hpc_yolo("submit", write_spec("first", cluster={"executor": "local"}, train={"epochs": 1}))
    weights = tmp_path / "runs" / "first" / "checkpoints" / "best.safetensors"
    train = {"epochs": 1, "freeze": 10, "cache": "ram", "save_period": 1, "optimizer": "AdamW"}
    top = {"weights": str(weights), "checkpoint": {"every_steps": 2}}
    hpc_yolo("submit", write_spec("second", cluster={"executor": "debug"}, train=train, **top))
    assert events_of("second", AttemptEnded)[-1].outcome == AttemptEnded.FINISHED
    saved = events_of("second", CheckpointSaved)
    assert [event.step for event in saved if "/state-" in event.path] == [2, 4, 5]
    assert {event.path for event in saved} == {
        "checkpoints/best.safetensors",
        *(f"checkpoints/state-0001-{step:09d}.safetensors" for step in (2, 4, 5)),
        "checkpoints/epoch0.safetensors",
    }


def test_resume_after_ctrl_c_starts_at_saved_step(write_spec, start, hpc_yolo, events_of, tmp_path):
    spec = write_spec("stopped", cluster=LOCAL_PAIR, train={"epochs": 3000, "val_every": 3000})
    process = start("submit", spec)
    wait_until(lambda: len(events_of("stopped", StepLogged)) > 3, "some steps")
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, output + errors
    assert "stopped by SIG" in output and "submit the spec again" in output
    assert "Traceback" not in output + errors
    ended = events_of("stopped", AttemptEnded)[-1]
    assert ended.outcome == AttemptEnded.STOPPED
    assert json.loads(hpc_yolo("status", "--root", tmp_path / "runs", "--json").stdout)[0]["state"] == "stopped"
    last_epoch = ended.epoch + 1
    hpc_yolo("submit", spec, "--set", f"train.epochs={last_epoch}", "--set", f"train.val_every={last_epoch}")
    assert events_of("stopped", AttemptStarted)[-1].step == ended.step
    assert events_of("stopped", AttemptEnded)[-1].outcome == AttemptEnded.FINISHED


def test_local_tasks_have_cuda_visible_devices_of_user(write_spec, start, events_of, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    spec = write_spec("visible", cluster=LOCAL_PAIR | {"gpus_per_node": 2}, train={"epochs": 3000})
    process = start("submit", spec)
    wait_until(lambda: events_of("visible", StepLogged), "the first step")
    for location in events_of("visible", AttemptStarted)[0].ranks:
        assert b"\0CUDA_VISIBLE_DEVICES=4,5\0" in Path(f"/proc/{location.pid}/environ").read_bytes()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)


@pytest.mark.measured
def test_error_on_one_rank_is_printed_with_traceback_and_ends_run(write_spec, start, events_of, tmp_path):
    # An error of rank 0 only, after a few log lines, which read the memory in use.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, resource\n"
        "original, calls = resource.getrusage, [0] * 4\n"
        "if os.environ.get('SUBMITIT_LOCAL_GLOBALID') == '0':\n"
        "    resource.getrusage = lambda who: (calls.pop(), original(who))[1]\n"
    )
    cluster = LOCAL_PAIR | {"env": {"PYTHONPATH": str(tmp_path)}}
    spec = write_spec("broken", cluster=cluster, train={"epochs": 3000, "val_every": 3000})
    process = start("submit", spec)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "rank 0 on" in errors
    assert "IndexError" in errors
    assert "Traceback" in errors
    job_id = json.loads((tmp_path / "runs" / "broken" / "submissions.jsonl").read_text())["job_id"]
    wait_until(lambda: process_start(int(job_id)) is None, "all processes to end")


@pytest.mark.measured
def test_user_error_on_rank_is_printed_once_without_traceback(write_spec, hpc_yolo, shapes, tmp_path):
    dataset = tmp_path / "few.yaml"
    dataset.write_text(f"path: {shapes.parent}\ntrain: images/train\nval: labels\nnames: [a, b, c, d]\n")
    done = hpc_yolo("submit", write_spec("mistaken", cluster=LOCAL_PAIR, data=str(dataset)), check=False)
    assert done.returncode == 3
    assert "no images in" in done.stderr
    assert "Traceback" not in done.stderr


def test_unusable_images_and_labels_are_reported_and_run_finishes(write_spec, hpc_yolo, events_of, shapes, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(shapes.parent, damaged, ignore=shutil.ignore_patterns(".*"))
    (damaged / "labels" / "train" / "00000.txt").write_text("80 0.5 0.5 0.1 0.1\n")
    image = damaged / "images" / "train" / "00001.jpg"
    image.write_bytes(image.read_bytes()[:2000])
    spec = write_spec("damaged", cluster=LOCAL_PAIR, train={"epochs": 1}, data=str(damaged / "dataset.yaml"))
    done = hpc_yolo("submit", spec)
    for message in ("2 images left out", "00000.txt:1: class 80; the 4 classes are 0 to 3", "the JPEG is cut off"):
        assert message in done.stdout
    assert events_of("damaged", AttemptStarted)[0].num_images == 38
    assert events_of("damaged", AttemptEnded)[-1].outcome == AttemptEnded.FINISHED


def test_missing_rank_is_reported_after_start_timeout(write_spec):
    spec = write_spec("waiting", train={"start_timeout_s": 1})
    variables = {"JOB_ID": "99", "NTASKS": "3", "JOB_NUM_NODES": "1", "NODEID": "0", "GLOBALID": "0", "LOCALID": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "hpc_yolo", "train", str(spec), "--set", "train.batch=12"],
        env=os.environ | {f"SUBMITIT_LOCAL_{name}": value for name, value in variables.items()},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 8
    assert "after 1 s 2 of 3 ranks are missing: 1 (node 0), 2 (node 0)" in done.stderr
    assert "train.start_timeout_s" in done.stderr


@pytest.mark.soak
def test_torchrun_starts_tasks(write_spec, events_of):
    spec = write_spec("torchrun", train={"epochs": 1})
    arguments = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        "-m",
        "hpc_yolo",
        "train",
        str(spec),
    ]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    (started,) = events_of("torchrun", AttemptStarted)
    assert (started.launcher, started.world_size) == ("torchrun", 2)
    assert events_of("torchrun", Evaluated)


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        (["--set", "data=nowhere.yaml"], 3, "there is no dataset"),
        (["--set", "output={file}"], 6, "cannot be created"),
        (["--set", "train.batch=7"], 2, "7 is not a multiple of the world size 2 (1 node x 2 tasks)"),
        (["--set", "model=yolov9"], 2, "there is no model 'yolov9'"),
        (["--set", "train.epochs"], 2, "write FIELD=VALUE"),
        (["--nodes", "two"], 2, "--nodes two: cluster.nodes: 'two' is not allowed"),
        (["--set", "weights={file}"], 7, "is not a weights file"),
        (["--colour"], 2, "No such option"),
    ],
)
def test_user_error_has_one_message_and_exit_code(write_spec, hpc_yolo, tmp_path, options, exit_code, message):
    file = tmp_path / "file"
    file.write_text("not a directory")
    spec = write_spec("wrong", cluster=LOCAL_PAIR)
    done = hpc_yolo("submit", spec, *(option.format(file=file) for option in options), check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_error_of_task_is_printed_once(write_spec, hpc_yolo):
    spec = write_spec("alone", cluster={"tasks_per_node": 1})
    done = hpc_yolo("train", spec, "--set", "data=nowhere.yaml", check=False)
    assert (done.returncode, done.stderr.count("there is no dataset")) == (3, 1), done.stderr
