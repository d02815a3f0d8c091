"""Exported files in val and predict: the same boxes as the exported model, and errors for what is not supported."""

import json
import sys
import zipfile

import cv2
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from spec_runs import NETWORK

from hpc_yolo.checkpoint import ModelDescription, save_model
from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import CheckpointError, SpecError
from hpc_yolo.evaluation.evaluator import EvaluationSettings
from hpc_yolo.inference import exported
from hpc_yolo.inference.export import ExportOptions, export
from hpc_yolo.inference.exported import load_exported
from hpc_yolo.inference.model import load_inference_model
from hpc_yolo.inference.predict import Predictor, PredictSettings
from hpc_yolo.inference.sources import Frame, Source
from hpc_yolo.models import build_from_config, load_config
from hpc_yolo.weights.model_file import build_detector, read_model_file

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

NAMES = ["cat", "traffic light"]
SIZE = 96
FORMATS = [("onnx", False), ("onnx", True), ("torchscript", False), ("torchscript", True)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Return the directory of a small random model with many detections, and of its exports."""
    path = tmp_path_factory.mktemp("exported") / "best.safetensors"
    torch.manual_seed(0)
    config = load_config(str(NETWORK))
    model = build_from_config(config, len(NAMES), "small").eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
        _, levels = model(torch.rand(1, 3, SIZE, SIZE))
        for convolution, level in zip(model.head.m, levels, strict=True):  # scores from 0 to 1
            convolution.weight.mul_(1.5 / level.std())
            convolution.bias.zero_()
    save_model(path, model, ModelDescription(model="small", config=config, names=NAMES, imgsz=SIZE))
    file = read_model_file(path)
    for file_format, dynamic in FORMATS:
        target = path.with_name(f"{'any' if dynamic else 'fixed'}.{file_format}")
        options = ExportOptions((SIZE, SIZE), batch=1 if dynamic else 3, dynamic=dynamic, trained_imgsz=SIZE)
        export(build_detector(file), file.names, file_format, target, options)
    (path.parent / "scripted.pt").write_bytes((path.parent / "any.torchscript").read_bytes())
    return path.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    for kind in ("images", "labels"):
        (directory / kind).mkdir()
    for number, (height, width) in enumerate([(96, 96), (64, 96), (96, 48), (50, 80)]):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(directory / "images" / f"{number}.png"), pixels)
        (directory / "labels" / f"{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.4 0.4\n")
    path = directory / "data.yaml"
    path.write_text(f"path: {directory}\nval: images\nnames: {json.dumps(NAMES)}\n")
    return path


def run(*arguments, directory):
    result = CliRunner().invoke(cli, [*map(str, arguments), "--project", str(directory), "--name", "exp"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def detections(weights, image, directory, *options):
    (line,) = run(
        "predict", image, "--weights", weights, "--json", "--nosave", *options, directory=directory
    ).splitlines()
    found = json.loads(line)["detections"]
    return [item["name"] for item in found], np.array([[*item["xyxy"], 100 * item["confidence"]] for item in found])


def test_predict_with_exported_file_finds_boxes_of_model(directory, data, tmp_path):
    """The image size defaults to the size of training."""
    image = data.parent / "images" / "0.png"
    expected_names, expected = detections(directory / "best.safetensors", image, tmp_path)
    assert len(expected) > 10
    for name in ("fixed.onnx", "any.onnx", "fixed.torchscript", "any.torchscript", "scripted.pt"):
        names, found = detections(directory / name, image, tmp_path)
        assert names == expected_names, name
        assert np.abs(found - expected).max() < 0.1, name


@pytest.mark.parametrize("name", ["any.onnx", "any.torchscript"])
def test_dynamic_file_accepts_any_size(name, directory, data, tmp_path):
    image = data.parent / "images" / "3.png"
    for options in ((), ("--imgsz", "128"), ("--imgsz", "64", "96")):
        expected_names, expected = detections(directory / "best.safetensors", image, tmp_path, *options)
        names, found = detections(directory / name, image, tmp_path, *options)
        assert names == expected_names and np.abs(found - expected).max() < 0.1


@pytest.mark.parametrize("name", ["fixed.onnx", "fixed.torchscript"])
def test_fixed_size_file_pads_images_to_its_size(name, directory):
    pixels = np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8)
    settings = PredictSettings((SIZE, SIZE), exact=True)
    expected, found = (
        np.array(Predictor(loaded.model, settings)(Frame(Source("x"), pixels)).detections)
        for loaded in (
            load_inference_model(directory / file, device="cpu", half=False, augment=False)
            for file in ("best.safetensors", name)
        )
    )
    assert len(expected) > 10 and np.abs(found - expected).max() < 0.1


@pytest.mark.parametrize("name", ["fixed.onnx", "any.onnx", "fixed.torchscript", "any.torchscript"])
def test_val_of_exported_file_has_metrics_of_model(name, directory, data, tmp_path):
    """With square images, which all files accept; four images in batches of three."""
    options = ("--data", data, "--task", "speed", "--conf", "0.01", "--workers", "0", "--batch", "4", "--json")
    expected, found = (
        json.loads(run("val", "--weights", directory / file, *options, directory=tmp_path))
        for file in ("best.safetensors", name)
    )
    assert expected["imgsz"] == SIZE and expected["metrics"]["recall"] > 0
    assert (found["imgsz"], found["num_images"]) == (expected["imgsz"], expected["num_images"])
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-3)


def test_val_of_dynamic_file_groups_shapes_as_for_model(directory, data, tmp_path):
    options = ("--data", data, "--save-json", "--workers", "0", "--imgsz", "64")
    for file in ("best.safetensors", "any.onnx"):
        run("val", "--weights", directory / file, *options, directory=tmp_path)
    expected, found = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("exp", "exp2"))
    assert len(found) == len(expected) > 100
    scores = [np.sort([item["score"] for item in items]) for items in (expected, found)]
    assert np.abs(scores[0] - scores[1]).max() < 1e-3


def predict_fixed(*options):
    return lambda directory, data: ["predict", data.parent / "images", "--weights", directory / "fixed.onnx", *options]


def val(name, *options):
    return lambda directory, data: ["val", "--weights", directory / name, "--data", data, *options]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (predict_fixed("--imgsz", "128"), SpecError, "128 x 128 px, and .*fixed.onnx was exported for 96 x 96 px"),
        (predict_fixed("--imgsz", "64", "96"), SpecError, "64 x 96 px, and .* exported for 96 x 96 px"),
        (predict_fixed("--augment"), SpecError, "--augment: not supported for .*fixed.onnx"),
        (predict_fixed("--device", "0"), SpecError, "exported files run on the CPU|there is no GPU 0"),
        (val("fixed.torchscript", "--imgsz", "64"), SpecError, "64 x 64 px, and .* exported for 96 x 96 px"),
        (val("fixed.onnx", "--task", "study"), SpecError, "at many sizes, and .* was exported for one"),
        (val("wide.onnx"), SpecError, "exported for 64 x 96 px .* and val needs a square"),
    ],
)
def test_unsupported_option_of_exported_file_is_reported(arguments, kind, message, directory, data, tmp_path):
    if not (wide := directory / "wide.onnx").exists():
        file = read_model_file(directory / "best.safetensors")
        export(build_detector(file), file.names, "onnx", wide, ExportOptions((64, 96)))
    with pytest.raises(kind, match=message):
        run(*arguments(directory, data), directory=tmp_path)


def test_missing_onnxruntime_error_has_install_command(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match=r"onnxruntime\n.*pip install 'hpc-yolo\[export\]'"):
        load_exported(directory / "any.onnx")


def write_onnx(path, output_shape, *, properties=None, inputs=1, kind=TensorProto.FLOAT):
    """Write an ONNX model with constant output."""
    values = [helper.make_tensor_value_info(f"in{number}", kind, [1, 3, 64, 64]) for number in range(inputs)]
    constant = helper.make_tensor("c", TensorProto.FLOAT, output_shape, np.zeros(output_shape).ravel())
    node = helper.make_node("Constant", [], ["out"], value=constant)
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, output_shape)
    graph = helper.make_graph([node], "g", values, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, properties or {})
    path.write_bytes(model.SerializeToString())


VALID_PROPERTIES = {"stride": "32", "names": "{0: 'cat', 1: 'dog'}"}


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ([1, 252, 7], {}, "class names or stride are missing"),
        ([1, 252, 7], {"properties": {"stride": "32"}}, "class names or stride are missing"),
        ([1, 252, 7], {"properties": {"stride": "32", "names": "open('x')"}}, "class names or stride are missing"),
        ([1, 252, 7], {"properties": VALID_PROPERTIES | {"names": "{0: 'a', 2: 'b'}"}}, "not numbered 0, 1, 2"),
        ([1, 252, 7], {"properties": VALID_PROPERTIES | {"names": "{0: 'a', 1: 3}"}}, "not numbered 0, 1, 2"),
        ([1, 252, 7], {"properties": VALID_PROPERTIES | {"stride": "-8"}}, "its stride is -8"),
        ([1, 84, 8400], {"properties": VALID_PROPERTIES}, "batch x rows x 7: box, objectness, 2 classes"),
        ([1, 252], {"properties": VALID_PROPERTIES}, "batch x rows x 7"),
        ([1, 252, 7], {"properties": VALID_PROPERTIES, "inputs": 2}, "one input of images is needed"),
        ([1, 252, 7], {"properties": VALID_PROPERTIES, "kind": TensorProto.UINT8}, "one input of images is needed"),
    ],
)
def test_onnx_file_of_another_program_is_refused(shape, options, message, tmp_path):
    write_onnx(tmp_path / "x.onnx", shape, **options)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_exported(tmp_path / "x.onnx")
    assert caught.value.hint


def test_onnx_file_with_yolov5_properties_runs(tmp_path):
    write_onnx(tmp_path / "x.onnx", [1, 252, 7], properties=VALID_PROPERTIES)
    model = load_exported(tmp_path / "x.onnx")
    assert model.about.names == ("cat", "dog") and model(torch.zeros(2, 3, 64, 64))[0].shape == (2, 252, 7)


@pytest.mark.parametrize(
    ("written", "shape", "is_suppressed"), [("True", [1, 300, 6], True), ("False", [1, 252, 7], False)]
)
def test_onnx_file_of_another_program_with_suppression_runs(written, shape, is_suppressed, tmp_path):
    """Its settings are not known, so that those of the command stay."""
    write_onnx(tmp_path / "x.onnx", shape, properties=VALID_PROPERTIES | {"nms": written})
    loaded, messages = load_inference_model(tmp_path / "x.onnx", device="cpu", half=False, augment=False), []
    assert (loaded.model.about.suppression is not None) is is_suppressed
    assert loaded.model(torch.zeros(1, 3, 64, 64))[0].shape == (1, shape[1], 7)
    assert loaded.applied_settings(EvaluationSettings(), messages.append) == EvaluationSettings() and not messages


def test_onnx_file_with_external_data_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(4 * 252 * 7, dtype=np.float32).tobytes())
    write_onnx(tmp_path / "x.onnx", [1, 252, 7], properties=VALID_PROPERTIES)
    model = onnx.load(tmp_path / "x.onnx")
    tensor = model.graph.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(secret))
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="cannot load it"):
        load_exported(tmp_path / "x.onnx")


def write_modified_torchscript(path, source, entry, content):
    """Write `source` with changed `content` of one entry; None removes the entry."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(path, "w") as after:
        for item in before.infolist():
            if not item.filename.endswith(entry):
                after.writestr(item, before.read(item))
            elif content is not None:
                after.writestr(item, content(before.read(item)))


def insert_call(line):
    """Return a function that inserts a call at the start of each layer's `forward`."""
    return lambda code: code.replace(b"Tensor:\n", b"Tensor:\n    " + line + b"\n")


@pytest.mark.parametrize(
    ("entry", "content", "message"),
    [
        ("config.txt", None, "class names or stride are missing"),
        ("config.txt", lambda _: b"not JSON", "class names or stride are missing"),
        ("config.txt", lambda _: b"[" * 100_000, "class names or stride are missing"),
        ("config.txt", lambda _: b'{"names": {"0": "a"}, "stride": 32}', "lacks the image size"),
        ("config.txt", lambda _: b'{"names": ["a"], "stride": 32, "shape": [1, 3, 0, 64]}', "lacks the image size"),
        (
            ".py",
            insert_call(b'x = torch.from_file("/etc/passwd", True, 10)'),
            r"calls torch\.from_file, .*; it was not run",
        ),
        (".py", insert_call(b'ops.aten.save([1], "x")'), r"calls ops\.aten\.save, "),
        (".py", insert_call(b'torch.warn("x")'), r"calls torch\.warn, "),
        (".py", insert_call(b"raise_error()"), "calls raise_error, "),
        (".py", insert_call(b"(torch.from_file)()"), r"calls torch\.from_file, "),
        (".py", insert_call(b"f = torch.save"), r"calls torch\.save, "),
        (".py", insert_call(b'getattr(torch, "save")()'), "calls torch, "),
        (".py", lambda code: code + b"  def __setstate__(self, state: int) -> None:\n", "calls __setstate__, "),
        (".py", lambda _: b"\xff\xfe", "its program is not text"),
        ("data.pkl", lambda code: code + b"torch.classes.x.Y", r"C\+\+ classes"),
        ("version", lambda _: b"99999", "torch .* cannot load it"),
    ],
)
def test_invalid_torchscript_file_is_refused_without_running_it(entry, content, message, directory, tmp_path):
    write_modified_torchscript(tmp_path / "x.torchscript", directory / "fixed.torchscript", entry, content)
    with pytest.raises(CheckpointError, match=message):
        load_exported(tmp_path / "x.torchscript")


@pytest.mark.parametrize("suffix", [".onnx", ".torchscript"])
@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_damaged_file_is_refused(suffix, content, directory, tmp_path):
    whole = (directory / f"fixed{suffix}").read_bytes()
    (tmp_path / f"x{suffix}").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(CheckpointError, match=r"cannot load it|is not a complete TorchScript file"):
        load_exported(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("activation", ["SiLU", "ReLU", "LeakyReLU(0.1)", "Hardswish", "Mish", "GELU"])
def test_all_activations_are_in_list_of_allowed_operations(activation, tmp_path):
    config = load_config(str(NETWORK)) | {"activation": activation}
    model = build_from_config(config, 2, "own").eval()
    export(model, NAMES, "torchscript", tmp_path / "n.torchscript", ExportOptions((64, 64)))
    assert load_exported(tmp_path / "n.torchscript").about.names == tuple(NAMES)


def test_output_shape_other_than_described_is_refused(directory, monkeypatch):
    model = load_exported(directory / "any.torchscript")
    monkeypatch.setattr(model, "about", exported.About(("only",), 32))
    with pytest.raises(CheckpointError, match="batch x rows x 6"):
        model(torch.zeros(1, 3, 64, 64))


def test_export_command_uses_trained_size_and_reports_failed_write(directory, tmp_path):
    path = tmp_path / "best.safetensors"
    path.write_bytes((directory / "best.safetensors").read_bytes())
    result = CliRunner().invoke(cli, ["export", str(path), "--include", "onnx"])
    assert result.exit_code == 0, result.output
    about = load_exported(tmp_path / "best.onnx").about
    assert (about.image_hw, about.imgsz, about.batch) == ((SIZE, SIZE), SIZE, 1)
    (tmp_path / "best.onnx").unlink()
    (tmp_path / "best.onnx").mkdir()
    result = CliRunner().invoke(cli, ["export", str(path), "--include", "onnx"])
    assert result.exit_code == 7 and "best.onnx: cannot be written: " in result.output
