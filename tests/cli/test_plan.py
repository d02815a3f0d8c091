"""`hpc-yolo plan` on written journals, without Slurm and on the test cluster."""

import json
import re

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from journal_events import started, stepped

from hpc_yolo.cli.main import cli
from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.slurm_output import SchedulerProbe
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, CheckpointSaved, EpochEnded, Evaluated
from hpc_yolo.runs.index import add_to_index, state_directory
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.metrics import Metrics

METRICS = Metrics(precision=0.5, recall=0.5, map50=0.5, map50_95=0.3)
STATE = "checkpoints/state-0001-000000015.safetensors"


@pytest.fixture
def write_run(write_spec, tmp_path):
    """Write a spec and the journal of its run: 3 epochs of 5 steps, of one second each but for the first epoch."""

    def write(name: str, *, launcher: str = "submitit-local", step_s: float = 1.0) -> RunDirectory:
        fields = yaml.safe_load(write_spec(name).read_text())
        run = RunDirectory(tmp_path / "runs" / name)
        run.create()
        run.spec.write_text(yaml.safe_dump(fields))
        times = iter(
            [100.0, 120.0, 122.0, *(122.0 + 5 * step_s * n + 2 * m for n, m in ((1, 0), (1, 1), (2, 1), (2, 2)))]
        )
        writer = JournalWriter(run.journal, attempt=1, clock=lambda: next(times))
        writer.write(started(launcher=launcher, process_started=90.0, steps_per_epoch=5, batch=8, epochs=3))
        for epoch in range(3):
            step = 5 * (epoch + 1)
            values = {"losses": {}, "lr": 0.1, "images_per_s": 8.0, "seconds": 5.0}
            writer.write(EpochEnded(epoch=epoch, step=step, **values))
            seen = {"num_images": 8, "metrics": METRICS, "images_per_s": 4.0, "is_best": True, "classes": []}
            writer.write(Evaluated(epoch=epoch, step=step, seconds=2.0, **seen))
        end = 124.0 + 2 * (5 * step_s + 2)
        writer = JournalWriter(run.journal, attempt=1, clock=lambda: end)
        writer.write(CheckpointSaved(epoch=3, step=15, path=STATE, size_bytes=20 * 2**20, seconds=0.5))
        writer.write(AttemptEnded(outcome=AttemptEnded.FINISHED, epoch=3, step=15))
        return run

    return write


def plan_of(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["plan", *map(str, words)])
    if isinstance(result.exception, HpcYoloError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_plan_from_a_run_beside_it(write_run, write_spec):
    write_run("old")
    spec = write_spec("new", train={"epochs": 20})
    code, text = plan_of(spec, "--local")
    assert code == 0
    assert "20 epochs of 5 steps, 40 images in batches of 8 on 1 rank" in text
    assert "2 epochs, 10 steps on cpu" in text
    # 10 s to the first step, a slow first epoch (20 s), 100 steps, 20 evaluations, and the end
    code, shown = plan_of(spec, "--local", "--json")
    forecast = json.loads(shown)["forecast"]
    assert forecast["wall_s"]["expected"] == pytest.approx(10 + 15 + 100 + 40 + 2)
    assert forecast["unit_hours"]["expected"] == pytest.approx(167 / 3600)
    assert forecast["attempts"] == {"low": 1, "expected": 1, "high": 1}
    assert forecast["disk_bytes"] == 4 * 20 * 2**20
    assert [one["name"] for one in forecast["learned_from"]] == ["old"]


def test_runs_of_the_index_count_wherever_they_are(write_run, write_spec, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    add_to_index(state_directory({"XDG_STATE_HOME": str(tmp_path / "state")}), write_run("old"))
    spec = write_spec("new", output=str(tmp_path / "elsewhere"))
    assert plan_of(spec, "--local")[0] == 0


def test_images_of_another_dataset_are_counted(write_run, write_spec, tmp_path, shapes):
    write_run("old")
    other = tmp_path / "other.yaml"
    other.write_text(
        yaml.safe_dump(
            {"train": str(shapes.parent / "images/train"), "val": str(shapes.parent / "images/val"), "names": ["a"]}
        )
    )
    code, text = plan_of(write_spec("new", data=str(other)), "--local", "--json")
    assert (code, json.loads(text)["forecast"]["num_images"]) == (0, 40)
    other.write_text(other.read_text().replace("images/train", "images/gone"))
    code, text = plan_of(write_spec("new", data=str(other)), "--local")
    assert code == 6
    assert "cannot be counted here" in text
    assert "images/gone does not exist" in text


def test_run_that_is_half_done_is_planned_from_its_last_step(write_run, write_spec):
    run = write_run("half")
    lines = run.journal.read_text().splitlines()
    run.journal.write_text("\n".join(lines[:-1]) + "\n")
    code, text = plan_of(write_spec("half", train={"epochs": 6}), "--local")
    assert code == 0
    assert "15 steps are done" in text
    assert "half (this run)" in text
    assert "not measured   the end after the last epoch (assumed: one more evaluation)" in text


def test_sweep_is_planned_by_one_of_its_trials(write_run, write_spec):
    write_run("old")
    spec = write_spec("new", train={"epochs": 20}, sweep={"grid": {"train.seed": [1, 2, 3]}})
    code, text = plan_of(spec, "--local")
    assert code == 0, text
    assert "sweep          3 trials, 0.14 CPU hours in all; the other lines are about one of them" in text
    assert json.loads(plan_of(spec, "--local", "--json")[1])["num_trials"] == 3


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--epochs", "0"], 2, "0 is not in the range x>=1"),
        (["--epochs", "many"], 2, "'many' is not a valid integer"),
        ([], 6, "no run of yours has measured this model with this image size on such GPUs"),
        (["--set", "train.imgsz=33"], 2, "multiple of 32"),
    ],
)
def test_bad_input_is_one_sentence_and_says_what_to_type(write_spec, options, code, message):
    found, text = plan_of(write_spec("new"), "--local", *options)
    assert (found, message in text) == (code, True), text


def test_plan_without_an_answer_of_slurm_is_printed_without_its_start(write_run, write_spec, monkeypatch):
    write_run("old", launcher="slurm")
    monkeypatch.setattr(scheduler, "probe", lambda **_: SchedulerProbe(False, "the Slurm controller is down"))
    spec = write_spec("new", cluster={"executor": "slurm", "time": "00:05:00"}, train={"epochs": 20})
    code, text = plan_of(spec)
    assert code == 0
    assert "attempts       2 (" in text
    assert "time limit 00:05:00, signal 120 s before it" in text
    assert "suggestion     --time 00:10:00: 1 attempt instead of" in text
    assert "start          not known: the Slurm controller is down" in text


@pytest.mark.parametrize(
    ("cluster", "train", "line"),
    {
        "requeue is off": (
            {"requeue": "off"},
            {},
            "note           cluster.requeue is off: each attempt after the first",
        ),
        "too few attempts may end at the limit": (
            {"max_timeouts": 0},
            {},
            "note           1 attempt would end at the limit, and cluster.max_timeouts is 0: the run would end there",
        ),
        "patience": ({}, {"patience": 5}, "note           train.patience 5 may end it sooner"),
        "the limit is too short": ({"time": "00:01:00"}, {}, "attempts       it does not end: time limit 00:01:00"),
        "an early signal wastes much of the limit": ({}, {}, "suggestion     --set cluster.signal_before_s=32: enough"),
        "the signal is too late for a save": (
            {"signal_before_s": 10},
            {},
            "suggestion     --set cluster.signal_before_s=32: measured saves and steps need it",
        ),
        "no limit, and none is known": ({"time": None}, {}, "attempts       1, unless the partition has a time limit"),
    }.values(),
    ids=lambda value: "",
)
def test_what_keeps_a_run_from_its_end_is_said(write_run, write_spec, monkeypatch, cluster, train, line):
    write_run("old", launcher="slurm")
    monkeypatch.setattr(scheduler, "probe", lambda **_: SchedulerProbe(False, "the Slurm controller is down"))
    spec = write_spec(
        "new", cluster={"executor": "slurm", "time": "00:05:00", **cluster}, train={"epochs": 20, **train}
    )
    code, text = plan_of(spec)
    assert (code, line in text) == (0, True), text


def dry_run(*words: object) -> str:
    result = CliRunner().invoke(cli, ["submit", "--dry-run", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def test_submission_prints_the_estimate_and_the_attempts(write_run, write_spec, monkeypatch):
    assert "estimate" not in dry_run(write_spec("new"), "--local")
    write_run("old", launcher="slurm")
    monkeypatch.setattr(scheduler, "probe", lambda **_: SchedulerProbe(False, "the Slurm controller is down"))
    spec = write_spec("new", cluster={"executor": "slurm", "time": "00:05:00"}, train={"epochs": 20})
    shown = dry_run(spec)
    assert "\nestimate       3 min 12 s (2 min 47 s to 3 min 12 s), 0.05 CPU hours; measured in old" in shown
    assert "\nattempts       2 (" in shown


@pytest.mark.parametrize("wait_s", [0.4, 0.02], ids=["waited", "did not wait"])
def test_submission_warns_where_a_run_like_it_waited_for_images(write_run, write_spec, wait_s):
    run = write_run("old")
    waited = msgspec.structs.replace(stepped(step=15), rank_step_s=[1.0], rank_data_wait_s=[wait_s])
    JournalWriter(run.journal, attempt=1, clock=lambda: 200.0).write(waited)
    shown = dry_run(write_spec("new"), "--local")
    assert ("warning: input: in old, 40 % of each step was a wait for images: " in shown) == (wait_s > 0.1)
    assert ("warning: input" in shown) == (wait_s > 0.1)


def test_submission_of_a_sweep_prints_what_all_trials_take(write_run, write_spec):
    write_run("old")
    spec = write_spec("new", train={"epochs": 20}, sweep={"seeds": 8})
    shown = dry_run(spec, "--local")
    (hours,) = re.findall(r"^estimate .*, ([\d.]+) CPU hours; measured in old$", shown, re.MULTILINE)
    (in_all,) = re.findall(r"^sweep +8 trials, ([\d.]+) CPU hours in all", shown, re.MULTILINE)
    assert float(in_all) == pytest.approx(8 * float(hours), abs=0.05)


@pytest.mark.parametrize("journal", [b"", b"{}\n", b"\0\xff\n" * 9, b'{"event":"attempt_started","time":1}\n'])
def test_submission_is_not_stopped_by_an_old_run(write_run, write_spec, journal):
    run = write_run("old")
    run.journal.write_bytes(journal)
    assert "estimate" not in dry_run(write_spec("new"), "--local")
    run.spec.write_text("name: [")
    assert "estimate" not in dry_run(write_spec("new"), "--local")


def test_submission_is_not_stopped_by_a_mistake_in_an_estimate(write_run, write_spec, monkeypatch):
    write_run("old")

    def broken(*_arguments, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("hpc_yolo.launch.forecast.make_forecast", broken)
    assert "estimate" not in dry_run(write_spec("new"), "--local")


@pytest.mark.usefixtures("in_slurm")
def test_plan_asks_slurm_for_each_way_and_says_why_a_job_waits(write_run, write_spec, in_slurm, hpc_yolo):
    write_run("old", launcher="slurm")
    spec = write_spec("new", cluster={"executor": "slurm", "time": "00:30:00"}, train={"epochs": 20})
    queued = hpc_yolo("submit", spec, "--set", "cluster.sbatch.hold=true").stdout
    assert re.search(r"^estimate .*\nattempts       1.*\nstart          at 2", queued, re.MULTILINE)
    code, text = plan_of(spec)
    assert code == 0, text
    assert "waits now      Slurm job" in text
    assert "JobHeldUser: it is held: scontrol release JOB lets it start" in text
    rows = {row.partition("  ")[0]: row for row in text.partition("\nrequest ")[2].splitlines()[1:]}
    assert list(rows) == ["as it is", "--time 00:10:00", "--nodes 2", "--partition preempt", "--partition high"]
    assert all("at once" in row for row in rows.values())
    code, text = plan_of(spec, "--time", "2:00:00", "--json")
    found = json.loads(text[text.index("{") :])
    assert code == 4
    assert found["problems"] == ["cluster.time: 2:00:00 is over the 01:00:00 of partition gpu"]
    assert found["forecast"]["suggested"]["why"] == "1 attempt; the partition allows 01:00:00"
    code, text = plan_of(spec, "--partition", "nope")
    assert code == 4
    assert "there is no partition 'nope' here" in text


PROFILE = """\
cluster_names: ["*"]
gpus:
  small: {partition: gpu, gpus_per_node: 1}
  large: {partition: high, gpus_per_node: 2}
  broken: {partition: gpu, gpus_per_node: 1, constraint: nosuch}
  other: {partition: preempt, gpus_per_node: 1, max_time: "00:01:00"}
"""


@pytest.mark.usefixtures("in_slurm")
def test_other_rows_of_the_site_profile_are_asked_for(write_spec, tmp_path, monkeypatch):
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "ours.yaml").write_text(PROFILE)
    monkeypatch.setenv("HPC_YOLO_SITES", str(tmp_path / "sites"))
    spec = write_spec("new", cluster={"executor": "slurm", "gpu": "small", "gpus_per_node": 1, "time": "00:30:00"})
    run = RunDirectory(tmp_path / "runs" / "old")
    run.create()
    fields = yaml.safe_load(spec.read_text()) | {"name": "old"}
    run.spec.write_text(yaml.safe_dump(fields | {"cluster": fields["cluster"] | {"partition": "gpu"}}))
    writer = JournalWriter(run.journal, attempt=1, clock=iter([100.0, 110.0, 112.0]).__next__)
    writer.write(started(launcher="slurm", device="GPU"))
    writer.write(stepped(step=2))
    writer.write(stepped(step=4))
    code, text = plan_of(spec)
    assert code == 0, text
    rows = {row.partition("  ")[0]: row for row in text.partition("\nrequest ")[2].splitlines()[1:]}
    assert rows["--set cluster.gpu=large"].endswith("at once       not measured on this type of GPU")
    assert "--set cluster.gpu=other" not in rows, "the time limit of the spec does not fit it"
    assert "\nSlurm refuses --set cluster.gpu=broken" in text
    assert "as it is" in rows
    assert "evaluations (assumed: as fast as training)" in text
