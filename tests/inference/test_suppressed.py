"""Exported files of both heads: the output of the model in OpenCV, and with the suppression inside, that of predict."""

import dataclasses
import json

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from hpc_yolo.checkpoint import ModelDescription, save_model
from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.evaluation.evaluator import EvaluationSettings
from hpc_yolo.evaluation.nms import non_max_suppression
from hpc_yolo.inference import suppressed
from hpc_yolo.inference.export import ExportOptions, difference_of_detections, export
from hpc_yolo.inference.model import load_inference_model
from hpc_yolo.inference.predict import Predictor, PredictSettings
from hpc_yolo.inference.sources import Frame, Source
from hpc_yolo.inference.suppressed import Suppression, as_decoded
from hpc_yolo.models import build_from_config, load_config
from hpc_yolo.models.heads.yolov5 import Detect

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

NAMES = ["cat", "dog", "traffic light"]
SIZE = 96


@pytest.fixture(scope="module", params=["yolov5n", "yolov5n-af"])
def weights(request, tmp_path_factory):
    """Return the file of a small random model with many detections."""
    torch.manual_seed(0)
    config = load_config(request.param) | {"width_multiple": 0.125}
    model = build_from_config(config, len(NAMES), "small").eval()
    head = model.head
    scored = head.m if isinstance(head, Detect) else [branch[-1] for branch in head.classes]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
        outputs = []
        hooks = [layer.register_forward_hook(lambda *found: outputs.append(found[2])) for layer in scored]
        model(torch.rand(1, 3, SIZE, SIZE))
        for layer, output, hook in zip(scored, outputs, hooks, strict=True):  # scores from 0 to 1
            hook.remove()
            layer.weight.mul_(1.5 / output.std())
            layer.bias.zero_()
    path = tmp_path_factory.mktemp(request.param) / "best.safetensors"
    save_model(path, model, ModelDescription(model="small", config=config, names=NAMES, imgsz=SIZE))
    return path


@pytest.fixture
def model(weights):
    return load_inference_model(weights, device="cpu", half=False, augment=False).model


@torch.no_grad()
def test_opencv_returns_output_of_model(model, tmp_path):
    path = tmp_path / "n.onnx"
    export(model, NAMES, "onnx", path, ExportOptions((SIZE, 64)))
    images = torch.rand(1, 3, SIZE, 64)
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(images.numpy())
    assert np.abs(net.forward() - model(images)[0].numpy()).max() < 1e-2, "pixels"


@pytest.mark.parametrize("dynamic", [False, True])
@torch.no_grad()
def test_suppression_inside_file_returns_detections_of_predict(model, tmp_path, dynamic):
    path, inside = tmp_path / "n.onnx", Suppression(0.1, 0.5, max_detections=40)
    done = export(model, NAMES, "onnx", path, ExportOptions((SIZE, SIZE), 2, dynamic, suppression=inside))
    assert done.difference < 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape[1:] == [40, 6]
    for batch, height in [(2, SIZE), (3, 64)][: 1 + dynamic]:
        images = torch.rand(batch, 3, height, SIZE)
        (found,) = session.run(None, {"images": images.numpy()})
        expected = non_max_suppression(
            model(images)[0], conf_threshold=0.1, iou_threshold=0.5, max_detections=40, multi_label=False
        )
        for rows, detections in zip(found, expected, strict=True):
            assert 5 < len(detections) <= 40
            assert np.abs(rows[: len(detections)] - detections.numpy()).max() < 1e-2
            assert not rows[len(detections) :].any()


def test_wrong_suppression_is_noticed_where_noise_has_no_detections(model, tmp_path, monkeypatch):
    """As of a trained model above the usual threshold: zeros would be equal to zeros."""
    options = ExportOptions((SIZE, SIZE), suppression=Suppression(conf_threshold=0.9999))
    export(model, NAMES, "onnx", tmp_path / "right.onnx", options)
    write = suppressed._Suppress.symbolic

    def wrong(graph, boxes, scores, settings):
        return write(graph, boxes, scores, dataclasses.replace(settings, iou_threshold=1.0))

    monkeypatch.setattr(suppressed._Suppress, "symbolic", wrong)
    with pytest.raises(CheckpointError, match="output of onnx differs"):
        export(model, NAMES, "onnx", tmp_path / "wrong.onnx", options)


def test_predict_with_suppressed_file_finds_boxes_of_model(model, weights, tmp_path):
    path = tmp_path / "n.onnx"
    export(model, NAMES, "onnx", path, ExportOptions((SIZE, SIZE), suppression=Suppression()))
    frame = Frame(Source("x"), np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8))
    loaded = load_inference_model(path, device="cpu", half=False, augment=False).model
    settings = PredictSettings((SIZE, SIZE), exact=True)
    expected, found = (np.array(Predictor(each, settings)(frame).detections) for each in (model, loaded))
    assert len(expected) > 5 and np.abs(found - expected).max() < 0.1


@pytest.mark.parametrize(
    ("inside", "expected"),
    [(Suppression(0.25, 0.45, 300), (0.25, 0.45, 300)), (Suppression(0.0001, 0.9, 1000), (0.001, 0.6, 300))],
)
def test_stricter_settings_of_suppression_inside_file_apply(model, tmp_path, inside, expected):
    path, messages = tmp_path / "n.onnx", []
    export(model, NAMES, "onnx", path, ExportOptions((SIZE, SIZE), suppression=inside))
    loaded = load_inference_model(path, device="cpu", half=False, augment=False)
    applied = loaded.applied_settings(EvaluationSettings(), messages.append)
    assert (applied.conf_threshold, applied.iou_threshold, applied.max_detections) == expected
    assert ["confidence 0.25, IoU 0.45, 300" in message for message in messages] == [True] * (inside == Suppression())


def test_val_of_suppressed_file_reports_settings_inside_it(model, tmp_path):
    weights, data = (
        tmp_path / "n.onnx",
        write_shapes_dataset(tmp_path / "set", num_train=1, num_val=2, image_size=(96, 64)),
    )
    export(model, NAMES, "onnx", weights, ExportOptions((SIZE, SIZE), suppression=Suppression()))
    options = ["--single-cls", "--workers", "0", "--json", "--project", str(tmp_path)]
    result = CliRunner().invoke(cli, ["val", "--weights", str(weights), "--data", str(data), *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["conf_threshold"], report["iou_threshold"], report["max_detections"]) == (0.25, 0.45, 300)
    assert "has a suppression inside" in result.stderr


def test_augmented_prediction_finds_boxes_of_plain_one(weights):
    """Of each head the rows of three views, in the pixels of the image."""
    model = load_inference_model(weights, device="cpu", half=False, augment=True).model
    frame = Frame(Source("x"), np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8))
    plain, augmented = (
        Predictor(model, PredictSettings((SIZE, SIZE), augment=augment))(frame).detections for augment in (False, True)
    )
    assert len(plain) > 5
    kept = {tuple(round(value, 2) for value in row[:4]) for row in augmented}
    assert len({tuple(round(value, 2) for value in row[:4]) for row in plain} & kept) > 0


def test_image_without_detections_returns_zeros(model, tmp_path):
    path = tmp_path / "n.onnx"
    export(model, NAMES, "onnx", path, ExportOptions((64, 64), suppression=Suppression(conf_threshold=1.0)))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": np.zeros((1, 3, 64, 64), dtype=np.float32)})
    assert found.shape == (1, 300, 6) and not found.any()


def test_suppression_with_scores_in_another_order_is_exported(model, tmp_path):
    path = tmp_path / "n.onnx"
    inside = Suppression(conf_threshold=0.0, iou_threshold=0.9, max_detections=5000)
    done = export(model, NAMES, "onnx", path, ExportOptions((SIZE, SIZE), suppression=inside))
    assert path.exists() and done.difference < 1e-4


@pytest.mark.parametrize(
    ("levels", "size", "batch", "inside"),
    [
        ([17, 20, 23], 64, 1, Suppression(conf_threshold=0.0001, iou_threshold=0.6)),
        ([17, 20, 23], 192, 1, Suppression(conf_threshold=0.0001, iou_threshold=0.6)),
        ([17, 20, 23], 192, 3, Suppression()),
        ([23], 32, 1, Suppression()),
    ],
    ids=["almost equal scores", "more than fit", "several images", "three rows"],
)
def test_suppression_of_untrained_model_is_exported(levels, size, batch, inside, tmp_path):
    config = load_config("yolov5n")
    config["head"][-1][0], config["anchors"] = levels, config["anchors"][-len(levels) :]
    torch.manual_seed(1)
    model = build_from_config(config, 1, "untrained").eval()
    options = ExportOptions((size, size), batch, suppression=inside)
    assert export(model, ["cat"], "onnx", tmp_path / "n.onnx", options).difference < 1e-4


def test_missing_and_moved_detections_are_differences():
    rows = torch.tensor([[0.1, 0.1, 0.4, 0.4, 0.9, 0], [0.5, 0.5, 0.7, 0.7, 0.8, 1], [0, 0, 0, 0, 0, 0]])
    assert difference_of_detections(rows, rows[[1, 0, 2]]) == 0
    assert difference_of_detections(rows, rows[[0, 2, 2]]) == np.inf
    assert difference_of_detections(rows, rows + 0.01 * (rows > 0)) == pytest.approx(0.01)
    assert difference_of_detections(rows, rows[[0, 0, 2]]) == pytest.approx(1)
    assert difference_of_detections(torch.zeros(3, 6), torch.zeros(3, 6)) == 0
    other = torch.tensor([[0.2, 0.2, 0.3, 0.3, 0.8, 0]])
    assert difference_of_detections(rows[:2], torch.cat((rows[:1], other))) == 0, "another one of equal scores"
    assert difference_of_detections(rows, torch.cat((rows[:1], other, rows[2:]))) > 0.1, "there is room for both"


def test_torchscript_with_suppression_is_refused(model, tmp_path):
    with pytest.raises(CheckpointError, match="--nms is for onnx"):
        export(model, NAMES, "torchscript", tmp_path / "n", ExportOptions((64, 64), suppression=Suppression()))


def test_export_command_puts_suppression_into_file(weights):
    arguments = ["export", str(weights), "--include", "onnx", "--nms", "--max-det", "7", "--conf-thres", "0.1"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    session = onnxruntime.InferenceSession(weights.with_suffix(".onnx"), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == [1, 7, 6]
    assert "'conf_threshold': 0.1" in session.get_modelmeta().custom_metadata_map["nms"]
    result = CliRunner().invoke(cli, ["export", str(weights), "--nms"])
    assert result.exit_code == 2 and "--nms is for onnx" in result.output


def test_detections_as_decoded_rows_keep_box_score_and_class():
    decoded = as_decoded(torch.tensor([[[10.0, 20, 30, 60, 0.9, 2], [0, 0, 0, 0, 0, 0]]]), 3)
    torch.testing.assert_close(decoded, torch.tensor([[[20.0, 40, 20, 40, 1, 0, 0, 0.9], [0, 0, 0, 0, 1, 0, 0, 0]]]))
