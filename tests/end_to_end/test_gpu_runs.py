"""Runs on a GPU: mixed precision, exact resume, use of memory, and the same detections as on CPUs."""

import os
import signal

import pytest
import torch
from tensor_digest import digest
from waiting import PATIENCE_S, wait_until

from hpc_yolo.inference.model import load_inference_model
from hpc_yolo.models import build_model
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, StepLogged
from hpc_yolo.training.autobatch import MEMORY_FRACTION, largest_batch, measured_bytes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
ONE_GPU = {"executor": "local", "gpus_per_node": 1}


@pytest.mark.parametrize(
    ("precision", "model", "augment_device", "expected"),
    [
        ("bf16", "yolov5n", "auto", "gpu"),
        ("fp16", "yolov5n", "cpu", "cpu"),
        ("bf16", "yolov5n-af", "gpu", "gpu"),
    ],
)
def test_stopped_run_ends_with_weights_of_undisturbed_one(
    write_spec, start, hpc_yolo, events_of, tmp_path, precision, model, augment_device, expected
):
    train = {"epochs": 6, "imgsz": 128, "workers": 2, "precision": precision, "val_every": 6}
    train["augment_device"] = augment_device
    hpc_yolo("submit", write_spec("whole", ONE_GPU, train, model=model))
    spec = write_spec("stopped", ONE_GPU, train, model=model)
    process = start("submit", spec)
    wait_until(lambda: events_of("stopped", StepLogged), "the first log line")
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, output + errors
    hpc_yolo("submit", spec)
    ended = events_of("stopped", AttemptEnded)
    assert [end.outcome for end in ended] == [AttemptEnded.STOPPED, AttemptEnded.FINISHED]
    started = events_of("stopped", AttemptStarted)
    assert [event.augment_device for event in started] == [expected] * 2
    assert started[1].step == ended[0].step < ended[1].step
    whole, stopped = (digest(RunDirectory(tmp_path / "runs" / name)) for name in ("whole", "stopped"))
    assert whole == stopped


def test_journal_names_gpu_and_its_memory(write_spec, hpc_yolo, events_of):
    hpc_yolo("submit", write_spec("named", ONE_GPU, {"epochs": 1}))
    assert events_of("named", AttemptStarted)[0].device == torch.cuda.get_device_name()
    (memory,) = {event.rank_mem_bytes[0] for event in events_of("named", StepLogged)}
    assert 0 < memory < torch.cuda.mem_get_info()[1]


def test_batch_of_minus_one_fits_and_leaves_a_fifth(write_spec, hpc_yolo, events_of):
    device = torch.device("cuda", 0)
    model = build_model("yolov5s", 80).to(memory_format=torch.channels_last).to(device)
    room = torch.cuda.mem_get_info()[0]
    batch = largest_batch(model, 640, "bf16", device)
    assert batch is not None
    used = measured_bytes(model.train(), batch, 640, torch.bfloat16, device)
    assert used is not None, f"batch {batch} does not fit"
    assert MEMORY_FRACTION * 0.8 <= used / room <= MEMORY_FRACTION * 1.15
    hpc_yolo("submit", write_spec("largest", ONE_GPU, {"epochs": 1, "batch": -1}))
    assert events_of("largest", AttemptEnded)[0].outcome == AttemptEnded.FINISHED


def test_batch_that_is_too_large_is_reported_with_one_that_fits(write_spec, hpc_yolo):
    train = {"epochs": 1, "batch": 40, "imgsz": 4096, "workers": 8}
    done = hpc_yolo("submit", write_spec("large", ONE_GPU, train, model="yolov5x"), check=False)
    assert done.returncode != 0 and "ran out of memory after step 0, with 40 images of 4096 pixels" in done.stderr
    assert "set train.batch to " in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("model", ["yolov5n", "yolov5n-af"])
def test_gpu_computes_what_the_cpu_computes(write_spec, hpc_yolo, tmp_path, model):
    """Within the precision of TF32, which convolutions on a GPU have, and of fp16."""
    hpc_yolo("submit", write_spec("trained", ONE_GPU, {"epochs": 4, "imgsz": 128}, model=model))
    best = tmp_path / "runs" / "trained" / "checkpoints" / "best.safetensors"
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    outputs = []
    with torch.no_grad():
        for device, half in (("cpu", False), ("0", False), ("0", True)):
            loaded = load_inference_model(best, device=device, half=half, augment=False)
            given = image.to(loaded.device, torch.float16 if half else torch.float32)
            outputs.append(loaded.model(given)[0].float().cpu())
    cpu, gpu, half_precision = outputs
    assert (gpu - cpu).norm() / cpu.norm() < 1e-3
    assert (half_precision - cpu).norm() / cpu.norm() < 1e-2
