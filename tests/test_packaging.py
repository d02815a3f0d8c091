"""The wheel that `pip install .` builds contains configs/ and slurm/ of the repository."""

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hpc_yolo

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build a wheel from a copy of the tracked and new files; the checkout stays unchanged."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out)]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, capture_output=True, text=True
    )
    (built,) = out.glob("*.whl")
    return built


def test_installed_package_finds_its_configs_and_templates(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        names = archive.namelist()
    for directory in ("configs", "slurm"):
        for file in (ROOT / directory).rglob("*"):
            assert not file.is_file() or f"hpc_yolo/{file.relative_to(ROOT)}" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    program = (
        "from hpc_yolo.core.package_data import resource_directory; from hpc_yolo.spec.validate import model_names\n"
        "print(resource_directory('slurm') / 'train.sbatch', len(model_names()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "."},
    )
    template, num_models = done.stdout.split()
    assert (tmp_path / template).samefile(tmp_path / "hpc_yolo" / "slurm" / "train.sbatch")
    assert num_models == "20"


def test_wheel_has_version_of_package_and_known_addresses_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Version"] == hpc_yolo.__version__
    assert metadata["Summary"] and metadata["Keywords"] and metadata.get_all("Classifier")
    assert metadata.get_all("Project-URL") is None, "the project has no public address yet"


def test_dependencies_have_lower_bounds_and_reasons():
    lines = (ROOT / "setup.py").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if "install_requires" in line)
    end = next(number for number, line in enumerate(lines) if number > start and line.strip() == "],")
    for line in lines[start + 1 : end]:
        requirement, _, reason = line.partition("  # ")
        assert ">=" in requirement, line
        assert len(reason.split()) >= 3, line


def test_continuous_integration_runs_test_commands_of_readme():
    readme = (ROOT / "README.md").read_text().partition("## Test it")[2].partition("```sh\n")[2].partition("```")[0]
    commands = [line.partition("#")[0].strip() for line in readme.splitlines()]
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert commands == [
        "make test",
        "make test-slurm SLURM=26.05 QUICK=1",
        "make bench-quick",
        "sh containers/build.sh",
    ]
    assert [line for line in script if not line.startswith(("#", "set ", "cd "))] == commands
