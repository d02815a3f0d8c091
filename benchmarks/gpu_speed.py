"""Parts of `gpu_check`: speed and memory of steps, and what a step consists of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from gpu_card import MIXED, Card, Row
from torch.utils.flop_counter import FlopCounterMode

from hpc_yolo.bench.trainer import NUM_CLASSES, bare_step, random_batch, whole_step
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.data.batch import TrainingBatch
from hpc_yolo.distributed import World
from hpc_yolo.models import build_model
from hpc_yolo.training.cuda_graph import GraphedModel, first_line

# Dense bf16 and fp16, operations a second, by a part of the name of the card (data sheets).
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
ROW_S = 10.0  # that a row may take
COMPILE_S = 80.0


def speeds(card: Card) -> list[Row]:
    """Return images per second, memory, model flop use and time over forward and backward alone, of whole steps."""
    flops = {model: flops_of_image(card, model) for model in card.sizes.models}
    kinds = [
        (precision, batch, model)
        for precision in card.sizes.precisions
        for batch in card.sizes.batches
        for model in card.sizes.models
    ]
    # Those that the documentation names first.
    kinds.sort(key=lambda kind: (kind[1] != 64, kind[0] != "bf16"))
    rows: list[Row] = []
    for precision, batch, model in kinds:
        if card.left_s < ROW_S:
            print("left out, no time:", *kinds[len(rows) :], flush=True)
            break
        rows.append(speed(card, model, batch, precision, flops[model]))
        print(rows[-1], flush=True)
    return rows


def speed(card: Card, model: str, batch: int, precision: str, flops: int) -> Row:
    """Return the row of one model; without what the memory does not suffice for."""
    row: Row = {"model": model, "batch": batch, "precision": precision, "imgsz": card.sizes.imgsz}
    try:
        step_s = whole_step_s(card, model, batch, precision)
        row |= {"images_per_s": batch / step_s, "peak_memory_bytes": card.peak_bytes()}
        row["flop_use"] = flop_use(card, flops * batch / step_s)
        card.forget_peak()
        row["over_bare"] = step_s / card.seconds_of(bare_step(model, float_images(card, batch), MIXED[precision]))
    except torch.cuda.OutOfMemoryError as error:
        row["out_of_memory"] = first_line(error)
    return row


def whole_step_s(card: Card, model: str, batch: int, precision: str) -> float:
    """Return the seconds of a step of a trainer, whose memory is then free again, and measure its peak."""
    card.forget_peak()
    with card.trainer(model, batch, precision, num_images=2, workers=0) as trainer:
        images = pinned(card, batch)
        return card.seconds_of(lambda: whole_step(trainer, images))


def pinned(card: Card, batch: int) -> TrainingBatch:
    """Return random images, in pinned memory for a GPU."""
    images = random_batch(batch, card.sizes.imgsz)
    return images.pin_memory() if card.is_gpu else images


def float_images(card: Card, batch: int, memory_format: torch.memory_format = torch.channels_last) -> torch.Tensor:
    """Return random images on the device, as the model takes them."""
    images = random_batch(batch, card.sizes.imgsz).images.to(card.device)
    return (images.float() / 255).to(memory_format=memory_format)


def flops_of_image(card: Card, model: str) -> int:
    """Return the operations of forward and backward of one image: a multiplication and an addition are two."""
    built = build_model(model, NUM_CLASSES).train().to(card.device)
    with FlopCounterMode(display=False) as counter:
        sum(level.mean() for level in built(float_images(card, 1))).backward()
    return int(counter.get_total_flops())


def flop_use(card: Card, flops_per_s: float) -> float | None:
    """Return the fraction of what the card can calculate; None where that is not known."""
    name = torch.cuda.get_device_name() if card.is_gpu else ""
    peak = next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)
    return None if peak is None else flops_per_s / peak


def variants(card: Card) -> list[Row]:
    """Return images per second of forward and backward alone: by memory format, compiled, and as CUDA graphs."""
    rows = []
    for model, batch in ((card.sizes.models[0], card.sizes.batches[0]), (card.sizes.models[:2][-1], 64)):
        batch = min(batch, card.sizes.batches[-1])
        for name, make in VARIANTS.items():
            if card.left_s < (COMPILE_S if name == "compiled" and card.is_gpu else ROW_S):
                print("left out, no time:", model, batch, name, flush=True)
                continue
            if (step := make(card, model, batch)) is not None:
                speed = batch / card.seconds_of(step)
                rows.append({"model": model, "batch": batch, "variant": name, "images_per_s": speed})
                print(rows[-1], flush=True)
    return rows


def _channels_last(card: Card, model: str, batch: int) -> Callable[[], object]:
    return bare_step(model, float_images(card, batch), torch.bfloat16)


def _contiguous(card: Card, model: str, batch: int) -> Callable[[], object]:
    return bare_step(model, float_images(card, batch, torch.contiguous_format), torch.bfloat16)


def _compiled(card: Card, model: str, batch: int) -> Callable[[], object]:
    built = _built(card, model)
    compiled = torch.compile(built, backend="inductor" if card.is_gpu else "eager")
    return _step(card, compiled, built, batch)


def _graphed(card: Card, model: str, batch: int) -> Callable[[], object] | None:
    """Return a step whose forward and backward are CUDA graphs; None without a GPU."""
    if not card.is_gpu:
        return None
    built = _built(card, model)
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        graphed = torch.cuda.make_graphed_callables(built, (float_images(card, batch),))
    return _step(card, graphed, built, batch)


def _joined(card: Card, model: str, batch: int) -> Callable[[], object] | None:
    """Return the passes of a training: normalisation joined with SiLU, in CUDA graphs; None without a GPU."""
    if not card.is_gpu:
        return None
    built = _built(card, model)
    world = World(ProcessInfo.from_env({}), card.device, ())
    return _step(card, GraphedModel(built, built, torch.bfloat16, world, print).train(), built, batch)


def _built(card: Card, model: str) -> torch.nn.Module:
    return build_model(model, NUM_CLASSES).train().to(memory_format=torch.channels_last).to(card.device)


def _step(card: Card, forward: Callable[..., Any], model: torch.nn.Module, batch: int) -> Callable[[], object]:
    images = float_images(card, batch)

    def step() -> None:
        with torch.autocast(card.device.type, torch.bfloat16, cache_enabled=False):
            levels = forward(images)
        torch.stack([level.float().mean() for level in levels]).sum().backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=False)

    return step


VARIANTS: dict[str, Callable[[Card, str, int], Callable[[], object] | None]] = {
    "channels last": _channels_last,
    "contiguous": _contiguous,
    "CUDA graphs": _graphed,
    "CUDA graphs, normalisation joined with SiLU": _joined,
    "compiled": _compiled,
}


def waits(card: Card) -> Row:
    """Return how often the host waits for the GPU in a step, by precision and `augment_device`."""
    precisions = ("fp32", "fp16", "bf16") if card.is_gpu else ("fp32",)
    found = {
        f"{precision}, augment_device {where}": _waits_of(card, precision, where)
        for precision in precisions
        for where in ("cpu", "gpu")
    }
    print(found, flush=True)
    wrong = [kind for kind, number in found.items() if number > (1 if kind.startswith("fp16") else 0)]
    if wrong:  # in fp16 the loss scale needs one
        raise AssertionError(f"the host waits for the GPU in a step: {found}")
    return found


def _waits_of(card: Card, precision: str, augment_device: str) -> int:
    model = card.sizes.models[0]
    with card.trainer(model, 4, precision, num_images=8, workers=1, augment_device=augment_device) as trainer:
        batches = trainer.context.training.epoch(0)
        whole_step(trainer, next(batches))
        images = next(batches)
        card.synchronize()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if card.is_gpu:
                torch.cuda.set_sync_debug_mode("warn")
            whole_step(trainer, images)
            if card.is_gpu:
                torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(warning.message) for warning in seen)


def kernels(card: Card) -> list[Row]:
    """Return the number of kernels in a step, and the fraction of it in which one runs."""
    rows = [_kernels_of(card, model) for model in card.sizes.models[::2]]
    print(*rows, sep="\n", flush=True)
    return rows


def _kernels_of(card: Card, model: str) -> Row:
    batch = card.sizes.batches[0]
    with card.trainer(model, batch, "bf16", num_images=2, workers=0) as trainer:
        images = pinned(card, batch)
        step_s = card.seconds_of(lambda: whole_step(trainer, images))
        activity = torch.profiler.ProfilerActivity.CUDA if card.is_gpu else torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[activity]) as profile:
            whole_step(trainer, images)
            card.synchronize()
    events = [event for event in profile.events() or [] if event.device_type.name == "CUDA"]
    busy_s = sum(event.time_range.elapsed_us() for event in events) / 1e6
    return {"model": model, "step_s": step_s, "kernels": len(events), "kernel_share": busy_s / step_s}
