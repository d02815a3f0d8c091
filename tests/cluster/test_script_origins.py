"""The origin of each line of a script."""

from __future__ import annotations

from hpc_yolo.cluster.sbatch import script
from hpc_yolo.cluster.script_origins import DEFAULT, FIXED, line_origins
from hpc_yolo.spec.problems import Location
from hpc_yolo.spec.schema import ClusterSpec

CLUSTER = ClusterSpec(
    account="a@v100",
    partition="p",
    gpu_type="v100",
    modules=["/m", "cuda", "gcc"],
    setup=["#!/bin/bash -l", "export A=1\nsrun hostname"],
    env={"B": "$HOME", "C": "1"},
    sbatch={"comment": "x", "hold": True},
    srun={"mpi": "pmi2"},
    login_shell=True,
)


def at(line: int, file: str = "/specs/spec.yaml") -> Location:
    return Location(file, line, 1)


def shown(cluster: ClusterSpec, origins: dict[str, Location]) -> dict[str, str]:
    text = script("run", cluster, "python x", "after", log="/runs/%j.log")
    return dict(line_origins(text, cluster, origins))


def test_origin_of_a_line_is_that_of_the_values_in_it():
    origins = {
        "name": at(1),
        "output": Location("--set output=/runs"),
        "cluster.gpus_per_node": at(2),
        "cluster.gpu_type": at(3, "/sites/big.yaml"),
        "cluster.account": at(4),
        "account_suffix": at(5, "/sites/big.yaml"),
        "cluster.modules": at(6),
        "cluster.modules[0]": at(7),
        "cluster.modules[1]": at(8),
        "cluster.modules[2]": at(9, "/sites/big.yaml"),
        "cluster.setup": at(10),
        "cluster.setup[0]": at(11),
        "cluster.setup[1]": at(12),
        "cluster.env.B": at(13),
        "cluster.env.C": at(14),
        "cluster.sbatch.comment": at(15),
        "cluster.srun.mpi": at(16),
        "cluster.login_shell": at(17),
        "cluster.partition": at(18),
    }
    rows = shown(CLUSTER, origins)
    srun = next(line for line in rows if line.startswith("srun --unbuffered"))
    assert rows[srun] == "spec.yaml:16"
    export = next(line for line in rows if line.startswith("export B="))
    assert rows[export] == "spec.yaml:13"
    for line, origin in {
        "#!/bin/bash -l": "spec.yaml:11",  # the later one, a line of the setup
        "#SBATCH --job-name=run": "spec.yaml:1",
        "#SBATCH --nodes=1": DEFAULT,
        "#SBATCH --gpus-per-node=v100:1": "spec.yaml:2, big.yaml:3",
        "#SBATCH --account=a@v100": "spec.yaml:4, big.yaml:5",
        "#SBATCH --partition=p": "spec.yaml:18",
        "#SBATCH --output=/runs/%j.log": "--set output=/runs, spec.yaml:1",
        "#SBATCH --comment=x": "spec.yaml:15",
        "#SBATCH --hold": DEFAULT,
        "module use /m": "spec.yaml:7",
        "module load cuda gcc": "spec.yaml:8, big.yaml:9",
        "export A=1": "spec.yaml:12",
        "srun hostname": "spec.yaml:12",
        "export C=1": "spec.yaml:14",
    }.items():
        assert rows[line] == origin, line
    assert list(rows.values())[-1] == FIXED


def test_command_beside_the_tasks_comes_from_the_field_that_asks_for_it():
    tracker = "python -m hpc_yolo track-beside /runs/run"
    reports = "python -m hpc_yolo notify-problems /runs/run"
    text = script("run", ClusterSpec(), "python x", "after", log="/runs/%j.log", beside=["queue", reports, tracker])
    rows = dict(line_origins(text, ClusterSpec(), {"validate": at(7), "notify.mail": at(9), "tracking.to": at(11)}))
    shown = [rows[f"{command} &"] for command in ("queue", reports, tracker)]
    assert shown == ["spec.yaml:7", "spec.yaml:9", "spec.yaml:11"]


def test_every_line_of_a_script_is_shown_or_counted():
    for cluster in (ClusterSpec(), CLUSTER, ClusterSpec(env={"A": "1"}), ClusterSpec(setup="a\nb\n")):
        text = script("run", cluster, "python x", "after", log="/runs/%j.log")
        rows = line_origins(text, cluster, {})
        count = int(rows[-1][0].partition(" ")[0])
        assert len(rows) - 1 + count == len(text.splitlines())
        lines = text.splitlines()
        for line, _ in rows[:-1]:
            lines.remove(line)
