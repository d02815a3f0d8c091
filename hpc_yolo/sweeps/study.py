"""The study of Optuna behind a search by `tpe`: a journal file in the directory of the sweep, no server.

A process that asks or tells holds a lock file from reading the study to writing it: trials that start together on many
nodes get different values, and none gets two. The lock of the journal file itself covers single writes only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hpc_yolo.core.errors import HpcYoloError, InstallationError, RunError
from hpc_yolo.core.files import file_mode
from hpc_yolo.spec.sweep_search import Range, SearchSpec, Value
from hpc_yolo.spec.varied_fields import takes_whole_numbers

if TYPE_CHECKING:
    import optuna

FILE_NAME = "study.journal"
STUDY_NAME = "hpc-yolo"
SPACE, TRIAL = "space", "trial"  # attributes of the study and of a trial
LOCK_GRACE_S = 120  # after which the lock of a process that was killed is removed
INSTALL = "pip install 'hpc-yolo[sweep]', or method: random"


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        InstallationError: it is not.
    """
    if importlib.util.find_spec("optuna") is None:
        raise InstallationError(
            "sweep.search.method: tpe needs the package optuna, which is not installed", hint=INSTALL
        )


@dataclass(frozen=True)
class Outcome:
    """The result of a trial that has ended.

    Attributes:
        value: the best of the metric, the higher the better; None for a trial that failed or was never evaluated.
        stopped_after: epochs after which a stop rule ended it; None for one that trained to its end.
    """

    value: float | None
    stopped_after: int | None = None


class Study:
    """The study in the directory of a sweep."""

    def __init__(self, search: SearchSpec, directory: Path) -> None:
        """Initialize the study; its file is made by the first trial that asks.

        Raises:
            InstallationError: Optuna is not installed.
        """
        require_optuna()
        self._search = search
        self._path = directory / FILE_NAME

    def ask(self, trial: str) -> dict[str, Value]:
        """Return the values of the trial named `trial`, those that it has if it was asked for before.

        Raises:
            RunError: the study is of another space, or cannot be used.
        """
        with self._opened(trial) as study:
            found = _trial_named(study, trial)
            if found is not None:
                values = found.params
            else:
                _drop_unnamed(study)
                new = study.ask(self._distributions())
                new.set_user_attr(TRIAL, trial)  # last: a trial with a name has all its values
                values = new.params
            return {name: values[name] for name in self._search.ranges}

    def untold(self) -> list[str]:
        """Return the names of the trials that were asked for and whose end is not recorded.

        Raises:
            RunError: the study is of another space, or cannot be used.
        """
        if not self._path.exists():
            return []
        with self._opened() as study:
            return list(_unfinished(study))

    def tell(self, outcomes: Mapping[str, Outcome]) -> None:
        """Record the ends of trials by name; others than the untold ones are skipped.

        Raises:
            RunError: the study is of another space, or cannot be used.
        """
        with self._opened() as study:
            from optuna.trial import Trial, TrialState

            unfinished = _unfinished(study)
            for name in outcomes.keys() & unfinished.keys():
                outcome, found = outcomes[name], unfinished[name]
                if outcome.value is None:
                    study.tell(found.number, state=TrialState.FAIL)
                elif outcome.stopped_after is None:
                    study.tell(found.number, outcome.value)
                else:
                    Trial(study, found._trial_id).report(outcome.value, outcome.stopped_after)
                    study.tell(found.number, state=TrialState.PRUNED)

    @contextlib.contextmanager
    def _opened(self, trial: str = "") -> Iterator[optuna.Study]:
        """Yield the study, locked. `trial` seeds its sampler: trials that ask together must not get the same values."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path = str(self._path)
        lock = JournalFileOpenLock(f"{path}.ask", LOCK_GRACE_S)
        try:
            lock.acquire()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
                    self._path.chmod(file_mode(self._path.parent))
                    sampler = optuna.samplers.TPESampler(
                        seed=random.Random(f"{self._search.seed} {trial}").getrandbits(32), constant_liar=True
                    )
                    study = optuna.create_study(
                        storage=storage,
                        sampler=sampler,
                        study_name=STUDY_NAME,
                        direction="maximize",
                        load_if_exists=True,
                    )
                    self._require_same_space(study)
                    yield study
            finally:
                with contextlib.suppress(RuntimeError):  # another process has taken it for that of a killed one
                    lock.release()
        except OSError as error:
            raise RunError(f"{path}: {error.strerror or error}", hint="see that the file system is writable") from error
        except HpcYoloError:
            raise
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise RunError(
                f"{path}: cannot be read as a study of Optuna: {type(error).__name__}: {error}",
                hint="submit the sweep under another name",
            ) from error

    def _require_same_space(self, study: optuna.Study) -> None:
        ours = {name: msgspec.json.encode(kind).decode() for name, kind in self._search.ranges.items()}
        theirs = study.user_attrs.get(SPACE)
        if theirs is None and not study.trials:
            study.set_user_attr(SPACE, ours)
        elif theirs != ours:
            theirs = theirs or {}
            names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            raise RunError(
                f"{self._path}: holds a study of another space, which differs in {', '.join(names) or 'its origin'}",
                hint="give the sweep another name with --set name=NAME, or set the space as it was",
            )

    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        return {name: _distribution(name, kind) for name, kind in self._search.ranges.items()}


def _distribution(name: str, kind: Range | list[Value]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(kind, list):
        return CategoricalDistribution(kind)
    if takes_whole_numbers(name):
        return IntDistribution(int(kind.low), int(kind.high), log=kind.log, step=int(kind.step or 1))
    return FloatDistribution(kind.low, kind.high, log=kind.log, step=kind.step)


def _trial_named(study: optuna.Study, name: str) -> optuna.trial.FrozenTrial | None:
    return next((trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(TRIAL) == name), None)


def _unfinished(study: optuna.Study) -> dict[str, optuna.trial.FrozenTrial]:
    """Return the trials with a name whose end is not recorded."""
    named = (trial for trial in study.get_trials(deepcopy=False) if TRIAL in trial.user_attrs)
    return {trial.user_attrs[TRIAL]: trial for trial in named if not trial.state.is_finished()}


def _drop_unnamed(study: optuna.Study) -> None:
    """End the trials of processes that were killed while they asked: no run has their values."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if TRIAL not in trial.user_attrs:
            study.tell(trial.number, state=TrialState.FAIL)
