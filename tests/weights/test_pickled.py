"""Published pickled weights load; malicious pickles are refused without running code."""

import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
from published_files import write_published
from torch import nn

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.models import build_model
from hpc_yolo.weights.model_file import build_detector, read_model_file, transfer


def optimizer_state(content, yolo, common):
    """Add the state that a file has during training."""
    content |= {"best_fitness": np.array([0.5]), "updates": 7, "date": "2022-11-22", "epoch": 3}
    content["optimizer"] = {
        "state": {0: {"momentum_buffer": torch.ones(3)}},
        "param_groups": [{"lr": 0.01, "momentum": np.float64(0.9), "params": [0]}],
    }
    content["opt"] = {"imgsz": 320, "save_dir": PosixPath("runs/train/exp"), "hyp": {"lr0": 0.01}}


def with_sync_bn(content, yolo, common):
    model = content["model"]
    content["model"] = nn.SyncBatchNorm.convert_sync_batchnorm(model)


def with_another_activation(content, yolo, common):
    content["model"].yaml["activation"] = "nn.ReLU()"
    for module in content["model"].modules():
        if isinstance(module, common.Conv):
            module._modules["act"] = nn.ReLU()


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"model_class": "Model", "names": ["a", "b", "c"]},
        {"names": {0: "a", 1: "b", 2: "c"}},
        {"project": "yolov5.models"},
        {"as_ema": True},
        {"change": optimizer_state},
        {"change": with_sync_bn},
        {"half": False},
        {"model": "yolov5s6"},
        {"names": ["only"]},
        {"change": with_another_activation},
    ],
    ids=[
        "v7",
        "v6.0",
        "names by number",
        "pip",
        "ema",
        "with optimizer",
        "sync-bn",
        "fp32",
        "P6",
        "one class",
        "ReLU",
    ],
)
def test_all_variants_of_file_load(tmp_path, variant):
    path = tmp_path / "yolov5n.pt"
    expected = write_published(path, **variant)
    file = read_model_file(path)
    assert file.tensors.keys() == expected.keys()
    for name, tensor in file.tensors.items():
        assert torch.equal(tensor, expected[name].float() if tensor.is_floating_point() else expected[name]), name
        assert tensor.dtype in (torch.float32, torch.int64)
    assert (file.imgsz, file.names) == (320, ("only",) if variant.get("names") == ["only"] else ("a", "b", "c"))
    detector = build_detector(file)
    assert not detector.training
    assert torch.equal(detector.head.anchors, expected[f"model.{len(detector.model) - 1}.anchors"].float())


@pytest.mark.parametrize(
    ("model", "num_classes", "with_anchors", "kept", "total"),
    [
        ("yolov5n", 80, True, 349, 349),
        ("yolov5n", 3, True, 343, 349),
        ("yolov5s", 3, False, 342, 349),
        ("yolov5n", 20, False, 342, 349),
        ("yolov5n6", 20, False, 450, 459),
    ],
)
def test_transfer_to_other_classes_keeps_all_but_head(tmp_path, model, num_classes, with_anchors, kept, total):
    write_published(tmp_path / "w.pt", model=model, names=[f"class {number}" for number in range(80)])
    done = transfer(read_model_file(tmp_path / "w.pt"), build_model(model, num_classes), with_anchors=with_anchors)
    assert (done.num_kept, done.num_tensors) == (kept, total)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content, yolo, common: content.pop("model"), "holds no model"),
        (lambda content, yolo, common: content.update(model=yolo.SegmentationModel()), "SegmentationModel"),
        (
            lambda content, yolo, common: content["model"]._modules["model"]._modules.update({"0": common.Focus()}),
            "Focus, which this version does not build",
        ),
        (lambda content, yolo, common: content["model"].yaml.pop("backbone"), "no backbone"),
        (
            lambda content, yolo, common: content["model"].yaml.update(activation="nn.ReLU()"),
            "SiLU, which this version",
        ),
        (
            lambda content, yolo, common: content.update(model=nn.Conv2d(1, 1, 1)),
            "Conv2d; only detectors are supported",
        ),
        (lambda content, yolo, common: content.update(model=OrderedDict(a=torch.ones(1))), "holds no model"),
    ],
)
def test_unsupported_models_are_refused(tmp_path, change, message):
    write_published(tmp_path / "w.pt", change=change)
    with pytest.raises(CheckpointError, match=message):
        read_model_file(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("nc", 10**9, "the number of classes, is 1000000000"),
        ("nc", "80", "the number of classes, is '80'"),
        ("nc", -1, "the number of classes, is -1"),
        ("nc", 4, "0 are missing, 6 are others, such as model.24.m.0.weight"),
        ("width_multiple", 1.0, "are others, such as model.0.conv.weight"),
        ("width_multiple", 1e6, "describes a model that cannot be built"),
        ("width_multiple", float("inf"), "describes a model that cannot be built"),
        ("depth_multiple", 1e9, "not a number above 0, at most 100"),
        ("depth_multiple", 100, "more than 1000 blocks"),
        ("depth_multiple", 0.67, "are missing"),
        ("anchors", 10**9, "1000000000 is not a whole number from 1 to 100"),
        ("anchors", 5, "are others, such as model.24.anchors"),
        ("channel_multiple", 0, "describes a model that cannot be built"),
        ("backbone", [[-1, 1, "Conv", [64, 6, 2, 10**5]]], "padding: 100000 is not a whole number"),
        ("backbone", [[-1, 1, "nn.Upsample", [None, 2, "nearest"]]] * 40, "larger than the image"),
        ("backbone", 3, "describes a model that cannot be built"),
    ],
)
def test_description_that_does_not_match_tensors_allocates_no_memory(tmp_path, field, value, message):
    """Otherwise a file of a few kilobytes could allocate a model of any size."""
    write_published(tmp_path / "w.pt", change=lambda content, *_: content["model"].yaml.update({field: value}))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=message):
        read_model_file(tmp_path / "w.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100_000


def archive(path: Path, content: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> Path:
    """Write a torch archive with any pickle."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("w/data.pkl", content)
        file.writestr("w/byteorder", "little")
        for key, numbers in (storages or {}).items():
            file.writestr(f"w/data/{key}", numbers)
    return path


class Reduced:
    """Object that is pickled as a function call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def pickled(value) -> bytes:
    return pickle.dumps(value, protocol=2)


def global_call(name: str, argument: str) -> bytes:
    """Return a pickle that calls a global of any name, which need not exist."""
    module, _, function = name.rpartition(".")
    return (
        b"\x80\x02c"
        + f"{module}\n{function}\n".encode()
        + b"X"
        + struct.pack("<I", len(argument))
        + argument.encode()
        + b"\x85R."
    )


def exponential_tuple(depth: int) -> bytes:
    """Return instructions that build nested tuples of 2**depth items from a few bytes per level."""
    return b")" + b"".join(b"q" + bytes([number]) + b"h" + bytes([number]) + b"\x86" for number in range(depth))


def many_copies() -> bytes:
    """Return a pickle of 100 thousand numbers that are converted to a set 10 thousand times."""
    numbers = b"".join(b"J" + struct.pack("<i", number) for number in range(100_000))
    return b"\x80\x02]q\x00(" + numbers + b"ec__builtin__\nset\nq\x01(" + b"h\x01h\x00\x85R" * 10_000 + b"t."


MARKER = "touch {marker}"


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "nt.system",
        "subprocess.check_output",
        "builtins.eval",
        "__builtin__.eval",
        "builtins.exec",
        "builtins.getattr",
        "builtins.__import__",
        "importlib.import_module",
        "torch.load",
        "torch.hub.load",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch.nn.modules.module.Module.load_state_dict",
        "collections.OrderedDict.fromkeys",
        "models.yolo.os.system",
        "models.common.subprocess.run",
        "models.experimental.attempt_load",
        "numpy.load",
        "pathlib.Path.unlink",
        "functools.partial",
        "operator.attrgetter",
        "pickle.loads",
        "webbrowser.open",
    ],
)
def test_unneeded_global_is_refused_without_running_it(tmp_path, name):
    marker = tmp_path / "it ran"
    path = archive(tmp_path / "w.pt", global_call(name, MARKER.format(marker=marker)))
    with pytest.raises(CheckpointError, match=f"imports {name}, which no YOLOv5 detector needs"):
        read_model_file(path)
    assert not marker.exists()


def nested(depth: int, innermost=()):
    value = list(innermost)
    for _ in range(depth):
        value = [value, value]
    return value


def tensor_of(offset, size, stride, num_elements=4, key="0") -> bytes:
    """Return a handwritten pickle of a tensor with any offset, size and stride."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + b"X" + struct.pack("<I", len(key)) + key.encode()
    storage += b"X\x03\x00\x00\x00cpu" + pickle.dumps(num_elements, 2)[2:-1] + b"tQ"
    parts = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, size, stride, False, OrderedDict()))
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + parts + b"tR."


def model_with(tensor: bytes) -> bytes:
    """Return a pickle of a model with this tensor."""
    record = b"cmodels.yolo\nDetectionModel\n)\x81"
    state = b"}(X\x0b\x00\x00\x00_parameters}X\x01\x00\x00\x00w" + tensor[2:-1] + b"s"
    state += b"X\x05\x00\x00\x00names](X\x01\x00\x00\x00ae" + b"X\x04\x00\x00\x00yaml}u"
    return b"\x80\x02}X\x05\x00\x00\x00model" + record + state + b"bs."


NUMBERS = {"0": struct.pack("<4f", 1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (tensor_of(0, (5,), (1,)), "reaches beyond"),
        (tensor_of(3, (2,), (1,)), "reaches beyond"),
        (tensor_of(0, (2, 2), (2**60, 1)), "reaches beyond"),
        (tensor_of(0, (2**62,), (0,)), "claim"),
        (tensor_of(0, (10**9,), (0,)), "claim"),
        (tensor_of(-1, (2,), (1,)), "whole numbers"),
        (tensor_of(0, (-2,), (1,)), "whole numbers"),
        (tensor_of(0, (2,), (1, 1)), "other strides"),
        (tensor_of(0, ("2",), (1,)), "whole numbers"),
        (tensor_of(0, (4,), (1,), num_elements=5), "16 bytes for 5 numbers"),
        (tensor_of(0, (4,), (1,), num_elements=2**62), "bytes for"),
        (tensor_of(0, (4,), (1,), key="7"), "data/7.* missing"),
        (tensor_of(0, (4,), (1,), key="../0"), "without a number"),
    ],
)
def test_tensor_beyond_its_storage_or_file_is_refused(tmp_path, tensor, message):
    path = archive(tmp_path / "w.pt", model_with(tensor), NUMBERS)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=message):
        read_model_file(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 200_000


def test_handwritten_model_with_valid_tensor_is_read(tmp_path):
    """Shows that the table above fails for its tensors only."""
    path = archive(tmp_path / "w.pt", model_with(tensor_of(0, (2, 2), (2, 1))), NUMBERS)
    with pytest.raises(CheckpointError, match="does not describe its model: no depth_multiple"):
        read_model_file(path)


@pytest.mark.no_cover  # a million instructions
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickled({"model": nested(60)}), "holds no model"),
        (model_with(b"\x80\x02N.").replace(b"yaml}", b"yaml" + pickled(nested(60))[2:-1]), "too many values"),
        (model_with(b"\x80\x02N.").replace(b"](X\x01\x00\x00\x00ae", pickled(nested(60))[2:-1]), "too many values"),
        (b"\x80\x02" + b"]" * 5_000_000 + b".", "more than 1000000 pickle instructions"),
        (b"\x80\x02" + b"}" * 15_000_000 + b".", "more than 1000000 pickle instructions"),
        (b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b".", "holds no model"),
        (b"\x80\x02}" + exponential_tuple(60) + b"Ns.", "is invalid: TypeError: a tuple as a key"),
        (b"\x80\x02}\x8a\x0a" + b"\x7f" * 10 + b"Ns.", "a int as a key"),
        (many_copies(), "holds no model"),
        (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "calls collections.OrderedDict with 1 arguments"),
        (b"\x80\x02ctorch\nHalfStorage\n)R.", "calls torch.HalfStorage"),
        (b"\x80\x02cos\x1b[2J\nx\n.", r"imports 'os\\x1b\[2J.x'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "SHORT_BINUNICODE .* is refused"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"(S'true'\nios\nsystem\n.", "STRING|INST"),
        (b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".", "holds no model"),
        (b"\x80\x02\x8b\x00\x00\x00\x7f.", "is invalid"),
        (b"\x80\x02X\xff\xff\xff\x7f.", "is invalid"),
        (b"\x80\x02Nq", "is invalid"),
        (b"", "is invalid"),
        (b"not a pickle", "is invalid"),
        (b"\x80\x02c__builtin__\nset\nNb.", "is invalid|holds no model"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\n}X\x08\x00\x00\x00__call__Nsb.", "is invalid"),
        (b"\x80\x02h\x05.", "is invalid"),
        (b"\x80\x02NQ.", "is invalid"),
    ],
)
def test_malicious_pickles_are_refused_with_little_memory(tmp_path, content, message):
    path = archive(tmp_path / "w.pt", content, NUMBERS)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=message):
        read_model_file(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 500_000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "not a torch archive"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "not a torch archive"),
        (lambda path: path.write_bytes(b""), "not a torch archive"),
        (lambda path: path.write_bytes(pickle.dumps({"model": 1})), "not a torch archive"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: archive(path, b"0" * 10**8, compression=zipfile.ZIP_DEFLATED), "is compressed"),
        (lambda path: flip_a_byte(path), "Bad CRC|is invalid|not a torch archive"),
    ],
)
def test_damaged_archives_are_refused(tmp_path, damage, message):
    path = tmp_path / "w.pt"
    write_published(path)
    damage(path)
    with pytest.raises(CheckpointError, match=message):
        read_model_file(path)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_reduced_call_is_not_executed(tmp_path):
    """An object that reduces to a call, in an archive written by torch."""
    marker = tmp_path / "it ran"
    torch.save({"model": Reduced(os.system, MARKER.format(marker=marker))}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"imports posix\.system"):
        read_model_file(tmp_path / "w.pt")
    assert not marker.exists()
