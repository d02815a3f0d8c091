"""Stages after a run on this machine: each runs the command that it is named after."""

from __future__ import annotations

import json

import pytest
from spec_runs import NETWORKS

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptStarted, StepLogged


@pytest.mark.soak
@pytest.mark.parametrize("head", NETWORKS)
def test_local_run_is_followed_by_its_stages(head, write_spec, hpc_yolo, events_of, shapes, tmp_path):
    images = shapes.parent / "images" / "val"
    then = [
        {"val": {"split": "train", "weights": "last"}},
        {"predict": {"source": str(images), "save_txt": True}, "when": "always"},
        {"export": {"include": ["torchscript"], "imgsz": 64}, "in": "job_of_its_own"},
        {"shell": "[ -e $RUN/repaired ] && echo $MARK > $RUN/mark"},
        {"shell": "exit 1", "when": "failure"},
        {"report": {}},
    ]
    cluster = {"executor": "local", "env": {"MARK": "from the spec"}}
    model = str(NETWORKS[head])
    spec = write_spec("stages", model=model, cluster=cluster, train={"epochs": 1}, then=then)
    shown = hpc_yolo("submit", spec, "--dry-run").stdout
    assert "stage          export: after success, on this machine, since only Slurm has jobs\n" in shown
    done = hpc_yolo("submit", spec)
    run = RunDirectory(tmp_path / "runs" / "stages")
    assert "hpc-yolo: stage val: done, in " in done.stdout
    assert "hpc-yolo: stage shell: failed, exit code 1; its output is in stages/shell-local.log\n" in done.stdout
    assert (run.results / "val").is_dir() and "train" in run.stage_log("val", "local").read_text()
    assert len(list((run.results / "predict").glob("*.jpg"))) == len(list(images.iterdir()))
    assert run.best.with_suffix(".torchscript").is_file()
    page = run.report.read_text()
    assert all(f"{name.capitalize()} loss" in page for name in events_of("stages", StepLogged)[0].losses)
    again = hpc_yolo("submit", spec, check=False)
    assert (again.returncode, len(events_of("stages", AttemptStarted))) == (8, 1)
    (run.path / "repaired").touch()
    again = hpc_yolo("resume", run.path)
    assert again.stdout == (
        "stages is finished; only what is left of its stages is run: shell\nhpc-yolo: stage shell: done, in 0 s\n"
    )
    assert (run.path / "mark").read_text() == "from the spec\n"
    (facts,) = json.loads(hpc_yolo("status", "--root", run.path.parent, "--json").stdout)
    assert {stage["name"]: (stage["state"], stage["number"]) for stage in facts["stages"]} == {
        **dict.fromkeys(("val", "predict", "export", "report"), ("done", 1)),
        "shell": ("done", 3),
        "shell-2": ("skipped", 0),
    }
    refused = hpc_yolo("submit", spec, check=False)
    assert refused.returncode == 6 and "stages is finished, and so are its stages" in refused.stderr
