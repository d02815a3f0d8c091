"""Five optimiser steps of the original in double precision: forward, loss, gradients, clipping, SGD and average."""

import pytest
import torch
from filled import fill_by_rule
from golden import GOLDEN

from hpc_yolo.models import build_model
from hpc_yolo.models.losses.yolov5 import DetectionLoss
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.training.ema import ModelEma
from hpc_yolo.training.optimizer import Schedule, apply_settings, build_optimizer
from hpc_yolo.training.updater import MAX_GRAD_NORM

STEPS_PER_EPOCH = 1000  # all five steps are in the first epoch, whose learning rate is lr0
BATCH = 64  # the nominal batch: no accumulation, and decay is not scaled


def absolute_sum(tensors):
    return sum(tensor.abs().sum().item() for tensor in tensors if tensor.is_floating_point())


def test_five_steps_equal_published_values():
    model = build_model("yolov5n", 3).double()
    fill_by_rule(model)
    hyp = Hyperparameters(lrf=1.0, warmup_epochs=0.1)  # a warm-up of a hundred steps
    loss = DetectionLoss(model.head.anchors, 3, hyp, {"box": hyp.box, "obj": hyp.obj, "cls": hyp.cls})
    schedule = Schedule(hyp, epochs=1, steps_per_epoch=STEPS_PER_EPOCH, batch=BATCH)
    optimizer, ema = build_optimizer(model, "SGD", schedule), ModelEma(model)
    targets = torch.tensor(GOLDEN["loss_golden"]["targets"], dtype=torch.float64)
    pixels = torch.arange(2 * 3 * 64 * 96, dtype=torch.float64)
    model.train()
    for golden in GOLDEN["mini_train_golden"]["steps"]:
        apply_settings(optimizer, schedule.at(golden["it"]))
        images = (0.5 + 0.5 * torch.sin(0.013 * pixels + golden["it"])).view(2, 3, 64, 96)
        terms = torch.stack(list(loss(model(images), targets).values()))
        total = terms.sum() * len(images)
        total.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        assert total.item() == pytest.approx(golden["loss"], rel=1e-6)
        assert terms.tolist() == pytest.approx(golden["items"], rel=1e-6)
        assert grad_norm.item() == pytest.approx(golden["grad_norm_before_clip"], rel=1e-5)
        assert absolute_sum(model.parameters()) == pytest.approx(golden["param_abs_sum"], rel=1e-7)
        state = {**ema.model.state_dict()}
        assert absolute_sum(state.values()) == pytest.approx(golden["ema_abs_sum"], rel=1e-6)
