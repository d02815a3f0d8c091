"""What the job that follows a job in chain mode takes over from it."""

import pytest

from hpc_yolo.cluster.batch_job import BatchJob
from hpc_yolo.resilience.chain import ARGUMENTS_VARIABLE, script_arguments, successor_options
from hpc_yolo.runs.directory import RunDirectory

OWN = ["--chdir=/home/me", "--dependency=afternotok:7", "--kill-on-invalid-dep=yes"]


@pytest.mark.parametrize(
    ("options", "settings", "script", "expected"),
    [
        ((), {}, "", []),
        (("--parsable", "-p", "high", "--comment=a b"), {"partition": "high"}, "", ["-p", "high", "--comment=a b"]),
        (("--hold", "--wait", "-d", "after:5", "--begin=now+1hour"), {}, "", []),
        (("--exclude=n1", "--time=5"), {"exclude": "n1,n2", "time": "00:05:00"}, "", ["--time=5", "--exclude=n1,n2"]),
        # Set by a variable of the shell, or on a command line that nobody kept.
        ((), {"account": "vision", "qos": "long"}, "", ["--account=vision", "--qos=long"]),
        ((), {"partition": "b"}, "#SBATCH --partition=a,b\n", []),
        ((), {"partition": "c"}, "#SBATCH --partition=a,b\n", ["--partition=c"]),
        (("--array=1-9", "-J", "name"), {}, "", ["-J", "name"]),
    ],
)
def test_a_successor_asks_for_what_its_predecessor_has(options, settings, script, expected):
    job = BatchJob(script, (), "/home/me", options, settings)
    assert successor_options(job, "7", []) == [*expected, *OWN]


def test_a_successor_avoids_failed_nodes_and_keeps_its_index_in_an_array():
    job = BatchJob("", (), "/home/me", (), {"exclude": "n1"})
    found = successor_options(job, "7_3", ["n8"])
    assert found == ["--exclude=n1,n8", "--array=3", OWN[0], "--dependency=afternotok:7_3", OWN[2]]


def test_arguments_come_from_the_script_itself_with_their_spaces(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    job = BatchJob("#!/bin/bash\n", ("spec.yaml", "a", "b"), "/home/me")
    assert script_arguments(job, run) == ["spec.yaml", "a", "b"], "as far as Slurm knows them"
    monkeypatch.setenv(ARGUMENTS_VARIABLE, "'spec.yaml' 'a b' 'it'\\''s'")
    assert script_arguments(job, run) == ["spec.yaml", "a b", "it's"]
    monkeypatch.setenv(ARGUMENTS_VARIABLE, "")
    assert script_arguments(job, run) == []
    monkeypatch.delenv(ARGUMENTS_VARIABLE)
    run.script.write_text(job.script)
    assert script_arguments(job, run) == [], "the script of submit has none; a space in its path is no argument"
