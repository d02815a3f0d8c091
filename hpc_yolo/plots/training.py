"""The curves of one training, or of several over the same axis, from their journals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hpc_yolo.plots.chart import Chart, Line, thinned
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.events import AnyEvent, AttemptStarted, Evaluated, StepLogged
from hpc_yolo.runs.metrics import METRIC_TITLES

Events = Sequence[AnyEvent]


def training_charts(runs: Sequence[tuple[str, Events]]) -> list[Chart]:
    """Loss terms, figures of evaluations, learning rate and speeds over epochs; a line for each of `runs`.

    `runs`: (name, events). Charts without any point are left out. With one run, its later starts are marked.
    """
    charts = [
        *(_loss_chart(name, runs) for name in loss_names(runs)),
        *(_metric_chart(name, runs) for name in reversed(METRIC_TITLES)),
        _chart("Learning rate", runs, lambda event: event.lr, y_low=0.0),
        _chart("Images a second", runs, lambda event: event.images_per_s, y_low=0.0),
        _chart("Waiting for images, % of a step", runs, wait_percent, y_low=0.0),
        _chart("Gradient norm", runs, lambda event: event.grad_norm, y_low=0.0),
    ]
    return [chart for chart in charts if any(line.xs for line in chart.lines)]


def wait_percent(event: StepLogged) -> float | None:
    """What part of a step the rank that waits longest for images does so."""
    step_s = max(event.rank_step_s, default=0.0)
    return 100 * max(event.rank_data_wait_s) / step_s if step_s > 0 and event.rank_data_wait_s else None


def loss_names(runs: Sequence[tuple[str, Events]]) -> list[str]:
    """Return the names of all terms of the losses of `runs`, in the order in which they come."""
    logged = (event for _, events in runs for event in events if isinstance(event, StepLogged))
    return list(dict.fromkeys(name for event in logged for name in event.losses))


def _loss_chart(name: str, runs: Sequence[tuple[str, Events]]) -> Chart:
    return _chart(f"{name.capitalize()} loss", runs, lambda event: event.losses.get(name), y_low=0.0)


def _metric_chart(name: str, runs: Sequence[tuple[str, Events]]) -> Chart:
    title = METRIC_TITLES[name]
    title = title.capitalize() if title.islower() else title
    return _evaluation_chart(title, runs, lambda event: getattr(event.metrics, name))


def _chart(
    title: str, runs: Sequence[tuple[str, Events]], figure: Callable[[StepLogged], float | None], *, y_low: float
) -> Chart:
    lines = tuple(
        Line(name, *thinned(*_points(events, StepLogged, figure)), colour=number)
        for number, (name, events) in enumerate(runs)
    )
    return Chart(title, "epoch", lines, y_bounds=(y_low, None), restarts=_restarts(runs))


def _evaluation_chart(
    title: str, runs: Sequence[tuple[str, Events]], figure: Callable[[Evaluated], float | None]
) -> Chart:
    lines = tuple(
        Line(name, *thinned(*_points(events, Evaluated, figure)), colour=number)
        for number, (name, events) in enumerate(runs)
    )
    return Chart(title, "epoch", lines, y_bounds=(0.0, None), restarts=_restarts(runs))


def _points(
    events: Events, kind: type[StepLogged] | type[Evaluated], figure: Callable[..., float | None]
) -> tuple[list[float], list[float]]:
    """(epochs done, with fractions; figures). What was done again is taken once, as it was the last time."""
    xs: list[float] = []
    ys: list[float] = []
    steps_per_epoch = 1
    for event in events:
        if isinstance(event, AttemptStarted):
            steps_per_epoch = max(event.steps_per_epoch, 1)
        elif isinstance(event, kind) and (value := figure(event)) is not None:
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
