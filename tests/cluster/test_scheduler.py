"""Queries and changes of jobs: recorded output first, then the real cluster."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster
from waiting import wait_until

from hpc_yolo.cluster import scheduler, slurm_command
from hpc_yolo.cluster.batch_job import BatchJob
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.slurm_command import Finished
from hpc_yolo.cluster.slurm_output import JobState, SchedulerProbe, StartEstimate
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable

SQUEUE = """\
10_2      |PENDING   |Priority        |           |N/A                |1-00:00:00|0:0 |
8         |RUNNING   |None            |gpu[01-02] |2026-11-23T11:42:20|4:57      |0:0 |
9         |PENDING   |Resources       |           |2026-11-23T11:47:20|10:00     |0:0 |
"""
FORGOTTEN = Finished(1, "", "slurm_load_jobs error: Invalid job id specified\n")
NO_DATABASE = Finished(1, "", "sacct: error: Problem talking to the database: Connection refused\n")
NO_CONTROLLER = Finished(1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")


class Recorded:
    """Returns recorded output by command name and keeps the command lines."""

    def __init__(self, **answers: Finished) -> None:
        self.answers = answers
        self.commands: list[Sequence[str]] = []

    def __call__(self, arguments: Sequence[str], _timeout_s: float) -> Finished:
        self.commands.append(arguments)
        if arguments[0] not in self.answers:
            raise SchedulerUnavailable(f"Slurm's {arguments[0]} is not installed here")
        return self.answers[arguments[0]]


def test_jobs_are_queried_by_one_call_of_each_command() -> None:
    """Ten thousand calls once brought a controller down."""
    run = Recorded(squeue=Finished(0, SQUEUE, ""), sacct=Finished(0, "88|TIMEOUT|0:0|gpu01|2026-11-23T11:42:20\n", ""))
    jobs = scheduler.job_states(["8", "9", "8", "88", "99"], run=run)
    assert [arguments[0] for arguments in run.commands] == ["squeue", "sacct"]
    assert "--jobs=8,9,88,99" in run.commands[0]
    assert "--jobs=88,99" in run.commands[1]
    assert (jobs["88"].state, jobs["99"].state, jobs["99"].is_stale) == ("TIMEOUT", "UNKNOWN", False)


def test_sacct_is_not_queried_for_jobs_in_squeue() -> None:
    run = Recorded(squeue=Finished(0, SQUEUE, ""))
    jobs = scheduler.job_states(["8", "10"], run=run)
    assert [arguments[0] for arguments in run.commands] == ["squeue"]
    assert jobs["10_2"].is_waiting


def test_each_cluster_is_queried_for_its_own_jobs() -> None:
    """Two clusters of a site number their jobs alike."""

    def run(arguments: Sequence[str], _timeout_s: float) -> Finished:
        if "--clusters=gone" in arguments:
            return NO_CONTROLLER
        state = "RUNNING" if "--clusters=far" in arguments else "PENDING"
        line = f"8|{state}|None||N/A|1:00|0:0|\n"
        return Finished(0, line if arguments[0] == "squeue" else "", "")

    jobs = scheduler.job_states(["8", "8@far", "8@gone"], run=run)
    assert {address: (job.job_id, job.state) for address, job in jobs.items()} == {
        "8": ("8", "PENDING"),
        "8@far": ("8@far", "RUNNING"),
    }
    with pytest.raises(SchedulerUnavailable):
        scheduler.job_states(["8@gone"], run=run)


def test_jobs_of_another_cluster_are_ended_and_requeued_there() -> None:
    run = Recorded(scancel=Finished(0, "", ""), scontrol=Finished(0, "", ""), sbatch=Finished(0, "9;far\n", ""))
    scheduler.cancel(["7", "8_2@far", "9@far", "7"], run=run)
    scheduler.requeue("9@far", run=run)
    assert scheduler.submit_script(Path("job"), run=slurm_command.on_cluster("far", run)) == "9"
    assert [" ".join(arguments) for arguments in run.commands] == [
        "scancel --quiet 7",
        "scancel --clusters=far --quiet 8_2 9",
        "scontrol --clusters=far requeue 9",
        "sbatch --clusters=far --parsable job",
    ]


def test_job_id_is_found_behind_what_the_sbatch_of_a_site_prints() -> None:
    """The whole greeting was recorded as the id of the job, which could then be neither shown nor cancelled."""
    greeting = "-----\n  Welcome to Vista\n-----\n\n--> Verifying valid submit host (login1)...OK\n"
    run = Recorded(sbatch=Finished(0, f"{greeting}9;far\n", ""))
    assert scheduler.submit_script(Path("job"), run=run) == "9"
    run = Recorded(sbatch=Finished(0, greeting, ""))
    with pytest.raises(SchedulerUnavailable, match=r"sbatch printed no job id: -----\n  Welcome to Vista"):
        scheduler.submit_script(Path("job"), run=run)


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGKILL])
def test_requeue_succeeds_when_its_scontrol_ends_with_the_job(stop_signal: signal.Signals) -> None:
    """The requeue ends the job's processes, scontrol among them; the journal said "not queued again"."""
    scheduler.requeue("7", run=lambda *_: Finished(-stop_signal, "", ""))
    with pytest.raises(ClusterError, match="Job is not requeueable"):
        scheduler.requeue("7", run=lambda *_: Finished(1, "", "scontrol: error: Job is not requeueable"))


def test_no_jobs_need_no_query() -> None:
    run = Recorded()
    assert scheduler.job_states([], run=run) == {}
    scheduler.cancel([], run=run)
    assert run.commands == []


@pytest.mark.parametrize("sacct", [{}, {"sacct": NO_DATABASE}], ids=["sacct missing", "no database"])
def test_forgotten_job_without_accounting_is_unknown_and_stale(sacct: dict[str, Finished]) -> None:
    jobs = scheduler.job_states(["5"], run=Recorded(squeue=FORGOTTEN, **sacct))
    assert jobs == {"5": JobState("5", "UNKNOWN", is_stale=True)}


def test_job_alive_in_accounting_only_is_unknown() -> None:
    """A job lost in a controller's crash stays RUNNING in the database for ever."""
    sacct = Finished(0, "10_2|RUNNING|0:0|gpu01|2026-11-23T11:42:20\n", "")
    jobs = scheduler.job_states(["10_2"], run=Recorded(squeue=FORGOTTEN, sacct=sacct))
    assert jobs["10_2"] == JobState("10_2", "UNKNOWN")


@pytest.mark.parametrize(
    ("done", "kind", "message"),
    [
        (NO_CONTROLLER, SchedulerUnavailable, "squeue: Unable to contact slurm controller (connect failure)"),
        (Finished(1, "", "squeue: error: Invalid job id: abc\n"), ClusterError, "squeue: Invalid job id: abc"),
        (Finished(1, "", ""), ClusterError, "squeue: exit status 1 without a message"),
    ],
)
def test_error_has_the_message_of_slurm(done: Finished, kind: type[ClusterError], message: str) -> None:
    with pytest.raises(ClusterError) as caught:
        scheduler.job_states(["abc"], run=Recorded(squeue=done))
    assert type(caught.value) is kind
    assert caught.value.message == message


def test_machine_without_slurm_differs_from_controller_without_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`auto` must fall back to local processes at once, without an error."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert scheduler.probe() == SchedulerProbe(False, "sbatch is not installed here")
    with pytest.raises(SchedulerUnavailable, match="scontrol is not installed"):
        scheduler.show("config", 3.0)
    assert scheduler.probe(run=Recorded()).available is False


def test_command_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A controller that accepts connections and never answers must not block the command line."""
    for name in ("sbatch", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\nexec /bin/sleep 60\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    probe = scheduler.probe(timeout_s=0.2)
    assert probe == SchedulerProbe(False, "no Slurm controller answers (scontrol gave no answer within 0.2 s)")


def test_submission_waits_for_a_ping_as_long_as_for_a_query() -> None:
    """After 3 s, submit called Slurm unavailable on a login node with a load of ten."""
    waited_s: list[float] = []

    def run(_arguments: Sequence[str], timeout_s: float) -> Finished:
        waited_s.append(timeout_s)
        return Finished(0, "Slurmctld(primary) at head is UP\n", "")

    scheduler.require_available(run=run)
    assert waited_s == [scheduler.QUERY_TIMEOUT_S]


def test_commands_run_without_the_surrounding_job_and_in_the_c_locale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A user's SQUEUE_STATES or a German locale must not change the output."""
    command = tmp_path / "show"
    command.write_text("#!/bin/sh\nexec /usr/bin/env\n")
    command.chmod(0o755)
    for name in ("SQUEUE_STATES", "SACCT_FORMAT", "SLURM_TIME_FORMAT", "SLURM_CPU_BIND", "LC_ALL"):
        monkeypatch.setenv(name, "other")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    seen = slurm_command.run_command([str(command)], 5.0).stdout.splitlines()
    assert [line for line in seen if "other" in line] == []
    assert "LC_ALL=C" in seen
    assert "SLURM_CONF=/etc/slurm/slurm.conf" in seen


@pytest.mark.parametrize("locale", ["de_DE.UTF-8", None])
def test_job_gets_the_locale_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, locale: str | None) -> None:
    """sbatch passes its environment on: the setup, the stages and the tasks of each job ran with LC_ALL=C."""
    (tmp_path / "sbatch").write_text('#!/bin/sh\necho "${LC_ALL-none}"\n')
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("LC_ALL", raising=False)
    if locale is not None:
        monkeypatch.setenv("LC_ALL", locale)
    assert slurm_command.run_command(["sbatch"], 5.0).stdout == f"{locale or 'none'}\n"


# From here on nothing is recorded: tests/helpers/slurm_cluster.py is a real cluster.


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    def write(body: str) -> Path:
        path = tmp_path / "job.sh"
        path.write_text(f"#!/bin/sh\n#SBATCH --output=/dev/null\n{body}\n")
        return path

    return write


def state_of(job_id: str) -> JobState:
    return scheduler.job_states([job_id])[job_id]


def later(job_id: str) -> JobState:
    return scheduler.job_states([job_id], run=forgetful)[job_id]


def forgetful(arguments: Sequence[str], timeout_s: float) -> Finished:
    """The real cluster some minutes later, when squeue has forgotten what is over."""
    return FORGOTTEN if arguments[0] == "squeue" else slurm_command.run_command(arguments, timeout_s)


@pytest.fixture
def without_accounting(in_slurm: SlurmCluster) -> Iterator[SlurmCluster]:
    with in_slurm.without("slurmdbd"):
        yield in_slurm


def test_every_rank_of_a_real_step_has_its_position(in_slurm: SlurmCluster, tmp_path: Path) -> None:
    """Two nodes by two tasks: ranks on their nodes, and an address of rank 0 that resolves on both."""
    ask = f"(env; echo ADDRESS=$(getent hosts gpu01); echo HOST=$(hostname)) > {tmp_path}/$SLURM_PROCID"
    in_slurm.run("srun", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "sh", "-c", ask)
    for rank in range(4):
        environ = dict(line.split("=", 1) for line in (tmp_path / str(rank)).read_text().splitlines() if "=" in line)
        info = ProcessInfo.from_env(environ)
        assert (info.rank, info.node_rank, info.local_rank) == (rank, *divmod(rank, 2))
        assert (info.world_size, info.local_world_size, info.num_nodes) == (4, 2, 2)
        assert (info.launcher, info.attempt, info.master_port) == ("slurm", 1, None)
        assert info.master_addr == "gpu01"
        assert environ["ADDRESS"].split()[0] == "127.0.1.1"
        assert info.host == environ["HOST"] == f"gpu{info.node_rank + 1:02d}"
        assert environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_rank_0_has_its_own_host_if_the_node_list_begins_with_another(in_slurm: SlurmCluster, tmp_path: Path) -> None:
    """SLURM_HOSTFILE puts rank 0 on the list's second host; the list alone would send everybody to the first."""
    hosts = tmp_path / "hosts"
    hosts.write_text("gpu02\ngpu01\n")
    ask = "[ $SLURM_PROCID = 0 ] && env | grep ^SLURM"
    arguments = ["srun", "--ntasks=2", "--distribution=arbitrary", "sh", "-c", f"{ask}; true"]
    shown = in_slurm.run(*arguments, env={"SLURM_HOSTFILE": str(hosts)})
    info = ProcessInfo.from_env(dict(line.split("=", 1) for line in shown.splitlines()))
    assert (info.rank, info.master_addr) == (0, "gpu02")


def test_states_of_a_job_from_queue_to_exit(in_slurm: SlurmCluster, script: Callable[[str], Path]) -> None:
    job_id = scheduler.submit_script(script("exit 3"), ["--hold", "--nodes=2"])
    waiting = state_of(job_id)
    assert (waiting.state, waiting.reason, waiting.is_waiting) == ("PENDING", "JobHeldUser", True)
    in_slurm.run("scontrol", "release", job_id)
    in_slurm.wait_for_state(job_id, "FAILED")
    over = state_of(job_id)
    assert (over.state, over.exit_code, over.exit_signal) == ("FAILED", 3, 0)
    assert over.nodes == "gpu[01-02]"
    # Accounting hears of it a moment later.
    wait_until(lambda: later(job_id).state == "FAILED", "sacct to know", lambda: str(later(job_id)))
    assert (later(job_id).exit_code, later(job_id).exit_signal) == (3, 0)


def test_running_job_is_requeued_and_cancelled(in_slurm: SlurmCluster, script: Callable[[str], Path]) -> None:
    job_id = scheduler.submit_script(script("sleep 100"), ["--requeue", "--time=5"])
    in_slurm.wait_for_state(job_id, "RUNNING")
    running = state_of(job_id)
    assert running.time_left_s is not None
    assert 0 < running.time_left_s <= 300
    scheduler.requeue(job_id)
    in_slurm.wait_for_state(job_id, "PENDING")
    assert state_of(job_id).is_alive
    scheduler.cancel([job_id])
    in_slurm.wait_for_state(job_id, "CANCELLED")
    scheduler.cancel([job_id])  # over already: no error
    assert not state_of(job_id).is_alive


@pytest.mark.usefixtures("in_slurm")
def test_array_id_yields_all_tasks(script: Callable[[str], Path]) -> None:
    job_id = scheduler.submit_script(script("sleep 100"), ["--array=3-5", "--hold"])
    assert sorted(scheduler.job_states([job_id])) == [f"{job_id}_{task}" for task in (3, 4, 5)]
    assert list(scheduler.job_states([f"{job_id}_4"])) == [f"{job_id}_4"]


@pytest.mark.usefixtures("in_slurm")
def test_job_that_never_existed_is_unknown() -> None:
    assert state_of("999999") == JobState("999999", "UNKNOWN")


@pytest.mark.usefixtures("in_slurm")
def test_refusal_of_slurm_is_reported(script: Callable[[str], Path]) -> None:
    path = script("true")
    with pytest.raises(ClusterError, match="invalid partition specified: nosuch"):
        scheduler.submit_script(path, ["--partition=nosuch"])
    with pytest.raises(ClusterError, match="Invalid partition name specified"):
        scheduler.estimate_start(path.read_text(), ["--partition=nosuch"])
    with pytest.raises(ClusterError, match="Requested node configuration is not available"):
        scheduler.estimate_start(path.read_text(), ["--nodes=3"])
    with pytest.raises(ClusterError, match="Invalid job id specified") as caught:
        scheduler.requeue("999999")
    assert not isinstance(caught.value, SchedulerUnavailable)


def test_estimate_start_queues_nothing(in_slurm: SlurmCluster, script: Callable[[str], Path]) -> None:
    estimate = scheduler.estimate_start(script("true").read_text(), ["--nodes=2", "--partition=high"])
    assert estimate == StartEstimate(estimate.start, 2, "gpu[01-02]", "high")
    assert in_slurm.run("squeue", "--noheader") == ""


def test_states_without_the_database(without_accounting: SlurmCluster, script: Callable[[str], Path]) -> None:
    """slurmdbd is down more often than slurmctld; runs must be seen all the same."""
    job_id = scheduler.submit_script(script("exit 0"))
    without_accounting.wait_for_state(job_id, "COMPLETED")
    assert state_of(job_id).exit_code == 0
    assert later(job_id) == JobState(job_id, "UNKNOWN", is_stale=True)
    scheduler.require_available()


def test_queries_without_a_controller_time_out(
    in_slurm: SlurmCluster, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's own clients wait up to 18 s; a submission survives the outage and does not get "unknown job"."""
    scheduler.require_available()
    monkeypatch.setattr(scheduler, "QUERY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(scheduler, "CHANGE_TIMEOUT_S", 0.5)
    path = script("true")
    with in_slurm.without("slurmctld"):
        assert scheduler.probe(timeout_s=3.0) == SchedulerProbe(False, "the Slurm controller is down")
        for ask in (
            lambda: scheduler.job_states(["1"]),
            lambda: scheduler.show("partition", 0.5),
            lambda: scheduler.submit_script(path),
            lambda: scheduler.requeue("1"),
            lambda: scheduler.cancel(["1"]),
        ):
            with pytest.raises(SchedulerUnavailable):
                ask()
    in_slurm.wait_for_nodes()


SHOWN_JOB = (
    "JobId=7 JobName=args.sh\n   Account=vision QOS=normal\n   Partition=gpu TimeLimit=01:00:00\n"
    "   ExcNodeList=(null)\n   Command={}\n   WorkDir=/home/me/my data\n"
)


@pytest.mark.parametrize(
    ("command", "shown_line", "accounting", "options", "arguments"),
    [
        ("/home/me/a.sh spec.yaml --name a", "", "", (), ("spec.yaml", "--name", "a")),  # 22.05, no accounting
        (
            "/home/me/a.sh spec.yaml --name a",  # 22.05
            "",
            "sbatch -p high --comment=my run a.sh spec.yaml --name a",
            ("-p", "high", "--comment=my run"),
            ("spec.yaml", "--name", "a"),
        ),
        (
            "./a.sh",  # 23.02 to 25.05; as it was typed
            "",
            "sbatch --parsable --partition high --mail-user a@b c@d ./a.sh spec.yaml",
            ("--parsable", "--partition", "high", "--mail-user", "a@b c@d"),
            ("spec.yaml",),
        ),
        (
            "/home/me/a.sh",  # since 25.11
            "sbatch --output=/tmp/my  logs/%j -Wx /home/me/a.sh",
            "",
            ("--output=/tmp/my  logs/%j", "-Wx"),
            (),
        ),
        ("/home/me/a.sh", "", "sbatch --wrap hostname", (), ()),
        ("(null)", "sbatch --wrap=a.sh", "", (), ()),
    ],
)
def test_batch_job_of_every_slurm_version(command, shown_line, accounting, options, arguments):
    """Since 23.02 the command has no arguments any more: a successor trained the default spec."""
    shown = SHOWN_JOB.format(command) + (f"   SubmitLine={shown_line}\n" if shown_line else "")
    answers = {"write": Finished(0, "#!/bin/sh\ntrue\n", ""), "show": Finished(0, shown, "")}
    answers["--noheader"] = Finished(0, f"{accounting}\n", "") if accounting else NO_DATABASE
    job = scheduler.batch_job("7", run=lambda arguments, _timeout_s: answers[arguments[1]])
    settings = {"account": "vision", "partition": "gpu", "qos": "normal", "time": "01:00:00"}
    assert job == BatchJob("#!/bin/sh\ntrue\n", arguments, "/home/me/my data", options, settings)


def test_batch_job_waits_for_accounting(monkeypatch) -> None:
    """A busy controller tells the database late: the successor got another number of nodes and another log."""
    monkeypatch.setattr(scheduler, "ACCOUNTING_POLL_S", 0)
    answers = {"write": [Finished(0, "", "")], "show": [Finished(0, SHOWN_JOB.format("/home/me/a.sh"), "")]}
    answers["--noheader"] = [Finished(0, "", ""), Finished(0, "", ""), Finished(0, "sbatch -N 4 a.sh\n", "")]
    job = scheduler.batch_job("7", run=lambda arguments, _timeout_s: answers[arguments[1]].pop(0))
    assert job.options == ("-N", "4")


def test_earlier_attempts_without_accounting_are_empty() -> None:
    assert scheduler.earlier_attempts("3", run=lambda *_: Finished(1, "", "no accounting")) == []


@pytest.mark.parametrize("printed", ["sbatch: Job 5 to start at 2026-11-25T18:01:57 a using 2 pro", "new words", ""])
def test_estimate_start_depends_on_the_exit_status_only(printed: str) -> None:
    """Since 25.05 the sentence is another one; a good job was called refused."""
    scheduler.estimate_start("#!/bin/sh", run=lambda *_: Finished(0, "", printed))


def test_requeued_job_avoids_an_excluded_node(in_slurm: SlurmCluster) -> None:
    """The order says so right after it was put back, while its tasks are still being ended."""
    job_id = in_slurm.submit("#!/bin/sh\nsleep 60\n", "--nodes=1", "--requeue")
    in_slurm.wait_for_state(job_id, "RUNNING")
    scheduler.requeue(job_id)
    scheduler.exclude_nodes(job_id, ["gpu01"])
    assert "ExcNodeList=gpu01" in in_slurm.run("scontrol", "show", "job", job_id)
    in_slurm.wait_for_state(job_id, "RUNNING")
    assert "NodeList=gpu02" in in_slurm.run("scontrol", "show", "job", job_id).split()


@pytest.mark.parametrize(
    ("printed", "names"),
    [
        ("normal\n", ["normal"]),
        ("normal,high\nhigh,long\n\n", ["normal", "high", "long"]),  # a line for each account
        ("", []),
    ],
)
def test_qualities_of_service_of_a_user_are_listed_once(printed: str, names: list[str]) -> None:
    run = Recorded(sacctmgr=Finished(0, printed, ""))
    assert scheduler.show_user_qos("ada", 1.0, run=run) == names
    assert "user=ada" in run.commands[0]
    assert "format=QOS" in run.commands[0]
    with pytest.raises(ClusterError):
        scheduler.show_user_qos("ada", 1.0, run=Recorded(sacctmgr=NO_DATABASE))
