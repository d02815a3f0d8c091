"""What settings mean for a run: which seconds a job has, what would lose work, and what to write instead."""

import dataclasses

import pytest
from recordings import NEWEST, recorded

from hpc_yolo.cluster.site import QosLimits, parse_partitions, parse_site_settings
from hpc_yolo.doctor.findings import Measured, losses, run_findings, site_findings
from hpc_yolo.doctor.window import stop_window
from hpc_yolo.runs.save_times import SaveTimes
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec

SETTINGS = parse_site_settings(recorded(NEWEST, "show_config.txt"))
PARTITION = parse_partitions(recorded(NEWEST, "show_partition.txt"))["preempt"]


def settings_with(**changes):
    return dataclasses.replace(SETTINGS, **changes)


def partition_with(**changes):
    return dataclasses.replace(PARTITION, **changes)


def spec_of(every_s=30, **cluster):
    checkpoint = CheckpointSpec(every_s=every_s)
    return Spec(
        name="run", model="yolov5n", data=DataSpec(path="d.yaml"), cluster=ClusterSpec(**cluster), checkpoint=checkpoint
    )


def measured(save_s, step_s=0.1, *, is_own=True):
    return Measured(SaveTimes(save_s, step_s, 86_000_000), "earlier", is_own)


@pytest.mark.parametrize(
    ("settings", "partition", "qos", "expected"),
    [
        ({}, {}, None, ("requeue", 25, "20 s of grace + 5 s of KillWait = 25 s")),
        ({"kill_wait_s": 30}, {"grace_s": 0}, None, ("requeue", 30, "30 s of KillWait")),
        (
            {"kill_wait_s": 1},
            {"grace_s": 0},
            None,
            ("requeue", 5, "5 s of KillWait (set to 1; Slurm waits at least 5)"),
        ),
        ({}, {"preempt_mode": "OFF"}, None, ("none", 5, "5 s of KillWait")),
        ({"preempt_type": "none"}, {}, None, ("none", 5, "5 s of KillWait")),
        ({}, {"preempt_mode": "GANG,SUSPEND"}, None, ("suspend", 5, "5 s of KillWait")),
        ({}, {"preempt_mode": "REQUEUE,WITHIN"}, None, ("requeue", 25, "20 s of grace + 5 s of KillWait = 25 s")),
        ({}, {"preempt_mode": "CANCEL", "grace_s": 60}, None, ("cancel", 65, "60 s of grace + 5 s of KillWait = 65 s")),
        (
            {"preempt_type": "qos"},
            {},
            QosLimits(90, "CLUSTER"),
            ("requeue", 95, "90 s of grace + 5 s of KillWait = 95 s"),
        ),
        ({"preempt_type": "qos"}, {}, QosLimits(0, "CANCEL"), ("cancel", 5, "5 s of KillWait")),
        ({"preempt_type": "qos"}, {}, None, ("requeue", 5, "5 s of KillWait")),
    ],
)
def test_stop_window_is_grace_time_plus_kill_wait(settings, partition, qos, expected):
    """The grace time is that of the partition or of the quality of service, by the preemption type of the site."""
    window = stop_window(settings_with(**settings), partition_with(**partition), qos)
    assert (window.mode, window.seconds, window.breakdown) == expected


RUN_CASES = [  # settings, partition, cluster, measured -> finding, its level, part of its text
    ({}, {}, {}, None, "preemption", "ok", "partition preempt: a preempted job has 20 s of grace + 5 s of"),
    ({}, {}, {"requeue": "off"}, None, "preemption", "note", "cluster.requeue is off"),
    ({}, {"preempt_mode": "CANCEL"}, {"requeue": "chain"}, None, "preemption", "ok", "its successor in the chain"),
    ({}, {"preempt_mode": "OFF"}, {}, None, "preemption", "ok", "not preempted"),
    ({}, {"preempt_mode": "GANG,SUSPEND"}, {}, None, "preemption", "note", "suspended"),
    ({}, {"preempt_mode": "CANCEL"}, {}, None, "preemption", "note", "cluster.requeue: chain"),
    ({}, {"preempt_mode": "CANCEL", "grace_s": 0}, {}, None, "preemption", "warning", "cluster.requeue: chain"),
    ({"preempt_type": "qos", "preempt_mode": "CANCEL"}, {}, {}, None, "preemption", "note", "Slurm cancels"),
    ({"preempt_type": "qos"}, {}, {}, None, "preemption", "note", "at least 5 s of KillWait; the site preempts"),
    ({}, {}, {}, None, "save time", "note", "not measured yet"),
    ({}, {}, {}, measured(0.15), "save time", "ok", "0.15 s for 86 MB"),
    ({}, {}, {}, measured(0.15, is_own=False), "save time", "ok", "0.15 s in run earlier for 86 MB"),
    ({}, {}, {}, measured(10.0), "save time", "ok", "40% of the 25 s, 10.0 s"),
    ({}, {}, {}, measured(10.1), "save time", "warning", "output on a faster file system"),
    ({}, {}, {}, measured(10.1), "save time", "warning", "checkpoint.every_s, now 30"),
    ({}, {}, {}, measured(1.0, 12.5), "save time", "warning", "2 steps and a save take 26.0 s of the 25 s"),
    ({}, {"preempt_mode": "OFF"}, {}, measured(4.0), "save time", "note", "too long"),
    ({}, {"preempt_mode": "GANG,SUSPEND"}, {}, measured(99.0), "save time", "ok", "99.00 s"),
    ({}, {}, {"time": "01:00:00"}, None, "time limit", "ok", "01:00:00, SIGUSR2 120 s before it"),
    ({}, {}, {"time": "01:00:00"}, measured(1.0), "time limit", "ok", "SIGUSR2 34 s before it"),
    ({}, {}, {"time": "01:00:00"}, measured(1.0, is_own=False), "time limit", "ok", "SIGUSR2 120 s before it"),
    ({}, {}, {"time": "02:00:00"}, None, "time limit", "warning", "over the 01:00:00 of partition preempt"),
    ({}, {"max_time_s": None}, {"time": "02:00:00"}, None, "time limit", "ok", "02:00:00"),
    ({}, {}, {}, None, "time limit", "ok", "00:10:00 of partition preempt"),
    ({}, {"default_time_s": 120}, {}, None, "time limit", "warning", "cluster.time: 00:02:00"),
    ({}, {"default_time_s": None, "max_time_s": None}, {}, None, "time limit", "ok", "none in partition preempt"),
    ({}, {"state": "DOWN"}, {}, None, "partition", "warning", "preempt is DOWN"),
]  # fmt: skip


LONG_WAIT = {"requeue_wait_s": 120}


@pytest.mark.parametrize(("settings", "partition", "cluster", "times", "what", "level", "text"), RUN_CASES)
def test_run_findings(settings, partition, cluster, times, what, level, text):
    found = run_findings(
        settings_with(**settings), partition_with(**partition), None, ClusterSpec(**cluster), CheckpointSpec(), times
    )
    (finding,) = [finding for finding in found if finding.what == what]
    assert finding.level == level
    assert text in finding.line


@pytest.mark.parametrize(
    ("settings", "cluster", "what", "level", "text"),
    [
        ({}, {}, "requeue", "ok", "by requeue (cluster.requeue is auto); a requeued job waits up to 5 s (cred_expire)"),
        (LONG_WAIT, {}, "requeue", "ok", "by chain (cluster.requeue is auto); a successor waits in the queue"),
        (LONG_WAIT, {"requeue": "requeue"}, "requeue", "note", "waits up to 120 s (cred_expire); nodes may be idle"),
        (LONG_WAIT, {"requeue": "off"}, "requeue", "ok", "cluster.requeue is off"),
        (
            LONG_WAIT | {"expedites": True},
            {},
            "requeue",
            "ok",
            "by expedite (cluster.requeue is auto); a requeued job starts",
        ),
        ({}, {"requeue": "expedite"}, "requeue", "warning", "needs Slurm 25.11 or newer"),
        ({"submit_plugins": "lua"}, {}, "requeue", "note", "cluster.requeue: chain"),
        ({"submit_plugins": "lua"}, {"requeue": "chain"}, "requeue", "ok", "by chain"),
        ({"max_requeues": 2}, {}, "launches", "ok", "requeued it itself 2 times"),
        ({}, {}, "lost node", "ok", "without response for 30 s"),
        ({"slurmd_timeout_s": 0}, {}, "lost node", "note", "never sets a node without response down"),
        ({"kills_on_bad_exit": True}, {}, "dead rank", "ok", "KillOnBadExit=1"),
        ({}, {}, "old jobs", "ok", "accounting keeps it"),
        ({"has_accounting": False, "min_job_age_s": 60}, {}, "old jobs", "note", "forgets a job 60 s after its end"),
        ({"sends_user_signal": True}, {}, "signal", "note", "gets SIGUSR2"),
    ],
)
def test_site_findings(settings, cluster, what, level, text):
    found = site_findings(settings_with(**settings), ClusterSpec(**cluster))
    (finding,) = [finding for finding in found if finding.what == what]
    assert finding.level == level
    assert text in finding.line


def test_losses_are_warnings_without_obstacles():
    cluster, good = ClusterSpec(requeue="requeue"), measured(0.15)
    assert losses(SETTINGS, PARTITION, cluster, CheckpointSpec(), good) == []
    lines = [finding.line for finding in losses(SETTINGS, PARTITION, cluster, CheckpointSpec(), measured(20.0))]
    assert [line.partition(":")[0] for line in lines] == ["save time"]


def test_run_findings_without_a_partition_have_no_time_limit():
    found = [finding.what for finding in run_findings(SETTINGS, None, None, ClusterSpec(), CheckpointSpec(), None)]
    assert found == ["preemption", "save time"]
