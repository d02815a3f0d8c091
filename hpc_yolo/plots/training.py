"""The curves of one training, or of several over the same axis, from their journals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hpc_yolo.plots.chart import Chart, Line, thinned
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.events import AnyEvent, AttemptStarted, Evaluated, StepLogged
from hpc_yolo.runs.metrics import METRIC_TITLES

Events = Sequence[AnyEvent]


def training_charts(runs: Sequence[tuple[str, Events]]) -> list[Chart]:
    """Return charts over epochs: loss terms, metrics, learning rate and speeds, with a line for each of `runs`.

    A new chart is one entry here: the run directory's PNG and the report draw what this returns. Charts without a
    point are left out. With one run, its later attempts are marked.

    Args:
        runs: (name, events).
    """
    charts = [
        *(_loss_chart(name, runs) for name in loss_names(runs)),
        *(_metric_chart(name, runs) for name in reversed(METRIC_TITLES)),
        _chart("Learning rate", runs, lambda event: event.lr),
        _chart("Images a second", runs, lambda event: event.images_per_s),
        _chart("Waiting for images, % of a step", runs, wait_percent),
        _chart("GPU use, %", runs, device_use_percent),
        _chart("Gradient norm", runs, lambda event: event.grad_norm),
    ]
    return [chart for chart in charts if any(line.xs for line in chart.lines)]


def wait_percent(event: StepLogged) -> float | None:
    """Return the fraction of a step, in percent, that the slowest rank waits for images; None where it is not known."""
    step_s = max(event.rank_step_s, default=0.0)
    return 100 * max(event.rank_data_wait_s) / step_s if step_s > 0 and event.rank_data_wait_s else None


def device_use_percent(event: StepLogged) -> float | None:
    """Return how busy the GPUs were in the last moments, in percent, as a mean over those that report it."""
    uses = [use for use in event.rank_device_use if use is not None]
    return 100 * sum(uses) / len(uses) if uses else None


def loss_names(runs: Sequence[tuple[str, Events]]) -> list[str]:
    """Return the names of all terms of the losses of `runs`, in the order of their first occurrence."""
    logged = (event for _, events in runs for event in events if isinstance(event, StepLogged))
    return list(dict.fromkeys(name for event in logged for name in event.losses))


def _loss_chart(name: str, runs: Sequence[tuple[str, Events]]) -> Chart:
    return _chart(f"{name.capitalize()} loss", runs, lambda event: event.losses.get(name))


def _metric_chart(name: str, runs: Sequence[tuple[str, Events]]) -> Chart:
    title = METRIC_TITLES[name]
    title = title.capitalize() if title.islower() else title
    return _chart(title, runs, lambda event: getattr(event.metrics, name), Evaluated)


def _chart(
    title: str,
    runs: Sequence[tuple[str, Events]],
    value_of: Callable[..., float | None],
    kind: type[StepLogged] | type[Evaluated] = StepLogged,
) -> Chart:
    lines = tuple(
        Line(name, *thinned(*_points(events, kind, value_of)), colour=number)
        for number, (name, events) in enumerate(runs)
    )
    return Chart(title, "epoch", lines, y_bounds=(0.0, None), restarts=_restarts(runs))


def _points(
    events: Events, kind: type[StepLogged] | type[Evaluated], value_of: Callable[..., float | None]
) -> tuple[list[float], list[float]]:
    """Return (epochs done, with fractions; values). A repeated step counts once, with its last value."""
    xs: list[float] = []
    ys: list[float] = []
    steps_per_epoch = 1
    for event in events:
        if isinstance(event, AttemptStarted):
            steps_per_epoch = max(event.steps_per_epoch, 1)
        elif isinstance(event, kind) and (value := value_of(event)) is not None:
            x = event.step / steps_per_epoch
            while xs and xs[-1] >= x:
                xs.pop()
                ys.pop()
            xs.append(x)
            ys.append(value)
    return xs, ys


def _restarts(runs: Sequence[tuple[str, Events]]) -> tuple[float, ...]:
    if len(runs) != 1:
        return ()
    starts = Attempts(runs[0][1]).starts
    return tuple(event.step / max(event.steps_per_epoch, 1) for event in starts[1:])
