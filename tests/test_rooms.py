"""The house's rules, read from the source: who may import whom, and what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hpc_yolo"

FLOORS = [
    {"errors", "quantities", "fileio", "resources", "text"},
    {"spec", "runs", "cluster", "installation"},
    {"sbatch", "preemption", "lease", "queueing"},
    {"successor", "causes"},
    {"boxes", "batches", "distributed", "doctor", "requeue", "control"},
    {"models", "data", "loss", "evaluation", "checkpoint"},
    {"weights", "plots", "inputs"},
    {"engine", "inference", "preflight"},
    {"submit", "status"},
    {"report"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
HEAVY = {"torch", "torchvision", "cv2", "submitit", "numpy", "safetensors"}
MODULES = sorted(PACKAGE.rglob("*.py"))
IMPORTED_WHEN_NEEDED = {PACKAGE / "submit" / "script_executor.py"}  # by `submit`, which then needs submitit


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names of everything that `module` imports, those for type checkers apart."""
    tree = ast.parse(module.read_text())
    nodes = tree.body if top_level_only else [node for node in ast.walk(tree) if not _is_for_type_checkers(node)]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_lower_floors_only(module):
    room = room_of(module)
    if room == "__init__":
        return
    for name in imports(module):
        parts = name.split(".")
        if parts[0] == "hpc_yolo" and len(parts) > 1 and parts[1] in FLOOR_OF and parts[1] != room:
            assert FLOOR_OF[parts[1]] < FLOOR_OF[room], f"{room} imports {name}"


def test_every_room_has_a_floor():
    assert {room_of(module) for module in MODULES} - {"__init__"} == set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_environment_is_read_in_one_place(module):
    """And written where a job is submitted without its surroundings and where CUDA is prepared; nowhere else."""
    allowed = {
        PACKAGE / "cluster" / "process.py",
        PACKAGE / "submit" / "job.py",
        *(PACKAGE / "distributed").glob("*.py"),
    }
    assert module in allowed or "os.environ" not in module.read_text()


def test_login_node_rooms_import_nothing_heavy():
    """sbatch users wait for `import torch` on a busy login node: seconds and thousands of file look-ups."""
    for module in set(MODULES) - IMPORTED_WHEN_NEEDED:
        if FLOOR_OF.get(room_of(module), 0) < 4 or room_of(module) in (
            "submit",
            "status",
            "report",
            "cli",
            "preflight",
            "doctor",
            "requeue",
            "control",
        ):
            roots = {name.split(".")[0] for name in imports(module, top_level_only=True)}
            assert not roots & HEAVY, module


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["submit", "configs/quickstart.yaml", "--dry-run", "--local", "--set", "data={data}", "--set", "output={runs}"],
        ["status"],
        ["doctor", "configs/quickstart.yaml", "--set", "cluster.executor=local"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_on_a_login_node_does_not_import_torch(words, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    data = tmp_path / "dataset.yaml"
    data.write_text("train: train\nval: val\nnames: [thing]\n")
    words = [word.format(data=data, runs=tmp_path / "runs") for word in words]  # not where make demo leaves its run
    program = (
        "import sys; sys.argv = ['hpc-yolo', *sys.argv[1:]]\n"
        "from hpc_yolo.cli.main import cli\n"
        "cli(standalone_mode=False)\n"
        "print('HEAVY', sorted({'torch', 'cv2', 'numpy', 'submitit'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"
