"""Record what a version of Slurm prints, on a cluster started for it: the text for the tests of the parsers.

    python tests/helpers/record_slurm.py                                                  # the installed Slurm
    python tests/helpers/slurm_root.py 26.05 .venv/bin/python tests/helpers/record_slurm.py

writes `tests/cluster/recorded/VERSION/` and takes four minutes. The queries are made by the package's own functions, so
every file holds the reply to the command that the package runs. Names and paths of this machine are replaced.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from slurm_cluster import SlurmCluster, unavailable_reason
from slurm_daemons import installed_version
from waiting import wait_until

from hpc_yolo.cluster import scheduler, site, slurm_command
from hpc_yolo.cluster.slurm_command import Finished
from hpc_yolo.core.errors import ClusterError

RECORDED = Path(__file__).parents[1] / "cluster" / "recorded"
FORGOTTEN = Finished(1, "", "slurm_load_jobs error: Invalid job id specified\n")
BY_NAME = re.compile(r"^(SLURM|CUDA|GPU|PMI|ROCR|ZE_)")
EXPEDITE_SINCE = (25, 11)
TWO_BY_TWO = ("--nodes=2", "--ntasks-per-node=2")
KEEP_RUNNING = "#!/bin/sh\ntrap '' TERM\nsleep 600 &\nwhile :; do wait; done\n"

ENVIRONMENTS = """\
#!/bin/bash
env > {0}/batch_script
srun sh -c 'case $SLURM_PROCID in [03]) env > {0}/srun_rank$SLURM_PROCID;; esac'
srun --nodes=1 --ntasks=1 sh -c 'env > {0}/one_task_step_of_a_larger_job'
"""
ARRAY_TASK = """\
#!/bin/bash
[ "$SLURM_RESTART_COUNT" ] || sleep 600
srun sh -c '[ $SLURM_PROCID != 3 ] || env > {0}/array_task_requeued_rank3'
"""


class Recording:
    """A cluster, and the directory that its replies are written to."""

    def __init__(self, cluster: SlurmCluster, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory
        self.scripts = cluster.directory / "scripts"
        self.scripts.mkdir()

    def saved(self, name: str, word: str = "") -> slurm_command.Run:
        """Return a function that runs commands and writes the output of those that contain `word`."""

        def run(command: Sequence[str], timeout_s: float) -> Finished:
            answer = slurm_command.run_command(command, max(timeout_s, 30.0))
            if not word or word in command:
                self.write(f"{name}.txt", answer.stdout + answer.stderr)
            return answer

        return run

    def only_accounting(self, name: str) -> slurm_command.Run:
        """Return a function like `saved` for which squeue has no job."""
        ask = self.saved(name)
        return lambda command, timeout_s: FORGOTTEN if command[0] == "squeue" else ask(command, timeout_s)

    def write(self, name: str, text: str) -> None:
        for seen, shown in (
            (str(self.scripts), "/home/ada/runs"),
            (str(self.cluster.directory), "/srv/slurm"),
            (str(Path(__file__).resolve().parents[2]), "/home/ada/hpc-yolo"),
        ):
            text = text.replace(seen, shown)
        text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "login1", text)
        (self.directory / name).write_text(re.sub(r"\blocalhost\b", "login1", text))

    def submit(self, name: str, text: str, *options: str, arguments: Sequence[str] = ()) -> str:
        """Queue a script; return its job id."""
        path = self.scripts / f"{name}.sh"
        path.write_text(text)
        path.chmod(0o755)
        log = f"--output={self.scripts}/%j.log"
        command = ["sbatch", "--parsable", log, *options, str(path), *arguments]
        return self.cluster.run(*command, cwd=str(self.scripts)).strip()

    def write_environments(self) -> None:
        for path in sorted(self.scripts.iterdir()):
            if not path.suffix:
                lines = [line for line in path.read_text().splitlines() if BY_NAME.match(line)]
                self.write(f"{path.name}.env", "".join(f"{line}\n" for line in sorted(lines)))


def record(cluster: SlurmCluster, directory: Path) -> None:
    """Run jobs that end in every way, and write what Slurm prints about them."""
    recording = Recording(cluster, directory)
    submit, wait = recording.submit, cluster.wait_for_state
    ends = {
        "fails": submit("fails", "#!/bin/sh\nexit 3\n"),
        "cancelled": submit("cancelled", "#!/bin/sh\nsleep 600\n", "--nodes=2"),
        "cancelled_waiting": submit("cancelled_waiting", "#!/bin/sh\n", "--hold"),
        "killed": submit("killed", "#!/bin/sh\nkill -9 $$\n"),
        "times_out": submit("times_out", "#!/bin/sh\nsleep 600\n", "--time=1"),
        "completes": submit("completes", ENVIRONMENTS.format(recording.scripts), *TWO_BY_TWO, "--gpus-per-node=2"),
    }
    wait(ends["cancelled"], "RUNNING")
    scheduler.cancel([ends["cancelled"], ends["cancelled_waiting"]])
    ask = ["salloc", "--ntasks=4", "--nodes=2", "sh", "-c", f"env > {recording.scripts}/salloc_shell"]
    cluster.run(*ask, cwd=str(recording.scripts))
    array = submit("array", ARRAY_TASK.format(recording.scripts), *TWO_BY_TWO, "--array=3-4", "--requeue")
    for task in (3, 4):
        wait(f"{array}_{task}", "RUNNING")
        scheduler.requeue(f"{array}_{task}")
        wait(f"{array}_{task}", "COMPLETED")
    for name, state in (("completes", "COMPLETED"), ("times_out", "TIMEOUT")):
        wait(ends[name], state)
    recording.write_environments()

    arguments = ["spec.yaml", "--name", "two words"]
    often = submit("often", KEEP_RUNNING, "--partition=preempt", "--nodes=2", "--requeue", arguments=arguments)
    record_lives_of_a_job(recording, often)
    submit("holds_a_place", "#!/bin/sh\nsleep 600\n", "--nodes=1", "--partition=high")
    waits = [submit("held", "#!/bin/sh\n", "--hold"), submit("held_array", "#!/bin/sh\n", "--hold", "--array=3-5")]
    runs = submit("runs", "#!/bin/sh\nsleep 600\n", "--nodes=2", "--time=1-00:00:00", "--partition=gpu", "--hold")
    cluster.run("scontrol", "update", f"JobId={runs}", "TimeLimit=50:00")
    cluster.run("scontrol", "release", runs)
    wait(runs, "RUNNING")
    wanted = [*ends.values(), array, often, *waits, runs]
    scheduler.job_states(wanted, run=recording.saved("squeue"))
    wait_until(lambda: "PENDING" in cluster.run("sacct", "-nX", f"--jobs={waits[1]}"), "accounting to know")
    scheduler.job_states(wanted, run=recording.only_accounting("sacct"))
    record_settings(recording)
    cluster.cancel_all()


def record_lives_of_a_job(recording: Recording, job_id: str) -> None:
    """Preempt a job, requeue it, take a node from it, and cancel it."""
    cluster, wait = recording.cluster, recording.cluster.wait_for_state
    wait(job_id, "RUNNING")
    scheduler.job_record(job_id, run=recording.saved("show_job_running"))
    asked = ("sacct", "-nXP", f"--jobs={job_id}", "--format=SubmitLine")
    wait_until(lambda: cluster.run(*asked).strip() != "", "accounting to know")
    scheduler.batch_job(job_id, run=recording.saved("show_job_lines", "show"))
    scheduler.batch_job(job_id, run=recording.saved("sacct_submit_line", "sacct"))
    preemptor = recording.submit("preempts", "#!/bin/sh\n", "--partition=high", "--nodes=2", "--exclusive")
    wait_until(lambda: scheduler.job_record(job_id).is_being_preempted, "the preemption")
    scheduler.job_record(job_id, run=recording.saved("show_job_preempted"))
    wait(preemptor, "COMPLETED")
    wait(job_id, "RUNNING")
    scheduler.requeue(job_id)
    wait(job_id, "PENDING")
    wait(job_id, "RUNNING")
    cluster.lose_node("gpu02")
    wait_until(lambda: scheduler.nodes_down(cluster.nodes) == ["gpu02"], "the node to be lost")
    scheduler.nodes_down(cluster.nodes, run=recording.saved("sinfo"))
    wait(job_id, "PENDING")
    cluster.start_daemon("gpu02")
    cluster.run("scontrol", "update", "NodeName=gpu02", "State=RESUME", check=False)
    wait(job_id, "RUNNING")
    scheduler.cancel([job_id])
    wait(job_id, "CANCELLED")
    wait_until(
        lambda: [start.state for start in scheduler.earlier_attempts(job_id)][-1:] == ["CANCELLED"],
        "the accounts to be complete",
    )
    scheduler.earlier_attempts(job_id, run=recording.saved("sacct_duplicates"))


def record_settings(recording: Recording) -> None:
    """Write the configuration, and the replies to queries that are not about jobs."""
    cluster = recording.cluster
    site.site_settings(run=recording.saved("show_config"))
    site.partitions(run=recording.saved("show_partition"))
    cluster.run(
        *("sacctmgr", "--immediate", "add", "qos", "scavenge", "set"),
        *("GraceTime=150", "PreemptMode=requeue", "MaxWall=30", "Flags=PartitionTimeLimit"),
    )
    site.qos_limits(run=recording.saved("show_qos"))
    script = recording.scripts / "fails.sh"
    text = script.read_text()
    scheduler.estimate_start(text, ["--nodes=2"], run=recording.saved("test_only"))
    refused: list[tuple[str, Callable[[slurm_command.Run], object]]] = [
        ("test_only_too_large", lambda run: scheduler.estimate_start(text, ["--nodes=3"], run=run)),
        (
            "test_only_no_partition",
            lambda run: scheduler.estimate_start(text, ["--partition=nosuch"], run=run),
        ),
        ("submit_no_partition", lambda run: scheduler.submit_script(script, ["--partition=nosuch"], run=run)),
        ("squeue_unknown_job", lambda run: scheduler.job_states(["999999"], run=run)),
        ("requeue_unknown_job", lambda run: scheduler.requeue("999999", run=run)),
    ]
    scheduler.probe(run=recording.saved("ping_up"))
    for name, ask in refused:
        try:
            ask(recording.saved(name, "squeue" if name.startswith("squeue") else ""))
        except ClusterError as error:
            print(f"{name}: {error.message}")
    with cluster.without("slurmctld"):
        scheduler.probe(timeout_s=30.0, run=recording.saved("ping_down"))
        try:
            scheduler.job_states(["1"], run=recording.saved("squeue_no_controller"))
        except ClusterError as error:
            print(f"squeue_no_controller: {error.message}")


def record_expedited_requeue(cluster: SlurmCluster, directory: Path) -> None:
    """Write what Slurm prints about a job that waits for its lost node with --requeue=expedite."""
    recording = Recording(cluster, directory)
    site.site_settings(run=recording.saved("show_config_expedite"))
    job_id = recording.submit("expedited", KEEP_RUNNING, "--requeue=expedite", "--nodes=2")
    cluster.wait_for_state(job_id, "RUNNING")
    cluster.lose_node("gpu02")
    cluster.run("scontrol", "update", "NodeName=gpu02", "State=DOWN", "Reason=lost")
    cluster.wait_for_state(job_id, "EXPEDITING")
    scheduler.job_states([job_id], run=recording.saved("squeue_expediting"))
    scheduler.job_record(job_id, run=recording.saved("show_job_expediting"))


def main() -> None:
    if reason := unavailable_reason():
        raise SystemExit(reason)
    shown = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=True).stdout
    directory = RECORDED / shown.split()[-1]
    directory.mkdir(parents=True, exist_ok=True)
    with_cluster({}, record, directory)
    if (installed_version() or (0, 0)) >= EXPEDITE_SINCE:
        with_cluster({"SlurmctldParameters": "enable_expedited_requeue"}, record_expedited_requeue, directory)
    print(f"written: {directory}", file=sys.stderr)


def with_cluster(settings: Mapping[str, str], action: Callable[[SlurmCluster, Path], None], directory: Path) -> None:
    """Call `action` with a cluster of these settings, and with `directory`."""
    cluster = SlurmCluster(settings=settings)
    cluster.start()
    os.environ.update(cluster.environment)
    try:
        action(cluster, directory)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
