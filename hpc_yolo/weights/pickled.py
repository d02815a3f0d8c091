"""Networks that torch pickled whole (`.pt` files of YOLOv5), read without running a byte of them.

A pickle is a program. This reader refuses every instruction and every global that such a file has no need of before it
begins, and what it then meets becomes an inert record: no class of the file, of torch or of anybody else is made, and
nothing takes more memory than a few times the file's size. Source of the format and of the globals: files written by
YOLOv5 v6 and v7.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from hpc_yolo.errors import CheckpointError

MAX_PICKLE_BYTES = 16 * 2**20  # of the largest network it is 1 MB
MAX_ENTRIES = 100_000
MAX_MODULES = 100_000
MAX_DEPTH = 32
MAX_PLAIN_VALUES = 100_000
MAX_EXPANSION = 4  # bytes of tensors over bytes of the file; 16-bit numbers become 32-bit ones

DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
PROJECTS = ("models", "yolov5.models")
NETWORKS = {f"{project}.yolo.{name}" for project in PROJECTS for name in ("Model", "DetectionModel")}
BLOCKS = ("Conv", "C3", "Bottleneck", "SPPF", "Concat")
OTHER_BLOCKS = ("Focus", "SPP", "Proto", "BottleneckCSP", "DWConv", "GhostConv", "C3Ghost", "GhostBottleneck", "C3TR")
OTHER_HEADS = ("SegmentationModel", "ClassificationModel", "Segment", "Classify")
ACTIVATIONS = ("Hardswish", "LeakyReLU", "ReLU", "Mish", "GELU", "Sigmoid")
# What this version can read the form of, but not build: said by name, rather than refused as if it were an attack.
UNBUILDABLE = {
    *(f"{project}.common.{name}" for project in PROJECTS for name in OTHER_BLOCKS),
    *(f"{project}.yolo.{name}" for project in PROJECTS for name in OTHER_HEADS),
    *(f"torch.nn.modules.activation.{name}" for name in ACTIVATIONS),
}
RECORDS = {
    *NETWORKS,
    *UNBUILDABLE,
    *(f"{project}.yolo.Detect" for project in PROJECTS),
    *(f"{project}.common.{name}" for project in PROJECTS for name in BLOCKS),
    "torch.nn.modules.activation.SiLU",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.batchnorm.SyncBatchNorm",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
    "torch.Size",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")),
}
STORAGES = {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
REBUILDS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
CONTAINERS = ("collections.OrderedDict", "__builtin__.set", "builtins.set")
ALLOWED_GLOBALS = {*RECORDS, *STORAGES, *REBUILDS, *CONTAINERS}
# The instructions of protocol 2 that torch's files consist of. Later protocols' and the registry's are not among them.
ALLOWED_INSTRUCTIONS = frozenset(
    (
        "PROTO",
        "STOP",
        "MARK",
        "GLOBAL",
        "REDUCE",
        "NEWOBJ",
        "BUILD",
        "BINPERSID",
        "EMPTY_DICT",
        "EMPTY_LIST",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "APPEND",
        "APPENDS",
        "SETITEM",
        "SETITEMS",
        "BINPUT",
        "LONG_BINPUT",
        "BINGET",
        "LONG_BINGET",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINSTRING",
        "BINSTRING",
        "POP",
    )
)


@dataclass(frozen=True)
class PickledNetwork:
    """What a file says of its network. `tensors` are fp32 under their names, counters int64."""

    tensors: dict[str, torch.Tensor]
    architecture: dict[str, Any]
    names: dict[int, str]
    imgsz: int | None


class Record:
    """In place of an object of any class: the class's name and what the pickle says of the object."""

    kind = ""

    def __new__(cls, *_arguments: object) -> Record:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    num_elements: int


class _Tensor(NamedTuple):
    """A tensor that is not made before its numbers are known to lie inside its storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickled_network(path: Path) -> PickledNetwork:
    """The network in a `.pt` file; of a training state the averaged one.

    Raises:
        CheckpointError: it is no such file, it is damaged, holds something that no such file needs, or a network that
            this version does not build; the message names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            prefix = _check_archive(archive, path)
            return _network(_load(archive, f"{prefix}/data.pkl", path), archive, prefix, path)
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path}: is not a torch archive, or a part of one: {error}",
            hint="fetch it again; a file from before torch 1.6 has to be saved again by a newer torch",
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a made-up pickle provokes; none of it has run anything
        raise CheckpointError(f"{path}: its pickle makes no sense: {type(error).__name__}: {error}") from error


def _check_archive(archive: zipfile.ZipFile, path: Path) -> str:
    """The folder that all entries are in. Nothing may be larger inside than outside."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise CheckpointError(f"{path}: {len(entries)} entries; a network has a few hundred")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{path}: {entry.filename} is compressed, which torch never does")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path}: its entries claim more bytes than the file has")
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{path}: {len(pickles)} pickles in the archive; torch writes one")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path}: a pickle of {pickles[0].file_size} bytes; a network's has about a million")
    prefix = pickles[0].filename.removesuffix("/data.pkl")
    if f"{prefix}/byteorder" in archive.namelist() and archive.read(f"{prefix}/byteorder") != b"little":
        raise CheckpointError(f"{path}: was written on a big-endian machine")
    return prefix


def _load(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    content = archive.read(name)
    _refuse_instructions(content, path)
    with archive.open(name) as file:
        return _Unpickler(file).load()


def _refuse_instructions(content: bytes, path: Path) -> None:
    """Look through the whole program before any of it is carried out."""
    try:
        for instruction, argument, position in pickletools.genops(content):
            if instruction.name not in ALLOWED_INSTRUCTIONS:
                raise CheckpointError(f"{path}: the pickle instruction {instruction.name} (byte {position}) is refused")
            if instruction.name == "GLOBAL" and str(argument).replace(" ", ".", 1) not in ALLOWED_GLOBALS:
                name = str(argument).replace(" ", ".", 1)
                raise CheckpointError(
                    f"{path}: asks for {name}, which no YOLOv5 detector needs; nothing of it was run",
                    hint="do not load this file with anything else either, unless you know who made it",
                )
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: its pickle is damaged: {error}") from error


class _Unpickler(pickle.Unpickler):
    """Knows the allowed globals and gives inert stand-ins for all of them."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._kinds: dict[str, type[Record]] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in ALLOWED_GLOBALS:  # looked at before; a second lock on the door
            raise CheckpointError(f"the pickle asks for {full}")
        if full in STORAGES:
            return STORAGES[full]
        if full in REBUILDS:
            return _RebuildTensor() if name == "_rebuild_tensor_v2" else _FirstArgument()
        if full in CONTAINERS:
            return OrderedDict if name == "OrderedDict" else set
        return self._kinds.setdefault(full, type(name, (Record,), {"kind": full}))

    def persistent_load(self, pid: Any) -> _Storage:
        what, dtype, key, _location, num_elements = pid
        if what != "storage" or not isinstance(dtype, torch.dtype) or type(num_elements) is not int:
            raise ValueError("a storage of another form than torch's")
        if not isinstance(key, str) or not key.isdigit():
            raise ValueError("a storage without a number")
        return _Storage(dtype, key, num_elements)


class _RebuildTensor:
    """In place of torch's function; without attributes that a pickle could set."""

    __slots__ = ()

    def __call__(self, storage: object, offset: object, size: object, stride: object, *_more: object) -> _Tensor:
        if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise ValueError("a tensor of another form than torch's")
        if len(size) != len(stride) or len(size) > MAX_DEPTH:
            raise ValueError("a tensor with other strides than sizes")
        if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
            raise ValueError("a tensor whose shape is not of whole numbers")
        return _Tensor(storage, offset, size, stride)  # type: ignore[arg-type]


class _FirstArgument:
    """In place of torch's function that makes a parameter of a tensor."""

    __slots__ = ()

    def __call__(self, value: object, *_more: object) -> object:
        return value


def _network(content: Any, archive: zipfile.ZipFile, prefix: str, path: Path) -> PickledNetwork:
    if isinstance(content, Record):
        content = {"model": content}
    found = content.get("ema") or content.get("model") if isinstance(content, dict) else None
    if not isinstance(found, Record):
        raise CheckpointError(
            f"{path}: holds no network under `model` or `ema`",
            hint="a file of tensors alone does not say which network they belong to",
        )
    if found.kind not in NETWORKS:
        raise CheckpointError(f"{path}: is a {found.kind}; this version reads detectors")
    state = found.state
    modules = dict(_modules(found, path))
    for module in modules.values():
        if module.kind in UNBUILDABLE:
            raise CheckpointError(f"{path}: its network has a {module.kind}, which this version does not build")
    named = [item for item in _named_tensors(modules) if not item[0].endswith("anchor_grid")]  # of files before v6
    claimed_bytes = sum(math.prod(tensor.size) * 4 for _, tensor in named)
    if claimed_bytes > path.stat().st_size * MAX_EXPANSION:
        raise CheckpointError(f"{path}: its tensors claim {claimed_bytes} bytes, many times the file's")
    storages: dict[_Storage, torch.Tensor] = {}
    tensors = {name: _tensor(value, storages, archive, prefix, path) for name, value in named}
    options = content.get("opt")
    return PickledNetwork(tensors, _plain(state.get("yaml")), _class_names(state), _imgsz(options))


def _modules(root: Record, path: Path) -> list[tuple[str, Record]]:
    """All modules below `root` by dotted name, itself first, parents before children."""
    found: list[tuple[str, Record]] = []

    def visit(prefix: str, module: Record, depth: int) -> None:
        if depth > MAX_DEPTH or len(found) > MAX_MODULES:
            raise CheckpointError(f"{path}: its modules are nested without an end")
        found.append((prefix, module))
        for name, child in _section(module, "_modules"):
            if isinstance(child, Record):
                visit(f"{prefix}.{name}".lstrip("."), child, depth + 1)

    visit("", root, 0)
    return found


def _named_tensors(modules: dict[str, Record]) -> list[tuple[str, _Tensor]]:
    return [
        (f"{prefix}.{name}".lstrip("."), value)
        for prefix, module in modules.items()
        for section in ("_parameters", "_buffers")
        for name, value in _section(module, section)
        if isinstance(value, _Tensor)
    ]


def _section(module: Record, name: str) -> list[tuple[str, Any]]:
    section = module.state.get(name)
    return [(str(key), value) for key, value in section.items()] if isinstance(section, dict) else []


def _tensor(
    tensor: _Tensor, storages: dict[_Storage, torch.Tensor], archive: zipfile.ZipFile, prefix: str, path: Path
) -> torch.Tensor:
    storage = tensor.storage
    if storage not in storages:
        storages[storage] = _read_storage(storage, archive, prefix, path)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    if math.prod(tensor.size) and last >= storage.num_elements:
        raise CheckpointError(f"{path}: a tensor of {tensor.size} reaches beyond its {storage.num_elements} numbers")
    view = storages[storage].as_strided(tensor.size, tensor.stride, tensor.offset).clone()
    return view.float() if view.is_floating_point() else view


def _read_storage(storage: _Storage, archive: zipfile.ZipFile, prefix: str, path: Path) -> torch.Tensor:
    try:
        content = archive.read(f"{prefix}/data/{storage.key}")
    except KeyError:
        raise CheckpointError(f"{path}: the numbers of a tensor (data/{storage.key}) are missing") from None
    if len(content) != storage.num_elements * storage.dtype.itemsize:
        raise CheckpointError(
            f"{path}: data/{storage.key} has {len(content)} bytes for {storage.num_elements} numbers of {storage.dtype}"
        )
    return torch.frombuffer(bytearray(content), dtype=storage.dtype) if content else torch.empty(0, dtype=storage.dtype)


def _plain(value: Any) -> Any:
    """`value` where it consists of plain data alone, as a file of rows would."""
    num_values = 0

    def copied(item: Any) -> Any:
        nonlocal num_values
        num_values += 1
        if num_values > MAX_PLAIN_VALUES:
            raise ValueError("the description of the network has no end")
        if isinstance(item, dict):
            return {str(copied(key)): copied(inner) for key, inner in item.items()}
        if isinstance(item, (list, tuple)):
            return [copied(inner) for inner in item]
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        raise ValueError(f"the description of the network holds a {type(item).__name__}")

    return copied(value)


def _class_names(state: dict[str, Any]) -> dict[int, str]:
    names = _plain(state.get("names"))
    if isinstance(names, dict):
        return {int(index): str(name) for index, name in names.items()}
    return dict(enumerate(map(str, names or ())))


def _imgsz(options: object) -> int | None:
    imgsz = options.get("imgsz") if isinstance(options, dict) else None
    return imgsz if isinstance(imgsz, int) else None
