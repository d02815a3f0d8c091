"""The page of a sweep: its trials, the best first, and charts of their values."""

import pytest

from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.monitor.sweep_facts import SweepFacts, TrialFacts
from hpc_yolo.plots.sweep_figures import scale_of
from hpc_yolo.report.sweep_page import sweep_page
from hpc_yolo.runs.events import Evaluated
from hpc_yolo.runs.metrics import Metrics

LR, OPTIMIZER = "train.hyp_overrides.lr0", "train.optimizer"


def trial(number, score, **values):
    metrics = Metrics(map50=score, map50_95=score)
    best = Evaluated(
        epoch=0, step=1, metrics=metrics, classes=[], num_images=1, images_per_s=1.0, seconds=1.0, is_best=True
    )
    name = f"1-000{number}"
    return TrialFacts(name, values, "done", RunFacts(name=name, path=f"/lr/{name}", state="done", best=best))


@pytest.mark.parametrize(
    ("values", "positions", "ticks"),
    [
        ([0.0, 0.5, 1.0], [0.0, 0.5, 1.0], ["0", "0.5", "1"]),
        ([0.001, 0.01, 0.1], [0.0, 0.5, 1.0], ["0.001", "0.01", "0.1"]),  # a hundredfold range: logarithmic
        (["SGD", "AdamW"], [0.25, 0.75], ["SGD", "AdamW"]),
        ([True, False], [0.25, 0.75], ["true", "false"]),
        (["/data/a.yaml", None], [0.25, 0.75], ["a.yaml", "None"]),
        ([3, 3], [0.5, 0.5], ["3"]),
    ],
)
def test_values_of_a_field_have_places_on_its_axis(values, positions, ticks):
    scale = scale_of("field", values)
    assert [scale.positions[value] for value in values] == pytest.approx(positions)
    assert [text for _, text in scale.ticks] == ticks


def test_page_lists_trials_and_draws_the_fields_that_vary():
    trials = [
        trial(0, 0.2, **{LR: 0.01, OPTIMIZER: "<SGD>"}),
        trial(1, 0.6, **{LR: 0.02, OPTIMIZER: "<SGD>"}),
        TrialFacts("1-0002", {LR: 0.03, OPTIMIZER: "<SGD>"}, "waiting", None),
    ]
    page = sweep_page(SweepFacts("lr", "/lr", trials), "made now")
    assert page.index("1-0001") < page.index(">1-0000<") < page.index(">1-0002<"), "the best first"
    assert page.count("<svg") == 2, "lines over the axes, and the metric over the one field that varies"
    assert "<SGD>" not in page and "&lt;SGD&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


def test_page_of_a_sweep_that_has_not_begun_has_no_charts():
    page = sweep_page(SweepFacts("lr", "/lr", [TrialFacts("1-0000", {LR: 0.01}, "waiting", None)]), "made now")
    assert "<svg" not in page and "1-0000" in page
