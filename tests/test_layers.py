"""Rules of imports between packages, checked in the source."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hpc_yolo"
LEVELS = [
    {"core"},
    {"spec", "runs"},
    {"cluster"},
    {"resilience", "distributed", "data", "models", "sweeps", "forecast"},
    {"evaluation", "checkpoint", "doctor"},
    {"weights", "plots"},
    {"training", "inference"},
    {"launch", "monitor", "tracking"},
    {"report", "notify", "bench"},
    {"cli"},
]
LEVEL_OF = {package: number for number, level in enumerate(LEVELS) for package in level}
WITHOUT_TORCH = {
    "core",
    "spec",
    "runs",
    "cluster",
    "resilience",
    "sweeps",
    "forecast",
    "launch",
    "monitor",
    "tracking",
    "doctor",
    "report",
    "notify",
    "cli",
}
HEAVY = {"torch", "torchvision", "cv2", "submitit", "numpy", "safetensors", "optuna"}
MODULES = sorted(PACKAGE.rglob("*.py"))
# `launch` imports it when it hands a job over, and needs submitit then.
IMPORTED_WHEN_NEEDED = {PACKAGE / "launch" / "script_executor.py"}


def package_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0]


def dotted(module: Path) -> str:
    return ".".join(("hpc_yolo", *module.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


@functools.cache
def imports(module: Path, *, top_level_only: bool = False) -> set[str]:
    """Return dotted names of everything that `module` imports, inside functions and for type checkers too."""
    tree = ast.parse(module.read_text())
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_modules_are_in_packages_with_levels():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} == set(LEVEL_OF)


def test_package_imports_lower_levels_only():
    imported = [
        (module, name, name.split(".")[1])
        for module in MODULES
        if module.parent != PACKAGE
        for name in imports(module)
        if name.startswith("hpc_yolo.")
    ]
    wrong = [
        (str(module), name)
        for module, name, package in imported
        if package in LEVEL_OF and package != package_of(module) and LEVEL_OF[package] >= LEVEL_OF[package_of(module)]
    ]
    assert len(imported) > len(MODULES) and wrong == []


def test_imports_have_no_cycles():
    graph = {dotted(path): imports(path) & {dotted(other) for other in MODULES} - {dotted(path)} for path in MODULES}

    def cycles(name: str, trail: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        if name in trail:
            yield (*trail[trail.index(name) :], name)
        elif name not in seen:
            for other in sorted(graph[name]):
                yield from cycles(other, (*trail, name))
            seen.add(name)

    seen: set[str] = set()
    assert [cycle for name in sorted(graph) for cycle in cycles(name)] == []


def test_environment_is_read_in_one_module():
    """Other modules write it only to submit a job without the variables of the current one, and to prepare CUDA."""
    allowed = {
        PACKAGE / "cluster" / "process.py",
        PACKAGE / "launch" / "submit.py",
        *(PACKAGE / "distributed").glob("*.py"),
    }
    assert {module for module in MODULES if "os.environ" in module.read_text()} <= allowed


def test_packages_of_login_node_import_no_heavy_packages():
    """`import torch` takes seconds and thousands of file look-ups on a busy login node."""
    for module in set(MODULES) - IMPORTED_WHEN_NEEDED:
        if package_of(module) in WITHOUT_TORCH:
            roots = {name.split(".")[0] for name in imports(module, top_level_only=True)}
            assert not roots & HEAVY, module


def test_task_imports_no_matplotlib_before_its_training():
    """Every rank would load it at every start, and one rank draws, at the end."""
    by_name = {dotted(path): path for path in MODULES}
    to_visit, visited = ["hpc_yolo.training.attempt"], set()
    while to_visit:
        module = to_visit.pop()
        visited.add(module)
        found = imports(by_name[module], top_level_only=True)
        assert not {name for name in found if name.split(".")[0] == "matplotlib"}, module
        to_visit += found & by_name.keys() - visited
    assert "hpc_yolo.training.trainer" in visited


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["submit", "configs/quickstart.yaml", "--dry-run", "--local", "--set", "data={data}", "--set", "output={runs}"],
        ["status"],
        ["doctor", "configs/quickstart.yaml", "--set", "cluster.executor=local"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_command_on_login_node_does_not_import_torch(arguments, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    data = tmp_path / "dataset.yaml"
    data.write_text("train: train\nval: val\nnames: [thing]\n")
    arguments = [text.format(data=data, runs=tmp_path / "runs") for text in arguments]  # not make demo's run
    program = (
        "import sys; sys.argv = ['hpc-yolo', *sys.argv[1:]]\n"
        "from hpc_yolo.cli.main import cli\n"
        "cli(standalone_mode=False)\n"
        "print('HEAVY', sorted({'torch', 'cv2', 'numpy', 'submitit', 'matplotlib', 'jinja2'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"
