"""The recipes in containers/: their sources make the package, and both install the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE, DEFINITION = ROOT / "containers" / "Dockerfile", ROOT / "containers" / "hpc-yolo.def"
INSTRUCTIONS = {"FROM", "ARG", "RUN", "COPY"}
SECTIONS = {"arguments", "files", "post", "environment", "test"}


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, its text) of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def sections() -> dict[str, list[str]]:
    """Return the lines of each section of the definition file; "" is its head."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in DEFINITION.read_text().splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            found[name] = []
        elif line.strip() and not line.strip().startswith("#"):
            found[name].append(line.strip())
    return found


def copied() -> dict[str, list[str]]:
    """Return the sources that each recipe copies, all to /opt/src."""
    by_docker = [text.split()[:-1] for name, text in instructions() if name == "COPY"]
    return {
        "Dockerfile": [source for sources in by_docker for source in sources],
        "hpc-yolo.def": [line.split()[0] for line in sections()["files"]],
    }


def commands() -> dict[str, list[str]]:
    """Return the shell commands of each recipe."""
    by_docker = [part.strip() for name, text in instructions() if name == "RUN" for part in text.split("&&")]
    definition = [part.strip() for line in [*sections()["post"], *sections()["test"]] for part in line.split("&&")]
    return {"Dockerfile": by_docker, "hpc-yolo.def": definition}


def test_recipes_have_known_parts_only():
    assert {name for name, _ in instructions()} == INSTRUCTIONS
    assert set(sections()) == {""} | SECTIONS
    assert sections()[""][0] == "Bootstrap: docker"


def test_recipes_install_the_same_from_the_same_base():
    base = [text for name, text in instructions() if name == "FROM"]
    assert [line.removeprefix("From: ") for line in sections()[""][1:]] == base
    assert copied()["Dockerfile"] == copied()["hpc-yolo.def"]
    argument = [text for name, text in instructions() if name == "ARG"]
    assert sections()["arguments"] == argument
    by_docker, by_definition = commands().values()
    assert [line.replace("$TORCH_INDEX", "{{ TORCH_INDEX }}") for line in by_docker] == by_definition


@pytest.mark.parametrize("recipe", ["Dockerfile", "hpc-yolo.def"])
def test_copied_files_make_the_package(recipe, tmp_path):
    for source in copied()[recipe]:
        path, target = ROOT / source, tmp_path / "src" / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, target)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(tmp_path / "src")], check=True)
    assert len(list(tmp_path.glob("hpc_yolo-*.whl"))) == 1


@pytest.mark.parametrize("recipe", ["Dockerfile", "hpc-yolo.def"])
def test_commands_are_valid_shell(recipe):
    text = "\n".join(commands()[recipe]).replace("{{ TORCH_INDEX }}", "x")
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_nothing_is_built_without_a_builder(tmp_path):
    for name in ("dirname", "sed"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    script = ROOT / "containers" / "build.sh"
    done = subprocess.run(
        ["/bin/sh", str(script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("no image is built: apptainer, podman")
    builder = tmp_path / "podman"
    builder.write_text('#!/bin/sh\necho "$@"\n[ "$1" != pull ]\n')
    builder.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert "no image is built: docker.io/library/python" in done.stdout
    builder.write_text('#!/bin/sh\necho "$@"\n')
    done = subprocess.run(
        ["/bin/sh", str(script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "build --tag hpc-yolo --file containers/Dockerfile ."
