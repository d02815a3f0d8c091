"""A site profile: all of its mistakes at once, the shipped ones, and profiles that add to another one."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.spec.cpu_masks import mask_option, parse_cores
from hpc_yolo.spec.fields import field_types
from hpc_yolo.spec.problems import format_problems
from hpc_yolo.spec.profile import GpuRow, Profile, TimeBand
from hpc_yolo.spec.schema import ClusterSpec
from hpc_yolo.spec.site_files import check_profile, profile_paths, read_head

SHIPPED = sorted((resource_directory("configs") / "sites").glob("*.yaml"))
TEN_MISTAKES = """\
descripton: typo
date: yesterday
proxy: proxy.example.org
cluster:
  nodes: many
  sbatch: {partition: gpu}
gpus:
  a100:
    time: soon
    gpu: a100
    max_time: long
    gpu_cpus: [0-7, 15-8]
    by_time: [{up_to: "20:00:00"}, {up_to: "10:00:00", qoss: x}]
"""
# (line, column, part of the message)
TEN_LOCATIONS = [
    (1, 1, "descripton: unknown field"),
    (2, 7, "date: 'yesterday' is not a date"),
    (3, 8, "proxy: 'proxy.example.org' is not an address"),
    (5, 10, "cluster.nodes: 'many' is not allowed"),
    (6, 23, "cluster.sbatch.partition: has a field of its own"),
    (9, 11, "gpus.a100.time: 'soon' is not a time"),
    (10, 10, "gpus.a100.gpu: cannot depend on the type of GPU"),
    (11, 15, "gpus.a100.max_time: 'long' is not a time"),
    (12, 15, "gpus.a100.gpu_cpus: '15-8' is not a list of CPU cores"),
    (13, 44, "gpus.a100.by_time[1].up_to: 10:00:00 is not over the one before it"),
    (13, 56, "gpus.a100.by_time[1].qoss: unknown field"),
]


def problems_of(path: Path, *directories: Path) -> list[str]:
    problems = []
    check_profile(path, profile_paths(directories or (path.parent,)), problems)
    return [str(problem) for problem in problems]


def test_every_mistake_of_a_profile_is_reported_once_with_its_location(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(TEN_MISTAKES)
    problems = []
    assert check_profile(path, {}, problems) is None
    text = format_problems(problems, "the profile")
    assert text.startswith(f"{len(TEN_LOCATIONS)} mistakes in the profile\n")
    heads = [line for line in text.splitlines() if line.startswith(f"{path}:")]
    for head, (line, column, message) in zip(heads, TEN_LOCATIONS, strict=True):
        assert head.startswith(f"{path}:{line}:{column}: {message}"), head


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a\n", "must hold fields"),
        ("gpus: {a100: [1]}\n", "a list is not allowed here"),
        ("cluster: {gpu: h100}\ngpus: {a100: {}}\n", "there is no row 'h100'"),
        ("gpus: {a100: {by_time: [{qos: x}]}}\n", "up_to: is missing"),
        ("paths: {Scratch: /s}\n", "not a name of a path"),
        ("partition: gpu\n", "there is cluster.partition: move it there"),
        ("base: nowhere\n", "there is no other profile 'nowhere'"),
        ("base: site\n", "there is no other profile 'site'"),
        ("cluster: {gpu_type: [a]\n", "not YAML"),
    ],
)
def test_profile_that_cannot_be_used_is_refused_in_one_message(tmp_path, text, message):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    (problem,) = problems_of(path)
    assert problem.startswith(str(path))
    assert message in problem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_profile_has_source_and_date_and_no_mistake(path):
    problems = []
    read = check_profile(path, profile_paths([path.parent]), problems)
    assert read is not None, format_problems(problems)
    profile = read[1]
    assert profile.source.startswith("http")
    assert datetime.date.fromisoformat(profile.date)
    assert profile.description
    assert profile.gpus


def test_profile_adds_to_the_one_of_the_same_name_that_it_replaces(tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "own"
    for directory in (shared, own):
        directory.mkdir()
    (shared / "a.yaml").write_text("hosts: [login*]\ncluster: {qos: q, mem: 1G}\ngpus: {v100: {cpus_per_task: 8}}\n")
    (own / "a.yaml").write_text("base: a\ncluster: {account: me, mem_per_gpu: 2G}\n")
    (own / "b.yaml").write_text("base: a\ngpus: {v100: {partition: p}}\n")
    paths = profile_paths([shared, own])
    assert paths["a"] == [shared / "a.yaml", own / "a.yaml"]
    read = check_profile(paths["b"][-1], paths, [])
    assert read is not None
    profile = read[1]
    assert (profile.cluster.account, profile.cluster.qos) == ("me", "q")
    assert (profile.cluster.mem, profile.cluster.mem_per_gpu) == (None, "2G"), "a job has one amount of memory"
    assert (profile.gpus["v100"].cpus_per_task, profile.gpus["v100"].partition) == (8, "p")
    head = read_head(own / "a.yaml", [shared / "a.yaml"], paths)
    assert head.hosts == ("login*",)
    (shared / "a.yaml").write_text("base: b\n")
    assert "adds to this profile itself" in "".join(problems_of(own / "b.yaml", shared, own))


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("hosts: [a, b]\ngpus: {x: {}}\n", ("a", "b")),
        ("gpus:\n  x: {}\nhosts:\n- a\n\n# why\n- b\ncluster: {}\n", ("a", "b")),
        ("hosts:\n  - a\n  - b", ("a", "b")),
        ("'hosts': a\n", ("a",)),
        ("{hosts: [a]}\n", ("a",)),
        ("gpus: {x: {exclude: hosts}}\n", ()),
        ("hosts: [a\n", ()),
        ("", ()),
    ],
)
def test_head_of_a_profile_is_read_without_its_tables(tmp_path, text, hosts):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert read_head(path).hosts == hosts
    assert read_head(tmp_path / "missing.yaml") is None


def test_page_explains_every_field_of_a_profile():
    page = (resource_directory("docs") / "sites.md").read_text()
    rows = set(field_types(GpuRow)) - set(field_types(ClusterSpec))
    for name in (*field_types(Profile), *rows, *field_types(TimeBand).keys() - field_types(ClusterSpec).keys()):
        assert re.search(rf"`{name}[`:]|\[{{{name}: ", page), name


def test_masks_of_cores_are_those_of_the_guide():
    cores = ["49-55", "57-63", "17-23", "25-31", "1-7", "9-15", "33-39", "41-47"]
    guide = "fe000000000000 fe00000000000000 fe0000 fe000000 fe fe00 fe00000000 fe0000000000"
    assert mask_option(cores) == "mask_cpu:" + ",".join(f"0x{mask}" for mask in guide.split())
    assert parse_cores("0-2,8") == [0, 1, 2, 8]
