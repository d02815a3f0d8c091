"""Slurm's reasons for which a job waits, as sentences. Pure functions of text.

The names are those of Slurm 22.05 to 26.05 (`tests/cluster/recorded/*/pending_reasons.txt`). About 180 of them are
limits, whose names are composed (QOS + Max + GRES + PerUser); the sentence is composed in the same way.
"""

from __future__ import annotations

import re

SENTENCES = {
    "AccountNotAllowed": "the account may not use this partition: choose another --account or --partition",
    "AccountingPolicy": "a limit of your account or quality of service keeps it waiting",
    "AssociationJobLimit": "your account runs as many jobs as it may: it starts when one of them ends",
    "AssociationResourceLimit": "your account uses as much as it may: it starts when one of its jobs ends",
    "AssociationTimeLimit": "the time of your account is used up",
    "BadConstraints": "no node has what it requests: it does not start unless the request changes",
    "BeginTime": "its earliest start is not reached: after a requeue Slurm waits before it starts a job again",
    "BurstBufferOperation": "an operation of the burst buffer has failed",
    "BurstBufferResources": "the burst buffer is full",
    "BurstBufferStageIn": "its files are being copied into the burst buffer",
    "Cleaning": "its last attempt is being cleaned up",
    "Constraints": "no node has what it requests: it does not start unless the request changes",
    "DeadLine": "it cannot end before its deadline",
    "Dependency": "another job has to end first",
    "DependencyNeverSatisfied": "the job that it depends on ended otherwise than required: it never starts; cancel it",
    "FedJobLock": "the clusters of the federation decide which of them starts it",
    "FrontEndDown": "no front end node is up",
    "InactiveLimit": "it was inactive for longer than the site allows",
    "InvalidAccount": "the account does not exist: choose another --account",
    "InvalidQOS": "the quality of service does not exist or is not yours: choose another --qos",
    "JobArrayTaskLimit": "as many tasks of its array run as may at once",
    "JobHeldAdmin": "an administrator holds it: ask the site",
    "JobHeldUser": "it is held: scontrol release JOB lets it start",
    "JobHoldMaxRequeue": "Slurm has requeued it too often and holds it: scontrol release JOB lets it start",
    "JobLaunchFailure": "its start failed on a node, perhaps because of the node",
    "Licenses": "it waits for a license",
    "MaxMemPerLimit": "it requests more memory for each node or CPU than the partition allows",
    "MaxPoweredUpNodes": "as many nodes are powered up as may be at once",
    "MpiPortsBusy": "the ports that its steps reserve are in use",
    "NodeDown": "a node that it needs is down",
    "NonZeroExitCode": "it ended with an error",
    "OutOfMemory": "it ran out of memory",
    "PartitionConfig": "it exceeds a limit of the partition: fewer --nodes, a shorter --time, or another --partition",
    "PartitionDown": "the partition is down: no job starts in it; another --partition may be open",
    "PartitionInactive": "the partition is inactive: no job starts in it; another --partition may be open",
    "PartitionNodeLimit": "it requests more nodes than the partition allows, or fewer: change --nodes or --partition",
    "PartitionTimeLimit": "its time limit is longer than the partition allows: request a shorter --time",
    "PowerNotAvail": "the power budget of the cluster is used up",
    "PowerReserved": "power is reserved for other jobs",
    "Priority": "jobs with a higher priority are first",
    "Prolog": "the prolog of its nodes is running: it is about to start",
    "QOSJobLimit": "the quality of service runs as many jobs as it may: it starts when one of them ends",
    "QOSNotAllowed": "the quality of service may not be used in this partition or with this account",
    "QOSResourceLimit": "the quality of service uses as much as it may: it starts when one of its jobs ends",
    "QOSTimeLimit": "the time of the quality of service is used up",
    "QOSUsageThreshold": "your account has used more than the quality of service requires",
    "RaisedSignal": "a signal ended it",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved, perhaps for a maintenance",
    "Reservation": "its reservation has not begun",
    "ReservationDeleted": "its reservation was deleted: submit it without one",
    "ReservationInvalid": "its reservation cannot be used: submit it without one",
    "Resources": "it is first in the queue and waits for free nodes",
    "SchedDefer": "Slurm defers it: it was to start at once or not at all",
    "SystemFailure": "Slurm or a node has failed",
    "TimeLimit": "it has used up its time limit",
}
# Sentences that Slurm prints instead of a name, by their beginning; squeue may print _ for a space.
PHRASES = {
    "Nodes required for job are DOWN": "nodes that it needs are down, drained or reserved for jobs with a higher "
    "priority",
    "job requeued in held state": "it was requeued and is held: scontrol release JOB lets it start",
    "job requeued in special exit state": "it was requeued and is held: scontrol release JOB lets it start",
    "launch failed requeued held": "its start failed and Slurm holds it: scontrol release JOB lets it start",
}
_LIMIT = re.compile(
    r"(?P<scope>QOS|Assoc)?(?P<kind>Grp|Max|Min)(?P<what>Cpu|CPU|GRES|Memory|Mem|Node|Jobs|SubmitJobs?|WallDuration|Wall"
    r"|Billing|BB|License|Energy|Unknown)(?P<minutes>RunMinutes|RunMins|Minutes)?(?:Per(?P<per>Job|Node|User|Account))?"
    r"(?:Limit|NotSatisfied)?"
)
_NOUNS = {
    **{"cpu": "CPUs", "gres": "GPUs", "memory": "memory", "mem": "memory", "node": "nodes", "bb": "burst buffer"},
    **{"billing": "billed resources", "license": "licenses", "energy": "energy", "unknown": "other resources"},
}
_WHEN_ONE_ENDS = "it starts when one of them ends"


def explain_reason(reason: str) -> str:
    """Return a sentence for `reason`, as squeue prints it; an unknown one is returned as it is, and so is ""."""
    name, _, rest = reason.partition(",")
    name, rest = name.strip().partition(":")[0].partition("(")[0], rest.strip()
    if limit := _LIMIT.fullmatch(name):
        return _limit_sentence(limit)
    if name in SENTENCES:
        nodes = rest.removeprefix("UnavailableNodes:") if rest.startswith("UnavailableNodes:") else ""
        if "reserved for other job" in rest.replace("_", " "):
            return "nodes that it needs may be reserved for another job"
        return f"{SENTENCES[name]} ({nodes})" if nodes else SENTENCES[name]
    spaced = reason.replace("_", " ").strip().lower()
    found = (sentence for phrase, sentence in PHRASES.items() if spaced.startswith(phrase.lower()))
    return next(found, reason)


def reason_text(reason: str) -> str:
    """Return `reason` followed by its sentence, for those who know Slurm's names too; `reason` where there is none."""
    sentence = explain_reason(reason)
    return reason if sentence == reason else f"{reason}: {sentence}"


def _limit_sentence(limit: re.Match[str]) -> str:
    """Return the sentence of a limit of a quality of service (QOS), an account (Assoc), or an account under a QOS."""
    owner = "your account" if limit["scope"] == "Assoc" else "the quality of service"
    per = (limit["per"] or "").lower()
    if limit["what"].startswith(("Jobs", "Submit")):
        return _number_of_jobs(limit, owner, per)
    if limit["what"].startswith("Wall"):
        if limit["kind"] == "Grp":
            return f"the run time of {owner} is used up"
        return f"its time limit is longer than {owner} allows: request a shorter --time"
    noun = _NOUNS[limit["what"].lower()]
    if limit["minutes"]:
        return _minutes_sentence(limit["minutes"], noun, owner, per)
    if limit["kind"] == "Min":
        return f"it requests fewer {noun} than {owner} requires: it does not start unless the request changes"
    if limit["kind"] == "Grp":
        return f"the jobs of {owner} use all the {noun} that they may: {_WHEN_ONE_ENDS}"
    if per in ("user", "account"):
        whose = "your jobs" if per == "user" else "the jobs of your account"
        return f"{whose} use all the {noun} that {owner} allows: {_WHEN_ONE_ENDS}"
    where = " on a node" if per == "node" else ""
    return f"it requests more {noun}{where} than {owner} allows: it does not start unless the request changes"


def _number_of_jobs(limit: re.Match[str], owner: str, per: str) -> str:
    whose = {"user": "jobs of yours", "account": "jobs of your account"}.get(per, "jobs")
    verb = "are queued" if limit["what"].startswith("Submit") else "run"
    return f"as many {whose} {verb} as {owner} allows: {_WHEN_ONE_ENDS}"


def _minutes_sentence(minutes: str, noun: str, owner: str, per: str) -> str:
    """Return the sentence of a limit on a resource times minutes: of one job, of running jobs, or a budget."""
    if per == "job":
        return f"it requests more {noun} times minutes than {owner} allows: a shorter --time, or fewer of them"
    if minutes.startswith("Run"):
        return (
            f"the running jobs may use all {noun} times minutes that {owner} allows at once: it starts when they are "
            "nearer to their end, or sooner with a shorter --time"
        )
    return f"the budget of {noun} times minutes of {owner} is used up"
