"""Time yolov5n with its two heads in turns: a training step, and inference with onnxruntime; one thread each.

The step: 8 images of 320 px, 80 classes, fp32, as the trainer does it, in processor time. Inference: one of 640 px,
the exported file alone, and with the suppression that `predict` does (random weights: few boxes).

python benchmarks/heads.py [--rounds 9] [--models yolov5n yolov5n-af] [--only step inference]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from hpc_yolo.bench.rounds import cpu_s
from hpc_yolo.bench.threads import one_thread
from hpc_yolo.bench.trainer import loss_alone, make_trainer, random_batch, whole_step
from hpc_yolo.evaluation.nms import non_max_suppression
from hpc_yolo.inference.export import ExportOptions, export
from hpc_yolo.models import build_model
from hpc_yolo.spec.train import TrainSpec

BATCH, IMGSZ, INFERENCE_IMGSZ, NUM_CLASSES = 8, 320, 640, 80
INFERENCES = 5  # of a round

Works = dict[str, Callable[[], object]]


def main() -> None:
    """Print the median time of each work and its ratio to that of the first model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="*", default=["yolov5n", "yolov5n-af"])
    parser.add_argument("--only", nargs="*", default=["step", "loss", "inference", "inference with NMS"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, one_thread():
        works: dict[str, Works] = {name: {} for name in options.only}
        for model in options.models:
            for name, work in (training(model, Path(directory)) | inference(model, Path(directory))).items():
                if name in works:
                    works[name][model] = work
        for name, by_model in works.items():
            report(name, by_model, options.rounds)


def training(model: str, directory: Path) -> Works:
    """Return the step of `model`, and its loss alone."""
    train = TrainSpec(batch=BATCH, imgsz=IMGSZ, workers=0, device="cpu", precision="fp32", autoanchor=False)
    trainer = make_trainer(model, train, directory / model, num_images=BATCH, image_size=(64, 64))
    batch = random_batch(BATCH, IMGSZ)
    return {"step": lambda: whole_step(trainer, batch), "loss": loss_alone(trainer, batch)}


def inference(model: str, directory: Path) -> Works:
    """Return the inference of the exported `model`, alone and with suppression."""
    import onnxruntime

    path = directory / f"{model}.onnx"
    detector = build_model(model, NUM_CLASSES).eval()
    export(detector, [str(i) for i in range(NUM_CLASSES)], "onnx", path, ExportOptions((INFERENCE_IMGSZ,) * 2))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = torch.rand(1, 3, INFERENCE_IMGSZ, INFERENCE_IMGSZ).numpy()

    def run() -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"images": images})[0])

    def detect() -> object:
        return non_max_suppression(run(), conf_threshold=0.25, iou_threshold=0.45, multi_label=False)

    return {
        "inference": lambda: [run() for _ in range(INFERENCES)],
        "inference with NMS": lambda: [detect() for _ in range(INFERENCES)],
    }


def report(name: str, works: Works, rounds: int) -> None:
    """Run all works in turns and print their times."""
    seconds: dict[str, list[float]] = {model: [] for model in works}
    for number in range(rounds + 1):
        for model, work in works.items():
            started_s = cpu_s()
            work()
            if number:
                seconds[model].append(cpu_s() - started_s)
    amount = INFERENCES if name.startswith("inference") else 1
    first = seconds[next(iter(seconds))]
    for model, found in seconds.items():
        ratio = statistics.median(own / other for own, other in zip(found, first, strict=True))
        print(f"{name:20} {model:12} {statistics.median(found) / amount * 1000:8.1f} ms  ratio {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
