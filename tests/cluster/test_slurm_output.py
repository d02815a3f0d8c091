"""What Slurm's commands print, read into types: recorded text, and what later versions may print."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_yolo.cluster import site, slurm_output
from hpc_yolo.cluster.slurm_output import JobRecord, JobState, SchedulerProbe, StartEstimate
from hpc_yolo.errors import ClusterError

# Printed by Slurm 22.05.8 (widths shortened): squeue's last column is a status of wait(2).
SQUEUE = """\
7         |FAILED    |NonZeroExitCode |gpu01      |2026-11-23T11:42:20|10:00     |768 |
9         |PENDING   |Resources       |           |2026-11-23T11:47:20|10:00     |0   |
10_2      |PENDING   |Priority        |           |N/A                |1-00:00:00|0   |
8         |RUNNING   |None            |gpu[01-02] |2026-11-23T11:42:20|4:57      |0   |
12        |CANCELLED |None            |gpu[01-02] |2026-11-23T11:42:20|UNLIMITED |15  |
13        |COMPLETING|None            |gpu01      |2026-11-23T11:42:20|0:00      |0   |
"""
# Printed by Slurm 25.11.7 and 26.05.3: code:signal.
SQUEUE_SINCE_23_02 = """\
          30|  CANCELLED|                 None|      gpu[01-02]|  2026-11-25T18:01:47|        9:52|        0:15|
          29|     FAILED|      NonZeroExitCode|           gpu01|  2026-11-25T18:01:47|       10:00|         3:0|
          31|    PENDING|          JobHeldUser|                |                  N/A|       10:00|         0:0|
"""
SACCT = """\
7|FAILED|3:0|gpu01|2026-11-23T11:42:20
8|CANCELLED by 0|0:15|gpu[01-02]|2026-11-23T11:42:20
9|CANCELLED by 0|0:0|None assigned|None
10_2|RUNNING|0:0|gpu01|2026-11-23T11:42:20
"""
STARTED = "2026-11-23T11:42:20"


@pytest.mark.parametrize(
    ("text", "job"),
    [
        (SQUEUE, JobState("7", "FAILED", "NonZeroExitCode", "gpu01", STARTED, None, 3, 0)),
        (SQUEUE, JobState("9", "PENDING", "Resources", "", "2026-11-23T11:47:20", 600)),
        (SQUEUE, JobState("10_2", "PENDING", "Priority", "", None, 86400)),
        (SQUEUE, JobState("8", "RUNNING", "", "gpu[01-02]", STARTED, 297)),
        (SQUEUE, JobState("12", "CANCELLED", "", "gpu[01-02]", STARTED, None, 0, 15)),
        (SQUEUE, JobState("13", "COMPLETING", "", "gpu01", STARTED, 0)),
        (
            SQUEUE_SINCE_23_02,
            JobState("29", "FAILED", "NonZeroExitCode", "gpu01", "2026-11-25T18:01:47", None, 3, 0),
        ),
        (SQUEUE_SINCE_23_02, JobState("30", "CANCELLED", "", "gpu[01-02]", "2026-11-25T18:01:47", None, 0, 15)),
        (SQUEUE_SINCE_23_02, JobState("31", "PENDING", "JobHeldUser", "", None, 600)),
    ],
    ids=lambda value: value.job_id if isinstance(value, JobState) else "",
)
def test_squeue_is_read(text: str, job: JobState) -> None:
    assert slurm_output.parse_squeue(text)[job.job_id] == job


@pytest.mark.parametrize(
    "job",
    [
        JobState("7", "FAILED", "", "gpu01", STARTED, None, 3, 0),
        JobState("8", "CANCELLED", "by 0", "gpu[01-02]", STARTED, None, 0, 15),
        JobState("9", "CANCELLED", "by 0", "", None, None, 0, 0),
        JobState("10_2", "RUNNING", "", "gpu01", STARTED),
    ],
    ids=lambda job: job.job_id,
)
def test_sacct_is_read(job: JobState) -> None:
    assert slurm_output.parse_sacct(SACCT)[job.job_id] == job


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
def test_an_unreadable_column_is_unknown(line: str, expected: dict[str, object]) -> None:
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
def test_warnings_among_the_lines_are_no_jobs(read, text: str) -> None:
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
def test_a_state_says_whether_the_job_waits_and_lives(state: str, nodes: str, waits: bool, lives: bool) -> None:
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
        ("", "", SchedulerProbe(False, "no Slurm controller answers (scontrol is silent)")),
    ],
)
def test_a_ping_is_read(stdout: str, stderr: str, expected: SchedulerProbe) -> None:
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
def test_the_sentence_of_test_only_is_read(text: str, expected: StartEstimate) -> None:
    assert slurm_output.parse_test_only(text) == expected


# What a job showed that was being preempted with grace, and one that Slurm had put back into the queue.
SHOWN_JOB = (
    "JobId=1 JobName=job.sh UserId=root(0) JobState={} Reason=None Dependency=(null) Requeue=1 Restarts={} BatchFlag=1 "
    "PreemptEligibleTime=2026-11-23T20:51:14 PreemptTime={} SuspendTime=None NodeList=gpu[01-02] BatchHost=gpu01 "
    "SubmitLine=sbatch --comment=JobState=COMPLETED Restarts=9 job.sh\n"
)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("RUNNING", "0", "2026-11-23T20:51:16"), JobRecord("RUNNING", 0, is_being_preempted=True)),
        (("RUNNING", "0", "None"), JobRecord("RUNNING", 0, is_being_preempted=False)),
        (("COMPLETING", "1", "None"), JobRecord("COMPLETING", 1, is_being_preempted=False)),
        (("RUNNING", "(null)", "N/A"), JobRecord("RUNNING", 0, is_being_preempted=False)),
        (("", "0", "None"), JobRecord("?", 0, is_being_preempted=False)),
    ],
)
def test_what_the_controller_holds_of_a_job_is_read(words: tuple[str, str, str], expected: JobRecord) -> None:
    """SubmitLine, shown since 25.11, holds text of the person's own and must not count."""
    assert slurm_output.parse_job_record(SHOWN_JOB.format(*words)) == expected


def test_earlier_starts_of_a_job_are_kept_apart_from_the_one_under_way() -> None:
    text = (
        "3|PREEMPTED|0:0|gpu[01-02]|2026-11-23T20:51:43\n"
        "3|NODE_FAIL|0:0|gpu[01-02]|2026-11-23T20:56:04\n"
        "3|CANCELLED by 0|0:0|gpu[01-02]|2026-11-23T20:57:16\n"
        "3|REQUEUED|0:0|gpu[01-02]|2026-11-23T20:57:30\n"
        "3||0:0|gpu01|Unknown\n3\n"
        "3|RUNNING|0:0|gpu[01-02]|2026-11-23T20:58:00\n"
        "3|PENDING|0:0|None assigned|Unknown\n"
    )
    assert slurm_output.parse_earlier_states(text) == ["PREEMPTED", "NODE_FAIL", "CANCELLED", "REQUEUED"]


def test_nodes_that_are_down_or_silent_are_named() -> None:
    shown = "gpu01|idle\ngpu01|idle\ngpu02|down*\ngpu03|mixed*\ngpu04|failing\nsinfo: something new\n"
    assert slurm_output.parse_nodes_down(shown) == ["gpu02", "gpu03", "gpu04"]


READERS = {
    "squeue": slurm_output.parse_squeue,
    "sacct": slurm_output.parse_sacct,
    "sacct of earlier starts": slurm_output.parse_earlier_states,
    "scontrol show job": slurm_output.parse_job_record,
    "scontrol show config": site.parse_site_settings,
    "scontrol show partition": site.parse_partitions,
    "sacctmgr show qos": site.parse_qos_limits,
    "sinfo": slurm_output.parse_nodes_down,
    "test-only": slurm_output.parse_test_only,
    "times": slurm_output.parse_slurm_time_s,
    "exit codes": slurm_output.parse_exit,
    "the command of a job": lambda text: slurm_output.parse_batch_job("", text, text),
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
def test_no_output_of_slurm_raises(name: str, text: str) -> None:
    """Next year's Slurm prints what nobody has seen; only text without any job or configuration is an error."""
    with contextlib.suppress(ClusterError):
        READERS[name](text)
