"""The sbatch script of a spec. All options are chosen here: submit, dry run, render and the templates use them.

docs/slurm.md explains each option.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence

from hpc_yolo.cluster.container import ContainerCommand
from hpc_yolo.cluster.env_values import shell_text
from hpc_yolo.core.units import parse_limit_s
from hpc_yolo.core.variables import variables_in
from hpc_yolo.runs.save_times import SaveTimes
from hpc_yolo.spec.schema import ClusterSpec

DEFAULT_SIGNAL_BEFORE_S = 120
SLOW_SAVE_FACTOR = 3  # a shared file system may be slower than in the measured saves
REQUEUE_MARGIN_S = 30  # time that a busy controller takes for `scontrol requeue`
SRUN_WAIT_S = 60
USER_SIGNAL = "USR2"  # NCCL has intercepted USR1
DEFAULT_SETUP_RECORD = '"${TMPDIR:-/tmp}/hpc-yolo-$SLURM_JOB_ID.setup"'


def script(
    name: str,
    cluster: ClusterSpec,
    task: str,
    afterwards: str,
    *,
    log: str,
    save_times: SaveTimes | None = None,
    setup_record: str = DEFAULT_SETUP_RECORD,
    after_failed_setup: str | None = None,
    container: ContainerCommand | None = None,
    before: str | None = None,
    beside: Sequence[str] = (),
    array: str | None = None,
) -> str:
    """Return the whole script: options, setup lines, environment, one srun with one task per GPU, and the last command.

    Args:
        name: of the job.
        task: command of every task, as shell text.
        afterwards: command that decides whether the job is requeued, as shell text; it gets the exit status of srun.
        log: file for the output of the job and all tasks, each line with its rank; %j is the job id.
        save_times: measured in the run so far; see `signal_before_s`.
        setup_record: file that holds the number of the current setup line, as shell text.
        after_failed_setup: replaces `afterwards` where the setup ended before the tasks, in the environment of the job.
        container: of the tasks; `task` then begins with its Python.
        before: command that runs before the tasks, as shell text; where it fails they do not start.
        beside: commands that run on the first node while the tasks run, as shell text.
        array: tasks of an array of jobs, as sbatch takes them.
    """
    first = [*(f"{command} &" for command in beside), *([f"{before} &&"] if before else [])]
    tasks = " ".join([*srun_command(cluster, container), task])
    return batch_script(
        {**sbatch_options(name, cluster, log, save_times), **({} if array is None else {"array": array})},
        cluster,
        [*first, tasks, f"{afterwards} --exit-code $?"],
        setup_record=setup_record,
        after_failed_setup=after_failed_setup or afterwards,
    )


def batch_script(
    options: Mapping[str, str | bool | None],
    cluster: ClusterSpec,
    commands: Sequence[str],
    *,
    setup_record: str,
    after_failed_setup: str,
) -> str:
    """Return a script with `options` that runs `commands`, as shell text, after the setup and with the environment.

    Args:
        options: of sbatch.
        cluster: has setup, environment and shell.
        commands: the last of them is the last command of the script.
        setup_record, after_failed_setup: see `script`.
    """
    guarded = [*cluster.module_lines, *cluster.setup_lines, *dependent_exports(cluster)]
    exports = ["export PATH"] if "export-file" in cluster.sbatch else []  # bash sets one that the file may not have
    exports += [] if dependent_exports(cluster) else _exports(cluster)
    *first, last = commands
    body = [*exports, *([""] if exports else []), *first]
    if guarded:
        body = _after_setup(guarded, [*body, last], setup_record, after_failed_setup)
    else:
        body.append(f"exec {last}")
    shell = "#!/bin/bash -l" if cluster.login_shell else "#!/bin/bash"
    return "\n".join([shell, *flag_lines(options), "", *body, ""])


def dependent_exports(cluster: ClusterSpec) -> list[str]:
    """Return the lines that set `cluster.env` if a value depends on a variable; they fail like lines of the setup."""
    depends = any(variables_in(value) for value in cluster.env.values())
    return "\n".join(_exports(cluster)).split("\n") if depends else []


def _exports(cluster: ClusterSpec) -> list[str]:
    return [f"export {name}={shell_text(f'cluster.env.{name}', value)}" for name, value in cluster.env.items()]


def _after_setup(setup: Sequence[str], body: Sequence[str], record: str, after_failed_setup: str) -> list[str]:
    """Return the lines that run `setup`, then `body`, and always reach the last command.

    Both run in a subshell, so that neither exit, exec, set -e nor a trap of the setup ends the script. The setup lines
    are sourced, so that a syntax error is a failure like any other. The ERR trap ends the subshell at the first line
    that fails; it ignores failures inside of functions and of sourced files.
    """
    delimiter = "SETUP"
    while delimiter in setup:
        delimiter += "_"
    return [
        "# cluster.setup and the tasks in a subshell: whatever the setup does, the last line of the script is reached.",
        "# The number of the setup line that runs is kept in a file, which is removed after the last one.",
        f"HPC_YOLO_SETUP={record}",
        ': >"$HPC_YOLO_SETUP"',
        "(",
        "# Depth 1 is the source command below, 2 a line of the setup, more is inside of what a line calls.",
        'hpc_yolo_runs() { [ "$1" != 2 ] || [ "$2" = 1 ] || echo $(($2 - 1)) >|"$HPC_YOLO_SETUP"; }  # depth, line',
        'hpc_yolo_failed() { [ "$2" -gt 2 ] || { hpc_yolo_runs "$2" "$3"; exit "$1"; }; }  # exit status, depth, line',
        "HPC_YOLO_CHECK='hpc_yolo_failed $? ${#BASH_SOURCE[@]} $LINENO'",
        'trap "$HPC_YOLO_CHECK" ERR',
        f"source /dev/stdin <<'{delimiter}'",
        "trap '{ hpc_yolo_runs ${#BASH_SOURCE[@]} $LINENO; trap \"$HPC_YOLO_CHECK\" ERR; } 2>/dev/null' DEBUG",
        *setup,
        *([""] if setup[-1].endswith("\\") else []),
        "true",
        delimiter,
        'trap - DEBUG ERR; set +eu; rm -f "$HPC_YOLO_SETUP"',
        "",
        *body,
        ")",
        "HPC_YOLO_STATUS=$?",
        '[ -e "$HPC_YOLO_SETUP" ] || exit $HPC_YOLO_STATUS',
        f'exec {after_failed_setup} --failed-setup "$HPC_YOLO_SETUP" --exit-code $HPC_YOLO_STATUS',
    ]


def sbatch_options(
    name: str, cluster: ClusterSpec, log: str, save_times: SaveTimes | None = None
) -> dict[str, str | bool]:
    """Return long sbatch options and their values, in the order of the script; True is a flag without a value."""
    options: dict[str, str | bool | list[str] | None] = {
        "job-name": name,
        "nodes": str(cluster.nodes),
        "ntasks-per-node": str(cluster.num_tasks_per_node),
        **resource_options(cluster),
        "cpus-per-task": str(cluster.cpus_per_task),
        "mem": cluster.mem,
        "mem-per-cpu": cluster.mem_per_cpu,
        "mem-per-gpu": cluster.mem_per_gpu,
        "time": cluster.time,
        "partition": ",".join(cluster.partitions) or None,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.excluded or None,
        **requeue_options(cluster.requeue),
        "open-mode": "append",
        "signal": f"{USER_SIGNAL}@{signal_before_s(cluster, save_times)}",
        "output": log,
    }
    return written_options(options | cluster.sbatch)


def written_options(options: Mapping[str, str | bool | list[str] | None]) -> dict[str, str | bool]:
    """Return the options that have a value, lists with commas; True is a flag without a value."""
    joined = {name: ",".join(value) if isinstance(value, list) else value for name, value in options.items()}
    return {name: value for name, value in joined.items() if value is not None and value is not False}


def requeue_options(mode: str) -> dict[str, str | bool | None]:
    """Return the sbatch option for a value of cluster.requeue; auto is resolved at submission."""
    if mode == "expedite":
        return {"requeue": "expedite"}
    return {"requeue" if mode in ("auto", "requeue") else "no-requeue": True}


def resource_options(cluster: ClusterSpec) -> dict[str, str | bool | None]:
    """Return the options for the GPUs and other generic resources of a node.

    Every task sees all GPUs, so that NCCL finds its peers.
    """
    gres, options = list(cluster.other_gres), dict[str, str | bool | None]()
    if cluster.gpus_per_node and cluster.gpu_request != "none":
        typed = ":".join(filter(None, (cluster.gpu_type, str(cluster.gpus_per_node))))
        if cluster.gpu_request == "gres":
            gres.insert(0, f"gpu:{typed}")
        else:
            options["gpus-per-node"] = typed
    return {**options, "gres": ",".join(gres) or None}


def signal_before_s(cluster: ClusterSpec, save_times: SaveTimes | None) -> int:
    """Return how many seconds before the time limit Slurm signals the tasks; at most half of the limit.

    Unless the spec sets it, the sum of the slowest step, three times the longest save, and the time for a requeue.
    Slurm may send the signal up to a minute earlier. If the time is too short, SIGTERM follows at the limit.
    """
    if isinstance(cluster.signal_before_s, int):
        return cluster.signal_before_s
    before_s = DEFAULT_SIGNAL_BEFORE_S
    if save_times is not None:
        before_s = math.ceil(SLOW_SAVE_FACTOR * save_times.save_s + save_times.step_s) + REQUEUE_MARGIN_S
    limit_s = None if cluster.time is None else parse_limit_s(cluster.time)
    return before_s if limit_s is None else min(before_s, limit_s // 2)


def srun_arguments(cluster: ClusterSpec) -> list[str]:
    """Return srun and its arguments: a failed rank ends the job, and tasks get the CPUs and variables of the script."""
    return [
        "srun",
        "--unbuffered",
        "--label",
        "--kill-on-bad-exit=1",
        f"--wait={SRUN_WAIT_S}",
        f"--cpus-per-task={cluster.cpus_per_task}",  # not inherited from sbatch from Slurm 22.05 to 23.02
        "--export=ALL",  # srun inherits sbatch's --export: with NONE its tasks would have no PATH
        *option_arguments(written_options(cluster.srun)),
    ]


def srun_command(cluster: ClusterSpec, container: ContainerCommand | None) -> list[str]:
    """Return the shell words before a task: srun with its options, the spec's prefix, and the container's runtime."""
    container = container or ContainerCommand()
    words = [*map(shlex.quote, srun_arguments(cluster)), *container.srun_options]
    return [*words, *map(shlex.quote, cluster.prefix), *container.launcher]


def flag_lines(options: Mapping[str, str | bool | None]) -> list[str]:
    """Return `options` as #SBATCH lines."""
    parts = (argument.partition("=") for argument in option_arguments(options))
    return [f"#SBATCH {name}{equals}{shlex.quote(value) if equals else ''}" for name, equals, value in parts]


def option_arguments(options: Mapping[str, str | bool | None]) -> list[str]:
    """Return `options` as arguments of a command line."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
