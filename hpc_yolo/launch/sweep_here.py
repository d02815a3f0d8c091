"""The trials of a sweep on this machine: one after the other, or several at once on GPUs of their own."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.errors import ClusterError, HpcYoloError, RunError
from hpc_yolo.core.units import counted
from hpc_yolo.launch.local_gpus import visible_gpus
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.launch.sweep import SweepPlan, prepare_sweep
from hpc_yolo.launch.trial import spent_budget, trial_spec
from hpc_yolo.runs.sweep import TrialRecord
from hpc_yolo.spec.trials import shown

INTERRUPTED = 130


def run_trials_here(plan: SweepPlan, *, parallel: int, is_silent: bool, say: Callable[[str], None]) -> int:
    """Run the trials of `plan` that are to start; return the exit code of the last one that failed, else 0.

    Args:
        parallel: how many run at once; several print a line each when they end.
        is_silent: print no progress.
        say: prints a line.

    Raises:
        ClusterError: there are not as many GPUs.
    """
    slots = gpu_slots(plan, parallel)
    prepare_sweep(plan)
    waiting: queue.SimpleQueue[TrialRecord] = queue.SimpleQueue()
    for trial in plan.to_start:
        waiting.put(trial)
    codes: list[int] = []
    workers = [
        threading.Thread(target=_work, args=(plan, waiting, gpus, codes, is_silent or parallel > 1, say))
        for gpus in slots
    ]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:  # the trials have it too: they save and end
        codes.append(INTERRUPTED)
        for worker in workers:
            worker.join()
    failed = [code for code in codes if code]
    if INTERRUPTED in failed:
        say(f"stopped; submit the spec again to continue, or see hpc-yolo sweep table {plan.sweep.word}")
        return INTERRUPTED
    if failed:
        say(f"{counted(len(failed), 'trial')} failed; hpc-yolo sweep table {plan.sweep.word}")
    return failed[-1] if failed else 0


def gpu_slots(plan: SweepPlan, parallel: int) -> list[Sequence[str] | None]:
    """Return the GPUs of each of `parallel` trials that run at once; None: all that this machine has.

    Raises:
        ClusterError: there are not as many.
    """
    if parallel == 1 or not plan.job.gpus_per_node:
        return [None] * parallel
    gpus, each = visible_gpus(current_environment()), plan.job.spec.cluster.gpus_per_node
    if len(gpus) < parallel * each:
        raise ClusterError(
            f"--parallel {parallel}: {counted(each, 'GPU')} for each trial, and this machine has {len(gpus)}",
            hint=f"--parallel {max(len(gpus) // each, 1)}, or a lower --gpus-per-node",
        )
    return [gpus[index * each : (index + 1) * each] for index in range(parallel)]


def _work(
    plan: SweepPlan,
    waiting: queue.SimpleQueue[TrialRecord],
    gpus: Sequence[str] | None,
    codes: list[int],
    is_silent: bool,
    say: Callable[[str], None],
) -> None:
    """Run trials until none waits, or one was interrupted."""
    while INTERRUPTED not in codes:
        try:
            trial = waiting.get_nowait()
        except queue.Empty:
            return
        codes.append(_run(plan, trial, gpus, is_silent=is_silent, say=say))


def _run(
    plan: SweepPlan, trial: TrialRecord, gpus: Sequence[str] | None, *, is_silent: bool, say: Callable[[str], None]
) -> int:
    """Run one trial in a process of its own; return its exit code."""
    run = plan.sweep.trial(trial.name)
    try:
        if not run.exists:
            if spent := spent_budget(plan.sweep):
                say(f"trial {trial.name} does not start: {spent}")
                return 0
            prepare_run(run, trial_spec(plan.sweep, run))
    except (HpcYoloError, OSError) as error:  # a file that has been removed, a full disk
        say(f"trial {trial.name} does not start: {error}")
        return error.exit_code if isinstance(error, HpcYoloError) else RunError.exit_code
    environ = dict(current_environment())
    if gpus is not None:
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    say(f"trial {trial.name}: {shown(trial.values or plan.sweep.drawn_values(trial.name))}")
    command = [sys.executable, "-m", "hpc_yolo", "submit", str(run.spec), "--local", *(["--wait"] if is_silent else [])]
    done = subprocess.run(command, env=environ, check=False, text=True, capture_output=is_silent)
    code = INTERRUPTED if done.returncode < 0 else done.returncode
    if code not in (0, INTERRUPTED) and is_silent:
        say(done.stderr.rstrip())
    say(f"trial {trial.name}: {'finished' if code == 0 else f'ended with exit code {code}'}")
    return code
