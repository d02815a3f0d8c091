"""Batches on the device of the training."""

from __future__ import annotations

import torch

from hpc_yolo.data.undrawn import AnyTrainingBatch


class BatchUpload:
    """Copies batches to a device, and draws those that the loader workers have not drawn.

    On a GPU this is done on a stream of its own: while the GPU still computes the step before, which the task does not
    wait for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, batch: AnyTrainingBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images, uint8 (n, 3, height, width) RGB, and the targets of a batch."""
        targets = batch.targets.to(self._device, non_blocking=True)
        if self._stream is None:
            return batch.images_on(self._device), targets
        used_by = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            images = batch.images_on(self._device)
        used_by.wait_stream(self._stream)
        images.record_stream(used_by)  # so that its memory is not used again before that stream is done with it
        return images, targets
