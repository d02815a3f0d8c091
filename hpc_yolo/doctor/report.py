"""The report of `hpc-yolo doctor`: query Slurm, read the save times of runs, and collect the findings."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec

from hpc_yolo.cluster import sbatch, site, slurm_command
from hpc_yolo.cluster.site import QosLimits, SiteSettings
from hpc_yolo.core.errors import ClusterError, HpcYoloError, InstallationError, SchedulerUnavailable
from hpc_yolo.core.installation import require_import
from hpc_yolo.doctor.findings import Finding, Measured, preemption, run_findings, site_findings, startable
from hpc_yolo.doctor.window import stop_window
from hpc_yolo.runs.directory import RunDirectory, find_runs
from hpc_yolo.runs.save_times import SaveTimes, read_save_times
from hpc_yolo.spec.load import load_resolved_spec
from hpc_yolo.spec.schema import ClusterSpec, Spec

MAX_SIBLINGS = 10  # runs in the directory of a new one that are searched for save times


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Findings about a site and a spec.

    Attributes:
        slurm: version of Slurm, or why it is unknown.
        answers: whether Slurm answered; None where it is not installed.
        stop_s: seconds between the first signal and SIGKILL of a preempted job, by partition.
        save_times: measured times of saving a checkpoint.
        measured_in: the run with these measurements.
        signal_before_s: how long before the time limit a job of the spec is signalled; None without a spec.
    """

    slurm: str
    answers: bool | None
    stop_s: dict[str, int]
    save_times: SaveTimes | None
    measured_in: str | None
    signal_before_s: int | None
    findings: list[Finding]

    @property
    def exit_code(self) -> int:
        """Exit code: 0 without warnings, 4 where work may be lost, 5 where Slurm does not answer."""
        if any(finding.level == Finding.WARNING for finding in self.findings):
            return ClusterError.exit_code
        return SchedulerUnavailable.exit_code if self.answers is False else 0


def examine(spec: Spec | None) -> Report:
    """Examine the site, for the run of `spec` or in general; takes a few seconds at most.

    Raises:
        ClusterError: the partition or quality of service of the spec does not exist.
    """
    measured = None
    if spec is not None:
        measured = find_measured(RunDirectory(Path(spec.output) / spec.name), spec.model_source)
    own_times = measured.times if measured is not None and measured.is_own else None
    slurm, answers, stop_s, findings = _query_site(spec, measured)
    findings += _packages(None if spec is None else spec.cluster.python)
    return Report(
        slurm=slurm,
        answers=answers,
        stop_s=stop_s,
        save_times=None if measured is None else measured.times,
        measured_in=None if measured is None else measured.run_name,
        signal_before_s=None if spec is None else sbatch.signal_before_s(spec.cluster, own_times),
        findings=findings,
    )


def find_measured(own: RunDirectory, model: str) -> Measured | None:
    """Return the save times of run `own`, else those of the newest run in its directory with the same `model`."""
    if (times := read_save_times(own)) is not None:
        return Measured(times, own.name, is_own=True)
    siblings = [(run.journal.stat().st_mtime, run.path) for run in find_runs(own.path.parent) if run.journal.exists()]
    for _, path in sorted(siblings, reverse=True)[:MAX_SIBLINGS]:
        run = RunDirectory(path)
        times = read_save_times(run, of_another=True)
        if times is not None and _model_of(run) == Path(model).name:
            return Measured(times, run.name, is_own=False)
    return None


def _query_site(spec: Spec | None, measured: Measured | None) -> tuple[str, bool | None, dict[str, int], list[Finding]]:
    """Return (Slurm's version, whether it answers, seconds by partition, findings)."""
    if spec is not None and spec.cluster.executor in ("local", "debug"):
        return f"Slurm is not queried: cluster.executor is {spec.cluster.executor}", None, {}, [_local()]
    if shutil.which("scontrol") is None:
        return "Slurm is not installed here", None, {}, [_local()]
    run = slurm_command.on_cluster(None if spec is None else spec.cluster.slurm_cluster)
    try:
        settings = site.site_settings(run=run)
        partitions = site.partitions(run=run)
    except SchedulerUnavailable as error:
        return f"Slurm does not answer: {error.message}", False, {}, [_no_answer(error)]
    cluster = ClusterSpec() if spec is None else spec.cluster
    qos, findings = _qos(settings, cluster)
    if spec is None:
        chosen = partitions
        mode = site.choose_requeue(cluster.requeue, settings).mode
        findings += [preemption(stop_window(settings, row, qos), row, mode) for row in partitions.values()]
    else:
        wanted = site.chosen_partitions(cluster.partitions, partitions)
        chosen = {partition.name: partition for partition in wanted}
        for partition in startable(wanted, cluster) or (None,):
            found = run_findings(settings, partition, qos, cluster, spec.checkpoint, measured)
            findings += [finding for finding in found if finding not in findings]
    findings += site_findings(settings, cluster)
    stop_s = {name: stop_window(settings, row, qos).seconds for name, row in chosen.items()}
    return f"Slurm {settings.version}", True, stop_s, findings


def _qos(settings: SiteSettings, cluster: ClusterSpec) -> tuple[QosLimits | None, list[Finding]]:
    """Return (limits of the job's quality of service, findings about it); (None, []) where they have no effect."""
    if settings.preempt_type != "qos" or cluster.qos is None:
        return None, []
    try:
        found = site.qos_limits()
    except ClusterError as error:
        return None, [Finding(level=Finding.NOTE, what="quality of service", seen=f"unknown: {error.message}")]
    if cluster.qos not in found:
        raise ClusterError(
            f"cluster.qos: there is no quality of service {cluster.qos!r} here; there are {', '.join(sorted(found))}",
            hint="choose one with --qos NAME",
        )
    return found[cluster.qos], []


def _model_of(run: RunDirectory) -> str | None:
    try:
        return Path(load_resolved_spec(run.spec).model_source).name
    except HpcYoloError:
        return None  # of another version


def _packages(python: str | None) -> list[Finding]:
    """Return a finding where OpenCV cannot be imported: minimal images lack libraries that its wheel needs."""
    try:
        require_import(python=python or sys.executable)
    except InstallationError as error:
        why = "on this machine; if it is missing on compute nodes too, every task exits at once"
        return [Finding(level=Finding.WARNING, what="packages", seen=error.message, why=why, advice=error.hint or "")]
    return []


def _local() -> Finding:
    return Finding(
        level=Finding.OK,
        what="local runs",
        seen="processes on this machine, without preemption or time limit",
        why="Ctrl-C, or SIGTERM to the tasks, saves after the current step; Ctrl-C again exits at once",
        advice="submit the spec again to continue",
    )


def _no_answer(error: SchedulerUnavailable) -> Finding:
    return Finding(
        level=Finding.NOTE,
        what="Slurm",
        seen=error.message,
        why="running jobs continue without it; a job that stops cannot be requeued until it is back",
        advice="try again later; see scontrol ping",
    )
