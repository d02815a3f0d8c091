"""Positions read from environments, most of them recorded from the real launchers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import pytest
from recordings import NEWEST, VERSIONS, recorded_environment, versions_with

from hpc_yolo.cluster.process import (
    ProcessInfo,
    chosen_threads,
    clean_environment,
    current_environment,
)
from hpc_yolo.core.errors import ClusterError

NOT_OF_SLURM = ("submitit_local_rank1", "torchrun_rank1")


def recorded(name: str, **changes: str | None) -> dict[str, str]:
    """An environment recorded with the newest Slurm, with some variables set, or taken away by None."""
    return changed(recorded_environment("" if name in NOT_OF_SLURM else NEWEST, name), **changes)


def changed(environ: Mapping[str, str], **changes: str | None) -> dict[str, str]:
    return {name: value for name, value in {**environ, **changes}.items() if value is not None}


SINGLE = ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single")
SRUN_0 = ProcessInfo(0, 0, 0, 4, 2, 2, "gpu01", None, "slurm", host="gpu01", job_id="6", step_id=0)
SRUN_3 = dataclasses.replace(SRUN_0, rank=3, local_rank=1, node_rank=1, host="gpu02")
LOCAL = ProcessInfo(1, 1, 0, 2, 2, 1, "127.0.0.1", None, "submitit-local", job_id="7860")
TORCHRUN_JOB = "e1d46bb5-c173-4d7d-9b8d-cb1a5660e38e"
TORCHRUN = ProcessInfo(1, 1, 0, 2, 2, 1, "localhost", 44935, "torchrun", job_id=TORCHRUN_JOB)
HAND_SET = {
    **{"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"MASTER_ADDR": "node7", "MASTER_PORT": "29500"},
}


def but(info: ProcessInfo, **changes: object) -> ProcessInfo:
    return dataclasses.replace(info, **changes)


TABLE = {
    "nothing set": ({}, SINGLE),
    "a login shell": ({"HOME": "/root", "MASTER_PORT": "29500"}, SINGLE),
    "salloc's shell as an interactive step on a node": (
        recorded("srun_rank0", SLURM_STEP_ID="4294967290", SLURM_STEPID="4294967290"),
        but(SINGLE, job_id="6"),
    ),
    "torchrun": (recorded("torchrun_rank1"), TORCHRUN),
    "torchrun without a run id": (recorded("torchrun_rank1", TORCHELASTIC_RUN_ID="none"), but(TORCHRUN, job_id=None)),
    "torchrun, one agent a node, inside a Slurm step": (
        {**recorded("srun_rank0"), **recorded("torchrun_rank1"), "SLURM_RESTART_COUNT": "2"},
        but(TORCHRUN, job_id="6", host="gpu01", attempt=3),
    ),
    "torch's variables set by hand": (
        HAND_SET,
        ProcessInfo(5, 1, 1, 8, 4, 2, "node7", 29500, "torchrun"),
    ),
    "submitit's local executor": (recorded("submitit_local_rank1"), LOCAL),
    "submitit's local executor started from an srun shell": (
        {**recorded("srun_rank0"), **recorded("submitit_local_rank1")},
        LOCAL,
    ),
    "submitit's local executor with a set port": (
        recorded("submitit_local_rank1", MASTER_PORT="29501"),
        but(LOCAL, master_port=29501),
    ),
    "a job that a local task submitted": (
        {**recorded("submitit_local_rank1"), **recorded("srun_rank3"), "SUBMITIT_EXECUTOR": "slurm"},
        SRUN_3,
    ),
    "a set address and port win": (
        recorded("srun_rank3", MASTER_ADDR="gpu01-ib0", MASTER_PORT="12345"),
        but(SRUN_3, master_addr="gpu01-ib0", master_port=12345, is_addr_set=True),
    ),
    "an empty address is none": (recorded("srun_rank3", MASTER_ADDR=" "), SRUN_3),
    "on one node nobody needs an address": (
        recorded("one_task_step_of_a_larger_job", MASTER_ADDR="no-such-host"),
        ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "slurm", host="gpu01", job_id="6", step_id=1),
    ),
    "no list of nodes: rank 0 publishes where it is": (
        recorded("srun_rank3", SLURM_STEP_NODELIST=None, SLURM_JOB_NODELIST=None, SLURM_NODELIST=None),
        but(SRUN_3, master_addr="an unknown host"),
    ),
    "a list of nodes in an unknown form": (recorded("srun_rank3", SLURM_STEP_NODELIST="gpu[01"), SRUN_3),
    "WORLD_SIZE exported by the batch script is not torchrun": (recorded("srun_rank3", WORLD_SIZE="4"), SRUN_3),
    "the step's list is preferred to the job's": (
        recorded("srun_rank3", SLURM_JOB_NODELIST="gpu[00-02]", SLURM_NODELIST="gpu[00-02]"),
        SRUN_3,
    ),
    "without the step's list the job's": (
        recorded("srun_rank3", SLURM_STEP_NODELIST=None, SLURM_JOB_NODELIST="gpu[05-06]"),
        but(SRUN_3, master_addr="gpu05"),
    ),
    "the oldest name of the list": (
        recorded("srun_rank3", SLURM_STEP_NODELIST=None, SLURM_JOB_NODELIST=None, SLURM_NODELIST="a-1,a-2"),
        but(SRUN_3, master_addr="a-1"),
    ),
    "an older Slurm's names": (
        recorded(
            "srun_rank3",
            **dict.fromkeys(("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURMD_NODENAME")),
            **dict.fromkeys(("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")),
        ),
        but(SRUN_3, host=None),
    ),
    "rank 0 on the list's second host (--distribution=arbitrary)": (
        recorded("srun_rank0", SLURM_NODEID="1", SLURMD_NODENAME="gpu02"),
        but(SRUN_0, node_rank=1, host="gpu02", master_addr="gpu02"),
    ),
    "nodes with unlike numbers of tasks": (
        recorded("srun_rank3", SLURM_STEP_NUM_NODES="3", SLURM_STEP_TASKS_PER_NODE="1,2,1"),
        but(SRUN_3, num_nodes=3),
    ),
    "torchrun inside a step, whose shell had exported RANK=-1": (
        {**recorded("srun_rank0"), "RANK": "-1", **recorded("torchrun_rank1")},
        but(TORCHRUN, job_id="6", host="gpu01"),
    ),
    "torchrun of old left its run id and no ranks in a step": (
        recorded("srun_rank3", TORCHELASTIC_RUN_ID="none", LOCAL_RANK="-1"),
        SRUN_3,
    ),
    "no rank, as scripts write it": ({"RANK": "-1", "LOCAL_RANK": "-1", "WORLD_SIZE": "1"}, SINGLE),
    "no rank, exported empty": ({"RANK": "", "LOCAL_RANK": ""}, SINGLE),
    "batch script of 26.05: step -5": (
        recorded("batch_script", SLURM_STEP_ID="-5", SLURM_STEPID="-5"),
        but(SINGLE, job_id="6"),
    ),
    "steps by names, with nothing that is a number": (
        recorded("srun_rank3", SLURM_STEP_ID="batch", SLURM_STEPID=""),
        but(SINGLE, job_id="6"),
    ),
    "the older name says the step where the newer one is no number": (
        recorded("srun_rank3", SLURM_STEP_ID="?"),
        SRUN_3,
    ),
    "tasks and nodes of the step no numbers, those of the job are": (
        recorded("srun_rank3", SLURM_STEP_NUM_TASKS="*", SLURM_NTASKS="4", SLURM_STEP_NUM_NODES="(null)"),
        SRUN_3,
    ),
    "restart count no number: the first attempt": (recorded("srun_rank3", SLURM_RESTART_COUNT="x"), SRUN_3),
    "restart count negative": (recorded("srun_rank3", SLURM_RESTART_COUNT="-1"), SRUN_3),
    "tasks per node unreadable: an even split": (
        recorded("srun_rank3", SLURM_STEP_TASKS_PER_NODE="2*2", SLURM_TASKS_PER_NODE="?"),
        SRUN_3,
    ),
    "array with a task that is no number": (
        recorded("srun_rank3", SLURM_ARRAY_JOB_ID="1", SLURM_ARRAY_TASK_ID="-2"),
        SRUN_3,
    ),
    "the job's number under its old name": (recorded("srun_rank3", SLURM_JOB_ID="", SLURM_JOBID="6"), SRUN_3),
    "numbers with spaces around": (recorded("srun_rank3", SLURM_PROCID=" 3 ", SLURM_LOCALID="1 "), SRUN_3),
}
# Left over from a shell, a site's profile or another launcher: no launcher that follows may believe them.
LEFTOVERS: dict[str, dict[str, str]] = {
    "RANK=-1": {"RANK": "-1"},
    "LOCAL_RANK=-1": {"LOCAL_RANK": "-1"},
    "both": {"RANK": "-1", "LOCAL_RANK": "-1", "WORLD_SIZE": "1"},
    "empty": {"RANK": "", "LOCAL_RANK": "", "WORLD_SIZE": ""},
    "another job's": {"RANK": "7", "LOCAL_RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"},
    "no numbers": {"RANK": "$SLURM_PROCID", "WORLD_SIZE": "auto"},
    "a world size": {"WORLD_SIZE": "64"},
}

# Recorded with every version of Slurm.
RECORDED = {
    "srun_rank0": SRUN_0,
    "srun_rank3": SRUN_3,
    "batch_script": but(SINGLE, job_id="6"),  # rank 0 of 4 by its variables, yet alone
    "one_task_step_of_a_larger_job": ProcessInfo(
        0, 0, 0, 1, 1, 1, "127.0.0.1", None, "slurm", host="gpu01", job_id="6", step_id=1
    ),
    "salloc_shell": but(SINGLE, job_id="7"),
    "array_task_requeued_rank3": but(SRUN_3, job_id="8_4", attempt=2),
}


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("version", versions_with("srun_rank0.env"))
def test_environment_of_every_slurm_version_is_parsed(version: str, name: str) -> None:
    assert ProcessInfo.from_env(recorded_environment(version, name)) == RECORDED[name]


@pytest.mark.parametrize("version", VERSIONS)
def test_batch_script_is_not_a_task_in_any_slurm_version(version: str) -> None:
    environ = recorded_environment(version, "batch_script")
    assert ProcessInfo.from_env(environ) == but(SINGLE, job_id=environ["SLURM_JOB_ID"])


@pytest.mark.parametrize(("environ", "expected"), TABLE.values(), ids=TABLE.keys())
def test_process_info_from_environment(environ: dict[str, str], expected: ProcessInfo) -> None:
    assert ProcessInfo.from_env(environ) == expected


@pytest.mark.parametrize("leftovers", LEFTOVERS.values(), ids=LEFTOVERS.keys())
def test_variables_of_the_launcher_override_leftover_ranks(leftovers: dict[str, str]) -> None:
    assert ProcessInfo.from_env(recorded("srun_rank3", **leftovers)) == SRUN_3
    assert ProcessInfo.from_env(recorded("submitit_local_rank1", **leftovers)) == LOCAL
    torchrun = {**recorded("srun_rank0"), **leftovers, **recorded("torchrun_rank1")}
    assert ProcessInfo.from_env(torchrun) == but(TORCHRUN, job_id="6", host="gpu01")


BESIDE_TASKS = {
    "batch script": recorded("batch_script"),
    "batch script of 26.05": recorded("batch_script", SLURM_STEP_ID="-5", SLURM_STEPID="-5"),
    "a script that exports ranks": recorded("batch_script", RANK="0", WORLD_SIZE="4", LOCAL_RANK="x"),
    "a script that exports a world size": recorded("batch_script", WORLD_SIZE="4"),
    "nothing of the step is a number": recorded("batch_script", SLURM_PROCID="?", SLURM_NODEID="-1", SLURM_NTASKS=""),
}


@pytest.mark.parametrize("environ", BESIDE_TASKS.values(), ids=BESIDE_TASKS.keys())
def test_alone_reads_job_and_attempt_only(environ: dict[str, str]) -> None:
    """The last line of a batch script decides whether the run goes on; no leftover variable may end it."""
    assert ProcessInfo.alone(environ) == but(SINGLE, job_id="6")


def missing(name: str) -> tuple[dict[str, str], str, str]:
    return changed(HAND_SET, **{name: None}), name, "not set"


REFUSED = {
    "rank as large as the world": (recorded("srun_rank3", SLURM_PROCID="4"), "SLURM_PROCID", "0 to 3"),
    "local rank beyond its node": (recorded("srun_rank3", SLURM_LOCALID="2"), "SLURM_LOCALID", "0 to 1"),
    "node rank beyond the nodes": (
        recorded("srun_rank3", SLURM_NODEID="2", SLURM_STEP_TASKS_PER_NODE="2(x3)"),
        "SLURM_NODEID",
        "0 to 1",
    ),
    "a node without tasks": (recorded("srun_rank3", SLURM_NODEID="2"), "SLURM_NODEID", "0 to 1"),
    "rank no number": (recorded("srun_rank3", SLURM_PROCID="three"), "SLURM_PROCID", "'three'"),
    "rank negative": (recorded("srun_rank3", SLURM_PROCID="-1"), "SLURM_PROCID", "'-1'"),
    "no tasks": (
        recorded("srun_rank3", SLURM_STEP_NUM_TASKS="0", SLURM_NTASKS="0", SLURM_NPROCS="0"),
        "SLURM_STEP_NUM_TASKS",
        "from 1",
    ),
    "port no number": (recorded("srun_rank3", MASTER_PORT="any"), "MASTER_PORT", "'any'"),
    "port too high": (recorded("srun_rank3", MASTER_PORT="70000"), "MASTER_PORT", "1 to 65535"),
    "torchrun without a rank": missing("RANK"),
    "torchrun without a world size": missing("WORLD_SIZE"),
    "torchrun without a local rank": missing("LOCAL_RANK"),
    "torchrun without a local world size": missing("LOCAL_WORLD_SIZE"),
    "torchrun without an address": missing("MASTER_ADDR"),
    "torchrun without a port": missing("MASTER_PORT"),
    "a world size alone": ({"WORLD_SIZE": "8"}, "RANK", "not set"),
    "torchrun's rank beyond the world": (changed(HAND_SET, RANK="8"), "RANK", "0 to 7"),
    "local rank beyond submitit's tasks": (
        recorded("submitit_local_rank1", SUBMITIT_LOCAL_LOCALID="2"),
        "SUBMITIT_LOCAL_LOCALID",
        "0 to 1",
    ),
}


@pytest.mark.parametrize(("environ", "variable", "clause"), REFUSED.values(), ids=REFUSED.keys())
def test_contradictory_environment_is_refused(environ: dict[str, str], variable: str, clause: str) -> None:
    """Ranks that count differently hang in the first collective; the variable at fault is named instead."""
    with pytest.raises(ClusterError) as caught:
        ProcessInfo.from_env(environ)
    assert variable in caught.value.message
    assert clause in caught.value.message


@pytest.mark.parametrize(
    ("value", "launcher", "threads"),
    [
        (None, "slurm", None),
        ("3", "slurm", 3),
        ("3", "submitit-local", 3),
        ("3", "single", 3),
        ("4,2", "slurm", 4),
        (" 2 ", "slurm", 2),
        ("", "slurm", None),
        ("0", "slurm", None),
        ("-1", "slurm", None),
        ("all", "slurm", None),
        ("1", "torchrun", None),
    ],
)
def test_threads_are_those_of_omp_num_threads(value: str | None, launcher: str, threads: int | None) -> None:
    environ = {} if value is None else {"OMP_NUM_THREADS": value}
    assert chosen_threads(environ, launcher) == threads


def test_new_job_does_not_inherit_the_surrounding_job() -> None:
    """A leaked SLURM_CPU_BIND once made jobs three times slower."""
    around = recorded("srun_rank3", SLURM_CPU_BIND="quiet,mask_cpu:0x1", PMIX_RANK="0", PMI_FD="3", SBATCH_QOS="low")
    own = {"PATH": "/bin", "HOME": "/root", "CUDA_HOME": "/cuda", "SUBMITIT_PREEMPT_SIGNAL": "USR2"}
    around = {name: value for name, value in around.items() if name.startswith(("SLURM", "PMI", "SBATCH"))}
    cleaned = clean_environment({**around, **recorded("submitit_local_rank1"), **own})
    assert cleaned == {
        **own,
        "SLURM_CONF": "/srv/slurm/slurm.conf",
        "SUBMITIT_FOLDER": "/home/ada/runs",
        "SUBMITIT_STDERR_TO_STDOUT": "",
    }


def test_sbatch_defaults_are_kept_on_a_login_node() -> None:
    assert clean_environment({"SBATCH_ACCOUNT": "vision"}) == {"SBATCH_ACCOUNT": "vision"}


def test_job_submitted_by_a_torchrun_worker_does_not_inherit_master_addr():
    worker = {"RANK": "0", "MASTER_ADDR": "gpu01", "MASTER_PORT": "29500", "ROLE_NAME": "default", "WORLD_SIZE": "4"}
    assert clean_environment(worker | {"TORCHELASTIC_RUN_ID": "1", "HOME": "/root"}) == {"HOME": "/root"}
    own = {"MASTER_PORT": "29500"}
    assert clean_environment(own) == own, "set by the user"


def test_current_environment_is_a_copy() -> None:
    environ = current_environment()
    assert environ == dict(os.environ)
    assert environ is not os.environ
