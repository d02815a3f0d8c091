"""Values of the trials of a search: the same whenever they are asked for, better by TPE; studies that do not fit."""

import concurrent.futures
import importlib.util
import math
import multiprocessing
import statistics
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpc_yolo.core.errors import InstallationError, RunError
from hpc_yolo.spec.sweep_search import Range, SearchSpec, Value
from hpc_yolo.sweeps import study
from hpc_yolo.sweeps.search import ask, random_values, tell, untold
from hpc_yolo.sweeps.study import FILE_NAME, STUDY_NAME, Outcome, require_optuna

LR0, MOMENTUM = "train.hyp_overrides.lr0", "train.hyp_overrides.momentum"
SPACE: dict[str, Range | list[Value]] = {
    LR0: Range(low=1e-5, high=0.1, log=True),
    MOMENTUM: Range(low=0.6, high=0.98),
    "train.optimizer": ["SGD", "Adam", "AdamW"],
}
ALL_KINDS: dict[str, Range | list[Value]] = SPACE | {
    "train.hyp_overrides.mixup": Range(low=0, high=1, step=0.25),
    "train.imgsz": Range(low=320, high=640, step=32),
    "train.epochs": Range(low=10, high=100, log=True),
    "train.patience": Range(low=1, high=4),
    "train.cos_lr": [True, False],
}


def search(method: str = "tpe", seed: int = 0, space: dict[str, Range | list[Value]] | None = None) -> SearchSpec:
    return SearchSpec(method=method, trials=60, space=space or SPACE, seed=seed)


def names(number: int) -> list[str]:
    return [f"1-{task:04}" for task in range(number)]


def quality(values: dict[str, Any]) -> float:
    """Return the known function: 1 at lr0 0.003, momentum 0.9 and SGD, less away from there."""
    away = (math.log10(values[LR0] / 0.003) / 2) ** 2 + ((values[MOMENTUM] - 0.9) / 0.2) ** 2
    return 1 - away - {"SGD": 0.0, "Adam": 0.3, "AdamW": 0.1}[values["train.optimizer"]]


def best_of(spec: SearchSpec, directory: Path, num_trials: int = 60) -> float:
    """Run the trials one after the other; return the best quality."""
    found = []
    for name in names(num_trials):
        found.append(quality(ask(spec, directory, name)))
        tell(spec, directory, {name: Outcome(found[-1])})
    return max(found)


def bests(method: str, directory: Path, num_seeds: int, num_trials: int = 60) -> list[float]:
    found = []
    for seed in range(num_seeds):
        (own := directory / f"{method}-{seed}").mkdir()
        found.append(best_of(search(method, seed), own, num_trials))
    return found


def test_tpe_finds_better_values_than_random(tmp_path: Path) -> None:
    assert statistics.median(bests("tpe", tmp_path, 3, 40)) > statistics.median(bests("random", tmp_path, 3, 40))


@pytest.mark.soak
def test_tpe_finds_better_values_than_random_over_20_seeds(tmp_path: Path) -> None:
    assert statistics.median(bests("tpe", tmp_path, 20)) > statistics.median(bests("random", tmp_path, 20))


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_values_are_in_the_space_and_of_its_types(method: str, tmp_path: Path) -> None:
    spec = search(method, space=ALL_KINDS)
    for name in names(25):
        values = ask(spec, tmp_path, name)
        assert list(values) == list(ALL_KINDS)
        assert 1e-5 <= values[LR0] <= 0.1
        assert values["train.hyp_overrides.mixup"] in (0.0, 0.25, 0.5, 0.75, 1.0)
        assert values["train.imgsz"] in range(320, 641, 32)
        assert values["train.epochs"] in range(10, 101)
        assert values["train.patience"] in (1, 2, 3, 4)
        kinds = [float, float, str, float, int, int, int, bool]
        assert [type(value) for value in values.values()] == kinds


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_trial_that_is_asked_for_again_has_the_same_values(method: str, tmp_path: Path) -> None:
    spec = search(method)
    first = {name: ask(spec, tmp_path, name) for name in names(12)}
    tell(spec, tmp_path, {"1-0003": Outcome(0.5), "1-0004": Outcome(None)})
    assert {name: ask(spec, tmp_path, name) for name in reversed(names(12))} == first
    assert len({str(values) for values in first.values()}) == 12


def test_random_values_follow_from_seed_and_trial() -> None:
    values = random_values(search("random"), "1-0007")
    assert values == random_values(search("random"), "1-0007")
    assert values != random_values(search("random", seed=1), "1-0007")
    assert values != random_values(search("random"), "1-0008")


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_numbers_have_five_digits_and_stay_in_their_range(method: str, tmp_path: Path) -> None:
    spec = search(method, space={LR0: Range(low=0.0123456789, high=0.0123456799)})
    assert 0.0123456789 <= ask(spec, tmp_path, "1-0001")[LR0] <= 0.0123456799
    (other := tmp_path / "other").mkdir()
    value = ask(search(method), other, "1-0001")[LR0]
    assert value == float(f"{value:.5g}")


def test_random_values_cover_a_logarithmic_scale_evenly() -> None:
    drawn = [random_values(search("random", seed=seed), "1-0001")[LR0] for seed in range(400)]
    assert 150 < sum(value < 1e-3 for value in drawn) < 250


def test_processes_that_ask_at_once_get_different_values_and_one_each(tmp_path: Path) -> None:
    with concurrent.futures.ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        asked = [pool.submit(ask, search(), tmp_path, name) for name in names(8) * 2]
        values = [each.result() for each in asked]
    assert values[:8] == values[8:]
    assert len({str(each) for each in values}) == 8
    assert len(opened_study(tmp_path).trials) == 8


def opened_study(directory: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(directory / FILE_NAME))
    return optuna.load_study(study_name=STUDY_NAME, storage=optuna.storages.JournalStorage(backend))


def test_outcomes_are_recorded_once_and_as_optuna_names_them(tmp_path: Path) -> None:
    for name in names(4):
        ask(search(), tmp_path, name)
    outcomes = {"1-0000": Outcome(0.7), "1-0001": Outcome(0.2, stopped_after=10), "1-0002": Outcome(None)}
    tell(search(), tmp_path, outcomes | {"unknown": Outcome(0.1)})
    tell(search(), tmp_path, {"1-0000": Outcome(0.9)})
    found = {trial.user_attrs["trial"]: (trial.state.name, trial.value) for trial in opened_study(tmp_path).trials}
    assert found == {
        "1-0000": ("COMPLETE", 0.7),
        "1-0001": ("PRUNED", 0.2),
        "1-0002": ("FAIL", None),
        "1-0003": ("RUNNING", None),
    }


def test_trials_whose_end_is_not_recorded_are_listed(tmp_path: Path) -> None:
    assert untold(search(), tmp_path) == []
    for name in names(3):
        ask(search(), tmp_path, name)
    tell(search(), tmp_path, {"1-0001": Outcome(0.5)})
    assert untold(search(), tmp_path) == ["1-0000", "1-0002"]
    with pytest.raises(RunError, match="study of another space"):
        untold(search(space={LR0: SPACE[LR0]}), tmp_path)
    assert untold(search("random"), tmp_path) == []


def test_trial_of_a_process_killed_while_asking_is_dropped(tmp_path: Path) -> None:
    ask(search(), tmp_path, "1-0000")
    opened_study(tmp_path).ask({LR0: optuna.distributions.FloatDistribution(1e-5, 0.1, log=True)})
    ask(search(), tmp_path, "1-0001")
    assert [trial.state.name for trial in opened_study(tmp_path).trials] == ["RUNNING", "FAIL", "RUNNING"]


def test_lock_of_a_killed_process_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "LOCK_GRACE_S", 3)
    (tmp_path / f"{FILE_NAME}.ask.lock").touch()
    assert ask(search(), tmp_path, "1-0000")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (SPACE | {LR0: Range(low=1e-5, high=0.2, log=True)}, f"differs in {LR0}"),
        (SPACE | {"train.cos_lr": [True, False]}, "differs in train.cos_lr"),
        ({LR0: SPACE[LR0]}, f"differs in {MOMENTUM}, train.optimizer"),
    ],
    ids=["other bound", "field more", "fields less"],
)
def test_study_of_another_space_is_refused(changed: dict, named: str, tmp_path: Path) -> None:
    ask(search(), tmp_path, "1-0000")
    with pytest.raises(RunError, match="study of another space") as raised:
        ask(search(space=changed), tmp_path, "1-0001")
    assert named in raised.value.message
    assert len(opened_study(tmp_path).trials) == 1


def test_study_of_another_program_is_refused(tmp_path: Path) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / FILE_NAME))
    made = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend), study_name=STUDY_NAME, direction="maximize"
    )
    made.ask()
    with pytest.raises(RunError, match="study of another space"):
        ask(search(), tmp_path, "1-0000")


@pytest.mark.parametrize("content", [b"not json\nnor this\n", b'{"op_code":77}\n', b"[1]\n[2]\n", b'"a"\n{}\n'])
def test_file_that_is_no_study_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(RunError, match="cannot be read as a study"):
        ask(search(), tmp_path, "1-0000")
    assert (tmp_path / FILE_NAME).read_bytes() == content


def test_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file or directory"):
        ask(search(), tmp_path / "none", "1-0000")


def test_missing_optuna_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InstallationError, match="needs the package optuna") as raised:
        require_optuna()
    assert "hpc-yolo[sweep]" in str(raised.value)
    assert ask(search("random"), tmp_path, "1-0000")
