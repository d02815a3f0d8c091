"""The job that evaluates models of a run while it trains (`validate: aside`): one task, one model after the other.

Its metrics are those that the tasks of the training would compute: the images are in the same batches, shard by shard.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch

from hpc_yolo.checkpoint import load_model
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.core.files import exclusive_lock, make_directory
from hpc_yolo.data.batch import ValidationBatch
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.loader import ValidationLoader
from hpc_yolo.data.run_inputs import read_inputs
from hpc_yolo.data.scan import scan_split
from hpc_yolo.distributed import World, choose_device, make_deterministic
from hpc_yolo.evaluation.crowds import crowds_of
from hpc_yolo.evaluation.evaluator import EvaluationResult, evaluate
from hpc_yolo.models import Detector, build_from_config
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.evaluations import waiting_epochs
from hpc_yolo.runs.event_lines import event_line
from hpc_yolo.runs.events import AnyEvent
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import MEASURED_BATCH
from hpc_yolo.training.kept_images import with_lost_images
from hpc_yolo.training.model import autocast_dtype
from hpc_yolo.training.replaced_images import ReplacedImages
from hpc_yolo.training.step_events import evaluated

LOCK_TIMEOUT_S = 1.0


def evaluate_waiting_models(run: RunDirectory, spec: Spec) -> None:
    """Evaluate the models of `run` that wait, also those that come meanwhile, and append the results.

    Another job that does so has the models to itself; this one then ends.

    Raises:
        DataError: the dataset cannot be used.
        RunError: the run's copies of its inputs cannot be used.
    """
    make_directory(run.evaluations)
    try:
        with exclusive_lock(run.evaluation_results.with_suffix(".lock"), LOCK_TIMEOUT_S):
            evaluator = None
            while epochs := waiting_epochs(run):
                evaluator = evaluator or ModelEvaluator(run, spec)
                evaluator.evaluate(epochs[0])
    except TimeoutError:
        print("hpc-yolo: another job evaluates the models of this run", flush=True)


class ModelEvaluator:
    """Evaluates models of one run on its validation images."""

    def __init__(self, run: RunDirectory, spec: Spec) -> None:
        """Read the dataset.

        Raises:
            DataError: the dataset cannot be used.
            RunError: the run's copies of its inputs cannot be used.
        """
        process = ProcessInfo.alone(current_environment())
        self._run, self._train = run, spec.train
        on_gpu = spec.cluster.gpus_per_node > 0 and spec.train.device != "cpu"
        self._device = choose_device("auto" if on_gpu else "cpu", process)
        if spec.train.deterministic:
            make_deterministic()
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        cv2.setNumThreads(0)  # images are decoded in many processes already
        self._dataset = read_inputs(run, spec).dataset
        world = World(process, self._device, ())
        scanned = scan_split(self._dataset, "val", spare_cache=run.label_cache("val"))
        self._index = with_lost_images(run, self._dataset, "val", scanned, world)
        self._replaced = ReplacedImages("val", self._index, world, _print_event)
        self._world_size = spec.cluster.world_size
        self._journal = JournalWriter(run.evaluation_results, 0)

    def evaluate(self, epoch: int) -> None:
        """Evaluate the model of `epoch` and append the result; nothing if the training has removed it meanwhile.

        Raises:
            DataError: too many images cannot be read any more.
        """
        started_s = time.perf_counter()
        path = self._run.waiting_model(epoch)
        try:
            model = read_detector(path, self._dataset.num_classes).to(self._device)
        except CheckpointError:
            if path.exists():
                raise
            return
        result = self._evaluate(model)
        self._replaced.report(step=0)
        names = self._dataset.names
        event = evaluated(result, names, epoch, 0, time.perf_counter() - started_s, is_best=False)
        self._journal.write(event)
        _print_event(event)

    def _evaluate(self, model: Detector) -> EvaluationResult:
        batches = self._batches(model.image_stride)
        dtype = autocast_dtype(self._train.precision, self._device)
        with torch.autocast(self._device.type, dtype, enabled=dtype is not None):
            return evaluate(
                model,
                batches,
                device=self._device,
                gather_arrays=lambda arrays: [arrays],
                crowds=crowds_of(self._index),
            )

    def _batches(self, stride: int) -> Iterator[ValidationBatch]:
        """Yield the batches of each rank of the training, one rank after the other."""
        started = Attempts(read_events(self._run.journal)).starts
        world_size = started[-1].world_size if started else self._world_size
        batch = self._train.batch
        if batch == MEASURED_BATCH:
            batch = started[-1].batch if started else 1
        for rank in range(world_size):
            for images in loader_of(
                self._index, self._train.imgsz, 2 * batch, stride, rank, world_size, self._train.workers
            ):
                self._replaced.add(images.replaced)
                yield images


def loader_of(
    index: ImageIndex, imgsz: int, batch: int, stride: int, rank: int, world_size: int, workers: int
) -> ValidationLoader:
    """Return the loader of the images that `rank` of `world_size` evaluates in training."""
    spare = len(os.sched_getaffinity(0)) - 1
    return ValidationLoader(
        index,
        imgsz=imgsz,
        batch=batch,
        stride=stride,
        rank=rank,
        world_size=world_size,
        workers=min(workers, max(spare, 0)),
        replaces_unreadable=True,
    )


def _print_event(event: AnyEvent) -> None:
    print(f"hpc-yolo: {event_line(event)}", flush=True)


def read_detector(path: Path, num_classes: int) -> Detector:
    """Return the model in the file `path` of this project, in evaluation mode, with the type of its tensors.

    Raises:
        CheckpointError: the file is damaged, or does not exist.
    """
    tensors, description = load_model(path)
    model = build_from_config(description.config, num_classes, description.model or str(path))
    floating = next(tensor for tensor in tensors.values() if tensor.is_floating_point())
    model = model.to(floating.dtype).to(memory_format=torch.channels_last)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit its own layers: {str(error).splitlines()[0]}") from error
    return model.eval()
