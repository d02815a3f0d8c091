"""The request and the script of a stage's own job."""

import pytest

from hpc_yolo.cluster.stage_job import stage_cluster, stage_options, stage_script
from hpc_yolo.spec.schema import ClusterSpec
from hpc_yolo.spec.stages import StageRequest

BIG = {"nodes": 4, "gpus_per_node": 8, "gpu_type": "a100", "cpus_per_task": 6, "mem": "400G", "time": "2-00:00:00"}


@pytest.mark.parametrize(
    ("cluster", "request_", "expected"),
    [
        (BIG, {}, {"nodes": "1", "ntasks-per-node": "1", "gpus-per-node": "a100:1", "cpus-per-task": "6"}),
        (BIG, {}, {"mem": "51200M", "time": "01:00:00"}),
        (BIG, {"gpus_per_node": 2, "gpu_type": "h100"}, {"gpus-per-node": "h100:2", "ntasks-per-node": "1"}),
        (BIG, {"time": "10", "mem": "8G", "cpus_per_task": 2}, {"time": "10", "mem": "8G", "cpus-per-task": "2"}),
        (BIG | {"time": "00:20:00"}, {}, {"time": "00:20:00"}),
        (BIG | {"time": "UNLIMITED"}, {}, {"time": "01:00:00"}),
        (BIG | {"gpu_request": "gres"}, {}, {"gres": "gpu:a100:1"}),
        (
            {"partition": "a", "account": "b", "qos": "c", "constraint": "d", "exclude": "n1"},
            {},
            {"partition": "a", "account": "b", "qos": "c", "constraint": "d", "exclude": "n1"},
        ),
        (
            {"partition": "a", "account": "b", "qos": "c", "constraint": "d"},
            {"partition": ["x", "y"], "account": "z", "qos": "q", "constraint": "e"},
            {"partition": "x,y", "account": "z", "qos": "q", "constraint": "e"},
        ),
        ({"requeue": "off"}, {}, {"requeue": True}),
        ({"sbatch": {"mail-user": "me", "comment": "a"}}, {}, {"mail-user": "me", "comment": "a"}),
        ({"mem": "0"}, {}, {"mem": "0"}),
        ({"mem_per_cpu": "4G"}, {}, {"mem-per-cpu": "4G"}),
        ({"mem_per_gpu": "40G"}, {}, {"mem-per-gpu": "40G"}),
    ],
)
def test_request_of_a_stage_follows_from_that_of_the_run(cluster, request_, expected):
    options = stage_options("run-val", stage_cluster(ClusterSpec(**cluster), StageRequest(**request_)), "log")
    assert expected.items() <= options.items()


@pytest.mark.parametrize(
    ("cluster", "request_", "absent"),
    [
        (BIG, {"gpus_per_node": 0}, {"gpus-per-node", "gres"}),
        ({"gpus_per_node": 0, "tasks_per_node": 4}, {}, {"gpus-per-node", "time", "mem"}),
        (BIG, {}, {"signal", "no-requeue"}),
        ({"sbatch": {"nodelist": "n1", "dependency": "after:5", "exclusive": True}}, {}, {"nodelist", "dependency"}),
        ({"sbatch": {"exclusive": True, "array": "1"}}, {}, {"exclusive", "array"}),
        ({"mem_per_gpu": "40G"}, {"gpus_per_node": 0}, {"mem-per-gpu"}),
        ({"mem_per_cpu": "4G"}, {"mem": "8G"}, {"mem-per-cpu"}),
    ],
)
def test_stage_does_not_request_what_the_training_needs(cluster, request_, absent):
    options = stage_options("run-val", stage_cluster(ClusterSpec(**cluster), StageRequest(**request_)), "log")
    assert not absent & options.keys()


def test_script_of_a_stage_has_setup_and_environment_of_the_run():
    cluster = ClusterSpec(gpus_per_node=0, setup=["module load x"], env={"A": "$X/b"}, login_shell=True)
    text = stage_script(
        "run-val",
        stage_cluster(cluster, StageRequest()),
        "run-stage val",
        log="%j.log",
        setup_record="record",
        after_failed_setup="run-stage val",
    )
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash -l"
    assert "#SBATCH --job-name=run-val" in lines and "#SBATCH --output=%j.log" in lines
    setup, export, command = (
        lines.index(line) for line in ("module load x", lines_with(lines, "export A="), "run-stage val")
    )
    assert setup < export < command
    assert lines[-1].startswith('exec run-stage val --failed-setup "$HPC_YOLO_SETUP"')


def lines_with(lines, text):
    (found,) = [line for line in lines if text in line]
    return found


def test_script_without_setup_ends_with_the_command():
    cluster = stage_cluster(ClusterSpec(), StageRequest())
    text = stage_script("run-val", cluster, "command", log="l", setup_record="r", after_failed_setup="f")
    assert text.endswith("\n\nexec command\n")
