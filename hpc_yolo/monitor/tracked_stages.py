"""The stages of one run for screens: their files, read again only when they have changed, and Slurm's last reply."""

from __future__ import annotations

from pathlib import Path

from hpc_yolo.cluster.job_cache import Reply
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.core.errors import SpecError
from hpc_yolo.monitor.run_facts import OVER
from hpc_yolo.resilience.stage_state import StageFacts, StageStatus, is_due, stage_status
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import Cause
from hpc_yolo.runs.run_end import RunEnd, recorded_end
from hpc_yolo.runs.stages import StageRecord, read_stages
from hpc_yolo.runs.submissions import Submission, address_of, stage_submissions
from hpc_yolo.spec.stages import Stage, named_stages

HAS_STAGES = b"\nthen:\n"  # in a resolved spec; one without stages has `then: []`, and is not parsed


class TrackedStages:
    """The stages of one run."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._named: dict[str, Stage] = {}
        self._submissions: list[Submission] = []
        self._records: list[StageRecord] = []
        self._spec_mtime: float | None = None
        self._records_mtime: float | None = None

    def read(self) -> bool:
        """Read the files that have changed; return True if there were any.

        Raises:
            OSError: one cannot be read.
        """
        is_changed = self._read_spec()
        if self._named and (mtime := _mtime(self._run.stages)) != self._records_mtime:
            self._records, self._records_mtime = read_stages(self._run), mtime
            is_changed = True
        return is_changed

    def read_submissions(self) -> None:
        """Read the jobs of the stages."""
        self._submissions = stage_submissions(self._run)

    def _read_spec(self) -> bool:
        mtime = _mtime(self._run.spec)
        if mtime is None or mtime == self._spec_mtime:
            return False
        self._spec_mtime, self._named = mtime, {}
        if HAS_STAGES in self._run.spec.read_bytes():
            from hpc_yolo.spec.load import load_resolved_spec  # 60 ms, of no use for runs without stages

            try:
                self._named = named_stages(load_resolved_spec(self._run.spec).then)
            except SpecError:  # of another version
                return False
        return bool(self._named)

    def slurm_addresses(self, state: str, attempts: Attempts, run_job: str | None) -> list[str]:
        """Return the jobs to query Slurm about: of a run that is over those of its stages that have not ended.

        Args:
            state: of the run, see `RunFacts`.
            run_job: address of its job in Slurm, in which a stage without a record may still begin.
        """
        if not self._named or (end := _end(state, attempts)) is None:
            return []
        settled = {(record.stage, record.number) for record in self._records if record.ended is not None}
        due = {name for name, stage in self._named.items() if is_due(stage, end)}
        jobs = [
            one.address
            for one in self._submissions
            if one.stage in due and (one.stage, one.stage_number) not in settled
        ]
        known = {record.stage for record in self._records if record.end == end.attempt}
        known |= {one.stage for one in self._submissions}
        jobs += [run_job] if run_job is not None and due - known else []
        begun = [record.job_id for record in self._records if record.job_id and record.ended is None]
        return list(dict.fromkeys([*jobs, *(address_of(self._run, job_id) for job_id in begun)]))

    def statuses(self, state: str, attempts: Attempts, run_job: str | None, reply: Reply) -> list[StageStatus]:
        """Return the state of each stage, in the order of the spec.

        Args:
            state: of the run, see `RunFacts`.
            run_job: address of its job in Slurm.
        """
        if not self._named:
            return []
        facts = StageFacts(
            end=_end(state, attempts),
            records=self._records,
            submissions=self._submissions,
            run_job=run_job,
            jobs=self._jobs(reply),
        )
        return [stage_status(name, stage, facts) for name, stage in self._named.items()]

    def _jobs(self, reply: Reply) -> dict[str, JobState]:
        """Return the states of Slurm's reply that are newer than the records of stages in those jobs."""
        began = {record.job_id: record.began for record in self._records if record.job_id is not None}
        return {
            address: cached.job
            for address, cached in reply.jobs.items()
            if cached.time >= began.get(address.partition("@")[0], 0.0)
        }


def _end(state: str, attempts: Attempts) -> RunEnd | None:
    """Return the end of a run in `state`; None while it goes on."""
    if state not in OVER:
        return None
    if (recorded := recorded_end(attempts)) is not None or state == "done":
        return recorded
    number = 0 if attempts.newest is None else attempts.newest.number
    return RunEnd(number, is_finished=False, cause=Cause.CANCELLED if state == "cancelled" else Cause.KILLED)


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
