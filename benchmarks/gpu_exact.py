"""Parts of `gpu_check` that find errors: learning, overflow, NCCL of one rank, exact resume; and what a save costs."""

from __future__ import annotations

import math
import signal
import statistics
import tempfile
import time
from itertools import count, islice
from pathlib import Path

import torch
import torch.distributed as dist
from gpu_card import MIXED, Card, Row, batches
from gpu_speed import float_images, pinned
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpc_yolo.bench.checkpoint import timed_step
from hpc_yolo.bench.trainer import NUM_CLASSES, draw_set
from hpc_yolo.checkpoint import read_state
from hpc_yolo.checkpoint.store import saved_states
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.data.undrawn import AnyTrainingBatch
from hpc_yolo.distributed import choose_device, connected, make_deterministic
from hpc_yolo.models import build_model
from hpc_yolo.models.layers import join_norm_silu
from hpc_yolo.models.sync_batchnorm import convert_sync_batchnorm
from hpc_yolo.resilience.stop_signal import StopRequest
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.metrics import total_loss
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.build import build
from hpc_yolo.training.cuda_graph import CapturedPasses
from hpc_yolo.training.trainer import Trainer

LEARNING_BATCH, MEANS = 16, 10
OVERFLOWING = 2.0**40
SAVES = 5
STOPPED_AFTER = 4


def learning(card: Card) -> list[Row]:
    """Return the mean loss of the first and the last steps of training on shapes, by precision."""
    rows = []
    for precision in ("fp32", "bf16", "fp16") if card.is_gpu else ("fp32",):
        batch = LEARNING_BATCH if card.is_gpu else 2
        with card.trainer(card.sizes.models[:2][-1], batch, precision, num_images=8 * batch) as trainer:
            losses = []
            for images in islice(batches(trainer), card.sizes.learning_steps):
                trainer.train_step(images)
                trainer.position.step += 1
                loss = total_loss(trainer.context.meter.read_log()[0])
                losses.append(math.nan if loss is None else loss)
            is_finite = all(map(math.isfinite, losses)) and math.isfinite(float(trainer.context.updater.grad_norm))
        first, last = statistics.fmean(losses[:MEANS]), statistics.fmean(losses[-MEANS:])
        rows.append({"precision": precision, "first_loss": first, "last_loss": last})
        print(rows[-1], flush=True)
        if not is_finite or (card.is_gpu and last >= first):
            raise AssertionError(f"{precision}: the loss is not finite, or did not fall: {first} to {last}")
    return rows


def overflow(card: Card) -> Row:
    """Check that a step whose gradients overflow in fp16 changes no weight, and that the scale falls until one does."""
    with card.trainer(card.sizes.models[0], 2, "fp16", num_images=2, workers=0) as trainer:
        context, updater = trainer.context, trainer.context.updater
        updater.scaler = torch.amp.GradScaler(card.device.type, init_scale=OVERFLOWING)
        images, before = pinned(card, 2), [weights.clone() for weights in context.model.parameters()]
        for number in count(1):
            trainer.position.step, updater.last_step = 0, -1
            trainer.train_step(images)
            is_same = all(map(torch.equal, context.model.parameters(), before))
            if not all(bool(torch.isfinite(weights).all()) for weights in context.model.parameters()):
                raise AssertionError("weights are not finite after an overflow")
            if number == 1 and not is_same:
                raise AssertionError("the step with an overflow has changed weights")
            if not is_same or number == (60 if card.is_gpu else 1):
                break
        row = {"steps_until_finite": number, "scale": float(updater.scaler.get_scale())}
    print(row, flush=True)
    if is_same and card.is_gpu:
        raise AssertionError("no step was finite")
    return row


def one_rank_group(card: Card) -> Row:
    """Check a process group of one rank: NCCL on a GPU, with SyncBatchNorm and DistributedDataParallel, and graphs.

    Gradients are compared in fp32: at its start a model multiplies the rounding of bf16 to half of their size.
    """
    dist.init_process_group("nccl" if card.is_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        summed = torch.ones(4, device=card.device)
        dist.all_reduce(summed)
        images = float_images(card, 4)
        losses = {
            name: [_loss_and_norm(card, images, mixed, is_wrapped) for is_wrapped in (False, True)]
            for name, mixed in MIXED.items()
            if name != "fp16" and (card.is_gpu or mixed is None)
        }
        norms = [_graphed_norm(card, images, num_ranks) for num_ranks in (1, 2)] if card.is_gpu else [2.0, 1.0]
    finally:
        dist.destroy_process_group()
    row: Row = {"backend": "nccl" if card.is_gpu else "gloo", "loss_and_gradient_norm": losses, "graphed_norms": norms}
    print(row, flush=True)
    near = [_is_near(alone[0], wrapped[0]) for alone, wrapped in losses.values()]
    if summed.tolist() != [1.0] * 4 or not all(near) or not _is_near(*(norm for _, norm in losses["fp32"])):
        raise AssertionError(f"one rank in a group computes something else than one without: {losses}")
    if not math.isclose(norms[0], 2 * norms[1], rel_tol=1e-6):
        raise AssertionError(f"the sum of one rank, divided by two, is not half of its gradients: {norms}")
    return row


def _graphed_norm(card: Card, images: torch.Tensor, num_ranks: int) -> float:
    """Return the norm of the gradients of graphs that average over `num_ranks`, of which the group has one."""
    torch.manual_seed(0)
    built = build_model(card.sizes.models[0], NUM_CLASSES).train().to(memory_format=torch.channels_last).cuda()
    passes = CapturedPasses(built, images, None, num_ranks)
    passes.warm_up()
    passes.capture()
    for _ in range(2):  # at the second, the memory has the gradients of the first
        built.zero_grad()
        passes.run_forward(images)
        passes.run_backward([torch.ones_like(output) for output in passes.outputs])
    return float(nn.utils.get_total_norm([one.grad for one in built.parameters() if one.grad is not None]))


def _loss_and_norm(
    card: Card, images: torch.Tensor, mixed: torch.dtype | None, is_wrapped: bool
) -> tuple[float, float]:
    """Return a loss of a model and the norm of its gradients; wrapped as for several ranks, or joined as for one."""
    torch.manual_seed(0)
    built: nn.Module = build_model(card.sizes.models[0], NUM_CLASSES).train().to(card.device)
    if is_wrapped:
        ids = [0] if card.is_gpu else None
        built = DistributedDataParallel(convert_sync_batchnorm(built, card.device), device_ids=ids)
    elif card.is_gpu:
        join_norm_silu(built)
    with torch.autocast(card.device.type, mixed, enabled=mixed is not None):
        levels = built(images)
    loss = torch.stack([level.float().square().mean() for level in levels]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [one.grad for one in built.parameters() if one.grad is not None]
    return float(loss.detach()), float(nn.utils.get_total_norm(gradients))


def _is_near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=0.02)


def resume(card: Card) -> Row:
    """Check that a run which is stopped and continued ends with the bits of an undisturbed one."""
    row: Row = {}
    make_deterministic()
    try:
        for where in ("cpu", "gpu") if card.is_gpu else ("cpu",):
            with tempfile.TemporaryDirectory() as directory:
                data = draw_set(Path(directory) / "set", 12, card.sizes.image_wh)
                whole = attempt(card, Path(directory), data, "whole", where)
                if attempt(card, Path(directory), data, "stopped", where, STOPPED_AFTER) == whole:
                    raise AssertionError("the run was not stopped")
                row[f"augment_device {where}"] = attempt(card, Path(directory), data, "stopped", where) == whole
    finally:
        torch.use_deterministic_algorithms(False)
    print(row, flush=True)
    if not all(row.values()):
        raise AssertionError(f"not the same bits after a resume: {row}")
    return row


def attempt(
    card: Card, directory: Path, data: Path, name: str, augment_device: str, stop_after: int | None = None
) -> dict[str, bytes]:
    """Train until the end, or until a signal after `stop_after` steps; return the bytes of the newest state."""
    train = TrainSpec(
        epochs=2,
        batch=4,
        imgsz=card.sizes.imgsz // 2,
        workers=1,
        device="0" if card.is_gpu else "cpu",
        precision="bf16" if card.is_gpu else "fp32",
        augment_device=augment_device,  # type: ignore[arg-type]
        val_every=0,
        autoanchor=False,
        plots=False,
        hyp_overrides={"mixup": 0.5},
    )
    spec = Spec(name=name, model=card.sizes.models[0], data=DataSpec(path=str(data)), train=train)
    run, process = RunDirectory(directory / name), ProcessInfo.from_env({})
    run.create()
    with connected(process, run, choose_device(train.device, process), timeout_s=10) as world:
        journal = JournalWriter(run.journal, attempt=1)
        trainer = Trainer(build(spec, world, run, journal.write), world, run, journal, StopRequest())
        step = trainer.train_step

        def step_and_signal(batch: AnyTrainingBatch) -> None:
            step(batch)
            if trainer.position.step + 1 == stop_after:
                trainer.stop.stop_signal = signal.SIGTERM

        trainer.train_step = step_and_signal  # type: ignore[method-assign]
        trainer.run()
        del trainer.train_step  # a cycle; torch waits 5 s for each worker of a loader that is freed with one
    tensors = read_state(saved_states(run)[0]).tensors
    return {
        name: tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for name, tensor in tensors.items()
    }


def saves(card: Card) -> Row:
    """Return the times of steps with and without a save of the step before, and of the state until it is on disk."""
    model = card.sizes.models[3:4] or card.sizes.models[:1]
    batch = card.sizes.batches[0]
    with card.trainer(model[0], batch, "bf16", num_images=2, workers=0) as trainer, trainer.checkpointer:
        trainer.run_directory.create()
        images, numbers = pinned(card, batch), count()
        taken: dict[bool, list[float]] = {False: [], True: []}
        for number in range(1 + 2 * (SAVES if card.is_gpu else 1)):
            saving = number % 2 == 1
            card.synchronize()
            started_s = time.perf_counter()
            timed_step(trainer, images, next(numbers), saving=saving)
            card.synchronize()
            if number:
                taken[saving].append(time.perf_counter() - started_s)
            trainer.checkpointer.wait()
    plain, saved = (statistics.median(taken[saving]) for saving in (False, True))
    row = {"model": model[0], "step_s": plain, "step_with_save_s": saved, "stall_s": saved - plain}
    print(row, flush=True)
    return row
