"""A head and its loss are one entry of the table, from which log, journal and charts take the names of the terms."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import SpecError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.distributed import World
from hpc_yolo.models import build_model, load_config
from hpc_yolo.models.heads import HEADS
from hpc_yolo.models.heads.base import Head
from hpc_yolo.models.losses.base import Loss
from hpc_yolo.monitor.run_record import RunRecord
from hpc_yolo.plots.training import training_charts
from hpc_yolo.resilience.stop_signal import StopRequest
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import event_line
from hpc_yolo.runs.events import EpochEnded, Evaluated, StepLogged
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.runs.series import scalars_of
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.build import build
from hpc_yolo.training.trainer import Trainer


class PointLoss(Loss):
    """Loss of the positions (heat) and of the sizes (extent) of objects."""

    def terms(self, predictions, targets, sum_over_ranks, world_size):
        heat, extent = predictions[0].new_zeros(()), predictions[0].new_zeros(())
        for level in predictions:
            height, width = level.shape[2:4]
            x, y = (targets[:, 2] * width).long().clamp(max=width - 1), (targets[:, 3] * height).long()
            cells = targets[:, 0].long(), 0, y.clamp(max=height - 1), x
            target = torch.zeros_like(level[..., 4])
            target[cells] = (targets[:, 0] >= 0).to(target.dtype)
            entropy = functional.binary_cross_entropy_with_logits(level[..., 4], target)
            heat, extent = heat + entropy, extent + (level[cells][:, 2:4].sigmoid() - targets[:, 4:6]).abs().mean()
        return {"heat": heat / world_size, "extent": extent / world_size}


class PointHead(Head):
    """Head that predicts one box per cell, around the centre of the cell."""

    def __init__(self, num_classes, c_in):
        super().__init__(num_classes, c_in)
        self.convs = nn.ModuleList(nn.Conv2d(channels, 5 + num_classes, 1) for channels in c_in)

    def forward(self, levels):
        raw = [conv(level).permute(0, 2, 3, 1)[:, None] for conv, level in zip(self.convs, levels, strict=True)]
        if self.training:
            return raw
        sides = [stride * level.shape[2] for stride, level in zip(self.strides, raw, strict=True)]
        return torch.cat([level.sigmoid().flatten(1, 3) * side for level, side in zip(raw, sides, strict=True)], 1), raw

    def loss(self, hyp, imgsz, label_smoothing):
        return PointLoss({"heat": 1.0, "extent": 0.5})


@pytest.fixture
def model_yaml(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(HEADS, "Point", PointHead)
    config = load_config("yolov5n")
    del config["anchors"]
    config["head"][-1] = [config["head"][-1][0], 1, "Point", []]
    path = tmp_path / "point.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def trainer_of(model: Path, directory: Path) -> Trainer:
    data = directory / "data"
    if not data.exists():
        write_shapes_dataset(data, num_train=6, num_val=2)
    (source,) = data.glob("*.yaml")
    train = TrainSpec(epochs=2, batch=2, imgsz=64, workers=0)
    run = RunDirectory(directory / "toy")
    run.create()
    world = World(ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single"), torch.device("cpu"), ())
    context = build(
        Spec(name="toy", model=str(model), data=DataSpec(path=str(source)), train=train),
        world,
        run,
        emit=lambda _event: None,
    )
    return Trainer(context, world, run, JournalWriter(run.journal, attempt=1), StopRequest())


def test_head_in_table_trains_with_its_own_loss_names(model_yaml, tmp_path):
    trainer = trainer_of(model_yaml, tmp_path)
    assert trainer.run() is None
    events = read_events(tmp_path / "toy" / "journal.jsonl")
    steps = [event for event in events if isinstance(event, StepLogged)]
    assert len(steps) == 6 and all(list(step.losses) == ["heat", "extent"] for step in steps)
    assert None not in steps[-1].losses.values()
    epoch = next(event for event in events if isinstance(event, EpochEnded))
    heat, extent = (sum(step.losses[name] or 0 for step in steps[:3]) / 3 for name in ("heat", "extent"))
    assert epoch.losses == pytest.approx({"heat": heat, "extent": extent})
    assert sum(isinstance(event, Evaluated) for event in events) == 2

    assert f"heat {epoch.losses['heat']:.3f} extent" in (event_line(epoch) or "")
    assert {"loss/heat", "loss/extent"} < scalars_of(steps[0]).keys()
    assert [chart.title for chart in training_charts([("toy", events)])][:2] == ["Heat loss", "Extent loss"]
    record = RunRecord()
    record.add(events)
    assert record.loss.values[-1] == pytest.approx(sum(value or 0 for value in events_losses(events)))


def events_losses(events) -> list[float | None]:
    """Return the losses of the last event with losses."""
    return list([event for event in events if isinstance(event, (StepLogged, EpochEnded))][-1].losses.values())


def test_unknown_head_error_lists_known_heads(model_yaml):
    model_yaml.write_text(model_yaml.read_text().replace("Point", "Points"))
    with pytest.raises(SpecError, match=r"unknown block 'Points'.*Detect, AnchorFree, Point"):
        build_model(model_yaml, 2)


def test_loss_uses_anchors_that_are_set_later():
    from hpc_yolo.spec.recipe import Hyperparameters

    head = build_model("yolov5n", 2).head
    loss = head.loss(Hyperparameters(), 640, 0.0)
    head.set_anchors(head.anchors_pixels() * 2)
    assert torch.equal(loss.get_buffer("anchors"), head.anchors)
