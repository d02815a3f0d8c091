"""Batches drawn by kernels have the bytes of those drawn by tensor operations: by Triton's interpreter, or on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from image_sets import noise_index

from hpc_yolo.data import kernel_drawing
from hpc_yolo.data.kernel_drawing import has_kernels
from hpc_yolo.data.loader import TrainingLoader
from hpc_yolo.spec.recipe import Hyperparameters

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
SHAPES = [(60, 120), (40, 30), (128, 128), (20, 30), (33, 99)]
RECIPES = {
    "mirrored and blended": {"mixup": 0.5, "flipud": 0.5, "mosaic": 0.7},
    "much other colours, large scales": {"hsv_h": 0.5, "hsv_s": 0.9, "hsv_v": 0.9, "scale": 0.9},
    "colours stay": {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "fliplr": 1},
    "warped": {"degrees": 10, "perspective": 0.001, "mixup": 0.5},
}

# In a process of its own: the interpreter is chosen when the kernels are imported. It prints what differs.
AGAINST_TENSOR_OPERATIONS = """
import json, sys, torch
from pathlib import Path
from test_kernel_drawing import batches_of
from hpc_yolo.data import batched_augment, kernel_drawing
from hpc_yolo.data.batched_augment import Drawings
from hpc_yolo.data.undrawn import arrays_in

torch.set_num_threads(1)
wrong = [] if kernel_drawing.has_kernels(torch.device("cpu")) else ["example"]
for name, batch in batches_of(Path(sys.argv[1]), imgsz=16, batch=2):
    drawings = Drawings(*arrays_in(batch.content, batch.forms))
    expected = batched_augment.draw_images(drawings, batch.shape)
    found = kernel_drawing.draw_by_kernels(drawings, batch.shape)
    if not torch.equal(expected, found) or found.stride() != expected.stride() or len(found.unique()) < 20:
        wrong.append(name)
print(json.dumps(wrong))
"""


def batches_of(directory, imgsz, batch):
    """Yield the name of each recipe, and batches with it."""
    index = noise_index(directory, SHAPES)
    for name, hyp in RECIPES.items():
        options = {"seed": 0, "rank": 0, "world_size": 1, "workers": 0, "draws": False}
        loader = TrainingLoader(index, imgsz=imgsz, batch=batch, hyp=Hyperparameters(**hyp), **options)
        yield name, next(loader.epoch(0))


def test_kernels_draw_the_bytes_of_tensor_operations(tmp_path):
    pytest.importorskip("triton")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environ = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-c", AGAINST_TENSOR_OPERATIONS, str(tmp_path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


@needs_gpu
def test_gpu_draws_the_bytes_of_a_cpu(tmp_path):
    device = torch.device("cuda", 0)
    assert has_kernels(device)
    for name, batch in batches_of(tmp_path, imgsz=320, batch=16):
        assert torch.equal(batch.images_on(device).cpu(), batch.images_on(torch.device("cpu"))), name


def fails(*_):
    raise RuntimeError("Failed to find C compiler.")


@pytest.mark.parametrize("drawn", [fails, lambda _drawings, shape: torch.zeros(2, 3, *shape, dtype=torch.uint8)])
def test_kernels_that_cannot_be_built_or_draw_something_else_are_not_used(monkeypatch, drawn):
    monkeypatch.setattr(kernel_drawing, "draw_by_kernels", drawn)
    has_kernels.cache_clear()
    assert not has_kernels(torch.device("cpu"))
    has_kernels.cache_clear()
