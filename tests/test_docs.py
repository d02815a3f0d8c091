"""Files, tests, commands and options in the documentation exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hpc_yolo.cli.main import cli
from hpc_yolo.spec.load import check_spec

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")])
PACKAGES = {path.name for path in (ROOT / "hpc_yolo").iterdir() if path.is_dir()}
TOP = ("tests/", "docs/", "benchmarks/", "configs/", "slurm/", "containers/", "hpc_yolo/")
MADE = {"docs/spec.md", "docs/journal.md"}  # generated, and compared with their source


def texts(page: Path) -> Iterator[str]:
    """Yield the texts between backticks and the targets of links of a page."""
    text = page.read_text()
    yield from re.findall(r"`([^`\n]+)`", text)
    yield from (str((page.parent / target).resolve().relative_to(ROOT)) for target in re.findall(r"\]\(([^)#]+)", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_in_page_exist(page):
    for text in texts(page):
        for path in re.findall(r"[\w./*-]+", text):
            is_module = path.partition("/")[0] in PACKAGES and path.endswith(".py")
            if path.startswith(TOP):
                assert list(ROOT.glob(path.rstrip("/."))), f"{page.name}: {path}"
            elif is_module:
                assert (ROOT / "hpc_yolo" / path).is_file(), f"{page.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_in_page_exist(page):
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for text in texts(page):
        for name in re.findall(r"\btest_\w+(?:\.py)?", text):
            found = name in files if name.endswith(".py") else f"def {name}(" in sources or (ROOT / text).exists()
            assert found, f"{page.name}: {name}"


def commands() -> Iterator[tuple[str, str]]:
    """Yield (page, command line) of each call of hpc-yolo in a block of shell lines or between backticks."""
    for page in PAGES:
        text = page.read_text()
        lines = [line for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", text)
        for line in lines:
            for part in re.split(r"&&|\||;", line.partition("  #")[0]):
                if part.strip().startswith("hpc-yolo "):
                    yield page.name, part.strip().rstrip("…").strip()


def test_commands_and_options_in_pages_exist():
    shown = list(commands())
    assert len(shown) > 30
    context = click.Context(cli)
    for page, line in shown:
        group: click.Command = cli
        for word in shlex.split(line)[1:]:
            if word.startswith("-"):
                known = {name for parameter in group.params for name in (*parameter.opts, *parameter.secondary_opts)}
                assert word.partition("=")[0] in known | {"--help", "-h", "--version"}, f"{page}: {line}: {word}"
            elif isinstance(group, click.Group) and word != "COMMAND":
                found = group.get_command(context, word)
                assert found is not None, f"{page}: {line}: {word}"
                group = found


def test_spec_in_readme_is_valid(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "spec.yaml").write_text(block)
    spec, problems = check_spec(tmp_path / "spec.yaml", [])
    assert problems == []
    assert spec is not None
    assert (spec.cluster.nodes, spec.cluster.gpus_per_node, spec.train.batch) == (4, 8, 512)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_example_is_valid(path):
    spec, problems = check_spec(path, [])
    assert problems == []
    assert spec is not None and spec.sweep is not None
