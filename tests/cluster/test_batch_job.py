"""Options of a submitted job derived from its settings, where sbatch's command line is not recorded."""

from __future__ import annotations

import pytest
from recordings import recorded, versions_with

from hpc_yolo.cluster.batch_job import parse_batch_job

SHOWN = """JobId=12 ArrayJobId=10 ArrayTaskId=3 JobName=args.sh
   Partition=gpu TimeLimit=01:00:00
   NumNodes=4 NumCPUs=32 NumTasks=8 CPUs/Task=4 ReqB:S:C:T=0:0:*:*
   Socks/Node=* NtasksPerN:B:S:C={tasks}:0:*:* CoreSpec=*
   MinCPUsNode=4 MinMemory{memory} MinTmpDiskNode=0{more}
   Command=/home/me/a.sh
   WorkDir=/home/me
   StdErr={error}
   StdIn=/dev/null
   StdOut={output}
   TresPerNode={tres}
"""
PLAIN = {"tasks": "2", "memory": "Node=0", "more": "", "error": "", "output": "/home/me/log", "tres": ""}


@pytest.mark.parametrize(
    ("shown", "script", "expected"),
    [
        ({}, "", {"nodes": "4", "ntasks-per-node": "2", "cpus-per-task": "4", "output": "/home/me/log"}),
        ({"tasks": "0"}, "", {"ntasks-per-node": None}),
        ({"memory": "Node=64G"}, "", {"mem": "64G", "mem-per-cpu": None}),
        ({"memory": "CPU=2000M"}, "", {"mem-per-cpu": "2000M", "mem": None}),
        ({"more": "\n   CpusPerTres=gres:gpu:4"}, "", {"cpus-per-task": None}),
        ({"tres": "gres:gpu:2"}, "", {"gpus-per-node": "2", "gres": None}),
        ({"tres": "gres/gpu:a100:2"}, "", {"gpus-per-node": "a100:2"}),
        ({"tres": "gres/gpu=2"}, "", {"gpus-per-node": "2"}),
        ({"tres": "gres:gpu:2"}, "#!/bin/sh\n#SBATCH --gres=gpu:1\n", {"gres": "gpu:2", "gpus-per-node": None}),
        ({"tres": "gres:gpu:2,gres:nvme:1"}, "", {"gres": "gpu:2,nvme:1", "gpus-per-node": None}),
        ({"tres": "(null)"}, "", {"gres": None, "gpus-per-node": None}),
        ({"output": "/logs 12/job 12_120.log"}, "", {"output": "/logs 12/job %j_120.log"}),
        ({"output": "/logs/10_3.log", "error": "/logs/10_3.log"}, "", {"output": "/logs/%A_3.log", "error": None}),
        ({"output": "/logs/100%.log", "error": "/logs/e-12"}, "", {"output": "/logs/100%%.log", "error": "/logs/e-%j"}),
        ({"output": ""}, "", {"output": None, "error": None}),
    ],
)
def test_job_record_yields_size_and_output_options(shown, script, expected):
    settings = parse_batch_job(script, SHOWN.format(**PLAIN | shown), "").settings
    assert {name: settings.get(name) for name in expected} == expected


@pytest.mark.parametrize("version", versions_with("show_job_lines.txt"))
def test_recorded_job_is_parsed_with_and_without_its_command_line(version):
    shown = recorded(version, "show_job_lines.txt")
    without = "".join(line for line in shown.splitlines(keepends=True) if "SubmitLine=" not in line)
    settings = parse_batch_job("", without, "").settings
    found = (settings["nodes"], settings["output"], settings["partition"], settings.get("gpus-per-node"))
    assert found == ("2", "/home/ada/runs/%j.log", "preempt", None)
    known = parse_batch_job("", shown, recorded(version, "sacct_submit_line.txt"))
    assert "nodes" not in known.settings, "an option of the command line may be a range"
