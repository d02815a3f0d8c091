"""The digest of a spec: fixed fields change it, fields marked as changeable do not."""

import msgspec
import pytest

from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.fields import field_extra, field_types, section_type
from hpc_yolo.spec.fingerprint import learned_digest, learned_fields
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.section import CHANGES
from hpc_yolo.spec.train import TrainSpec

SPEC = Spec(name="run", model="yolov5n", data=DataSpec(path="/data.yaml"))
FIXED_CHANGES = [
    {"name": "other"},
    {"model": "yolov5s"},
    {"data": DataSpec(path="/other.yaml")},
    {"data": DataSpec(path="/data.yaml", mosaic_partners="window")},
    {"weights": "/a.pt"},
    {"train": TrainSpec(batch=32)},
    {"train": TrainSpec(seed=1)},
    {"train": TrainSpec(precision="fp32")},
    {"train": TrainSpec(hyp_overrides={"lr0": 0.1})},
    {"train": TrainSpec(freeze=[0, 1])},
    {"train": TrainSpec(legacy_lr_schedule=True)},
    {"train": TrainSpec(on_nonfinite="skip")},
]
FREE_CHANGES = [
    {"output": "/elsewhere"},
    {"output_mode": "group"},
    {"cluster": ClusterSpec(nodes=4, time="1-0")},
    {"checkpoint": CheckpointSpec(every_s=5, keep_last=1)},
    {"train": TrainSpec(epochs=7, patience=3, val_every=2, save_period=5)},
    {"train": TrainSpec(device="cpu", workers=0, cache="none", tensorboard=True)},
    {"train": TrainSpec(start_timeout_s=5, stall_timeout_s=20)},
]


@pytest.mark.parametrize("changes", FIXED_CHANGES, ids=str)
def test_fixed_field_changes_digest(changes):
    assert learned_digest(msgspec.structs.replace(SPEC, **changes)) != learned_digest(SPEC)


@pytest.mark.parametrize("changes", FREE_CHANGES, ids=str)
def test_changeable_field_keeps_digest(changes):
    changed = msgspec.structs.replace(SPEC, **changes)
    assert changed != SPEC
    assert (learned_fields(changed), learned_digest(changed)) == (learned_fields(SPEC), learned_digest(SPEC))


def test_every_field_is_changeable_or_in_digest():
    top = {
        name for name, kind in field_types(Spec).items() if not field_extra(kind, CHANGES) and not section_type(kind)
    }
    inner = {
        f"{section}.{name}"
        for section, kinds in {"data": DataSpec, "train": TrainSpec}.items()
        for name, kind in field_types(kinds).items()
        if not field_extra(kind, CHANGES)
    }
    assert learned_fields(SPEC).keys() == top | inner


def test_digest_is_stable_over_versions():
    """Checkpoints contain the digest: a change would make every saved run look like another."""
    assert learned_digest(SPEC) == "4127af620408e1c8"
