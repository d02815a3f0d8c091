"""Evaluations by a job of its own give what evaluations by the tasks give: metrics, best model, weights."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from spec_runs import NETWORK

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.distributed import World
from hpc_yolo.evaluation import evaluator
from hpc_yolo.evaluation.evaluator import EvaluationSettings
from hpc_yolo.resilience.stop_signal import StopRequest
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.evaluations import results_by_epoch, waiting_epochs
from hpc_yolo.runs.events import Evaluated, WarningRaised
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training import aside, evaluation_job
from hpc_yolo.training.build import build
from hpc_yolo.training.evaluation_job import evaluate_waiting_models
from hpc_yolo.training.trainer import Trainer

NUM_EPOCHS, NUM_STEPS = 5, 3  # the models of four epochs are handed over
JOB_ID = "7"
SEED = 36  # with which the second and the fourth evaluation are better than those before them


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", num_train=6, num_val=8)


@pytest.fixture(autouse=True, scope="module")
def setting() -> Iterator[None]:
    """Let the evaluating job compute as the training of this process does, and an untrained model detect something."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _process: {0})
        patch.setattr(evaluation_job, "make_deterministic", lambda: None)
        patch.setattr(evaluator, "EvaluationSettings", lambda: EvaluationSettings(conf_threshold=0.0))
        yield


def spec_of(data: Path, validate: str) -> Spec:
    """Return a spec of a short run."""
    return Spec(
        name="run",
        model=str(NETWORK),
        data=DataSpec(path=str(data)),
        validate=validate,
        cluster=ClusterSpec(gpus_per_node=0),
        train=TrainSpec(
            epochs=NUM_EPOCHS, batch=2, imgsz=64, workers=0, seed=SEED, hyp_overrides={"warmup_bias_lr": 0.01}
        ),
        checkpoint=CheckpointSpec(every_s=None),
    )


def trainer_of(spec: Spec, run: RunDirectory, *, is_queued: bool) -> Trainer:
    """Return the trainer of the next attempt; `is_queued`: a process queues jobs that evaluate."""
    run.create()
    run.evaluations.mkdir(exist_ok=True)
    if is_queued:
        run.evaluation_queue(JOB_ID).touch()
    process = ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single", job_id=JOB_ID)
    world = World(process, torch.device("cpu"), ())
    journal = JournalWriter(run.journal, attempt=1)
    context = build(spec, world, run, emit=lambda _event: None)
    trainer = Trainer(context, world, run, journal, StopRequest())
    trainer.write_results = lambda: None  # charts and images
    return trainer


@pytest.fixture(scope="module")
def in_job(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Return a run whose tasks evaluate."""
    run = RunDirectory(tmp_path_factory.mktemp("in_job") / "run")
    assert trainer_of(spec_of(data, "in_job"), run, is_queued=False).run() is None
    assert [event.is_best for event in evaluations(run)] == [True, True, False, True, False]
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def evaluations(run: RunDirectory) -> list[Evaluated]:
    return [event for event in read_events(run.journal) if isinstance(event, Evaluated)]


def numbers(run: RunDirectory) -> dict[int, tuple[object, ...]]:
    """Return the evaluations without times, the last one of each epoch."""
    return {
        event.epoch: (event.step, event.num_images, event.metrics, event.is_best, event.classes)
        for event in evaluations(run)
    }


def assert_same(run: RunDirectory, expected: RunDirectory) -> None:
    assert numbers(run) == numbers(expected)
    for name in ("best", "last"):
        ours, theirs = (
            safetensors.torch.load_file(each.checkpoints / f"{name}.safetensors") for each in (run, expected)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert not list(run.checkpoints.glob("waiting-*")), "models are removed once they are evaluated"


def evaluate_after(trainer: Trainer, epochs: set[int], job: Callable[[], None]) -> None:
    """Let a job evaluate what waits before the results are taken in at the end of these epochs."""
    take_in = trainer.aside.take_in

    def evaluate_and_take_in() -> None:
        if trainer.epoch in epochs:
            job()
        take_in()

    trainer.aside.take_in = evaluate_and_take_in


@pytest.mark.parametrize(
    ("epochs", "num_aside"),
    [({1, 2, 3, 4}, 4), ({3}, 3), (set(), 0)],
    ids=["each", "three at once, one too late", "no job ever starts"],
)
def test_job_of_its_own_gives_same_metrics_and_weights(
    data: Path, run: RunDirectory, in_job: RunDirectory, epochs: set[int], num_aside: int
) -> None:
    spec = spec_of(data, "aside")
    trainer = trainer_of(spec, run, is_queued=True)
    evaluate_after(trainer, epochs, functools.partial(evaluate_waiting_models, run, spec))
    assert trainer.run() is None
    assert_same(run, in_job)
    assert [event.is_aside for event in evaluations(run)] == [True] * num_aside + [False] * (NUM_EPOCHS - num_aside)
    assert [event.epoch for event in evaluations(run)] == list(range(NUM_EPOCHS)), "in their order"


def test_tasks_evaluate_where_nothing_queues_jobs(
    data: Path, run: RunDirectory, in_job: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trainer_of(spec_of(data, "aside"), run, is_queued=False).run() is None
    assert_same(run, in_job)
    (warning,) = [event for event in read_events(run.journal) if isinstance(event, WarningRaised)]
    assert warning.message == (
        "validate: aside: no process queues such jobs here, so the tasks evaluate the model themselves"
    )


def test_tasks_evaluate_when_too_many_models_wait(
    data: Path, run: RunDirectory, in_job: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "MAX_WAITING", 2)
    trainer = trainer_of(spec_of(data, "aside"), run, is_queued=True)
    num_waiting = []
    hands_over = trainer.aside.hands_over

    def count(epoch: int) -> bool:
        was_handed_over = hands_over(epoch)
        num_waiting.append(len(list(run.checkpoints.glob("waiting-*"))))
        return was_handed_over

    trainer.aside.hands_over = count
    assert trainer.run() is None
    assert_same(run, in_job)
    assert max(num_waiting) <= 2


@pytest.mark.parametrize("stop_after", [2 * NUM_STEPS, 2 * NUM_STEPS + 1])
def test_resumed_run_takes_in_results_of_job_that_went_on(
    data: Path, run: RunDirectory, in_job: RunDirectory, stop_after: int
) -> None:
    spec = spec_of(data, "aside")
    trainer = trainer_of(spec, run, is_queued=True)
    train_step = trainer.train_step

    def step_and_signal(batch: object) -> None:
        train_step(batch)
        if trainer.position.step + 1 == stop_after:
            trainer.stop.stop_signal = signal.SIGTERM

    trainer.train_step = step_and_signal
    assert trainer.run() == signal.SIGTERM
    evaluate_waiting_models(run, spec)
    lost = trainer_of(spec, run, is_queued=True)  # an attempt that takes results in, and ends before it saves
    with lost.checkpointer:
        lost.aside.take_in()
    assert trainer_of(spec, run, is_queued=True).run() is None
    assert_same(run, in_job)


def test_unreadable_model_is_reported_and_left_out(data: Path, run: RunDirectory) -> None:
    spec = spec_of(data, "aside")
    trainer = trainer_of(spec, run, is_queued=True)
    evaluate_after(trainer, {4}, lambda: run.waiting_model(1).write_bytes(b"torn"))
    assert trainer.run() is None
    (warning,) = [event.message for event in read_events(run.journal) if isinstance(event, WarningRaised)]
    assert warning.startswith(f"epoch 2 is not evaluated: {run.waiting_model(1)}")
    assert sorted(numbers(run)) == [0, 2, 3, 4]


def test_job_evaluates_as_many_images_when_one_is_lost_meanwhile(tmp_path: Path, run: RunDirectory) -> None:
    """Metrics of fewer images than those of other epochs would decide which model is the best."""
    data = write_shapes_dataset(tmp_path / "shapes", num_train=6, num_val=8)
    spec = spec_of(data, "aside")
    trainer = trainer_of(spec, run, is_queued=True)
    next((data.parent / "images" / "val").iterdir()).unlink()
    evaluate_after(trainer, {1, 2, 3, 4}, functools.partial(evaluate_waiting_models, run, spec))
    assert trainer.run() is None
    assert [(event.is_aside, event.num_images) for event in evaluations(run)] == [(True, 8)] * 4 + [(False, 8)]


def test_second_job_leaves_models_to_the_first(
    data: Path, run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.create()

    def held(*_arguments: object) -> object:
        raise TimeoutError

    monkeypatch.setattr(evaluation_job, "exclusive_lock", held)
    evaluate_waiting_models(run, spec_of(data, "aside"))
    assert "another job evaluates" in capsys.readouterr().out


def test_only_models_without_result_wait(run: RunDirectory) -> None:
    run.create()
    assert (waiting_epochs(run), results_by_epoch(run)) == ([], {})
    for name in ("waiting-10", "waiting-9", "waiting-x", "best"):
        (run.checkpoints / f"{name}.safetensors").touch()
    assert waiting_epochs(run) == [9, 10]
