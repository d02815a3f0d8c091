"""A trial that the stop rule of its sweep ends: saved, recorded, finished, and not ended twice at the same epoch."""

import signal
from pathlib import Path

import pytest
import torch
from spec_runs import NETWORK

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.distributed import World
from hpc_yolo.resilience.stop_signal import StopRequest
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, EpochEnded, Evaluated, TrialStopped, WarningRaised
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.runs.sweep import SweepDirectory, TrialRecord
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import dump_spec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.sweep import SweepSpec
from hpc_yolo.spec.sweep_search import StopSpec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.sweeps.outcomes import outcomes_of
from hpc_yolo.sweeps.study import Outcome
from hpc_yolo.training.build import build
from hpc_yolo.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS_PER_EPOCH = 2
TRIAL, RIVALS = "1-0001", ["1-0002", "1-0003", "1-0004"]
ASHA = StopSpec(rule="asha", after=2, factor=2)
BETTER, WORSE = 0.9, -1.0  # than any fitness of the trial


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", num_train=4, num_val=2)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return the directory of a sweep by ASHA whose other trials have not begun."""
    write_sweep(tmp_path, ASHA)
    return tmp_path


def write_sweep(directory: Path, stop: StopSpec) -> None:
    sweep = SweepDirectory(directory)
    section = SweepSpec(grid={"train.hyp_overrides.lr0": [0.01, 0.02, 0.03, 0.04]}, stop=stop)
    sweep.spec.write_text(
        dump_spec(Spec(name="sweep", model=str(NETWORK), data=DataSpec(path="data.yaml"), sweep=section))
    )
    sweep.write_trials([TrialRecord(name, {}, key=name) for name in (TRIAL, *RIVALS)])


def add_rivals(sweep: Path, fitness: float, epochs: tuple[int, ...]) -> None:
    """Write evaluations with this fitness into the journals of the other trials."""
    for name in RIVALS:
        run = RunDirectory(sweep / name)
        run.path.mkdir(exist_ok=True)
        for epoch in epochs:
            JournalWriter(run.journal, attempt=1).write(evaluated(epoch, fitness))


def evaluated(epoch: int, fitness: float) -> Evaluated:
    metrics = Metrics(map50=fitness, map50_95=fitness)
    numbers = {"epoch": epoch, "step": 0, "num_images": 2, "images_per_s": 1.0, "seconds": 1.0}
    return Evaluated(metrics=metrics, is_best=False, classes=[], **numbers)


def attempt(
    data: Path, sweep: Path, number: int = 1, epochs: int = 5, every_epochs: int = 1, **train: object
) -> Trainer:
    """Return the trainer of an attempt of the trial."""
    fields = {"batch": 2, "imgsz": 64, "workers": 0, "plots": False, "hyp_overrides": {"warmup_bias_lr": 0.01}}
    spec = Spec(
        name=TRIAL,
        model="yolov5n",
        data=DataSpec(path=str(data)),
        train=TrainSpec(epochs=epochs, **(fields | train)),
        checkpoint=CheckpointSpec(every_s=None, every_epochs=every_epochs),
    )
    run = RunDirectory(sweep / TRIAL)
    run.create()
    world = World(ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single"), torch.device("cpu"), ())
    journal = JournalWriter(run.journal, attempt=number)
    return Trainer(build(spec, world, run, emit=lambda _: None), world, run, journal, StopRequest())


def events_of(sweep: Path, kind: type) -> list:
    return [event for event in read_events(sweep / TRIAL / "journal.jsonl") if isinstance(event, kind)]


def trained_epochs(sweep: Path) -> list[int]:
    return [event.epoch for event in events_of(sweep, EpochEnded)]


def killed_before_it_saves(trainer: Trainer) -> None:
    """Run an attempt that a kill ends after its stop was recorded, before the state is saved."""

    def die() -> None:
        raise KeyboardInterrupt

    trainer.checkpointer.save_state = die
    with pytest.raises(KeyboardInterrupt):
        trainer.run()


def test_trial_below_the_others_ends_as_a_finished_run(data: Path, sweep: Path) -> None:
    add_rivals(sweep, BETTER, (0, 1, 2, 3))
    trainer = attempt(data, sweep)
    assert trainer.run() is None
    assert trainer.is_over
    assert trained_epochs(sweep) == [0, 1]
    (stopped,) = events_of(sweep, TrialStopped)
    assert (stopped.rule, stopped.metric, stopped.epoch, stopped.step, stopped.epochs) == ("asha", "fitness", 1, 4, 5)
    assert (stopped.threshold, stopped.num_compared) == (pytest.approx(BETTER), 3)
    assert (sweep / TRIAL / "results" / "evaluation.json").is_file()
    resumed = attempt(data, sweep, number=2)
    assert resumed.position.finished_epochs == 2
    assert resumed.run() is None
    assert trained_epochs(sweep) == [0, 1]


@pytest.mark.parametrize(
    ("fitness", "epochs"),
    [(WORSE, (0, 1, 2, 3)), (BETTER, (0,)), (BETTER, ())],
    ids=["worse", "not as far", "not begun"],
)
def test_trial_goes_on_where_others_are(data: Path, sweep: Path, fitness: float, epochs: tuple[int, ...]) -> None:
    add_rivals(sweep, fitness, epochs)
    assert attempt(data, sweep, epochs=3).run() is None
    assert trained_epochs(sweep) == [0, 1, 2]
    assert events_of(sweep, TrialStopped) == []


def test_list_of_trials_that_cannot_be_read_ends_no_trial(data: Path, sweep: Path) -> None:
    trainer = attempt(data, sweep, epochs=3)
    add_rivals(sweep, BETTER, (0, 1))
    (sweep / "sweep.json").write_text('{"trials": 7}')
    assert trainer.run() is None
    assert trained_epochs(sweep) == [0, 1, 2]
    (warning,) = events_of(sweep, WarningRaised)
    assert "not compared with other trials" in warning.message and "sweep.json" in warning.message


def test_run_of_no_sweep_is_not_compared(data: Path, tmp_path: Path) -> None:
    add_rivals(tmp_path, BETTER, (0, 1, 2))
    assert attempt(data, tmp_path, epochs=3).run() is None
    assert trained_epochs(tmp_path) == [0, 1, 2]


def test_result_that_comes_later_ends_the_trial_then(data: Path, sweep: Path) -> None:
    add_rivals(sweep, BETTER, (1,))
    trainer = attempt(data, sweep, val_every=0)
    train_step = trainer.train_step

    def step_and_take_in(batch: object) -> None:
        train_step(batch)
        if trainer.position.step == 2 * STEPS_PER_EPOCH:
            trainer.emit(evaluated(1, WORSE))  # as validate: aside does in the third epoch

    trainer.train_step = step_and_take_in
    assert trainer.run() is None
    assert trained_epochs(sweep) == [0, 1, 2]
    assert [(event.epoch, event.step) for event in events_of(sweep, TrialStopped)] == [(1, 3 * STEPS_PER_EPOCH)]


def test_median_rule_ends_a_trial(data: Path, sweep: Path) -> None:
    write_sweep(sweep, StopSpec(rule="median", metric="map50", after=1))
    add_rivals(sweep, BETTER, (0, 1, 2, 3))
    attempt(data, sweep).run()
    assert [(event.rule, event.epoch) for event in events_of(sweep, TrialStopped)] == [("median", 0)]


def test_stop_that_was_recorded_and_not_saved_is_repeated(data: Path, sweep: Path) -> None:
    add_rivals(sweep, BETTER, (0, 1))
    killed_before_it_saves(attempt(data, sweep, every_epochs=0))
    for name in RIVALS:  # what the others have meanwhile does not matter
        RunDirectory(sweep / name).journal.unlink()
    resumed = attempt(data, sweep, number=2, every_epochs=0)
    assert resumed.position.finished_epochs == 0
    assert resumed.run() is None
    assert trained_epochs(sweep) == [0, 1, 0, 1]
    assert [event.attempt for event in events_of(sweep, TrialStopped)] == [1, 2]


def test_trial_that_went_on_is_not_ended_at_the_same_epoch_later(data: Path, sweep: Path) -> None:
    trainer = attempt(data, sweep, epochs=4, every_epochs=0)
    train_step = trainer.train_step

    def step_and_die(batch: object) -> None:
        if trainer.position.step == 2 * STEPS_PER_EPOCH:
            raise KeyboardInterrupt
        train_step(batch)

    trainer.train_step = step_and_die
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    add_rivals(sweep, BETTER, (0, 1))
    assert attempt(data, sweep, number=2, epochs=4, every_epochs=0).run() is None
    assert trained_epochs(sweep) == [0, 1, 0, 1, 2, 3]
    assert events_of(sweep, TrialStopped) == []


def test_extended_trial_trains_on_to_the_next_rung(data: Path, sweep: Path) -> None:
    add_rivals(sweep, BETTER, (0, 1, 2, 3))
    attempt(data, sweep).run()
    assert attempt(data, sweep, number=2, epochs=6).run() is None
    assert trained_epochs(sweep) == [0, 1, 2, 3]
    assert [(event.epoch, event.epochs) for event in events_of(sweep, TrialStopped)] == [(1, 5), (3, 6)]


def test_signal_during_the_epoch_of_a_rung_keeps_the_decision(data: Path, sweep: Path) -> None:
    add_rivals(sweep, BETTER, (0, 1, 2, 3))
    trainer = attempt(data, sweep)
    train_step = trainer.train_step

    def step_and_signal(batch: object) -> None:
        train_step(batch)
        if trainer.position.step + 1 == 2 * STEPS_PER_EPOCH:
            trainer.stop.stop_signal = signal.SIGTERM

    trainer.train_step = step_and_signal
    assert trainer.run() == signal.SIGTERM
    assert events_of(sweep, TrialStopped) == []
    assert attempt(data, sweep, number=2).run() is None
    assert [event.epoch for event in events_of(sweep, TrialStopped)] == [1]


def end(sweep: Path, outcome: str, *, requeued: bool = False) -> None:
    ended = AttemptEnded(outcome=outcome, epoch=2, step=4, cause=outcome, requeued=requeued)
    JournalWriter(sweep / TRIAL / "journal.jsonl", attempt=1).write(ended)


def test_outcomes_of_a_trial(data: Path, sweep: Path) -> None:
    trials = [RunDirectory(sweep / name) for name in (TRIAL, *RIVALS)]
    assert outcomes_of(trials) == {}
    attempt(data, sweep, epochs=3).run()
    assert outcomes_of(trials) == {}
    end(sweep, AttemptEnded.STOPPED, requeued=True)
    assert outcomes_of(trials) == {}
    end(sweep, AttemptEnded.FINISHED)
    best = max(event.metrics.fitness for event in events_of(sweep, Evaluated))
    assert outcomes_of(trials) == {TRIAL: Outcome(best)}
    end(sweep, AttemptEnded.FAILED)
    assert outcomes_of(trials) == {TRIAL: Outcome(None)}


def test_outcome_of_a_trial_that_ended_early(data: Path, sweep: Path) -> None:
    add_rivals(sweep, BETTER, (0, 1))
    attempt(data, sweep).run()
    end(sweep, AttemptEnded.FINISHED)
    assert outcomes_of([RunDirectory(sweep / TRIAL)])[TRIAL].stopped_after == 2
