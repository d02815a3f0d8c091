"""Parsers of the output of Slurm's commands: recorded text, and text that later versions may print."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import VERSIONS, recorded, versions_with

from hpc_yolo.cluster import site, slurm_output
from hpc_yolo.cluster.batch_job import parse_batch_job
from hpc_yolo.cluster.slurm_output import JobRecord, JobState, SchedulerProbe, StartEstimate
from hpc_yolo.core.errors import ClusterError

# What `record_slurm.py` did to its jobs: state, reason, nodes, exit code, signal.
JOBS = {
    "1": ("FAILED", "NonZeroExitCode", "gpu01", 3, 0),
    "2": ("CANCELLED", "", "gpu[01-02]", 0, 15),
    "3": ("CANCELLED", "JobHeldUser", "", 0, 0),
    "4": ("FAILED", "RaisedSignal:9(Killed)", "gpu01", 0, 9),
    "5": ("TIMEOUT", "TimeLimit", "gpu01", 0, 15),
    "6": ("COMPLETED", "", "gpu[01-02]", 0, 0),
    "8_3": ("COMPLETED", "", "gpu[01-02]", 0, 0),
    "8_4": ("COMPLETED", "", "gpu[01-02]", 0, 0),
    "10": ("CANCELLED", "", "gpu[01-02]", 0, 9),
    "13": ("PENDING", "JobHeldUser", "", None, None),
    "14_3": ("PENDING", "JobHeldUser", "", None, None),
    "14_4": ("PENDING", "JobHeldUser", "", None, None),
    "14_5": ("PENDING", "JobHeldUser", "", None, None),
    "15": ("RUNNING", "", "gpu[01-02]", None, None),
}
# Accounting keeps no signal of a job that Slurm itself ended, no reason, and an array that waits as one.
ACCOUNTED = {
    **{job_id: (state, "", *rest) for job_id, (state, _, *rest) in JOBS.items() if not job_id.startswith("14_")},
    **{job_id: ("CANCELLED", "by 0", JOBS[job_id][2], 0, 0) for job_id in ("2", "3", "10")},
    "5": ("TIMEOUT", "", "gpu01", 0, 0),
    "14_[3-5]": ("PENDING", "", "", None, None),
}
KILLED_IN_22_05 = ("FAILED", "JobLaunchFailure", "gpu01", 0, 9)
STARTED = "2026-11-23T11:42:20"


def facts(jobs: dict[str, JobState]) -> dict[str, tuple[object, ...]]:
    return {job_id: (job.state, job.reason, job.nodes, job.exit_code, job.exit_signal) for job_id, job in jobs.items()}


@pytest.mark.parametrize("version", versions_with("sinfo.txt"))
def test_recorded_squeue_is_parsed(version: str) -> None:
    jobs = slurm_output.parse_squeue(recorded(version, "squeue.txt"))
    assert facts(jobs) == JOBS | ({"4": KILLED_IN_22_05} if version.startswith("22.05") else {})
    assert [job_id for job_id, job in jobs.items() if job.is_waiting] == ["14_3", "14_4", "14_5", "13"]
    assert {job_id for job_id, job in jobs.items() if job.is_alive} == {"13", "14_3", "14_4", "14_5", "15"}
    assert (jobs["15"].time_left_s or 0) == pytest.approx(50 * 60, abs=60)
    assert {job.time_left_s for job in jobs.values() if not job.is_alive} == {None}
    assert {job_id for job_id, job in jobs.items() if job.start is None} == {"13", "14_3", "14_4", "14_5"}


@pytest.mark.parametrize("version", versions_with("sinfo.txt"))
def test_recorded_sacct_is_parsed(version: str) -> None:
    assert facts(slurm_output.parse_sacct(recorded(version, "sacct.txt"))) == ACCOUNTED
    earlier = slurm_output.parse_earlier_attempts(recorded(version, "sacct_duplicates.txt"))
    assert [start.state for start in earlier] == ["PREEMPTED", "REQUEUED", "NODE_FAIL", "CANCELLED"]
    times = [start.began for start in earlier if start.began is not None]
    assert len(times) == len(earlier) and times == sorted(times)


@pytest.mark.parametrize("version", ["25.11.7"])
def test_smaller_recording_is_parsed(version: str) -> None:
    jobs = {
        "29": ("FAILED", "NonZeroExitCode", "gpu01", 3, 0),
        "30": ("CANCELLED", "", "gpu[01-02]", 0, 15),
        "31": ("PENDING", "JobHeldUser", "", None, None),
    }
    assert facts(slurm_output.parse_squeue(recorded(version, "squeue.txt"))) == jobs
    assert facts(slurm_output.parse_sacct(recorded(version, "sacct.txt"))) == {
        "29": ("FAILED", "", "gpu01", 3, 0),
        "30": ("CANCELLED", "by 0", "gpu[01-02]", 0, 0),
        "31": ("PENDING", "", "", None, None),
    }
    assert slurm_output.parse_job_record(recorded(version, "show_job_cancelled.txt")).state == "CANCELLED"


@pytest.mark.parametrize("version", versions_with("squeue_expediting.txt"))
def test_expedited_job_is_alive_and_waits(version: str) -> None:
    (job,) = slurm_output.parse_squeue(recorded(version, "squeue_expediting.txt")).values()
    assert (job.state, job.is_alive, job.is_waiting, job.nodes) == ("EXPEDITING", True, True, "")
    record = slurm_output.parse_job_record(recorded(version, "show_job_expediting.txt"))
    assert record == JobRecord("EXPEDITING", 1, is_being_preempted=False)


@pytest.mark.parametrize("version", versions_with("show_job_running.txt"))
def test_recorded_job_records_are_parsed(version: str) -> None:
    shown = [recorded(version, f"show_job_{name}.txt") for name in ("running", "preempted")]
    records = [slurm_output.parse_job_record(text) for text in shown]
    assert all(record.end is not None for record in records)
    assert [dataclasses.replace(record, end=None) for record in records] == [
        JobRecord("RUNNING", 0, is_being_preempted=False),
        JobRecord("RUNNING", 0, is_being_preempted=True),
    ]
    accounted = recorded(version, "sacct_submit_line.txt")
    job = parse_batch_job("#!/bin/sh\n", recorded(version, "show_job_lines.txt"), accounted)
    assert (job.arguments, job.directory) == (("spec.yaml", "--name", "two", "words"), "/home/ada/runs")
    assert {"--partition=preempt", "--nodes=2", "--requeue"} <= set(job.options)


@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_estimate_is_parsed(version: str) -> None:
    estimate = slurm_output.parse_test_only(recorded(version, "test_only.txt"))
    assert estimate == StartEstimate(estimate.start, 2, "gpu[01-02]", "gpu")
    assert (estimate.start or "").startswith("2026-11-25T")


@pytest.mark.parametrize("version", versions_with("sinfo.txt"))
def test_other_recordings_are_parsed(version: str) -> None:
    assert slurm_output.parse_nodes_down(recorded(version, "sinfo.txt")) == ["gpu02"]
    assert slurm_output.parse_ping(recorded(version, "ping_up.txt"), "").available
    assert slurm_output.parse_ping(recorded(version, "ping_down.txt"), "") == SchedulerProbe(
        False, "the Slurm controller is down"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_only_too_large", "allocation failure: Requested node configuration is not available"),
        (
            "test_only_no_partition",
            "invalid partition specified: nosuch; allocation failure: Invalid partition name specified",
        ),
        (
            "submit_no_partition",
            "invalid partition specified: nosuch; Batch job submission failed: Invalid partition name specified",
        ),
        ("squeue_unknown_job", "Invalid job id specified"),
        ("requeue_unknown_job", "Invalid job id specified for job 999999"),
        ("squeue_no_controller", "Unable to contact slurm controller (connect failure)"),
    ],
)
@pytest.mark.parametrize("version", versions_with("squeue_no_controller.txt"))
def test_recorded_error_becomes_one_line(version: str, name: str, expected: str) -> None:
    assert slurm_output.error_text(recorded(version, f"{name}.txt")) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("10_2|PENDING|Priority||N/A|1-00:00:00|0:0|", JobState("10_2", "PENDING", "Priority", time_left_s=86400)),
        (f"13|COMPLETING|None|gpu01|{STARTED}|0:00|0|", JobState("13", "COMPLETING", "", "gpu01", STARTED, 0)),
        (f"12|CANCELLED|None|n1|{STARTED}|UNLIMITED|15|", JobState("12", "CANCELLED", "", "n1", STARTED, None, 0, 15)),
    ],
)
def test_unusual_line_of_squeue_is_parsed(line: str, expected: JobState) -> None:
    assert slurm_output.parse_squeue(line) == {expected.job_id: expected}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("7|FAILED||n1|2026-01-01T00:00:00|10:00|3:0|", {"state": "FAILED", "exit_code": 3, "exit_signal": 0}),
        ("7|FAILED||n1|2026-01-01T00:00:00|10:00|768|", {"exit_code": 3, "exit_signal": 0}),
        ("7|FAILED||n1|2026-01-01T00:00:00|10:00|139|", {"exit_code": 0, "exit_signal": 11}),
        ("7|FAILED||n1|2026-01-01T00:00:00|10:00|N/A|", {"exit_code": None, "exit_signal": None}),
        ("7|FAILED||n1|2026-01-01T00:00:00|10:00|4294967294|", {"exit_code": None}),  # Slurm's NO_VAL
        ("7|FAILED||n1|2026-01-01T00:00:00|10:00|-1|", {"exit_code": None}),
        ("7|FAILED", {"state": "FAILED", "exit_code": None, "nodes": ""}),  # columns are missing
        ("7|FAILED||n1|soon|INVALID|0:9||new column", {"start": None, "time_left_s": None, "exit_signal": 9}),
        ("7|RUNNING|None|n1|2026-01-01T00:00:00|3-|0:0|", {"time_left_s": None, "is_alive": True}),
        ("7||Resources||||", {"state": "?", "is_alive": True, "is_waiting": True}),
    ],
)
def test_unreadable_column_is_unknown(line: str, expected: dict[str, object]) -> None:
    """Since 23.02 the exit code is `3:0`; a traceback here ended status, submit, cancel and chain mode."""
    job = slurm_output.parse_squeue(line)["7"]
    assert {name: getattr(job, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (slurm_output.parse_squeue, "squeue: warning: something new\n\n7|RUNNING|None|n1|N/A|1:00|0:0|\n"),
        (slurm_output.parse_sacct, "sacct: warning: something new\n\n7|RUNNING|0:0|n1|Unknown\n"),
    ],
)
def test_warnings_between_lines_are_ignored(read, text: str) -> None:
    assert list(read(text)) == ["7"]


@pytest.mark.parametrize(
    ("state", "nodes", "waits", "lives"),
    [
        *((state, "", True, True) for state in ("PENDING", "CONFIGURING", "EXPEDITING", "POWER_UP_NODE")),
        *((state, "", True, True) for state in ("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")),
        *((state, "", True, True) for state in ("RESV_DEL_HOLD", "?", "A_STATE_OF_27_05")),
        *((state, "gpu01", False, True) for state in ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING")),
        *((state, "gpu01", False, True) for state in ("SUSPENDED", "STOPPED", "UPDATE_DB", "?", "A_STATE_OF_27_05")),
        *((state, "gpu01", False, False) for state in ("COMPLETED", "FAILED", "CANCELLED", "PREEMPTED", "TIMEOUT")),
        *((state, "gpu01", False, False) for state in ("OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")),
        *((state, "", False, False) for state in ("REVOKED", "RECONFIG_FAIL", "LAUNCH_FAILED", "UNKNOWN")),
    ],
)
def test_state_determines_is_waiting_and_is_alive(state: str, nodes: str, waits: bool, lives: bool) -> None:
    """A submitter that takes a job for dead because of an unknown state queues a second one into its directory."""
    job = JobState("1", state, nodes=nodes)
    assert (job.is_waiting, job.is_alive) == (waits, lives)


@pytest.mark.parametrize(
    ("stdout", "stderr", "expected"),
    [
        ("Slurmctld(primary) at head is UP\n", "", SchedulerProbe(True, "a Slurm controller answers")),
        ("Slurmctld(primary) at head is UP (2 ms)\n", "", SchedulerProbe(True, "a Slurm controller answers")),
        (
            "Slurmctld(primary) at head1 is DOWN\nSlurmctld(backup) at head2 is UP\n",
            "",
            SchedulerProbe(True, "a Slurm controller answers"),
        ),
        ("Slurmctld(primary) at head is DOWN\n*****\n", "", SchedulerProbe(False, "the Slurm controller is down")),
        (
            "",
            "scontrol: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n"
            "scontrol: fatal: Could not establish a configuration source\n",
            SchedulerProbe(
                False,
                "no Slurm controller answers (resolve_ctls_from_dns_srv: res_nsearch error: Unknown host; "
                "Could not establish a configuration source)",
            ),
        ),
        ("", "", SchedulerProbe(False, "no Slurm controller answers (scontrol printed nothing)")),
    ],
)
def test_ping_is_parsed(stdout: str, stderr: str, expected: SchedulerProbe) -> None:
    assert slurm_output.parse_ping(stdout, stderr) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "sbatch: Job 5 to start at 2026-11-25T18:01:57 using 2 processors on nodes gpu[01-02] in partition gpu\n",
            StartEstimate("2026-11-25T18:01:57", 2, "gpu[01-02]", "gpu"),
        ),
        (  # 25.11.7, 26.05.3
            "sbatch: Job 3 to start at 2026-11-25T18:01:57 a using 2 processors on nodes gpu[01-02] in partition low\n",
            StartEstimate("2026-11-25T18:01:57", 2, "gpu[01-02]", "low"),
        ),
        (
            "sbatch: Job 32 to start at 2026-11-25T18:01:57 on cluster far a using 16 processors on nodes gpu01 in "
            "partition gpu\n  Preempts: 5,6\n",
            StartEstimate("2026-11-25T18:01:57", 16, "gpu01", "gpu", "far"),
        ),
        ("sbatch: Job 3 would start some day\n", StartEstimate()),
        ("", StartEstimate()),
    ],
)
def test_sentence_of_test_only_is_parsed(text: str, expected: StartEstimate) -> None:
    assert slurm_output.parse_test_only(text) == expected


# What a job showed that was being preempted with grace, and one that Slurm had put back into the queue.
SHOWN_JOB = (
    "JobId=1 JobName=job.sh UserId=root(0) JobState={} Reason=None Dependency=(null) Requeue=1 Restarts={} BatchFlag=1 "
    "PreemptEligibleTime=2026-11-23T20:51:14 PreemptTime={} SuspendTime=None NodeList=gpu[01-02] BatchHost=gpu01 "
    "SubmitLine=sbatch --comment=JobState=COMPLETED Restarts=9 job.sh\n"
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (("RUNNING", "0", "2026-11-23T20:51:16"), JobRecord("RUNNING", 0, is_being_preempted=True)),
        (("RUNNING", "0", "None"), JobRecord("RUNNING", 0, is_being_preempted=False)),
        (("COMPLETING", "1", "None"), JobRecord("COMPLETING", 1, is_being_preempted=False)),
        (("RUNNING", "(null)", "N/A"), JobRecord("RUNNING", 0, is_being_preempted=False)),
        (("", "0", "None"), JobRecord("?", 0, is_being_preempted=False)),
    ],
)
def test_job_record_is_parsed(fields: tuple[str, str, str], expected: JobRecord) -> None:
    """SubmitLine, shown since 25.11, has text of the user and must be ignored."""
    assert slurm_output.parse_job_record(SHOWN_JOB.format(*fields)) == expected


def test_earlier_attempts_exclude_the_current_one() -> None:
    text = (
        "3|PREEMPTED|0:0|gpu[01-02]|2026-11-23T20:51:43\n"
        "3|NODE_FAIL|0:0|gpu[01-02]|2026-11-23T20:56:04\n"
        "3|CANCELLED by 0|0:0|gpu[01-02]|2026-11-23T20:57:16\n"
        "3|REQUEUED|0:0|gpu[01-02]|2026-11-23T20:57:30\n"
        "3||0:0|gpu01|Unknown\n3\n"
        "3|RUNNING|0:0|gpu[01-02]|2026-11-23T20:58:00\n"
        "3|PENDING|0:0|None assigned|Unknown\n"
    )
    earlier = slurm_output.parse_earlier_attempts(text)
    assert [start.state for start in earlier] == ["PREEMPTED", "NODE_FAIL", "CANCELLED", "REQUEUED"]
    assert earlier[1].began == earlier[0].began + 261


def test_nodes_that_are_down_or_without_response() -> None:
    shown = "gpu01|idle\ngpu01|idle\ngpu02|down*\ngpu03|mixed*\ngpu04|failing\nsinfo: something new\n"
    assert slurm_output.parse_nodes_down(shown) == ["gpu02", "gpu03", "gpu04"]


READERS = {
    "squeue": slurm_output.parse_squeue,
    "sacct": slurm_output.parse_sacct,
    "sacct of earlier starts": slurm_output.parse_earlier_attempts,
    "scontrol show job": slurm_output.parse_job_record,
    "scontrol show config": site.parse_site_settings,
    "scontrol show partition": site.parse_partitions,
    "sacctmgr show qos": site.parse_qos_limits,
    "sinfo": slurm_output.parse_nodes_down,
    "test-only": slurm_output.parse_test_only,
    "times": slurm_output.parse_slurm_time_s,
    "exit codes": slurm_output.parse_exit,
    "the command of a job": lambda text: parse_batch_job("", text, text),
}
FRAGMENTS = [
    "7",
    "RUNNING",
    "|",
    "=",
    ":",
    "\n",
    " ",
    "3-",
    "99999999999",
    "JobState=",
    "PartitionName=",
    "KillWait = x",
]
ODD_TEXT = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6), max_size=30).map("".join)


@pytest.mark.parametrize("name", READERS)
@settings(deadline=None, database=None, derandomize=True)
@given(text=ODD_TEXT)
def test_no_output_raises_an_error(name: str, text: str) -> None:
    """Next year's Slurm prints what nobody has seen; only text without any job or configuration is an error."""
    with contextlib.suppress(ClusterError):
        READERS[name](text)
