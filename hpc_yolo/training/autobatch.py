"""The largest batch for a GPU, estimated from the memory of a few small ones.

For `train.batch: -1` (source: YOLOv5 v7.0), and for the message after a batch was too large.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable

import numpy as np
import torch

from hpc_yolo.core.errors import TrainingError
from hpc_yolo.core.units import counted
from hpc_yolo.data.sampler import largest_imgsz
from hpc_yolo.distributed import World
from hpc_yolo.models import Detector
from hpc_yolo.runs.events import AnyEvent, WarningRaised
from hpc_yolo.training.context import TrainingContext
from hpc_yolo.training.cuda_graph import GraphedModel
from hpc_yolo.training.model import autocast_dtype

TRIED_BATCHES = (1, 2, 4, 8, 16)
DEFAULT_BATCH = 16
MAX_BATCH = 1024
MEMORY_FRACTION = 0.8
RUNS = 3


def find_batch(
    model: Detector, imgsz: int, precision: str, device: torch.device, emit: Callable[[AnyEvent], None]
) -> int:
    """Return the largest batch that `device` can train on.

    Without a GPU it is 16; also, with a warning, if the measurement gives no result.
    """
    if device.type != "cuda":
        return DEFAULT_BATCH
    batch = largest_batch(model, imgsz, precision, device)
    if batch is None:
        message = f"train.batch: -1 found no usable batch for this GPU's memory; using {DEFAULT_BATCH}"
        emit(WarningRaised(message=message))
    return batch or DEFAULT_BATCH


def largest_batch(model: Detector, imgsz: int, precision: str, device: torch.device) -> int | None:
    """Return the largest batch whose forward and backward pass takes four fifths of the memory of `device`, a GPU.

    Memory that other processes hold counts as taken. None if the measurement gives no result.
    """
    trained = copy.deepcopy(model).train()  # in place of the average; its statistics may change
    dtype = autocast_dtype(precision, device)
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    room_bytes = free_bytes + torch.cuda.memory_reserved(device)
    batch = batch_for(room_bytes, lambda size: measured_bytes(trained, size, imgsz, dtype, device))
    torch.cuda.empty_cache()
    return batch


def out_of_memory(error: torch.OutOfMemoryError, context: TrainingContext, world: World) -> TrainingError:
    """Return an error that names the batch that would fit; measuring it takes seconds."""
    traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step
    context.updater.optimizer.zero_grad()
    if isinstance(context.trained, GraphedModel):
        context.trained.release()
    train, shard = context.train, context.schedule.batch // world.size
    imgsz = largest_imgsz(train.imgsz, context.model.image_stride) if train.multi_scale else train.imgsz
    fitting = largest_batch(context.model, imgsz, train.precision, world.device)
    advice = "set train.batch lower"
    if fitting is not None and fitting < shard:
        fit = f"{counted(fitting, 'image')} a rank {'fits' if fitting == 1 else 'fit'}"
        advice = f"set train.batch to {fitting * world.size}, for {fit}, measured just now"
    elif fitting is not None:
        fit = f"{counted(fitting, 'image')} {'fits' if fitting == 1 else 'fit'}"
        advice = f"{fit}, measured just now: does another process use this GPU (nvidia-smi)? Else {advice}"
    return TrainingError(
        f"the GPU of rank {world.rank} ran out of memory after step {context.position.step}, with "
        f"{counted(shard, 'image')} of {imgsz} pixels",
        hint=f"{advice}; or take more GPUs, or a lower train.imgsz",
    )


def batch_for(room_bytes: int, measure: Callable[[int], int | None]) -> int | None:
    """Return the batch that fits into four fifths of `room_bytes`, by a line through the memory of the tried ones.

    Args:
        measure: bytes that this process holds at a batch, None if it does not fit.

    Returns:
        None if the line gives less than one image, or over a thousand.
    """
    taken = {batch: measure(batch) for batch in TRIED_BATCHES}
    fitting = {batch: size for batch, size in taken.items() if size is not None}
    if len(fitting) < 2:
        return max(fitting, default=1)
    slope, start = np.polyfit(list(fitting), list(fitting.values()), deg=1)
    batch = int((room_bytes * MEMORY_FRACTION - start) / slope) if slope > 0 else 0
    too_large = [size for size, bytes_taken in taken.items() if bytes_taken is None]
    if too_large and batch >= too_large[0]:
        return max(fitting)
    return batch if 1 <= batch <= MAX_BATCH else None


def measured_bytes(
    model: Detector, batch: int, imgsz: int, dtype: torch.dtype | None, device: torch.device
) -> int | None:
    """Return the memory of a forward and backward pass; None where there is too little."""
    try:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(RUNS):
            images = torch.zeros(batch, 3, imgsz, imgsz, device=device).to(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                levels = model(images)
            torch.stack([level.float().sum() for level in levels]).sum().backward()  # type: ignore[no-untyped-call]
            model.zero_grad()
        return torch.cuda.max_memory_reserved(device)
    except torch.cuda.OutOfMemoryError:
        return None
