"""The command line of a stage, which the command it runs accepts."""

import sys

import click
import pytest

from hpc_yolo.cli.commands import LazyGroup
from hpc_yolo.launch.stage_commands import shell_variables, stage_command
from hpc_yolo.runs.events import Cause
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.stages import ExportStage, PredictStage, ReportStage, Stage, ValStage
from hpc_yolo.spec.train import TrainSpec

RUN, BEST, LAST = "{run}", "{run}/checkpoints/best.safetensors", "{run}/checkpoints/last.safetensors"
RESULTS = ["--project", "{run}/results", "--name", "step", "--exist-ok"]
ROWS = [
    (Stage(val=ValStage()), ["val", BEST, "--task", "val", "--workers=3", *RESULTS]),
    (
        Stage(val=ValStage(split="test", weights="last", imgsz=320, conf_thres=0.1, verbose=True, save_txt=True)),
        [
            *("val", LAST, "--task", "test", "--workers=3"),
            *("--imgsz=320", "--conf-thres=0.1", "--verbose", "--save-txt", *RESULTS),
        ],
    ),
    (
        Stage(val=ValStage(weights="/w.pt", batch_size=8)),
        ["val", "--weights", "/w.pt", "--data", "/d.yaml", "--task", "val", "--workers=3", "--batch-size=8", *RESULTS],
    ),
    (
        Stage(predict=PredictStage(source=["/a", "-b"], classes="0,2", vid_stride=2, nosave=True, save_crop=True)),
        [
            *("predict", "--weights", BEST, "--classes=0,2", "--vid-stride=2", "--nosave", "--save-crop"),
            *(*RESULTS, "--", "/a", "-b"),
        ],
    ),
    (
        Stage(export=ExportStage(include=["onnx", "torchscript"], dynamic=True, imgsz=64, opset=13)),
        ["export", BEST, "--include", "onnx", "--include", "torchscript", "--imgsz=64", "--dynamic", "--opset=13"],
    ),
    (
        Stage(export=ExportStage(include=["onnx"], nms=True, max_det=100)),
        ["export", BEST, "--include", "onnx", "--nms", "--max-det=100"],
    ),
    (Stage(report=ReportStage()), ["report", RUN]),
]


@pytest.mark.parametrize(("stage", "expected"), ROWS, ids=[stage.step for stage, _ in ROWS])
def test_command_line_has_the_options_of_the_stage(run, stage, expected):
    spec = Spec(name="run", data=DataSpec(path="/d.yaml"), train=TrainSpec(workers=3))
    command = stage_command(run, spec, "step", stage)
    assert command[:3] == [sys.executable, "-m", "hpc_yolo"]
    assert command[3:] == [argument.format(run=run.path) for argument in expected]
    name, *arguments = command[3:]
    group = LazyGroup()
    found = group.get_command(click.Context(group), name)
    assert found is not None
    found.make_context(name, arguments)  # parses without an error


def test_device_of_the_training_is_that_of_the_stage(run):
    spec = Spec(name="run", data=DataSpec(path="/d.yaml"), train=TrainSpec(device="2,3"))
    assert " --device 2 " in " ".join(stage_command(run, spec, "val", Stage(val=ValStage())))


@pytest.mark.parametrize(
    ("step", "least"),
    [(ValStage(), ["run"]), (PredictStage(source="a"), ["--weights=run", "a"]), (ExportStage(), ["run"])],
)
def test_defaults_of_stages_are_those_of_their_commands(step, least):
    """An option at its default is left out of the command line."""
    group = LazyGroup()
    kind = type(step).__name__.removesuffix("Stage").lower()
    command = group.get_command(click.Context(group), kind)
    assert command is not None
    options = command.make_context(kind, least).params
    compared = set(step.__struct_fields__) - {"split", "weights", "source", "include"}
    assert {name: options[name] for name in compared} == {name: getattr(step, name) for name in compared}


def test_shell_lines_are_run_by_bash_with_variables_of_the_run(run):
    stage = Stage(shell="cp a b\nls")
    spec = Spec(name="run", data=DataSpec(path="/d.yaml"))
    assert stage_command(run, spec, "shell", stage) == ["bash", "-e", "-c", "cp a b\nls"]
    assert shell_variables(run, "shell-2", RunEnd(1, False, Cause.TIME_LIMIT)) == {
        "RUN": str(run.path),
        "NAME": "run",
        "STAGE": "shell-2",
        "CAUSE": "time limit",
    }
