"""The schedule, weight decay and moving average, compared with published values."""

import pytest
import torch
from golden import GOLDEN
from torch import nn

from hpc_yolo.models import build_model
from hpc_yolo.models.sync_batchnorm import convert_sync_batchnorm
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.training.ema import ModelEma, decay_at
from hpc_yolo.training.optimizer import Schedule, apply_settings, build_optimizer, parameter_groups


def schedule_of(case):
    hyp = Hyperparameters(lrf=case["lrf"])
    return Schedule(hyp, case["epochs"], case["nb"], case["batch"], case["cos"], legacy_lr_schedule=True)


@pytest.mark.parametrize("name", GOLDEN["schedule_golden"])
def test_lr_momentum_and_accumulation_equal_published_schedule(name):
    case = GOLDEN["schedule_golden"][name]
    schedule = schedule_of(case)
    for step, epoch, lr_bias, lr, momentum, accumulate in case["rows_ni_epoch_lrbias_lrother_momentum_accumulate"]:
        settings = schedule.at(step)
        assert step // case["nb"] == epoch
        assert (settings.lr_bias, settings.lr, settings.momentum) == pytest.approx((lr_bias, lr, momentum), rel=1e-6)
        assert settings.accumulate == accumulate


@pytest.mark.parametrize("cos_lr", [False, True])
def test_epochs_after_warmup_have_lr_of_their_formula(cos_lr):
    """The published schedule is one epoch late, so that its last epoch does not have the last rate."""
    hyp = Hyperparameters(lr0=0.01, lrf=0.1)
    schedule, late = (Schedule(hyp, 40, 50, 64, cos_lr, legacy_lr_schedule) for legacy_lr_schedule in (False, True))
    for epoch in range(4, 40):
        rate = schedule.at(epoch * 50).lr
        assert rate == pytest.approx(hyp.lr0 * schedule.lr_factor(epoch))
        assert late.at((epoch + 1) * 50).lr == rate


@pytest.mark.parametrize("name", GOLDEN["schedule_golden"])
def test_optimizer_steps_at_published_iterations(name):
    case = GOLDEN["schedule_golden"][name]
    schedule = schedule_of(case)
    steps, last = [], -1
    for step in range(case["nb"] * case["epochs"]):
        if step - last >= schedule.at(step).accumulate:
            steps.append(step)
            last = step
    assert steps[:40] == case["first_40_step_iterations"]
    assert len(steps) == case["total_optimizer_steps"]


@pytest.mark.parametrize(("batch", "expected"), GOLDEN["weight_decay_scaling"].items())
def test_weight_decay_scales_with_images_per_optimizer_step(batch, expected):
    schedule = Schedule(Hyperparameters(), 10, 50, int(batch))
    assert schedule.accumulate == expected["accumulate"]
    assert schedule.weight_decay == pytest.approx(expected["scaled_wd"], rel=1e-9)


@pytest.mark.parametrize(("updates", "expected"), GOLDEN["ema_decay"].items())
def test_ema_decay_equals_published_ramp(updates, expected):
    assert decay_at(int(updates)) == pytest.approx(expected, rel=1e-6)


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_ema_updates_weights_and_statistics_but_not_counters():
    model = small_model()
    ema = ModelEma(model)
    before = {key: value.clone() for key, value in ema.model.state_dict().items()}
    with torch.no_grad():
        for value in model.state_dict().values():
            value += 1
    ema.update()
    decay = decay_at(1)
    for key, value in ema.model.state_dict().items():
        moved = (1 - decay) if value.is_floating_point() else 0
        assert torch.allclose(value, before[key] + moved), key


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ema_follows_a_model_whose_layers_were_replaced_for_many_ranks(device):
    """The average lists the tensors once, before the model is converted; no GPU is needed for the conversion."""
    model = small_model()
    ema = ModelEma(model)
    changed = convert_sync_batchnorm(model, torch.device(device)).state_dict()
    before = {name: tensor.clone() for name, tensor in ema.model.state_dict().items()}
    for name in ("1.running_mean", "1.weight"):
        changed[name] += 1
    ema.update()
    for name in ("1.running_mean", "1.weight"):
        assert torch.allclose(ema.model.state_dict()[name], before[name] + 1 - decay_at(1))


@pytest.mark.parametrize("name", ["yolov5n", "yolov5m", "yolov5n6"])
def test_parameter_groups_have_published_sizes(name):
    groups = parameter_groups(build_model(name, num_classes=80))
    assert [len(group) for group in groups] == GOLDEN["models"][name]["opt_groups_bias_decay_bnw"]


@pytest.mark.parametrize(("kind", "momentum_key"), [("SGD", True), ("Adam", False), ("AdamW", False)])
def test_biases_and_normalisation_have_no_weight_decay(kind, momentum_key):
    schedule = Schedule(Hyperparameters(), 10, 50, 16)
    optimizer = build_optimizer(small_model(), kind, schedule)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2, 1]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, schedule.weight_decay, 0.0]
    apply_settings(optimizer, schedule.at(0))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.0, 0.0]
    assert ("momentum" in optimizer.param_groups[0]) == momentum_key
