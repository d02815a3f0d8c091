"""The trials that a section `sweep` describes, and the mistakes in it."""

import pytest
import yaml

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.load import dump_spec, load_resolved_spec, load_spec
from hpc_yolo.spec.trials import run_key, trials_of

SPEC = {"name": "lr", "model": "yolov5n", "data": "d.yaml", "cluster": {"gpus_per_node": 0, "tasks_per_node": 2}}
LR = "train.hyp_overrides.lr0"


@pytest.fixture
def load(tmp_path):
    def load_sweep(sweep, **top):
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({**SPEC, **top, "sweep": sweep}, sort_keys=False))
        return load_spec(path)

    return load_sweep


def test_grid_variants_and_seeds_are_combined_in_their_order(load):
    sweep = {
        "grid": {LR: [1e-2, 0.02]},
        "variants": [{}, {"model": "yolov5s", "train.batch": 32}],
        "seeds": [3, 5],
    }
    trials = trials_of(load(sweep))
    assert [dict(trial.values) for trial in trials] == [
        {LR: lr, **variant, "train.seed": seed}
        for lr in (0.01, 0.02)
        for variant in ({}, {"model": "yolov5s", "train.batch": 32})
        for seed in (3, 5)
    ]
    last = trials[-1].spec
    assert (last.model, last.train.batch, last.train.seed, last.sweep) == ("yolov5s", 32, 5, None)
    assert last.train.hyp_overrides == {"lr0": 0.02}


def test_number_of_seeds_counts_from_the_seed_of_the_spec(load):
    trials = trials_of(load({"seeds": 3}, train={"seed": 7}))
    assert [trial.spec.train.seed for trial in trials] == [7, 8, 9]


def test_files_among_values_become_absolute(load, tmp_path):
    (tmp_path / "other.yaml").write_text("{}")
    spec = load({"grid": {"data": ["other.yaml", "d.yaml"]}})
    assert trials_of(spec)[0].spec.data.path == str(tmp_path / "other.yaml")


def test_files_in_the_space_of_a_search_become_absolute(load, tmp_path):
    (tmp_path / "other.yaml").write_text("{}")
    spec = load({"search": {"trials": 2, "space": {"data": ["other.yaml", "d.yaml"]}}})
    assert spec.sweep.search.space["data"][0] == str(tmp_path / "other.yaml")


@pytest.mark.parametrize(
    "space",
    [
        {"train.batch": {"low": 16, "high": 64, "step": 16}, "train.epochs": {"low": 3, "high": 9, "log": True}},
        {"train.batch": [16, 32], LR: [0.01]},
        "evolve",
    ],
    ids=["ranges", "values that the spec has", "preset"],
)
def test_space_whose_values_are_valid_is_accepted(load, space):
    assert len(trials_of(load({"search": {"trials": 2, "space": space}}))) == 2


def test_trial_is_identified_by_what_it_changes(load):
    """A field added later to the grid, at the value of the spec, leaves the earlier trials the same runs."""
    before = load({"grid": {LR: [0.01, 0.02]}})
    after = load({"grid": {LR: [0.01, 0.02], "train.batch": [16, 32]}})
    keys = [[run_key(spec, trial.values) for trial in trials_of(spec)] for spec in (before, after)]
    assert len(set(keys[1])) == 4 and set(keys[0]) == {keys[1][0], keys[1][2]}


def test_resolved_spec_keeps_its_sweep(load, tmp_path):
    spec = load({"grid": {LR: [1]}, "limit": 8})
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_spec(spec))
    assert load_resolved_spec(path).sweep == spec.sweep


@pytest.mark.parametrize(
    ("sweep", "top", "message"),
    [
        ({}, {}, "sweep: describes no trial"),
        ({"grid": {LR: []}}, {}, "has no value"),
        ({"grid": {LR: ["fast"]}}, {}, "'fast' is not a value of train.hyp_overrides.lr0"),
        ({"grid": {LR: [-1]}}, {}, "-1 is not a value of train.hyp_overrides.lr0"),
        ({"grid": {"train.hyp_overrides.lr": [1]}}, {}, "there is no field train.hyp_overrides.lr"),
        ({"grid": {"train.hyp_overrides": [1]}}, {}, "is a group; its fields vary one by one"),
        ({"grid": {"train": [1]}}, {}, "is a group"),
        ({"grid": {"train.epoch": [1]}}, {}, "there is no field train.epoch"),
        ({"grid": {"cluster.nodes": [1, 2]}}, {}, "all trials of a sweep make the same request"),
        ({"grid": {"name": ["a", "b"]}}, {}, "the sweep names the directories of its trials"),
        ({"grid": {"sweep.limit": [1]}}, {}, "may not vary"),
        ({"variants": [{"output": "x"}]}, {}, "the sweep names the directories"),
        ({"variants": [{LR: 0.1}], "grid": {LR: [0.2]}}, {}, "is in variants too"),
        ({"seeds": []}, {}, "has no seed"),
        ({"seeds": 0}, {}, "sweep.seeds: '0' is not allowed"),
        ({"seeds": 2, "grid": {"train.seed": [1]}}, {}, "train.seed is varied too"),
        ({"grid": {LR: [0.01, 1e-2]}}, {}, "two trials are the same run: lr0=0.01"),
        ({"variants": [{}, {"train.batch": 16}]}, {}, "two trials are the same run: batch=16"),
        ({"grid": {"train.batch": [16, 17]}}, {}, "the trial with batch=17: train.batch: 17 is not a multiple"),
        ({"grid": {"train.workers": [1, 2]}}, {}, "a run learns the same with any value"),
        ({"seeds": 2, "search": {"trials": 3, "space": "evolve"}}, {}, "excludes search"),
        ({"search": {"trials": 3, "space": {LR: {"low": 0.1}}}}, {}, "high: is missing"),
        ({"search": {"trials": 3, "space": {LR: {"low": "a", "high": 0.1}}}}, {}, "low: 'a' is not allowed"),
        ({"search": {"trials": 3, "space": {"train.batch": {"low": 16}}}}, {}, "high: is missing"),
        ({"search": {"trials": 2, "space": {"train.batch": [16, 17]}}}, {}, "the trial with batch=17: train.batch: 17"),
        (
            {"search": {"trials": 3, "space": {"train.batch": {"low": 16, "high": 64}}}},
            {},
            "the trial with batch=17: train.batch: 17 is not a multiple of the world size 2",
        ),
        ({"search": {"space": "evolve"}}, {}, "sweep.search.trials: is missing"),
        ({"search": {"trials": 0, "space": "evolve"}}, {}, "sweep.search.trials: '0' is not allowed"),
        ({"search": {"trials": 3}}, {}, "sweep.search.space: is missing"),
        ({"search": {"trials": 3, "space": [LR]}}, {}, "sweep.search.space: a list is not allowed here"),
        ({"search": 3}, {}, "sweep.search: must hold fields"),
        ({"seeds": 2, "stop": {}}, {}, "sweep.stop.rule: is missing"),
        ({"seeds": 2, "stop": {"rule": "asha", "after": 0}}, {}, "sweep.stop.after: '0' is not allowed"),
        ({"seeds": 2, "stop": {"rule": "best"}}, {}, "'best' is not allowed"),
        ({"search": {"trials": 100_001, "space": "evolve"}}, {}, "describes 100,001 trials"),
        ({"seeds": 2, "stop": {"rule": "asha", "after": 100}}, {}, "100 epochs are over only when"),
        ({"seeds": 100_001}, {}, "describes 100,001 trials"),
        ({"seeds": 2}, {"validate": "aside"}, "aside is not for the trials of a sweep"),
        ({"limit": 0, "seeds": 2}, {}, "sweep.limit: '0' is not allowed"),
    ],
)
def test_mistakes_are_named_at_their_place(load, sweep, top, message):
    with pytest.raises(SpecError) as error:
        load(sweep, **top)
    assert message in str(error.value)
    assert "sweep.yaml:" in str(error.value)
