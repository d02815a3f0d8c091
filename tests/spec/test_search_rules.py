"""The sections `sweep.search` and `sweep.stop`: what is read, and what is refused with which sentence."""

import msgspec
import pytest

from hpc_yolo.spec.convert import SectionReader
from hpc_yolo.spec.fields import describe, field_types
from hpc_yolo.spec.problems import Location
from hpc_yolo.spec.search_rules import search_findings, stop_findings
from hpc_yolo.spec.sweep_search import EVOLVE, EVOLVE_SPACE, Range, SearchSpec, StopSpec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.spec.varied_fields import takes_whole_numbers, varied_fields
from hpc_yolo.spec.yaml_tree import parse_yaml

LR0 = "train.hyp_overrides.lr0"


def read_search(text: str) -> tuple[SearchSpec, list[str]]:
    """Return (the section in `text`, its problems as "field: message (allowed)")."""
    reader = SectionReader({})
    tree = parse_yaml(text, "sweep.yaml", reader.problems, is_option=False)
    section = reader.read(tree, SearchSpec, "sweep.search", Location("sweep.yaml", 1, 1))
    found = [f"{problem.path}: {problem.message} ({problem.allowed})" for problem in reader.problems]
    findings = [
        finding
        for finding in search_findings(section)
        if not any(used.startswith(bad) for used in (finding.field, *finding.needs) for bad in reader.unusable)
    ]
    return section, found + [f"{each.field}: {each.message} ({each.allowed})" for each in findings]


def test_valid_space_keeps_types_of_values() -> None:
    section, problems = read_search(
        f"method: random\ntrials: 60\nspace:\n  {LR0}: {{low: 1e-4, high: 0.1, log: true}}\n"
        "  train.imgsz: {low: 320, high: 640, step: 32}\n  train.optimizer: [SGD, AdamW]\n"
        "  train.cos_lr: [true, false]\n  train.epochs: [10, 20]\n  model: [yolov5n, yolov5s]\n"
        "  train.hyp_overrides.mixup: {low: 0, high: 1}\n"
    )
    assert problems == []
    assert section.ranges == {
        LR0: Range(low=1e-4, high=0.1, log=True),
        "train.imgsz": Range(low=320, high=640, step=32),
        "train.optimizer": ["SGD", "AdamW"],
        "train.cos_lr": [True, False],
        "train.epochs": [10, 20],
        "model": ["yolov5n", "yolov5s"],
        "train.hyp_overrides.mixup": Range(low=0, high=1),
    }
    assert takes_whole_numbers("train.imgsz")
    assert not takes_whole_numbers("train.hyp_overrides.mixup")


SPACES = {
    "no upper bound": (f"{LR0}: {{low: 0.1}}", f"space.{LR0}.high: is missing"),
    "no bounds": (f"{LR0}: {{}}", f"space.{LR0}.low: is missing"),
    "bounds reversed": (f"{LR0}: {{low: 0.1, high: 0.01}}", f"space.{LR0}.high: 0.01 is not over low, 0.1 (over 0.1)"),
    "bound that is text": (f"{LR0}: {{low: a, high: 1}}", f"space.{LR0}.low: 'a' is not allowed"),
    "log from 0": ("train.hyp_overrides.box: {low: 0, high: 1, log: true}", "low: 0 has no logarithm"),
    "step and log": ("train.epochs: {low: 1, high: 9, log: true, step: 2}", "step: has no meaning on a logarithmic"),
    "step of 0": ("train.epochs: {low: 1, high: 9, step: 0}", "step: 0 leaves no second value (over 0, at most 8)"),
    "step too large": ("train.epochs: {low: 1, high: 9, step: 9}", "step: 9 leaves no second value"),
    "bound outside the field": (f"{LR0}: {{low: 0, high: 0.1}}", f"low: 0 is not a value of {LR0} (a number over 0"),
    "step off the field": ("train.imgsz: {low: 320, high: 640}", "low + step: 321 is not a value of train.imgsz"),
    "fraction of whole numbers": ("train.epochs: {low: 1.5, high: 9}", "low: 1.5 is not a value of train.epochs"),
    "range of texts": ("train.optimizer: {low: 0, high: 1}", "low: 0 is not a value of train.optimizer"),
    "empty list": (f"{LR0}: []", f"space.{LR0}: is an empty list"),
    "value twice": (f"{LR0}: [0.1, 0.1]", f"space.{LR0}: has a value twice"),
    "value outside the field": ("train.optimizer: [SGD, LION]", "'LION' is not a value of train.optimizer (one of SGD"),
    "one value alone": (f"{LR0}: 0.1", f"space.{LR0}: '0.1' is not allowed (a section with low, high, log, step or"),
    "empty space": ("{}", "space: is empty"),
    "no field": ("train.learning_rate: [0.1]", "space.train.learning_rate: there is no field train.learning_rate"),
    "field by its last part": ("lr0: [0.1]", f"there is no field lr0 ({LR0} is the nearest)"),
    "field that does not exist, mistyped": ("train.epoch: [1]", "(train.epochs is the nearest)"),
    "whole section": ("train: [1]", "space.train: is a group; its fields vary one by one"),
    "group of overrides": ("train.hyp_overrides: [1]", "is a group; its fields vary one by one"),
    "name": ("name: [a, b]", "space.name: may not vary: the sweep names the directories"),
    "request": ("cluster.nodes: [1, 2]", "space.cluster.nodes: may not vary: all trials of a sweep make the same"),
    "request in a group": ("cluster.env.A: [x, y]", "space.cluster.env.A: may not vary"),
    "field without effect": ("train.workers: [1, 2]", "space.train.workers: may not vary: a run learns the same"),
    "field of another purpose": ("checkpoint.every_s: [1, 2]", "space.checkpoint.every_s: may not vary"),
    "preset with a typo": (
        "evolved",
        "space: 'evolved' is not allowed (one of evolve or a group of names with sections",
    ),
}


@pytest.mark.parametrize(("space", "expected"), SPACES.values(), ids=SPACES)
def test_wrong_space_is_refused(space: str, expected: str) -> None:
    text = f"trials: 1\nspace:\n  {space}\n" if ":" in space else f"trials: 1\nspace: {space}\n"
    _, problems = read_search(text)
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("trials", "space", "expected"),
    [
        (
            7,
            "{train.optimizer: [SGD, Adam], train.epochs: {low: 1, high: 3}}",
            ["7 trials of a space with 6 combinations"],
        ),
        (6, "{train.optimizer: [SGD, Adam], train.epochs: {low: 1, high: 3}}", []),
        (4, "{train.hyp_overrides.mixup: {low: 0, high: 1, step: 0.5}}", ["4 trials of a space with 3 combinations"]),
        (2, "{train.optimizer: [SGD]}", ["2 trials of a space with 1 combination"]),
        (60, "{train.hyp_overrides.mixup: {low: 0, high: 1}, train.optimizer: [SGD]}", []),
    ],
)
def test_more_trials_than_combinations_are_refused(trials: int, space: str, expected: list[str]) -> None:
    _, problems = read_search(f"trials: {trials}\nspace: {space}\n")
    assert [problem.removeprefix("sweep.search.trials: ").partition(" (")[0] for problem in problems] == expected


def test_range_without_bounds_is_the_only_problem() -> None:
    _, problems = read_search(f"trials: 3\nspace: {{{LR0}: {{log: true}}}}\n")
    assert [problem.partition(" (")[0] for problem in problems] == [
        f"sweep.search.space.{LR0}.low: is missing",
        f"sweep.search.space.{LR0}.high: is missing",
    ]


def test_preset_space_of_evolution_is_valid() -> None:
    section, problems = read_search("trials: 300\nspace: evolve\n")
    assert problems == []
    assert section.space == EVOLVE
    assert section.ranges == EVOLVE_SPACE
    assert len(EVOLVE_SPACE) == 24
    assert set(EVOLVE_SPACE) <= set(varied_fields())
    assert EVOLVE_SPACE[LR0] == Range(low=1e-5, high=0.1, log=True)


STOPS = {
    "without evaluations": (StopSpec(rule="asha"), TrainSpec(val_every=0), "train.val_every is 0"),
    "after the last epoch": (StopSpec(rule="median", after=20), TrainSpec(epochs=20), "20 epochs are over only when"),
}


@pytest.mark.parametrize(("stop", "train", "expected"), STOPS.values(), ids=STOPS)
def test_stop_rule_that_never_applies_is_refused(stop: StopSpec, train: TrainSpec, expected: str) -> None:
    (finding,) = stop_findings(stop, train)
    assert expected in finding.message


def test_stop_rule_within_the_training_is_accepted() -> None:
    assert not list(stop_findings(StopSpec(rule="asha", after=19), TrainSpec(epochs=20)))


def test_section_is_written_and_read_back() -> None:
    section, _ = read_search(f"trials: 3\nspace: {{{LR0}: {{low: 0.1, high: 1}}, train.optimizer: [SGD, Adam]}}\n")
    assert msgspec.convert(msgspec.to_builtins(section), SearchSpec) == section


def test_space_is_described_with_its_two_forms() -> None:
    assert describe(field_types(SearchSpec)["space"]) == (
        "one of evolve or a group of names with sections with low, high, log, step or lists of values"
    )
