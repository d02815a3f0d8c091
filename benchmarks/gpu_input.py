"""Parts of `gpu_check`: images drawn on the device against those drawn by loader processes, and how fast both are."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from gpu_card import Card, Row, batches, workers

from hpc_yolo.bench.trainer import draw_set
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.loader import TrainingLoader
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.undrawn import AnyTrainingBatch, UndrawnBatch
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.training.trainer import Trainer

RECIPES = {
    "default": Hyperparameters(),
    "scratch-high": Hyperparameters(scale=0.9, mixup=0.1, copy_paste=0.1),
    "warped": Hyperparameters(degrees=10, shear=2, perspective=0.0005, mixup=0.5),
}
ROW_S = 15.0


def drawn_images(card: Card) -> list[Row]:
    """Return how images drawn on the device differ from those of the same batch drawn by tensor operations on the CPU.

    And the time of drawing a batch on the device, its copy included.
    """
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        data = draw_set(Path(directory), card.sizes.batches[-1], card.sizes.image_wh)
        index = scan_split(load_dataset(data), "train")
        for name, hyp in RECIPES.items():
            loader = TrainingLoader(
                index,
                imgsz=card.sizes.imgsz,
                batch=card.sizes.batches[1],
                hyp=hyp,
                seed=0,
                rank=0,
                world_size=1,
                workers=0,
                draws=False,
            )
            batch = next(loader.epoch(0))
            assert isinstance(batch, UndrawnBatch)
            expected = batch.images_on(torch.device("cpu")).int()
            batch = batch.pin_memory() if card.is_gpu else batch
            difference = (batch.images_on(card.device).cpu().int() - expected).abs()
            seconds = card.seconds_of(lambda batch=batch: batch.images_on(card.device))  # type: ignore[misc]
            rows.append(
                {
                    "recipe": name,
                    "batch": len(expected),
                    "most_levels": int(difference.max()),
                    "different_share": float((difference > 0).float().mean()),
                    "draw_s": seconds,
                    "content_bytes": batch.content.numel(),
                }
            )
            print(rows[-1], flush=True)
    return rows


def loaded(card: Card) -> list[Row]:
    """Return images per second of the loader alone, and of training with it, with `augment_device` both ways."""
    rows = []
    batch = card.sizes.batches[1]
    with tempfile.TemporaryDirectory() as directory:
        data = draw_set(Path(directory), 8 * batch, card.sizes.image_wh)
        for cache in ("ram", "none"):
            for model in card.sizes.models[:2]:
                for where in ("cpu", "gpu"):
                    if card.left_s < ROW_S:
                        print("left out, no time:", cache, model, where, flush=True)
                        continue
                    with card.trainer(
                        model, batch, "bf16", num_images=0, data=data, cache=cache, augment_device=where
                    ) as trainer:
                        row: Row = {"model": model, "batch": batch, "cache": cache, "augment_device": where}
                        rows.append(row | {"workers": workers()} | _rates(card, trainer))
                    print(rows[-1], flush=True)
    return rows


def _rates(card: Card, trainer: Trainer) -> Row:
    """Return images per second of the loader alone, and then of training."""
    stream, rates = batches(trainer), {}
    for _ in trainer.context.training.epoch(0):  # which fills the cache
        pass
    for name in ("loader_images_per_s", "images_per_s"):
        _images_per_s(card, trainer, stream, trains=name == "images_per_s")  # until workers and buffers are at work
        rates[name] = _images_per_s(card, trainer, stream, trains=name == "images_per_s")
    return rates


def _images_per_s(card: Card, trainer: Trainer, stream: Iterator[AnyTrainingBatch], *, trains: bool) -> float:
    card.synchronize()
    started_s, num_images = time.perf_counter(), 0
    while time.perf_counter() - started_s < card.sizes.loaded_s:
        images = next(stream)
        num_images += trainer.context.train.batch
        if trains:
            trainer.train_step(images)
            trainer.position.step += 1
    card.synchronize()
    return num_images / (time.perf_counter() - started_s)
