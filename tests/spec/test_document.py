"""Documents generated from the schema: the JSON schema for editors, and docs/spec.md."""

import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml

from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.container import ContainerSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.document import document
from hpc_yolo.spec.fields import field_types
from hpc_yolo.spec.json_schema import json_schema
from hpc_yolo.spec.load import load_spec
from hpc_yolo.spec.notify import NotifySpec
from hpc_yolo.spec.profile import Profile
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.stages import ExportStage, PredictStage, ReportStage, Stage, StageRequest, ValStage
from hpc_yolo.spec.sweep import SweepSpec
from hpc_yolo.spec.sweep_search import Range, SearchSpec, StopSpec
from hpc_yolo.spec.tracking import TrackingSpec
from hpc_yolo.spec.train import TrainSpec

REPOSITORY = Path(__file__).parents[2]
STAGE_SECTIONS = (Stage, ValStage, PredictStage, ExportStage, ReportStage, StageRequest)
SWEEP_SECTIONS = (SweepSpec, SearchSpec, StopSpec)
RUN_SECTIONS = (Spec, DataSpec, ClusterSpec, ContainerSpec, TrainSpec, CheckpointSpec, NotifySpec, TrackingSpec)
SECTIONS = (*RUN_SECTIONS, *STAGE_SECTIONS, *SWEEP_SECTIONS)
SMALL = {"name": "a", "model": "yolov5n", "data": "d.yaml"}


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_json_schema_names_its_draft():
    assert json_schema()["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs/sites").glob("*.yaml")), ids=lambda path: path.stem)
def test_json_schema_of_profiles_accepts_those_of_package(path):
    schema = json_schema(Profile, "profile")
    jsonschema.Draft202012Validator.check_schema(schema)
    profile = yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # as texts: YAML reads dates and times as it likes
    for row in [profile.get("cluster", {}), *profile["gpus"].values()]:
        for name in ("gpus_per_node", "cpus_per_task"):
            row |= {name: int(row[name])} if name in row else {}
    jsonschema.Draft202012Validator(schema).validate(profile)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_json_schema_accepts_specs_of_package(validator, path):
    validator.validate(yaml.safe_load(path.read_text()))
    validator.validate(msgspec.to_builtins(load_spec(path)))


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "red"},
        {"train": {"epohcs": 3}},
        {"cluster": {"node": 3}},
        {"checkpoint": {"often": True}},
        {"train": {"epochs": 0}},
        {"train": {"epochs": "many"}},
        {"train": {"imgsz": 100}},
        {"train": {"optimizer": "sgd"}},
        {"cluster": {"exclude": {"node1": 1}}},
        {"cluster": {"setup": 3}},
        {"cluster": {"signal_before_s": "soon"}},
        {"name": "bad name"},
        {"name": None},
        {"then": [{"val": {"split": "tset"}}]},
        {"then": [{"export": {}, "when": "never"}]},
        {"then": {"export": {}}},
        {"sweep": {"grid": {"train.batch": 16}}},
        {"sweep": {"stop": {"rule": "best"}}},
    ],
    ids=str,
)
def test_json_schema_refuses_invalid_spec(validator, changes):
    validator.validate(SMALL)
    assert not validator.is_valid(SMALL | changes)


def test_json_schema_accepts_sweep(validator):
    grid = {"train.hyp_overrides.lr0": [0.01, 2e-2], "model": ["yolov5n"], "train.cos_lr": [True, False]}
    space = {"train.hyp_overrides.momentum": {"low": 0.8, "high": 0.95}, "train.batch": [16, 32]}
    validator.validate(SMALL | {"sweep": {"grid": grid, "variants": [{}, {"train.batch": 8}], "seeds": 3}})
    validator.validate(SMALL | {"sweep": {"search": {"trials": 30, "space": space}, "limit": 4}})


@pytest.mark.parametrize("missing", ["name", "data"])
def test_json_schema_requires_required_fields(validator, missing):
    assert not validator.is_valid({name: value for name, value in SMALL.items() if name != missing})


def test_json_schema_describes_every_field():
    schema = json_schema()
    definitions = [schema, *schema["$defs"].values()]
    fields = [(name, field) for definition in definitions for name, field in definition["properties"].items()]
    assert len(fields) == sum(len(field_types(section)) for section in (*SECTIONS, Range))
    assert [name for name, field in fields if not field.get("description", "").endswith(".")] == []


@pytest.mark.parametrize("section", [*SECTIONS, Hyperparameters])
def test_document_describes_every_field(section):
    rows = [line for line in document().splitlines() if line.startswith("| `")]
    for name in field_types(section):
        (row, *_) = [row for row in rows if row.startswith(f"| `{name}` | ")]
        assert row.endswith(". |") and row.replace("\\|", "").count("|") == 6, row


def test_document_in_repository_is_current():
    assert (REPOSITORY / "docs/spec.md").read_text() == document(), "python -m hpc_yolo.spec.document > docs/spec.md"


def test_module_prints_document():
    printed = subprocess.run([sys.executable, "-m", "hpc_yolo.spec.document"], capture_output=True, check=True)
    assert printed.stdout.decode() == document()
