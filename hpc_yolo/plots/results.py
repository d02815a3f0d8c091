"""The last evaluation of a training beyond its metrics: curves and confusions, as a file and as charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from hpc_yolo.plots.chart import Chart, Line
from hpc_yolo.runs.metrics import Metrics

FORMAT_VERSION = 2
MAX_CLASS_LINES = 20


class ClassResults(msgspec.Struct, frozen=True, kw_only=True):
    """Curves of one class at IoU 0.5, all values in [0, 1].

    Attributes:
        precision, recall: over evenly spaced confidences from 0 to 1.
        precision_at_recall: over evenly spaced recalls from 0 to 1.
    """

    name: str
    num_labels: int
    metrics: Metrics
    precision: list[float]
    recall: list[float]
    precision_at_recall: list[float]

    @property
    def f1(self) -> list[float]:
        """Harmonic mean of precision and recall."""
        pairs = zip(self.precision, self.recall, strict=True)
        return [
            2 * precision * recall / (precision + recall) if precision + recall else 0.0 for precision, recall in pairs
        ]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Results of the best model on the validation images, after the last step.

    Attributes:
        epoch: of the model, from 0.
        step: at which the training ended.
        confusions: (predicted class, labelled class, count), as indices into `names`; background follows the last.
    """

    format_version: int = FORMAT_VERSION
    epoch: int
    step: int
    num_images: int
    metrics: Metrics
    names: list[str]
    classes: list[ClassResults]
    confusions: list[tuple[int, int, int]]

    @property
    def mean(self) -> ClassResults:
        """Means over the classes."""
        return ClassResults(
            name="all classes",
            num_labels=sum(row.num_labels for row in self.classes),
            metrics=self.metrics,
            precision=_mean([row.precision for row in self.classes]),
            recall=_mean([row.recall for row in self.classes]),
            precision_at_recall=_mean([row.precision_at_recall for row in self.classes]),
        )


def results_charts(runs: Sequence[tuple[str, int, Results]]) -> list[Chart]:
    """Return charts of precision over recall, and of F1, precision and recall over confidence.

    Args:
        runs: (name, colour, results). With one run its classes are drawn too, thin, if they are not too many.
    """
    by_recall = _chart("Precision over recall", "recall", runs, lambda row: row.precision_at_recall)
    return [
        by_recall,
        _chart("F1 over confidence", "confidence", runs, lambda row: row.f1),
        _chart("Precision over confidence", "confidence", runs, lambda row: row.precision),
        _chart("Recall over confidence", "confidence", runs, lambda row: row.recall),
    ]


def most_confused(results: Results, most: int) -> list[tuple[str, str, int]]:
    """Return (predicted class, labelled class, count) of the most frequent mistakes."""
    names = [*results.names, "background"]
    mistakes = Counter({(row, column): count for row, column, count in results.confusions if row != column})
    return [(names[row], names[column], count) for (row, column), count in mistakes.most_common(most)]


def _chart(
    title: str,
    x_label: str,
    runs: Sequence[tuple[str, int, Results]],
    curve: Callable[[ClassResults], list[float]],
) -> Chart:
    lines = []
    for name, colour, results in runs:
        mean = results.mean
        if len(runs) == 1 and 1 < len(results.classes) <= MAX_CLASS_LINES:
            lines += [_line(row.name, curve(row), 1 + number) for number, row in enumerate(results.classes)]
        lines.append(_line(mean.name if len(runs) == 1 else name, curve(mean), colour, is_main=True))
    return Chart(title, x_label, tuple(lines), x_bounds=(0.0, 1.0), y_bounds=(0.0, 1.0))


def _line(name: str, ys: Sequence[float], colour: int, *, is_main: bool = False) -> Line:
    xs = tuple(number / max(len(ys) - 1, 1) for number in range(len(ys)))
    return Line(name, xs, tuple(ys), colour, is_main)


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]
