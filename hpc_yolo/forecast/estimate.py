"""Wall time and attempts of a planned run: arithmetic over rates, the work to do, and the time limit of a job.

An attempt trains until the signal before its time limit, saves and ends; no step is lost. An evaluation that the signal
interrupts is done again by the next attempt.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpc_yolo.forecast.rates import Rates

# By which Slurm sends the signal earlier: least, usual (it looks every 30 s for signals that are due), most allowed.
SIGNAL_EARLY_S = (0.0, 15.0, 60.0)
LAUNCH_S = 2.0  # from the start of a job to its first process: srun; setup lines are not in the journal
MAX_ATTEMPTS = 10_000


@dataclass(frozen=True)
class Work:
    """What is left to train.

    Attributes:
        first_step: steps that are done.
        val_every: epochs from one evaluation to the next; 0: only after the last one.
    """

    epochs: int
    steps_per_epoch: int
    val_every: int = 1
    first_step: int = 0

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def evaluates_after(self, epoch: int) -> bool:
        """Return whether an evaluation follows `epoch`, from 0."""
        return epoch + 1 == self.epochs or (self.val_every > 0 and (epoch + 1) % self.val_every == 0)


@dataclass(frozen=True)
class Limit:
    """The time limit of a job, and how long before it Slurm signals the tasks."""

    seconds: int
    signal_before_s: int

    def usable_s(self, early_s: float) -> float:
        """Return the time of an attempt until its signal, which comes `early_s` too early."""
        return self.seconds - self.signal_before_s - early_s - LAUNCH_S


@dataclass(frozen=True)
class Spread:
    """An expected value, and the range that the measured epochs suggest."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        wall_s: in all attempts together, without the queue before and between them.
        attempts: number of attempts, `MAX_ATTEMPTS` at most; None where no attempt gets anywhere within its time limit.
    """

    wall_s: Spread
    attempts: Spread | None


def estimate(work: Work, rates: Rates, limit: Limit | None) -> Estimate:
    """Return what `work` takes in jobs with `limit`; None: without one, in one attempt."""
    cases = (rates.fast(), rates, rates.slow())
    whole_s = [sum(attempt_times(work, case, None) or ()) for case in cases]
    if limit is None:
        return Estimate(_ordered(*whole_s), Spread(1, 1, 1))
    fast, usual, slow = (
        attempt_times(work, case, limit.usable_s(early_s)) for case, early_s in zip(cases, SIGNAL_EARLY_S, strict=True)
    )
    if usual is None:
        return Estimate(_ordered(*whole_s), None)
    fast = usual if fast is None else fast
    seconds = (sum(fast), sum(usual), whole_s[-1] if slow is None else sum(slow))
    numbers = (len(fast), len(usual), MAX_ATTEMPTS if slow is None else len(slow))
    return Estimate(_ordered(*seconds), _ordered(*numbers))


def _ordered(low: float, expected: float, high: float) -> Spread:
    """Return the three values as a range: fewer attempts may make fast epochs as long as slow ones."""
    return Spread(min(low, expected), expected, max(high, expected))


def attempt_times(work: Work, rates: Rates, usable_s: float | None) -> list[float] | None:
    """Return the seconds of each attempt; None where one would end before it has done anything.

    Args:
        usable_s: from the first process of an attempt to its signal; None: without a time limit.
    """
    clock = _Clock(rates, usable_s, is_new=work.first_step == 0)
    step = work.first_step
    for epoch in range(step // work.steps_per_epoch, work.epochs):
        while (steps_left := (epoch + 1) * work.steps_per_epoch - step) > 0:
            fit = clock.fit(steps_left)
            step += fit
            if fit < steps_left and not clock.interrupt():
                return None
        if work.evaluates_after(epoch) and not clock.evaluate():
            return None
    clock.seconds += rates.finish_s
    return [*clock.ended, clock.seconds]


class _Clock:
    """The time since an attempt began, and the attempts before it."""

    def __init__(self, rates: Rates, usable_s: float | None, *, is_new: bool) -> None:
        self.ended: list[float] = []
        self.seconds = (rates.startup_s if is_new else rates.resume_s) + rates.warmup_s
        self._rates, self._usable_s = rates, usable_s
        self._has_progress = False

    def fit(self, num_steps: int) -> int:
        """Return how many of `num_steps` steps are done before the signal, and add their time."""
        if self._usable_s is not None:
            num_steps = max(min(num_steps, int((self._usable_s - self.seconds) // self._rates.step_s)), 0)
        self.seconds += num_steps * self._rates.step_s
        self._has_progress |= num_steps > 0
        return num_steps

    def evaluate(self) -> bool:
        """Add an evaluation, in the next attempt where this one has no time for it; False: it fits in none."""
        while self._usable_s is not None and self.seconds + self._rates.evaluation_s > self._usable_s:
            if not self.interrupt():
                return False
        self.seconds += self._rates.evaluation_s
        self._has_progress = True
        return True

    def interrupt(self) -> bool:
        """End the attempt at its signal and begin the next; False where it has done nothing, and the next would not."""
        assert self._usable_s is not None
        if not self._has_progress or len(self.ended) >= MAX_ATTEMPTS:
            return False
        self.ended.append(max(self._usable_s, self.seconds) + self._rates.stop_s)
        self.seconds = self._rates.resume_s + self._rates.warmup_s
        self._has_progress = False
        return True
