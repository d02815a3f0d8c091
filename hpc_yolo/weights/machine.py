"""An interpreter of pickles, limited to the instructions in torch's files and to plain values.

No function or class is ever imported: a call in a pickle becomes a `Record`, a `Tensor` (a description of one) or an
error. Time and memory of each instruction are bounded, so their number bounds the total. Python's `pickletools` decodes
the instructions; the known globals are those in files written by YOLOv5 v6 and v7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.weights.foreign import foreign_file

MAX_INSTRUCTIONS = 1_000_000  # the largest model has 110 thousand
MAX_DIMENSIONS = 8
MAX_ARGUMENTS = 8
MAX_DIGITS = 9
MAX_NAME = 200
MAX_KEY = 2**60  # above it, different numbers can have the same hash

STORAGES = {
    f"torch.{name}Storage"
    for name in ("Half", "BFloat16", "Float", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
}
PROJECTS = ("models", "yolov5.models")
MODEL_CLASSES = {f"{project}.yolo.{name}" for project in PROJECTS for name in ("Model", "DetectionModel")}
BLOCKS = ("Conv", "C3", "Bottleneck", "SPPF", "Concat")
OTHER_BLOCKS = ("Focus", "SPP", "Proto", "BottleneckCSP", "DWConv", "GhostConv", "C3Ghost", "GhostBottleneck", "C3TR")
OTHER_HEADS = ("SegmentationModel", "ClassificationModel", "Segment", "Classify")
ACTIVATIONS = {
    f"torch.nn.modules.activation.{name}"
    for name in ("SiLU", "Hardswish", "LeakyReLU", "ReLU", "Mish", "GELU", "Sigmoid")
}
# Classes that are read but not built: reported by name, and not refused as an attack.
UNBUILDABLE = {
    *(f"{project}.common.{name}" for project in PROJECTS for name in OTHER_BLOCKS),
    *(f"{project}.yolo.{name}" for project in PROJECTS for name in OTHER_HEADS),
}
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
MAPPING = "collections.OrderedDict"
RECORDS = {
    *MODEL_CLASSES,
    *UNBUILDABLE,
    *ACTIVATIONS,
    *(f"{project}.yolo.Detect" for project in PROJECTS),
    *(f"{project}.common.{name}" for project in PROJECTS for name in BLOCKS),
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.batchnorm.SyncBatchNorm",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
    "torch.Size",
    "__builtin__.set",
    "builtins.set",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")),
}
ALLOWED_GLOBALS = {*RECORDS, *STORAGES, TENSOR, PARAMETER, MAPPING}


class Global(NamedTuple):
    """A global that a pickle imports, as module.name."""

    name: str


class Record:
    """A stand-in for an object of any class: the name of the class and the state in the pickle."""

    __slots__ = ("kind", "state")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state: dict[str, Any] = {}


class Storage(NamedTuple):
    """The data of tensors: `kind` such as torch.HalfStorage, in the archive's entry data/`key`."""

    kind: str
    key: str
    num_elements: int


class Tensor(NamedTuple):
    """The description of a tensor, which is created only after a check that it lies inside its storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def run(program: bytes, source: str) -> Any:
    """Return the value that a pickle describes. `source` names the file in errors.

    Raises:
        CheckpointError: an instruction or global that neither torch's files nor detectors need. If classes in it
            identify another program, the message names it.
        ValueError, TypeError, KeyError, IndexError: the pickle is invalid.
    """
    try:
        return _run(program, source)
    except CheckpointError as error:
        raise (foreign_file(program, source, ALLOWED_GLOBALS) or error) from None


def _run(program: bytes, source: str) -> Any:
    import pickletools  # with pickle 14 ms, which a submission without such weights saves

    machine = _Machine(source)
    for number, (instruction, argument, position) in enumerate(pickletools.genops(program)):
        if number >= MAX_INSTRUCTIONS:
            raise CheckpointError(f"{source}: more than {MAX_INSTRUCTIONS} pickle instructions; a model has fewer")
        if instruction.name == "STOP":
            break
        carry_out = INSTRUCTIONS.get(instruction.name)
        if carry_out is None:
            raise CheckpointError(f"{source}: the pickle instruction {instruction.name} (byte {position}) is refused")
        carry_out(machine, argument)
    return machine.stack.pop()


class _Machine:
    """A stack of values, the positions marked on it, and the memo."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        """Remove and return the last `count` values, in the order in which they were pushed."""
        if count > len(self.stack):
            raise IndexError("its stack is too short")
        return [self.stack.pop() for _ in range(count)][::-1]

    def pop_marked(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("it appends to a value that is not a list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError("it sets items of a value that is not a mapping")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Hashing a nested key takes exponential time if each level contains the next one twice.
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < MAX_KEY):
                raise TypeError(f"a {type(key).__name__} as a key")
            target[key] = value

    def ask_for(self, argument: str) -> None:
        name = argument.replace(" ", ".", 1)
        if name not in ALLOWED_GLOBALS:
            shown = name[:MAX_NAME] if name.isprintable() else ascii(name[:MAX_NAME])
            raise CheckpointError(
                f"{self.source}: imports {shown}, which no YOLOv5 detector needs; nothing of it was run",
                hint="do not load this file with another program unless you trust its author",
            )
        self.push(Global(name))

    def call(self, _argument: object) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise TypeError("it calls a value that is not a function")
        if function.name == TENSOR and len(arguments) <= MAX_ARGUMENTS:
            self.push(_described_tensor(*arguments))
        elif function.name == PARAMETER:
            self.push(arguments[0])
        elif function.name == MAPPING and not arguments:
            self.push({})
        elif function.name in RECORDS:
            self.push(Record(function.name))
        else:
            raise TypeError(f"it calls {function.name} with {len(arguments)} arguments")

    def build(self, _argument: object) -> None:
        (state,) = self.pop(1)
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = state if isinstance(state, dict) else {}
        elif not isinstance(target, dict):  # the attributes of a mapping have no meaning here
            raise TypeError("it sets attributes of a value that has none")

    def find_storage(self, _argument: object) -> None:
        (identity,) = self.pop(1)
        what, kind, key, _location, num_elements = identity
        if what != "storage" or not isinstance(kind, Global) or kind.name not in STORAGES:
            raise ValueError("a storage of another form than torch's")
        if not isinstance(key, str) or len(key) > MAX_DIGITS or not key.isdigit() or type(num_elements) is not int:
            raise ValueError("a storage without a number")
        self.push(Storage(kind.name, key, num_elements))


def _described_tensor(storage: object, offset: object, size: object, stride: object, *_more: object) -> Tensor:
    if not isinstance(storage, Storage) or type(size) is not tuple or type(stride) is not tuple:
        raise ValueError("a tensor of another form than torch's")
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise ValueError("a tensor with other strides than sizes")
    if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError("a tensor whose shape is not of whole numbers")
    return Tensor(storage, offset, size, stride)  # type: ignore[arg-type]


# Those of protocol 2 that occur in torch's files; none of later protocols or of the extension registry.
INSTRUCTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda _machine, _: None,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "GLOBAL": _Machine.ask_for,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.find_storage,
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_marked())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_marked()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_marked()),
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "POP": lambda machine, _: machine.pop(1),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING"),
        _Machine.push,
    ),
}
