"""The `val` command, from its options to the files that it writes."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import nn

from hpc_yolo.checkpoint import ModelDescription, save_model
from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import CheckpointError, DataError, HpcYoloError, RunError, SpecError
from hpc_yolo.data.drawn_shapes import CLASSES
from hpc_yolo.data.formats.yolo_labels import read_labels
from hpc_yolo.data.loader import ValidationLoader
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.evaluation.coco_truth import read_annotations
from hpc_yolo.evaluation.evaluator import EvaluationSettings, ImageResult
from hpc_yolo.inference import validate as validate_module
from hpc_yolo.inference.eval_target import ResolvedWeights, load_eval_target, resolve_weights
from hpc_yolo.inference.result_dirs import results_directory
from hpc_yolo.inference.validate import Outputs, find_annotations, validate
from hpc_yolo.models import build_model, load_config
from hpc_yolo.plots.figures import write_confusion_chart
from hpc_yolo.runs.directory import RunDirectory

SIZE, NUM_IMAGES = (96, 64), 7


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "shapes"
    return write_shapes_dataset(directory, num_train=2, num_val=NUM_IMAGES, image_size=SIZE)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_random_model(path, list(CLASSES))
    return path


def save_random_model(path: Path, names: list[str]) -> None:
    description = ModelDescription(model="yolov5n", config=load_config("yolov5n"), names=names, imgsz=96)
    save_model(path, build_model("yolov5n", len(names)), description)


def run_val(*options: object, directory: Path):
    command = ["val", *map(str, options), "--project", str(directory), "--workers", "0", "--device", "cpu"]
    result = CliRunner().invoke(cli, command)
    if result.exception is not None and not isinstance(result.exception, (HpcYoloError, SystemExit)):
        raise result.exception
    return result


class Oracle(nn.Module):
    """Detector that returns the labels of the batches of `loader`, in their order."""

    def __init__(self, loader) -> None:
        super().__init__()
        self.type_of_images = nn.Parameter(torch.zeros(()))
        self.targets = [batch.targets for batch in loader]

    def forward(self, images):
        targets, (height, width) = self.targets.pop(0), images.shape[2:]
        decoded = torch.zeros(len(images), 8, 5 + len(CLASSES))
        for image in range(len(images)):
            own = targets[targets[:, 0] == image]
            decoded[image, : len(own), :4] = own[:, 2:] * torch.tensor([width, height, width, height])
            decoded[image, : len(own), 4] = 1 - 0.01 * torch.arange(len(own))
            decoded[image, torch.arange(len(own)), 5 + own[:, 1].long()] = 1.0
        return decoded, []


@pytest.fixture
def oracle(weights, data):
    """Return an `EvalTarget` whose model is an oracle, for batches of 4 at 64 pixels."""
    target = load_eval_target(
        weights,
        data,
        "val",
        device="cpu",
        half=False,
        augment=False,
        single_cls=False,
        on_message=print,
        on_progress=lambda *_: None,
    )
    options = {"rank": 0, "world_size": 1, "workers": 0}
    return replace(target, model=Oracle(ValidationLoader(target.index, imgsz=64, batch=4, stride=32, **options)))


def annotations_of(index, path: Path) -> Path:
    """Write the labels of an index as COCO annotations, with other ids and category numbers."""
    rows = []
    for image, labels in enumerate(index.labels):
        for kind, x, y, w, h in labels.tolist():
            box = [(x - w / 2) * SIZE[0], (y - h / 2) * SIZE[1], w * SIZE[0], h * SIZE[1]]
            ids = {"id": len(rows) + 1, "image_id": 700 + image, "category_id": 10 * int(kind) + 5}
            rows.append({**ids, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    content = {
        "images": [{"id": 700 + image, "file_name": Path(name).name} for image, name in enumerate(index.paths)],
        "categories": [{"id": 10 * number + 5, "name": name} for number, name in enumerate(CLASSES)],
        "annotations": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_exact_detections_have_perfect_metrics_and_files(oracle, tmp_path):
    """Compares metrics, official metrics, confusion matrix, JSON and label files of one pass with the labels."""
    annotations = read_annotations(annotations_of(oracle.index, tmp_path / "truth.json"), CLASSES, oracle.index.paths)
    outputs = Outputs(tmp_path, predictions=True, annotations=annotations, labels=True, scores=True)
    done = []
    report = validate(
        oracle,
        imgsz=64,
        batch=4,
        workers=0,
        settings=EvaluationSettings(),
        outputs=outputs,
        on_progress=lambda *progress: done.append(progress),
    )
    assert done[-1] == (NUM_IMAGES, NUM_IMAGES)
    assert report.metrics.map50_95 == pytest.approx(0.995, abs=0.001)
    assert report.coco is not None and report.coco.ap == pytest.approx(1)
    assert report.num_labels == sum(map(len, oracle.index.labels))
    assert all(milliseconds > 0 for milliseconds in report.speed_ms.values())

    counts = json.loads((tmp_path / "confusion_matrix.json").read_text())["rows_found_columns_there"]
    assert [counts[kind][kind] for kind in range(4)] == [
        sum((labels[:, 0] == kind).sum() for labels in oracle.index.labels) for kind in range(4)
    ]
    assert sum(map(sum, counts)) == report.num_labels
    assert cv2.imread(str(tmp_path / "confusion_matrix.png")).std() > 10
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == report.num_labels
    assert json.loads((tmp_path / "metrics.json").read_text())["coco"]["ap50"] == pytest.approx(1)
    for path, labels in zip(oracle.index.paths, oracle.index.labels, strict=True):
        written = (tmp_path / "labels" / f"{Path(path).stem}.txt").read_text().split()
        rows = torch.tensor([float(value) for value in written]).reshape(-1, 6)
        torch.testing.assert_close(
            rows[:, :5].sort(dim=0).values, torch.tensor(labels).sort(dim=0).values, atol=1e-4, rtol=0
        )
        assert (rows[:, 5] > 0.9).all()


def test_images_with_equal_names_have_separate_label_files(oracle, tmp_path):
    names = ["a/x.jpg", "b/x.jpg", *(f"a/{number}.jpg" for number in range(NUM_IMAGES - 2))]
    directories = [str(Path(path).parent) for path in oracle.index.paths]
    for name, path in zip(names, oracle.index.paths, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(Path(path).read_bytes())
    assert len(set(directories)) == 1
    index = replace(oracle.index, paths=tuple(str(tmp_path / name) for name in names))
    outputs = Outputs(tmp_path, labels=True)
    validate(replace(oracle, index=index), imgsz=64, batch=4, workers=0, settings=EvaluationSettings(), outputs=outputs)
    assert {path.name for path in (tmp_path / "labels").iterdir()} >= {"x.txt", "x-2.txt"}


def test_names_that_end_with_number_have_separate_label_files(tmp_path):
    paths = ("a/x.jpg", "a/x-2.jpg", "b/x.jpg", "c/x.jpg", f"d/{'y' * 250}.jpg")
    write = validate_module._label_writer(tmp_path / "labels", paths, with_scores=False)
    for number in range(len(paths)):
        write(ImageResult(number, (8, 8), torch.zeros(0, 6), torch.zeros(0, 5)))
    written = {path.name for path in (tmp_path / "labels").iterdir()}
    assert len(written) == len(paths) and written >= {"x.txt", "x-2.txt", "x-3.txt", "x-4.txt"}


@pytest.mark.parametrize("option", ["--save-json", "--save-txt"])
def test_failed_write_of_results_is_reported(option, weights, data, tmp_path, file_limit):
    with file_limit(10):
        result = run_val("--weights", weights, "--data", data, option, directory=tmp_path)
    assert isinstance(result.exception, RunError), result.output
    assert "cannot be written: File too large" in str(result.exception)


def test_printed_metrics_equal_those_in_metrics_json(weights, data, tmp_path):
    result = run_val("--weights", weights, "--data", data, "--batch", 4, "--json", directory=tmp_path)
    printed = json.loads(result.stdout)
    assert Path(printed.pop("directory")) == tmp_path / "exp"
    assert printed == json.loads((tmp_path / "exp" / "metrics.json").read_text())
    assert (printed["num_images"], printed["imgsz"], printed["batch"]) == (NUM_IMAGES, 96, 4)
    assert (tmp_path / "exp").stat().st_mode & 0o777 == 0o700


def test_table_has_row_per_class(weights, data, tmp_path):
    text = run_val("--weights", weights, "--data", data, "--conf", 0.5, directory=tmp_path).stdout
    assert [name for name in ("all", *CLASSES, "mAP50-95", "speed") if name not in text] == []


def test_run_is_evaluated_with_its_own_data_and_size(weights, data, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create()
    spec = {"name": "run", "model": "yolov5n", "data": str(data), "train": {"imgsz": 64}}
    run.spec.write_text(yaml.safe_dump(spec))
    run.best.write_bytes(weights.read_bytes())
    for named in (run.path, run.best):
        report = json.loads(run_val(named, "--json", directory=tmp_path).stdout)
        assert (report["data"], report["imgsz"], report["weights"]) == (str(data), 64, str(run.best))
    assert json.loads(run_val(run.path, "--img", 128, "--json", directory=tmp_path).stdout)["imgsz"] == 128


@pytest.mark.parametrize("directory", ["weights", "checkpoints"])
def test_weights_beside_unrelated_spec_are_evaluated_at_own_size(directory, weights, data, tmp_path):
    """A directory with a spec.yaml is not necessarily a run."""
    (tmp_path / "spec.yaml").write_text(f"name: x\nmodel: yolov5n\ndata: {data}\ntrain: {{imgsz: 640}}\n")
    path = tmp_path / directory / "best.safetensors"
    path.parent.mkdir()
    path.write_bytes(weights.read_bytes())
    assert resolve_weights(path) == ResolvedWeights(path)
    report = json.loads(run_val("--weights", path, "--data", data, "--json", directory=tmp_path).stdout)
    assert report["imgsz"] == 96
    result = run_val("--weights", path, directory=tmp_path)
    assert "--data is missing" in str(result.exception)


def test_size_between_strides_is_rounded_up_with_warning(weights, data, tmp_path):
    result = run_val("--weights", weights, "--data", data, "--imgsz", 50, "--json", directory=tmp_path)
    assert "--imgsz 50 is not a multiple of 32" in result.stderr
    assert json.loads(result.stdout)["imgsz"] == 64


def test_augmentation_changes_predictions(weights, data, tmp_path):
    """The option makes the model predict from three views instead of one."""
    options = ["--weights", weights, "--data", data, "--json", "--save-json"]
    plain = json.loads(run_val(*options, directory=tmp_path).stdout)
    augmented = json.loads(run_val(*options, "--augment", directory=tmp_path).stdout)
    assert augmented["num_images"] == plain["num_images"]
    plain_rows, augmented_rows = (
        json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("exp", "exp2")
    )
    assert plain_rows != augmented_rows


def test_speed_task_has_own_thresholds(weights, data, tmp_path):
    report = json.loads(
        run_val("--weights", weights, "--data", data, "--task", "speed", "--json", directory=tmp_path).stdout
    )
    assert (report["conf_threshold"], report["iou_threshold"], report["split"]) == (0.25, 0.45, "val")


@pytest.mark.parametrize(("threshold", "warns"), [("0.001", False), ("0.25", True)])
def test_higher_confidence_threshold_gives_warning(weights, data, tmp_path, threshold, warns):
    result = run_val("--weights", weights, "--data", data, "--conf", threshold, directory=tmp_path)
    assert result.exit_code == 0 and ("confidence threshold 0.25: mAP lacks" in result.stderr) == warns


def test_study_has_row_per_size(weights, data, tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_yolo.cli.run_val.STUDY_SIZES", range(64, 128 + 1, 32))
    result = run_val("--weights", weights, "--data", data, "--task", "study", directory=tmp_path)
    lines = (tmp_path / "exp" / "study.csv").read_text().splitlines()
    assert lines[0].startswith("imgsz,precision,recall,map50,map50_95,preprocess_ms")
    assert [line.split(",")[0] for line in lines[1:]] == ["64", "96", "128"]
    assert "mAP50-95" in result.stdout


@pytest.mark.parametrize("task", ["val", "speed"])
def test_single_cls_accepts_weights_with_other_class_count(task, data, tmp_path):
    """The weights and the dataset may have different numbers of classes."""
    save_random_model(tmp_path / "seven.safetensors", [f"kind {number}" for number in range(7)])
    result = run_val(
        *("--weights", tmp_path / "seven.safetensors", "--data", data, "--single-cls", "--task", task, "--json"),
        directory=tmp_path,
    )
    assert [row["name"] for row in json.loads(result.stdout)["classes"]] == ["item"]


def test_annotations_in_coco_layout_give_official_metrics(oracle, weights, data, tmp_path):
    truth = annotations_of(oracle.index, data.parent / "annotations" / "instances_val.json")
    try:
        assert find_annotations(oracle) == truth
        result = run_val("--weights", weights, "--data", data, "--save-json", directory=tmp_path)
    finally:
        truth.unlink()
    assert "official COCO metrics" in result.stdout
    rows = json.loads((tmp_path / "exp" / "predictions.json").read_text())
    assert {row["category_id"] for row in rows} <= {5, 15, 25, 35}
    assert {row["image_id"] for row in rows} <= set(range(700, 700 + NUM_IMAGES))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (["--weights", "{weights}"], SpecError, "--data is missing"),
        (["--weights", "{weights}", "--data", "{data}", "--half"], SpecError, "half precision is for GPUs"),
        (["--weights", "{weights}", "--data", "{data}", "--task", "test"], DataError, "no split test"),
        (["--weights", "{weights}.gone", "--data", "{data}"], CheckpointError, "not found"),
        (["{directory}", "--data", "{data}"], CheckpointError, "not a run directory"),
        (["--weights", "{five}", "--data", "{data}"], CheckpointError, "detects 5 classes.*has 4.*--single-cls"),
        (["--weights", "{weights}", "--data", "{data}", "--ann", "{data}"], DataError, "COCO's format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_inputs_are_reported_before_evaluation(options, kind, message, weights, data, tmp_path):
    save_random_model(tmp_path / "five.safetensors", list("abcde"))
    paths = {"weights": weights, "data": data, "directory": tmp_path, "five": tmp_path / "five.safetensors"}
    result = run_val(*(option.format(**paths) for option in options), directory=tmp_path / "results")
    assert isinstance(result.exception, kind)
    assert re.search(message, str(result.exception), flags=re.DOTALL)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name one"),
        (["run", "--weights", "x.pt"], "name one"),
        (["run", "--save-hybrid"], "would count as found"),
        (["run", "--save-conf"], "give both"),
        (["run", "--conf", "1.5"], "0<=x<=1"),
        (["run", "--imgsz", "100000000"], "1<=x<=32768"),
        (["run", "--iou", "nan"], "nan is not a finite number"),
        (["run", "--task", "vla"], "'vla'"),
    ],
)
def test_invalid_options_are_refused(options, message, tmp_path):
    result = run_val(*options, directory=tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("device", ["gpu", "0,1", "7", "cuda:7"])
def test_missing_device_is_refused(device, weights, data, tmp_path):
    result = CliRunner().invoke(cli, ["val", str(weights), "--data", str(data), "--device", device])
    assert isinstance(result.exception, SpecError)
    assert f"--device {device}" in str(result.exception)


def test_different_class_names_give_warning(data, tmp_path):
    """Classes in another order give metrics near zero without an error."""
    save_random_model(tmp_path / "reversed.safetensors", list(reversed(CLASSES)))
    result = run_val("--weights", tmp_path / "reversed.safetensors", "--data", data, directory=tmp_path)
    assert "class 0 is called 'star' by the weights and 'circle' by the dataset" in result.stderr


def test_run_without_checkpoint_is_refused(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create()
    run.spec.write_text("name: run\n")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        resolve_weights(run.path)


def test_class_names_with_brackets_and_colons_are_printed_as_they_are(data, tmp_path):
    names = ["defect [scratch]", "[/x]", ":car:", "cat"]
    save_random_model(tmp_path / "odd.safetensors", names)
    odd = tmp_path / "odd.yaml"
    odd.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "path": str(data.parent), "names": names}))
    result = run_val("--weights", tmp_path / "odd.safetensors", "--data", odd, directory=tmp_path)
    assert all(name in result.output for name in names)


def test_results_directories_are_numbered_and_private(tmp_path):
    names = [results_directory(tmp_path / "val", "exp", exist_ok=False).name for _ in range(3)]
    assert names == ["exp", "exp2", "exp3"]
    assert results_directory(tmp_path / "val", "exp", exist_ok=True).name == "exp"
    assert (tmp_path / "val" / "exp2").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("num_classes", [1, 30, 80])
def test_confusion_chart_has_room_for_all_classes(tmp_path, num_classes):
    """Names may have any characters and any length."""
    counts = torch.eye(num_classes + 1, dtype=torch.int64).numpy() * 3
    write_confusion_chart(tmp_path / "c.png", counts, ["ein sehr langer Straßenname 道路"] * num_classes)
    chart = cv2.imread(str(tmp_path / "c.png"))
    assert min(chart.shape[:2]) > 14 * num_classes
    dark = (chart == (176, 105, 39)).all(axis=2)
    assert dark.any(axis=0).sum() >= 14 * num_classes  # the diagonal crosses every column


def test_confusion_chart_of_many_classes_has_a_limited_size(tmp_path):
    """At 10 points a class, the chart of 1,203 classes took more memory than a node has."""
    write_confusion_chart(tmp_path / "c.png", torch.eye(401).numpy(), ["cat"] * 400)
    assert max(cv2.imread(str(tmp_path / "c.png")).shape) < 4000


def test_label_files_are_valid_labels(oracle, tmp_path):
    validate(
        oracle, imgsz=64, batch=4, workers=0, settings=EvaluationSettings(), outputs=Outputs(tmp_path, labels=True)
    )
    for path in (tmp_path / "labels").iterdir():
        rows, _ = read_labels(path, len(CLASSES))
        assert len(rows) > 0


@pytest.fixture
def unlabelled(tmp_path) -> Path:
    """Return the YAML of a dataset whose validation split has no label files."""
    path = write_shapes_dataset(tmp_path / "unlabelled", num_train=1, num_val=2, image_size=SIZE)
    shutil.rmtree(path.parent / "labels" / "val")
    return path


def test_split_without_labels_is_refused(weights, unlabelled, tmp_path):
    result = run_val("--weights", weights, "--data", unlabelled, directory=tmp_path / "results")
    assert isinstance(result.exception, DataError)
    assert "val: none of its 2 images has labels; 2 without a label file" in str(result.exception)
    assert f"there is no directory {unlabelled.parent / 'labels' / 'val'}" in str(result.exception)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("option", ["--save-json", "--save-txt"])
def test_detections_on_split_without_labels_are_written_with_warning(weights, unlabelled, tmp_path, option):
    """COCO's test-dev has no labels; its predictions are measured elsewhere."""
    result = run_val("--weights", weights, "--data", unlabelled, option, directory=tmp_path)
    assert result.exit_code == 0
    assert "val: no image has labels, so all metrics are 0" in result.stderr
    assert (tmp_path / "exp" / {"--save-json": "predictions.json", "--save-txt": "labels"}[option]).exists()


def test_val_reads_one_split_and_warns_about_missing_others(weights, data, tmp_path):
    path = tmp_path / "d.yaml"
    path.write_text(f"path: {data.parent}\ntrain: gone\nval: images/val\ntest: gone/too\nnames: {list(CLASSES)}\n")
    result = run_val("--weights", weights, "--data", path, directory=tmp_path)
    assert result.exit_code == 0
    assert [result.stderr.count(f"{name}: {data.parent}/gone") for name in ("train", "test")] == [1, 1]
    result = run_val("--weights", weights, "--data", path, "--task", "test", directory=tmp_path)
    assert isinstance(result.exception, DataError)
    assert "gone/too does not exist" in str(result.exception)


@pytest.fixture
def two_cameras(data, tmp_path) -> Path:
    """Return the YAML of images with equal names in two directories; the annotations have no directories."""
    root = tmp_path / "cameras"
    for kind in ("images", "labels"):
        for camera in ("cam1", "cam2"):
            shutil.copytree(data.parent / kind / "val", root / kind / "val" / camera)
    path = root / "d.yaml"
    path.write_text(f"train: images/val\nval: images/val\nnames: {list(CLASSES)}\n")
    write_truth(root, sorted(path.name for path in (root / "images" / "val" / "cam1").iterdir()))
    return path


def write_truth(root: Path, names: list[str], **changes) -> Path:
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    annotations = [{"image_id": 1, "category_id": 0, "bbox": [1, 2, 30, 40], **changes}]
    truth = root / "annotations" / "instances_val.json"
    truth.parent.mkdir(exist_ok=True)
    truth.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return truth


def test_ambiguous_images_are_refused_before_evaluation(weights, two_cameras, tmp_path):
    truth = two_cameras.parent / "annotations" / "instances_val.json"
    options = ["--weights", weights, "--data", two_cameras, "--annotations", truth]
    result = run_val(*options, directory=tmp_path / "results")
    assert isinstance(result.exception, DataError)
    assert re.search(r"cam1/00000\.jpg and .*cam2/00000\.jpg are both image 1", str(result.exception))
    assert not (tmp_path / "results").exists()


def test_unusable_default_annotations_keep_computed_metrics(weights, two_cameras, tmp_path):
    result = run_val("--weights", weights, "--data", two_cameras, "--save-json", "--json", directory=tmp_path)
    assert result.exit_code == 0
    assert "no official COCO metrics: " in result.stderr and "are both image 1" in result.stderr
    assert "14 images of equal names have paths as ids, such as " in result.stderr
    report = json.loads(result.stdout)
    assert report["num_images"] == 14 and report["coco"] is None
    rows = json.loads((tmp_path / "exp" / "predictions.json").read_text())
    assert {"cam1", "cam2"} == {Path(row["image_id"]).parent.name for row in rows}


def test_equal_names_are_matched_by_directories_in_annotations(weights, two_cameras, tmp_path):
    names = [f"{camera}/{number:05}.jpg" for camera in ("cam1", "cam2") for number in range(NUM_IMAGES)]
    truth = write_truth(two_cameras.parent, names)
    options = ["--weights", weights, "--data", two_cameras, "--annotations", truth, "--json"]
    report = json.loads(run_val(*options, directory=tmp_path).stdout)
    assert report["coco"] is not None and report["coco_error"] is None
    rows = json.loads((tmp_path / "exp" / "predictions.json").read_text())
    assert {row["image_id"] for row in rows} == set(range(1, 15))


def test_annotations_without_optional_fields_give_official_metrics(weights, data, tmp_path):
    truth = write_truth(tmp_path, [f"{number:05}.jpg" for number in range(NUM_IMAGES)])
    result = run_val("--weights", weights, "--data", data, "--annotations", truth, directory=tmp_path)
    assert result.exit_code == 0
    assert "official COCO metrics" in result.stdout


def test_predictions_have_ids_of_annotations_without_pycocotools(weights, data, tmp_path, monkeypatch):
    truth = write_truth(tmp_path, [f"{number:05}.jpg" for number in range(NUM_IMAGES)])
    monkeypatch.setattr("hpc_yolo.cli.run_val.find_annotations", lambda _target: truth)
    written = []
    for name in ("with", "without"):
        options = ("--weights", weights, "--data", data, "--save-json", "--conf", "0", "--name", name)
        result = run_val(*options, directory=tmp_path)
        assert result.exit_code == 0 and ("pycocotools" in result.stderr) == (name == "without")
        written.append((tmp_path / name / "predictions.json").read_bytes())
        monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
        monkeypatch.setattr("hpc_yolo.evaluation.coco.has_library", lambda: False)
    assert written[0] == written[1] and json.loads(written[0])[0]["image_id"] == 1


@pytest.mark.parametrize("is_named", [True, False])
def test_computed_metrics_are_printed_if_pycocotools_fails(weights, data, tmp_path, monkeypatch, is_named):
    def fail(*_):
        raise HpcYoloError("pycocotools cannot evaluate the predictions: KeyError: 'x'")

    monkeypatch.setattr("hpc_yolo.evaluation.coco.official_numbers", fail)
    truth = write_truth(tmp_path, [f"{number:05}.jpg" for number in range(NUM_IMAGES)])
    monkeypatch.setattr("hpc_yolo.cli.run_val.find_annotations", lambda _target: truth)
    options = ["--annotations", truth] if is_named else ["--save-json"]
    result = run_val("--weights", weights, "--data", data, *options, directory=tmp_path)
    assert "mAP50-95" in result.stdout
    assert "KeyError: 'x'" in json.loads((tmp_path / "exp" / "metrics.json").read_text())["coco_error"]
    if is_named:
        assert isinstance(result.exception, DataError) and "no official COCO metrics" in str(result.exception)
    else:
        assert result.exit_code == 0 and "no official COCO metrics" in result.stderr
