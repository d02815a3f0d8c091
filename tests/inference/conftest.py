"""Fixtures: a model with constant output, images, a video, and the `predict` command."""

import contextlib
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpc_yolo.checkpoint import ModelDescription, save_model
from hpc_yolo.cli.main import cli
from hpc_yolo.models import build_model, load_config

NAMES = ["cat", "dog"]
SIZE = 128


@pytest.fixture(scope="session")
def model():
    """Return a model that predicts a dog of one size with one score in every cell of the coarsest level."""
    model = build_model("yolov5n", len(NAMES)).eval()
    with torch.no_grad():
        for level, convolution in enumerate(model.head.m):
            convolution.weight.zero_()
            bias = convolution.bias.view(3, -1)
            bias.fill_(-20)
            if level == 2:
                bias[0] = torch.tensor([0.0, 0.0, -1.0, -1.0, 3.0, -20.0, 4.0])
    return model


@pytest.fixture(scope="session")
def weights(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_model(path, model, ModelDescription(model="yolov5n", config=load_config("yolov5n"), names=NAMES, imgsz=SIZE))
    return path


@pytest.fixture
def images(tmp_path) -> Path:
    directory = tmp_path / "images"
    (directory / "deeper").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    for name in ("a.png", "b.JPG", "deeper/a.png"):
        cv2.imwrite(str(directory / name), noise)
    (directory / "notes.md").write_text("not an image")
    return directory


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for value in range(6):
        writer.write(np.full((64, 96, 3), 40 * value, dtype=np.uint8))
    writer.release()
    return path


@pytest.fixture
def run_predict(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object):
        return CliRunner().invoke(cli, ["predict", *map(str, arguments), "--weights", str(weights)])

    return run


@pytest.fixture
def file_limit():
    """Make writes beyond `size_bytes` of any file fail, as on a full disk: `with file_limit(size_bytes): …`."""

    @contextlib.contextmanager
    def limited(size_bytes):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
