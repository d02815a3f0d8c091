"""Images a second that loaders give and GPUs can train, and the warnings that follow."""

from __future__ import annotations

import json

import msgspec
import pytest

from hpc_yolo.forecast.input_rate import (
    OF_LEARNING,
    InputRate,
    add_rate,
    conditions,
    find_rate,
    input_images_per_s,
    input_warning,
    is_in_memory,
    known_images_per_s,
    loaders_per_rank,
    remedy,
    waiting_warning,
)
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.train import TrainSpec

SLOW = 0.01  # seconds of an image


def spec(
    *,
    gpus=4,
    workers=8,
    cache="none",
    model="yolov5s",
    gpu_type="h100",
    imgsz=640,
    data="coco.yaml",
    window=False,
    **train,
):
    return Spec(
        name="a",
        model=model,
        data=DataSpec(path=data, mosaic_partners="window" if window else "epoch"),
        cluster=ClusterSpec(gpus_per_node=gpus, gpu_type=gpu_type if gpus else None, cpus_per_task=8),
        train=TrainSpec(workers=workers, cache=cache, imgsz=imgsz, **train),
    )


def rate(**changes):
    values = {"data": "coco.yaml", "imgsz": 640, "cpu": "x", "files_s": SLOW, "memory_s": SLOW / 4, "time": 1.0}
    return InputRate(**(values | conditions(spec()) | changes))


@pytest.mark.parametrize(
    ("one", "cores", "loaders"),
    [
        (spec(workers=8), 16, 8),
        (spec(workers=8), 4, 4),
        (spec(gpus=0, workers=8), 4, 3),
        (spec(gpus=0, workers=8), 1, 1),
        (spec(workers=0), 8, 0),
    ],
    ids=["as requested", "at most the cores", "a task on CPUs uses one", "one beside a single core", "none"],
)
def test_loaders_are_as_requested_within_the_cores(one, cores, loaders):
    assert loaders_per_rank(one, cores) == loaders


@pytest.mark.parametrize(
    ("one", "ranks", "cores", "images_per_s"),
    [(spec(), 4, 8, 3200.0), (spec(cache="ram"), 4, 8, 12_800.0), (spec(workers=0), 2, 8, 200.0)],
    ids=["files", "memory", "in the tasks"],
)
def test_rate_is_that_of_all_loaders(one, ranks, cores, images_per_s):
    assert input_images_per_s(rate(), one, ranks, cores) == pytest.approx(images_per_s)


@pytest.mark.parametrize(
    ("one", "world_size", "images_per_s"),
    [
        (spec(), 4, 4 * 1815.0),
        (spec(imgsz=320), 4, 16 * 1815.0),
        (spec(sync_bn=True), 1, 1815.0),
        (spec(sync_bn=True), 4, 4 * 1057.0),
        (spec(multi_scale=True), 1, 1057.0),
        (spec(cuda_graphs=False), 1, 1057.0),
        (spec(model="yolov5x", cuda_graphs=False), 1, None),
        (spec(model="yolov5n6"), 4, None),
        (spec(gpu_type="a100"), 4, None),
        (spec(gpus=0), 4, None),
    ],
    ids=[
        *(
            "known",
            "by pixels",
            "one rank has no sums",
            "sums in a pass",
            "of many shapes",
            "without graphs",
            "measured in graphs alone",
        ),
        *("other model", "other GPU", "CPUs"),
    ],
)
def test_speed_of_gpus_is_known_where_it_was_measured(one, world_size, images_per_s):
    assert known_images_per_s(one, world_size) == images_per_s


def test_slow_input_is_one_sentence_with_what_to_change():
    found = input_warning(rate(), spec(workers=4), 4, cores_per_rank=8)
    assert found == (
        "input: 16 loader processes give about 1,600 images/s (bench data, coco.yaml), and the GPUs can train 7,260: "
        "--set train.workers=8, or cluster.cpus_per_task=19 with train.workers=19, or train.cache=ram, "
        "or data.mosaic_partners=window"
    )


@pytest.mark.parametrize(
    "one", [spec(cache="ram"), spec(model="yolov5l"), spec(gpu_type="a100")], ids=["cache", "large model", "not known"]
)
def test_input_that_is_enough_or_not_known_is_no_warning(one):
    assert input_warning(rate(), one, 4, cores_per_rank=8) is None


def test_run_that_waited_is_named_beyond_a_limit():
    assert waiting_warning("first", 0.1, spec(), 8) is None
    found = waiting_warning("first", 0.5, spec(workers=2), 8)
    assert found.startswith("input: in first, 50 % of each step was a wait for images: --set train.workers=4, or ")


def test_remedy_of_augmentation_by_loaders_is_a_gpu():
    assert "train.augment_device=gpu" in remedy(spec(augment_device="cpu"), 8, 2.0, in_memory=True)
    assert "augment_device" not in remedy(spec(gpus=0, augment_device="cpu"), 8, 2.0, in_memory=True)


def test_remedy_of_a_spec_that_has_everything_is_other_images():
    found = remedy(spec(workers=8, cache="ram"), 8, 1.0, in_memory=True)
    assert found == "no setting of the spec helps; smaller or packed images do"


def test_newest_measurement_of_the_dataset_counts_before_others(tmp_path):
    state = tmp_path / "state"
    assert find_rate(state, spec()) is None
    for one in (rate(time=1.0), rate(time=2.0, files_s=0.5), rate(data="other.yaml", time=9.0), rate(imgsz=320)):
        add_rate(state, one)
    assert find_rate(state, spec()).files_s == 0.5
    assert find_rate(state, spec(data="new.yaml")).data == "other.yaml"
    assert find_rate(state, spec(imgsz=1280)) is None


@pytest.mark.parametrize(
    "changed",
    [
        spec(augment_device="cpu"),
        spec(gpus=0),
        spec(device="cpu"),
        spec(rect=True),
        spec(window=True),
        spec(hyp="scratch-high"),
        spec(hyp_overrides={"mosaic": 0.0}),
    ],
    ids=[
        "augmentation on the CPU",
        "no GPU",
        "GPU that is not used",
        "rect",
        "window partners",
        "other hyperparameters",
        "no mosaics",
    ],
)
def test_measurement_counts_for_the_same_work_alone(tmp_path, changed):
    add_rate(tmp_path, rate())
    assert find_rate(tmp_path, changed) is None
    add_rate(tmp_path, rate(time=3.0, **conditions(changed)))
    assert find_rate(tmp_path, changed).time == 3.0
    assert find_rate(tmp_path, spec()).time == 1.0


def test_hyperparameters_of_learning_change_no_measurement(tmp_path):
    add_rate(tmp_path, rate())
    assert find_rate(tmp_path, spec(hyp_overrides={"lr0": 0.02, "close_mosaic": 5})) is not None
    assert set(msgspec.structs.asdict(Hyperparameters())) >= OF_LEARNING


@pytest.mark.parametrize(
    "line", [{"imgsz": "x"}, {"files_s": 0.0}, {"augmentation": ""}], ids=["another form", "no time", "older version"]
)
def test_line_that_is_no_measurement_leaves_the_others(tmp_path, line):
    path = tmp_path / "input_rates.jsonl"
    path.write_text(json.dumps(msgspec.to_builtins(rate(time=9.0)) | line) + "\n")
    assert find_rate(tmp_path, spec()) is None
    add_rate(tmp_path, rate())
    assert find_rate(tmp_path, spec()).time == 1.0


@pytest.mark.parametrize(
    ("one", "changes", "node_bytes", "expected"),
    [
        (spec(cache="auto"), {"decoded_bytes": 25}, 100, True),
        (spec(cache="auto"), {"decoded_bytes": 26}, 100, False),
        (spec(cache="auto"), {"decoded_bytes": 25}, None, None),
        (spec(cache="auto"), {}, 100, None),
        (spec(cache="auto"), {"decoded_bytes": 25, "data": "other.yaml"}, 100, None),
        (spec(cache="disk"), {}, None, True),
        (spec(cache="none"), {"decoded_bytes": 25}, 100, False),
    ],
    ids=["a quarter", "more", "memory not known", "older version", "other dataset", "disk", "none"],
)
def test_images_are_in_memory_as_the_cache_decides(one, changes, node_bytes, expected):
    measured = rate(**changes)
    assert is_in_memory(one, measured, node_bytes) is expected
    seconds = SLOW / 4 if expected else SLOW
    assert input_images_per_s(measured, one, 1, 8, node_bytes) == pytest.approx(8 / seconds)
    warning = input_warning(measured, one, 4, 8, node_bytes)
    assert (warning is None) == bool(expected)
    assert ("more if cache: auto finds room" in (warning or "")) == (expected is None)
    assert ("train.cache=ram if auto finds no room" in (warning or "")) == (expected is None)
