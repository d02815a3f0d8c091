"""The stop rule of the sweep that a run is a trial of: rank 0 compares after evaluations, all ranks end together.

A decision is made once. An epoch that an earlier attempt has evaluated is not compared again, and a recorded stop is
repeated if the state was lost, so that a resumed trial ends where it would have ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hpc_yolo.core.errors import RunError
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, Evaluated, TrialStopped, WarningRaised
from hpc_yolo.runs.journal import read_events
from hpc_yolo.spec.sweep_search import StopSpec
from hpc_yolo.sweeps.curves import SweepCurves
from hpc_yolo.sweeps.of_run import other_trials, stop_spec_of
from hpc_yolo.sweeps.stop_rules import Decision, compares_after, decide
from hpc_yolo.training.context import TrainingContext
from hpc_yolo.training.phases import Phases


class StopRule:
    """The stop rule of a run; all ranks call the methods alike, and rank 0 reads and decides."""

    def __init__(
        self,
        context: TrainingContext,
        world: World,
        run: RunDirectory,
        phases: Phases,
        emit: Callable[[AnyEvent], None],
    ) -> None:
        self._context, self._world, self._run, self._phases, self._emit = context, world, run, phases, emit
        self._stop = stop_spec_of(run) if world.is_main else None
        self._applies = bool(world.gather_numbers([self._stop is not None])[0][0])
        self._compared_epoch = -1  # the last one that needs no comparison any more
        self._recorded: list[TrialStopped] = []
        if self._stop is not None:
            self._curves = SweepCurves(self._stop.metric)
            self._read_earlier_attempts()

    def apply(self, epoch: int) -> None:
        """After `epoch`, from 0, compare the evaluations that are new, and record on all ranks if the trial ends."""
        if not self._applies or epoch + 1 >= self._context.train.epochs:
            return
        self._phases.comparing()
        event = None if self._stop is None else self._stop_after(self._stop, epoch)
        if event is not None:
            self._emit(event)
        if self._world.gather_numbers([event is not None])[0][0]:
            self._context.evaluations.stopped_of_epochs = self._context.train.epochs

    def _stop_after(self, stop: StopSpec, epoch: int) -> TrialStopped | None:
        """Return the event with which the trial ends after `epoch`; None where it goes on."""
        recorded = next((event for event in self._recorded if event.epoch <= epoch), None)
        if recorded is not None:
            return recorded
        own = self._curves.read([self._run]).get(self._run.name, {})
        new = sorted(at for at in own if at > self._compared_epoch)
        due = [at for at in new if compares_after(stop, own, at)]
        if not due:
            return None
        try:
            curves = {**self._curves.read(other_trials(self._run)), self._run.name: own}
        except (RunError, OSError) as error:  # no reason to lose a trial
            self._emit(WarningRaised(message=f"not compared with other trials: {str(error).splitlines()[0]}"))
            return None
        for at in due:
            self._compared_epoch = at
            decision = decide(stop, curves, self._run.name, at)
            if decision is not None and decision.stops:
                return self._event(stop, decision, epoch)
        return None

    def _event(self, stop: StopSpec, decision: Decision, epoch: int) -> TrialStopped:
        return TrialStopped(
            rule=decision.rule,
            metric=stop.metric,
            epoch=decision.epoch,
            step=(epoch + 1) * self._context.schedule.steps_per_epoch,
            epochs=self._context.train.epochs,
            value=decision.value if math.isfinite(decision.value) else None,
            threshold=decision.threshold,
            num_compared=decision.num_compared,
        )

    def _read_earlier_attempts(self) -> None:
        for event in read_events(self._run.journal):
            if isinstance(event, Evaluated):
                self._compared_epoch = max(self._compared_epoch, event.epoch)
            elif isinstance(event, TrialStopped) and event.epochs == self._context.train.epochs:
                self._recorded.append(event)
