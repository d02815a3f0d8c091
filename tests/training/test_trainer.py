"""The training loop in this process with one rank: a stopped and resumed run ends like an uninterrupted one."""

import errno
import functools
import math
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from spec_runs import NETWORK, NETWORKS

from hpc_yolo.checkpoint import read_state, saver
from hpc_yolo.checkpoint.file import write_file
from hpc_yolo.checkpoint.store import saved_states
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import CheckpointError, RunError, TrainingError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.distributed import StepRequest, StopAgreement, World
from hpc_yolo.models import Detector
from hpc_yolo.resilience.stop_signal import StopRequest
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import (
    CheckpointSaved,
    EpochEnded,
    Evaluated,
    ImagesReplaced,
    StepLogged,
    TrainingLeft,
    WarningRaised,
)
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training import backward
from hpc_yolo.training.build import build
from hpc_yolo.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_STEPS = 6  # two epochs of three


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", num_train=6, num_val=2)


def next_attempt(
    data: Path, directory: Path, name: str, every_epochs: int = 1, model: str = str(NETWORK), **train: object
) -> Trainer:
    """Return the trainer of the next attempt of the run in `directory`."""
    fields: dict[str, object] = {"epochs": 2, "batch": 2, "imgsz": 64, "workers": 0, "plots": False}
    fields["hyp_overrides"] = {"warmup_bias_lr": 0.01}
    spec = Spec(
        name=name,
        model=model,
        data=DataSpec(path=str(data)),
        train=TrainSpec(**(fields | train)),
        checkpoint=CheckpointSpec(every_s=None, every_epochs=every_epochs),
    )
    run = RunDirectory(directory / name)
    run.create()
    world = World(ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single"), torch.device("cpu"), ())
    journal, built = JournalWriter(run.journal, attempt=1), []
    context = build(spec, world, run, emit=lambda event: journal.write(event) if built else refuse_warnings(event))
    built.append(context)
    return Trainer(context, world, run, journal, StopRequest())


@pytest.fixture
def trainer(data, tmp_path):
    """Return a function that creates the trainer of an attempt."""
    return functools.partial(next_attempt, data, tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """Return the directory of an uninterrupted run with these options; trained once for all tests."""

    @functools.cache
    def trained(**fields: object) -> Path:
        directory = tmp_path_factory.mktemp("uninterrupted")
        assert next_attempt(data, directory, "whole", **fields).run() is None
        return directory / "whole"

    return trained


@pytest.fixture
def attempt(trainer):
    """Run an attempt, stopped by a signal after `stop_after` steps; return the signal that stopped it, or None."""

    def run_attempt(name: str, stop_after: int | None = None, **fields: object) -> signal.Signals | None:
        return run_until(trainer(name, **fields), stop_after)

    return run_attempt


@pytest.fixture(scope="module")
def stopped_runs(data, tmp_path_factory):
    """Return the directory of a run that was stopped after `stop_after` steps; trained once for all tests."""

    @functools.cache
    def stopped(stop_after: int, **fields: object) -> Path:
        directory = tmp_path_factory.mktemp("stopped")
        assert run_until(next_attempt(data, directory, "stopped", **fields), stop_after) == signal.SIGTERM
        return directory / "stopped"

    return stopped


@pytest.fixture
def copy_of_stopped(stopped_runs, tmp_path):
    """Return a copy of the directory that `stopped_runs` returns, for one test."""
    return lambda *steps, **fields: shutil.copytree(stopped_runs(*steps, **fields), tmp_path / "stopped")


def run_until(trainer: Trainer, stop_after: int | None) -> signal.Signals | None:
    """Run an attempt with a signal after `stop_after` steps."""
    train_step = trainer.train_step

    def step_and_signal(batch):
        train_step(batch)
        if trainer.position.step + 1 == stop_after:
            trainer.stop.stop_signal = signal.SIGTERM

    trainer.train_step = step_and_signal
    return trainer.run()


def refuse_warnings(event):
    assert not isinstance(event, WarningRaised), event


def state_paths(path: Path) -> list[Path]:
    return saved_states(RunDirectory(path))


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path / "checkpoints" / "last.safetensors")


def training_events(path: Path) -> list[tuple]:
    """Return the steps, epochs and evaluations of the journal, without times."""
    found = []
    for event in read_events(path / "journal.jsonl"):
        if isinstance(event, StepLogged):
            found.append(("step", event.step, event.losses, event.grad_norm, event.lr))
        elif isinstance(event, EpochEnded):
            found.append(("epoch", event.epoch, event.step, event.losses))
        elif isinstance(event, Evaluated):
            found.append(("evaluated", event.epoch, event.metrics))
    return found


def leaving(path: Path) -> list[tuple[int, int | None]]:
    """Return (step, signal) of every end of training in the journal."""
    events = read_events(path / "journal.jsonl")
    return [(event.step, event.signal) for event in events if isinstance(event, TrainingLeft)]


ANCHOR_FREE = {"model": str(NETWORKS["anchor-free"])}


@pytest.mark.parametrize("fields", [{}, ANCHOR_FREE], ids=["anchors", "anchor-free"])
@pytest.mark.parametrize("stop_after", range(1, NUM_STEPS + 1))
def test_resume_after_any_step_keeps_weights_and_events(attempt, uninterrupted, tmp_path, stop_after, fields):
    """Also at the end of an epoch: its evaluation must neither be lost nor repeated."""
    assert attempt("stopped", stop_after, **fields) == signal.SIGTERM
    assert leaving(tmp_path / "stopped") == [(stop_after, signal.SIGTERM)]
    assert attempt("stopped", **fields) is None
    assert leaving(tmp_path / "stopped")[1:] == [(NUM_STEPS, None)]
    whole, resumed = state_of(uninterrupted(**fields)), state_of(tmp_path / "stopped")
    assert whole.keys() == resumed.keys()
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []
    expected, found = training_events(uninterrupted(**fields)), training_events(tmp_path / "stopped")
    assert found == expected


def test_resume_after_stop_in_evaluation_evaluates_again(attempt, uninterrupted, trainer, tmp_path):
    """An evaluation takes minutes on a large dataset, and a preempted job has seconds."""
    stopped = trainer("stopped")
    slots = stopped.context.validation.slots

    def signal_at_second_batch():
        for batch in slots():
            yield batch
            stopped.stop.stop_signal = signal.SIGTERM
            yield batch

    stopped.context.validation.slots = signal_at_second_batch
    assert stopped.run() == signal.SIGTERM
    assert [item[0] for item in training_events(tmp_path / "stopped")] == ["step"] * 3 + ["epoch"], "not evaluated yet"
    assert attempt("stopped") is None
    whole, resumed = state_of(uninterrupted()), state_of(tmp_path / "stopped")
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []
    assert training_events(tmp_path / "stopped") == training_events(uninterrupted())


def test_training_continues_after_failed_save_and_saves_later(attempt, tmp_path, monkeypatch):
    refuse_to_write(monkeypatch, steps=(3,))
    assert attempt("refused") is None
    assert [path.name for path in state_paths(tmp_path / "refused")] == ["state-0001-000000006.safetensors"]
    warnings = [event.message for event in read_events(tmp_path / "refused/journal.jsonl") if is_warning(event)]
    assert len(warnings) == 1
    assert "No space left on device; training continues; there is no checkpoint yet" in warnings[0]


@pytest.mark.parametrize("num_refused", [1, 3], ids=["until the next checkpoint", "until the end"])
def test_best_model_that_cannot_be_saved_is_saved_later(attempt, uninterrupted, tmp_path, monkeypatch, num_refused):
    """Its weights are those of its epoch, although the average has changed meanwhile."""
    monkeypatch.setattr("hpc_yolo.training.checkpointer.RETRY_S", 0.0)
    refused = iter(range(num_refused))

    def full(path, *rest):
        if path.name == "best.safetensors" and next(refused, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_file(path, *rest)

    monkeypatch.setattr(saver, "write_file", full)
    assert attempt("refused") is None
    events = read_events(tmp_path / "refused/journal.jsonl")
    assert [event.is_best for event in events if isinstance(event, Evaluated)] == [True, False]
    assert len(list(filter(is_warning, events))) == num_refused
    best = Path("checkpoints/best.safetensors")
    whole, later = (safetensors.torch.load_file(path / best) for path in (uninterrupted(), tmp_path / "refused"))
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, later[name])] == []


def test_failed_save_of_last_state_fails_run_and_keeps_previous_state(attempt, uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_yolo.training.checkpointer.RETRY_S", 0.0)
    refuse_to_write(monkeypatch, steps=(6,))
    with pytest.raises(
        RunError, match=r"after step 6 cannot be saved: .*No space.*the last good checkpoint is state-0001-000000003"
    ):
        attempt("full")
    monkeypatch.undo()
    assert attempt("full") is None
    whole, resumed = state_of(uninterrupted()), state_of(tmp_path / "full")
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []


def refuse_to_write(monkeypatch, steps: tuple[int, ...]) -> None:
    """Make the write of the state after each of `steps` fail, as on a full disk."""

    def full(path, *rest):
        if any(path.name.endswith(f"-{step:09d}.safetensors") for step in steps):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_file(path, *rest)

    monkeypatch.setattr(saver, "write_file", full)


def is_warning(event: object) -> bool:
    return isinstance(event, WarningRaised)


@pytest.mark.parametrize(
    "option",
    [
        {"multi_scale": True},
        {"image_weights": True},
        {"rect": True},
        {"precision": "fp16"},
        ANCHOR_FREE | {"multi_scale": True, "image_weights": True, "precision": "bf16", "label_smoothing": 0.1},
        ANCHOR_FREE | {"rect": True, "single_cls": True, "freeze": 10},
    ],
    ids=str,
)
def test_resume_in_second_epoch_with_option_keeps_weights(attempt, uninterrupted, tmp_path, option):
    """Their random numbers depend on the position and the checkpoint, not on the state of a process."""
    assert attempt("stopped", stop_after=4, **option) == signal.SIGTERM
    assert attempt("stopped", **option) is None
    same_model = {name: value for name, value in option.items() if name == "model"}
    runs = (uninterrupted(**option), tmp_path / "stopped", uninterrupted(**same_model))
    whole, resumed, plain = (state_of(path) for path in runs)
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, plain[name])], "the option has an effect"


@pytest.fixture(scope="module")
def closing(tmp_path_factory) -> str:
    """Return a file of hyperparameters without mosaics in the last epoch."""
    path = tmp_path_factory.mktemp("hyp") / "closing.yaml"
    path.write_text("close_mosaic: 1\n")
    return str(path)


@pytest.mark.parametrize("stop_after", [2, 3, 4], ids=["before", "at", "after"])
def test_resume_around_the_end_of_mosaics_keeps_weights(attempt, uninterrupted, closing, tmp_path, stop_after):
    assert attempt("stopped", stop_after, hyp=closing) == signal.SIGTERM
    assert attempt("stopped", hyp=closing) is None
    runs = (uninterrupted(hyp=closing), tmp_path / "stopped", uninterrupted())
    whole, resumed, plain = (state_of(path) for path in runs)
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, plain[name])], "an effect"
    assert training_events(runs[0])[:4] == training_events(runs[2])[:4], "the first epoch has mosaics"


def test_resume_with_images_drawn_on_the_device_keeps_weights(attempt, tmp_path, monkeypatch):
    """The device is a CPU here, which a run refuses because it gains nothing."""
    monkeypatch.setattr("hpc_yolo.training.build.require_device", lambda *_: None)
    options = {"augment_device": "gpu", "hyp_overrides": {"warmup_bias_lr": 0.01, "mixup": 0.5}}
    assert attempt("whole", **options) is None
    assert attempt("stopped", stop_after=4, **options) == signal.SIGTERM
    assert attempt("stopped", **options) is None
    whole, resumed = (state_of(tmp_path / name) for name in ("whole", "stopped"))
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []


@pytest.mark.parametrize("plots", [True, False])
def test_numbers_of_the_finished_run_are_written_with_and_without_charts(attempt, tmp_path, plots):
    assert attempt("whole", epochs=1, plots=plots) is None
    run = RunDirectory(tmp_path / "whole")
    charts = {"curves.png", "labels.png", "confusion_matrix.png", run.mosaics.name, run.pairs.name}
    expected = {run.evaluation.name, run.labels.name} | (charts if plots else set())
    assert {path.name for path in run.results.iterdir()} == expected


def test_results_of_a_run_leave_out_validation_images_that_were_lost(tmp_path):
    data = write_shapes_dataset(tmp_path / "shapes", num_train=4, num_val=3)
    trainer = next_attempt(data, tmp_path, "lost", epochs=1, plots=True, cache="none")
    Path(trainer.context.validation.index.paths[0]).unlink()
    assert run_until(trainer, None) is None
    run = trainer.run_directory
    assert run.evaluation.is_file() and run.pairs.is_file()
    assert not [event for event in read_events(run.journal) if isinstance(event, WarningRaised)]


def test_task_without_gpu_refuses_to_draw_images_on_it(trainer):
    with pytest.raises(TrainingError, match="augment_device: gpu needs a GPU, and this task has none"):
        trainer("refused", augment_device="gpu")


def test_multi_scale_varies_image_size_from_half_to_one_and_a_half(attempt, tmp_path, monkeypatch):
    sizes = []
    forward = Detector.forward
    monkeypatch.setattr(Detector, "forward", lambda self, x: (sizes.append(x.shape[2:]), forward(self, x))[1])
    attempt("scaled", multi_scale=True, epochs=4, val_every=0, imgsz=96)
    trained = sizes[:12]  # before the evaluation
    assert all(height == width and height % 32 == 0 and 32 <= height <= 160 for height, width in trained)
    assert len(set(trained)) > 2


@pytest.mark.parametrize(("val_every", "expected"), [(0, [4]), (1, [0, 1, 2, 3, 4]), (2, [1, 3, 4])])
def test_evaluation_follows_val_every_and_last_epoch(attempt, tmp_path, val_every, expected):
    attempt("evaluated", epochs=5, val_every=val_every)
    events = read_events(tmp_path / "evaluated" / "journal.jsonl")
    assert [event.epoch for event in events if isinstance(event, Evaluated)] == expected


@pytest.mark.parametrize(("every_epochs", "expected"), [(0, [5]), (2, [2, 4, 5])])
def test_checkpoint_follows_every_epochs_and_last_epoch(attempt, tmp_path, every_epochs, expected):
    attempt("saved", epochs=5, every_epochs=every_epochs)
    events = read_events(tmp_path / "saved" / "journal.jsonl")
    saved = [event for event in events if isinstance(event, CheckpointSaved) and "state" in event.path]
    assert [event.epoch for event in saved] == expected


class LateAgreement(StopAgreement):
    """Answers with the request before, as that of several ranks does."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._before = StepRequest()

    def ask(self, request: StepRequest) -> StepRequest:
        before, self._before = self._before, request
        return before


@pytest.mark.parametrize(("val_every", "expected"), [(1, [3, 6]), (0, [4, 6])], ids=["evaluation", "no evaluation"])
def test_checkpoint_due_at_the_last_step_of_an_epoch_is_saved_by_several_ranks(trainer, tmp_path, val_every, expected):
    several = trainer("several", every_epochs=0, val_every=val_every)
    several.context.checkpoint = CheckpointSpec(every_s=None, every_epochs=0, every_steps=3)
    several.agreement = LateAgreement(several.world)
    assert several.run() is None
    events = read_events(tmp_path / "several/journal.jsonl")
    saved = [event.step for event in events if isinstance(event, CheckpointSaved) and "state-" in event.path]
    assert saved == expected


def test_step_with_gradient_overflow_changes_no_weight(trainer):
    """The loss scaler lowers its scale after an overflow; the overflowing step must not change the weights."""
    fp16 = trainer("fp16", precision="fp16", hyp_overrides={"warmup_bias_lr": 0.1})
    context, updater = fp16.context, fp16.context.updater
    context.trained.train()
    before = {name: weights.clone() for name, weights in context.model.named_parameters()}
    (batch, *_) = context.training.epoch(0)
    changed = []
    for scale in (2.0**60, 1.0):
        updater.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        fp16.train_step(batch)
        fp16.position.step += 1
        changed.append(
            any(not torch.equal(weights, before[name]) for name, weights in context.model.named_parameters())
        )
        assert all(torch.isfinite(tensor).all() for tensor in context.ema.model.state_dict().values())
        assert updater.last_step == fp16.position.step - 1, "its batch is not repeated"
    assert changed == [False, True]


def test_measured_batch_is_measured_once_and_kept(attempt, tmp_path, monkeypatch):
    assert attempt("measured", batch=-1, stop_after=1) == signal.SIGTERM
    assert (tmp_path / "measured" / "batch").read_text() == "16\n", "the default batch without a GPU"
    monkeypatch.setattr("hpc_yolo.training.build.find_batch", lambda *_: pytest.fail("measured again"))
    assert attempt("measured", batch=-1) is None


@pytest.mark.parametrize(("multi_scale", "expected"), [(False, 64), (True, 96)])
def test_batch_is_measured_with_largest_images(attempt, monkeypatch, multi_scale, expected):
    measured = []
    monkeypatch.setattr("hpc_yolo.training.build.find_batch", lambda _, imgsz, *__: measured.append(imgsz) or 3)
    attempt("measured", batch=-1, multi_scale=multi_scale, stop_after=1)
    assert measured == [expected]


def test_finished_run_is_not_trained_again(attempt, tmp_path):
    attempt("done")
    before = (tmp_path / "done" / "journal.jsonl").read_bytes()
    assert attempt("done") is None
    assert (tmp_path / "done" / "journal.jsonl").read_bytes() == before


def test_training_without_improvement_ends_after_patience(attempt, tmp_path):
    assert attempt("patient", epochs=30, patience=2, hyp_overrides={"lr0": 1e-9, "warmup_bias_lr": 0.0}) is None
    assert len([item for item in training_events(tmp_path / "patient") if item[0] == "epoch"]) == 3


def test_patience_ends_after_evaluation(attempt, tmp_path):
    """Epochs without an evaluation neither improve nor use up patience."""
    attempt("rare", epochs=30, patience=2, val_every=5, hyp_overrides={"lr0": 1e-9, "warmup_bias_lr": 0.0})
    events = [item[:2] for item in training_events(tmp_path / "rare")]
    assert events[-2:] == [("epoch", 9), ("evaluated", 9)]


def make_nonfinite(monkeypatch, step: int) -> None:
    """Make the images of `step` not finite, in every attempt."""
    scaled_images = backward.scaled_images

    def nonfinite_images(context, images, at_step):
        return scaled_images(context, images, at_step) * (math.nan if at_step == step else 1.0)

    monkeypatch.setattr(backward, "scaled_images", nonfinite_images)


def test_nonfinite_loss_fails_run_and_is_not_saved(attempt, tmp_path, monkeypatch):
    make_nonfinite(monkeypatch, 4)
    with pytest.raises(
        TrainingError, match=r"not finite at step 4 \(epoch 2\), first on rank 0 with .*\.jpg, .*\.jpg;"
    ):
        attempt("bad")
    saved = [event.step for event in read_events(tmp_path / "bad/journal.jsonl") if isinstance(event, CheckpointSaved)]
    assert max(saved) == 3
    assert all(torch.isfinite(tensor).all() for tensor in state_of(tmp_path / "bad").values())
    with pytest.raises(TrainingError, match="not finite at step 4"):
        attempt("bad")


@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("stop_after", [3, 5])
def test_nonfinite_batch_is_skipped_also_after_resume(attempt, tmp_path, monkeypatch, policy, stop_after):
    make_nonfinite(monkeypatch, 4)
    assert attempt("whole", on_nonfinite=policy) is None
    assert attempt("stopped", stop_after=stop_after, on_nonfinite=policy) == signal.SIGTERM
    assert attempt("stopped", on_nonfinite=policy) is None
    whole, resumed = state_of(tmp_path / "whole"), state_of(tmp_path / "stopped")
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []
    assert all(torch.isfinite(tensor).all() for tensor in whole.values())
    warnings = [event for event in read_events(tmp_path / "whole/journal.jsonl") if isinstance(event, WarningRaised)]
    (warning,) = warnings
    assert "step 4 (epoch 2), first on rank 0 with" in warning.message


def test_nonfinite_batch_after_resume_between_optimizer_steps_keeps_weights(attempt, tmp_path, monkeypatch):
    """The running statistics are reset to those after the last optimiser step, which was in the previous process."""
    make_nonfinite(monkeypatch, 3)
    assert attempt("whole", on_nonfinite="skip") is None
    assert attempt("stopped", stop_after=3, on_nonfinite="skip") == signal.SIGTERM
    state = read_state(state_paths(tmp_path / "stopped")[0])
    assert state.parts["optimizer"]["last_step"] < 2, "no accumulated gradients: nothing is tested"
    assert attempt("stopped", on_nonfinite="skip") is None
    whole, resumed = state_of(tmp_path / "whole"), state_of(tmp_path / "stopped")
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []


def test_run_with_too_many_nonfinite_steps_fails(attempt, monkeypatch):
    monkeypatch.setattr(backward, "scaled_images", lambda _context, images, _step: images.float() * math.nan)
    monkeypatch.setattr("hpc_yolo.training.nan_guard.MAX_BAD_STEPS", 2)
    with pytest.raises(TrainingError, match="one of more than 2 in this epoch"):
        attempt("nonfinite", on_nonfinite="skip")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "cannot be read as a checkpoint"),
        (lambda content: b"", "cannot be read as a checkpoint"),
        (lambda content: content.replace(b"hpc-yolo-4", b"hpc-yolo-9"), "its format is 'hpc-yolo-9'"),
        (lambda content: content.replace(b'\\"num_images\\":6', b'\\"num_images\\":7'), "its header is not as it was"),
    ],
)
def test_unusable_checkpoint_error_has_reason(attempt, copy_of_stopped, damage, message):
    (path,) = state_paths(copy_of_stopped(1))
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=message):
        attempt("stopped")
    assert path.read_bytes() == damaged, "the file is kept"


def test_run_whose_checkpoints_are_gone_does_not_begin_again(attempt, copy_of_stopped):
    """A file system for temporary files removes old ones, and best.safetensors would be replaced without notice."""
    (path,) = state_paths(copy_of_stopped(1))
    path.unlink()
    with pytest.raises(CheckpointError, match=r"has no state any more, and .* its last one after step 1"):
        attempt("stopped")
    (path.parents[1] / "journal.jsonl").unlink()
    assert attempt("stopped") is None, "nothing shows that a state was saved"


def test_damaged_checkpoint_is_set_aside_and_previous_is_loaded(attempt, tmp_path, monkeypatch):
    """The last two epochs are repeated with the same result."""
    assert attempt("whole", epochs=4) is None
    assert attempt("damaged", epochs=4, stop_after=11) == signal.SIGTERM
    newest, *older = state_paths(tmp_path / "damaged")
    assert len(older) == 2
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    found: list[str] = []
    monkeypatch.setitem(globals(), "refuse_warnings", lambda event: found.append(getattr(event, "message", "")))
    assert attempt("damaged", epochs=4) is None
    assert newest.with_name(newest.name + ".damaged").read_bytes() == content
    assert any("is damaged: tensor" in message and "resumes from step 9" in message for message in found)
    whole, resumed = state_of(tmp_path / "whole"), state_of(tmp_path / "damaged")
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []


def test_state_of_another_run_is_refused(attempt, tmp_path):
    attempt("other", stop_after=1, cos_lr=True)
    attempt("own", stop_after=1)
    (other,), (own,) = state_paths(tmp_path / "other"), state_paths(tmp_path / "own")
    own.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match="saved by a run with another training spec"):
        attempt("own")


@pytest.fixture(scope="module")
def overflowed(data, tmp_path_factory):
    """Return the directory of an uninterrupted run whose initial loss scale is too large."""
    directory = tmp_path_factory.mktemp("overflowed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpc_yolo.training.build.torch.amp.GradScaler", overflowing_scaler)
        assert next_attempt(data, directory, "whole", precision="fp16").run() is None
    return directory / "whole"


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resume_after_fp16_overflow_keeps_grad_norm(attempt, overflowed, tmp_path, monkeypatch, stop_after):
    """The first loss scale is too large, so that the gradient norm is infinite: the state must be readable."""
    monkeypatch.setattr("hpc_yolo.training.build.torch.amp.GradScaler", overflowing_scaler)
    assert attempt("stopped", stop_after=stop_after, precision="fp16") == signal.SIGTERM
    state = read_state(state_paths(tmp_path / "stopped")[0])
    assert not math.isfinite(state.parts["optimizer"]["grad_norm"]), "no overflow: nothing is tested"
    assert attempt("stopped", precision="fp16") is None
    whole, resumed = state_of(overflowed), state_of(tmp_path / "stopped")
    # Accumulated gradients may be NaN, which is not equal to itself.
    assert [name for name in whole if bits(whole[name]) != bits(resumed[name])] == []
    assert training_events(tmp_path / "stopped") == training_events(overflowed)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def overflowing_scaler(device: str, enabled: bool) -> torch.amp.GradScaler:
    return ORIGINAL_SCALER(device, enabled=enabled, init_scale=2.0**60)


ORIGINAL_SCALER = torch.amp.GradScaler


def test_resume_uses_hyperparameters_of_first_attempt(attempt, tmp_path):
    """A file that was edited or removed between two attempts does not change the result."""
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text("lr0: 0.01\nwarmup_epochs: 0\n")
    assert attempt("whole", hyp=str(hyp)) is None
    assert attempt("stopped", stop_after=2, hyp=str(hyp)) == signal.SIGTERM
    hyp.write_text("lr0: 0.5\nwarmup_epochs: 0\n")
    assert attempt("stopped", stop_after=4, hyp=str(hyp)) == signal.SIGTERM
    hyp.unlink()
    assert attempt("stopped", hyp=str(hyp)) is None
    whole, resumed = state_of(tmp_path / "whole"), state_of(tmp_path / "stopped")
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []
    assert training_events(tmp_path / "stopped") == training_events(tmp_path / "whole")


@pytest.mark.parametrize("change_of_copies", ["edited", "removed"])
def test_state_with_changed_copies_of_inputs_is_refused(attempt, tmp_path, change_of_copies):
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text("lr0: 0.01\n")
    assert attempt("stopped", stop_after=2, hyp=str(hyp)) == signal.SIGTERM
    inputs = tmp_path / "stopped" / "inputs"
    if change_of_copies == "edited":
        copy = inputs / "hyperparameters.yaml"
        copy.write_text(copy.read_text().replace("lr0: 0.01", "lr0: 0.5"))
    else:
        shutil.rmtree(inputs)
        hyp.write_text("lr0: 0.5\n")
    with pytest.raises(CheckpointError, match="was saved with other hyperparameters") as caught:
        attempt("stopped", hyp=str(hyp))
    assert str(inputs) in caught.value.message


def test_images_damaged_after_the_scan_are_replaced_and_reported(tmp_path):
    data = write_shapes_dataset(tmp_path / "shapes", num_train=6, num_val=3)
    trainer = next_attempt(data, tmp_path, "damaged")
    paths = [trainer.context.training.index.paths[2], trainer.context.validation.index.paths[1]]
    for path in paths:
        os.truncate(path, 50)
    assert trainer.run() is None
    events = [event for event in read_events(trainer.run_directory.journal) if isinstance(event, ImagesReplaced)]
    assert [(event.split, event.total, event.num_images, event.first) for event in events] == [
        ("train", 1, 6, paths[:1]),
        ("val", 1, 3, paths[1:]),
    ]


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 50), os.unlink], ids=["cut off", "lost"])
def test_resume_with_damaged_images_keeps_weights_and_events(tmp_path, monkeypatch, damage):
    """A scan leaves these images out; the batches of the run have their neighbours instead."""
    data = write_shapes_dataset(tmp_path / "shapes", num_train=6, num_val=3)
    original = shutil.copytree(data.parent, tmp_path / "original")
    for name, stops in (("whole", [None]), ("stopped", [2, 4, None])):
        shutil.copytree(original, data.parent, dirs_exist_ok=True)
        warnings: list[object] = []
        for number, stop_after in enumerate(stops):
            if number == 1:
                monkeypatch.setattr(sys.modules[__name__], "refuse_warnings", warnings.append)
            trainer = next_attempt(data, tmp_path, name, cache="none")
            if number == 0:
                damage(trainer.context.training.index.paths[2])
                damage(trainer.context.validation.index.paths[1])
            assert run_until(trainer, stop_after) == (stop_after and signal.SIGTERM)
    whole, resumed = state_of(tmp_path / "whole"), state_of(tmp_path / "stopped")
    assert [key for key, tensor in whole.items() if not torch.equal(tensor, resumed[key])] == []
    assert training_events(tmp_path / "stopped") == training_events(tmp_path / "whole")
    replaced = [event for event in read_events(trainer.run_directory.journal) if isinstance(event, ImagesReplaced)]
    assert {(event.split, event.total) for event in replaced} == {("train", 1), ("val", 1)}
    messages = [event.message for event in warnings if isinstance(event, WarningRaised)]
    assert any(message.startswith("val: 1 image of earlier attempts cannot be read") for message in messages)


def test_resume_with_removed_images_and_labels_is_refused(tmp_path):
    data = write_shapes_dataset(tmp_path / "shapes", num_train=6, num_val=3)
    trainer = next_attempt(data, tmp_path, "removed")
    assert run_until(trainer, 2) == signal.SIGTERM
    for path in trainer.context.training.index.paths[:4]:
        Path(path).unlink()
    with pytest.raises(CheckpointError, match="was made with 6 training images, and there are 2 now"):
        next_attempt(data, tmp_path, "removed")
