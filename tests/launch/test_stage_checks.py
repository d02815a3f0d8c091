"""Stages that cannot run are refused before anything is queued, each with one sentence."""

import pytest

from hpc_yolo.cluster import scheduler
from hpc_yolo.core.errors import ClusterError, HpcYoloError, SchedulerUnavailable
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.launch.stage_checks import require_usable_stages
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.stages import ExportStage, PredictStage, ReportStage, Stage, ValStage

TEST = Stage(val=ValStage(split="test"))
OWN = Stage(report=ReportStage(), where="job_of_its_own")


@pytest.fixture
def check(tmp_path):
    """Check stages of a run on a drawn dataset, whose YAML may get more lines."""
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1, image_size=(64, 64))

    def run_check(*then, yaml="", in_slurm=False):
        data.write_text(f"{data.read_text()}{yaml}")
        spec = Spec(
            name="run",
            model="yolov5n",
            data=DataSpec(path=str(data)),
            cluster=ClusterSpec(gpus_per_node=0),
            then=list(then),
        )
        require_usable_stages(spec, RunDirectory(tmp_path / "runs" / "run"), in_slurm=in_slurm)

    return run_check


@pytest.mark.parametrize(
    ("stage", "yaml", "message", "hint"),
    [
        (TEST, "", r"then\[1\]\.val\.split: .*dataset\.yaml has no split test", "the dataset has train, val"),
        (TEST, "test: gone\n", r"then\[1\]\.val\.split: .*gone, test of .*, does not exist", None),
        (
            Stage(val=ValStage(weights="/gone.pt")),
            "",
            r"then\[1\]\.val\.weights: /gone\.pt does not exist",
            "best, last, or a file",
        ),
        (Stage(export=ExportStage(weights="/gone.pt")), "", r"then\[1\]\.export\.weights: /gone\.pt", None),
        (
            Stage(predict=PredictStage(source=["/", "/gone/*.jpg"])),
            "",
            r"then\[1\]\.predict\.source: /gone/\*\.jpg does not exist on this machine",
            None,
        ),
        (Stage(shell="if true"), "", r"then\[1\]\.shell: line \d: syntax error", "bash -n"),
    ],
    ids=["no split", "split does not exist", "weights", "weights of export", "source", "shell"],
)
def test_stage_that_cannot_run_is_refused(check, stage, yaml, message, hint):
    with pytest.raises(HpcYoloError, match=message) as caught:
        check(Stage(report=ReportStage()), stage, yaml=yaml)
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("stage", "yaml"),
    [
        (Stage(val=ValStage(split="train")), ""),
        (TEST, "test: images/val\n"),
        (TEST, "test: $SCRATCH/test\n"),
        (Stage(predict=PredictStage(source=["/dev", "/de*", "http://a/b.jpg", "0"])), ""),
        (Stage(shell="cp a b"), ""),
    ],
    ids=["split", "test", "split on the nodes", "sources", "shell"],
)
def test_usable_stage_is_accepted(check, stage, yaml):
    check(stage, yaml=yaml)


def test_stage_whose_job_slurm_refuses_is_named(check, monkeypatch):
    asked = []

    def refuse(script, *, run):
        asked.append(script)
        raise ClusterError("sbatch: Requested node configuration is not available")

    monkeypatch.setattr(scheduler, "estimate_start", refuse)
    check(Stage(report=ReportStage()), in_slurm=True)
    check(OWN, in_slurm=False)
    assert asked == []
    with pytest.raises(ClusterError, match="Slurm refuses the job of stage report-2: sbatch: Requested node"):
        check(Stage(report=ReportStage()), OWN, in_slurm=True)


def test_stage_is_accepted_while_slurm_does_not_answer(check, monkeypatch):
    def fail(_script, *, run):
        raise SchedulerUnavailable("no answer")

    monkeypatch.setattr(scheduler, "estimate_start", fail)
    check(OWN, in_slurm=True)
