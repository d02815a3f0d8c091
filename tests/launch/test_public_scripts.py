"""Public job scripts as specs with a site profile: the same request and steps in fewer lines."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.core.units import format_mem, parse_mem_bytes, parse_time_s
from hpc_yolo.launch.plan import planned_run, slurm_plan
from hpc_yolo.spec.load import load_with_origins
from hpc_yolo.spec.site_files import SiteLookup, profile_paths, read_profile

SCRIPTS = yaml.safe_load((Path(__file__).parent / "public_scripts.yaml").read_text())
SITES = SiteLookup((resource_directory("configs") / "sites",), None, (), lambda: None)
# Options of our scripts that a person does not write, or that are part of another fact.
OWN = {"job-name", "open-mode", "signal", "output", "requeue", "nodes", "ntasks-per-node", "cpus-per-task"}
RESOURCES = {"gpus-per-node", "gres", "mem", "mem-per-gpu"}


def request_of(script: str) -> dict[str, Any]:
    """Return what the options of `script` request of one node."""
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH ")]
    options = {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}
    tasks = int(options["ntasks-per-node"])
    gpus = options.get("gpus-per-node") or options["gres"].removeprefix("gpu:")
    num_gpus = int(gpus.rpartition(":")[2])
    request: dict[str, Any] = {
        "nodes": int(options["nodes"]),
        "gpus": int(gpus) if gpus.isdigit() else gpus,
        "tasks": tasks,
        "cpus": tasks * int(options["cpus-per-task"]),
    }
    if "mem" in options:
        request["mem"] = options["mem"]
    elif "mem-per-gpu" in options:
        request["mem"] = format_mem(num_gpus * parse_mem_bytes(options["mem-per-gpu"]))
    return request | {name: value for name, value in options.items() if name not in OWN | RESOURCES}


@pytest.mark.parametrize("facts", SCRIPTS, ids=lambda facts: facts["source"].replace("/", "-"))
def test_spec_with_profile_makes_the_request_and_steps_of_the_script(facts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(facts["spec"])
    spec = load_with_origins(tmp_path / "spec.yaml", [], SITES).spec
    script = slurm_plan(spec, planned_run(spec), "", {}).script
    assert script is not None
    request = request_of(script)
    assert parse_time_s(request.pop("time")) == parse_time_s(facts["request"]["time"])
    assert request == {name: value for name, value in facts["request"].items() if name != "time"}
    for step in facts["steps"]:
        assert step in script, step


@pytest.mark.parametrize("site", sorted(profile_paths(SITES.directories)))
def test_each_row_of_a_shipped_profile_makes_a_script(site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = read_profile(site, SITES, [])
    assert read is not None
    for name, row in read[1].gpus.items():
        cluster: dict[str, Any] = {"gpu": name, "account": "a", "time": "5"}
        if row.gpu_cpus:
            cluster |= {"gpus_per_node": len(row.gpu_cpus), "cpu_bind": "auto"}
        text = {"name": "a", "model": "yolov5n", "data": "coco", "site": site, "cluster": cluster}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(text))
        spec = load_with_origins(tmp_path / "spec.yaml", [], SITES).spec
        script = slurm_plan(spec, planned_run(spec), "", {}).script
        assert script is not None
        assert f"#SBATCH --account=a{row.account_suffix}\n" in script
        assert ("--cpu-bind=mask_cpu:" in script) == bool(row.gpu_cpus)
        for field in ("partition", "constraint", "qos"):
            assert getattr(row, field) is None or f"#SBATCH --{field}=" in script


def test_specs_have_at_most_two_fifths_of_the_lines_of_their_scripts():
    assert len(SCRIPTS) == len({facts["source"] for facts in SCRIPTS}) == 15
    fractions = [len(facts["spec"].splitlines()) / facts["lines"] for facts in SCRIPTS]
    assert statistics.mean(fractions) <= 0.4
