"""Slurm's reasons as sentences: every name of each recorded version, and what is not known.

The names of a version are those in its library: `strings libslurmfull.so`, of which the documented ones are kept.
"""

import pytest
from recordings import recorded, versions_with

from hpc_yolo.cluster.pending_reasons import explain_reason

NAMES = sorted(
    {name for one in versions_with("pending_reasons.txt") for name in recorded(one, "pending_reasons.txt").split()}
)


def test_every_reason_of_every_recorded_version_has_a_sentence():
    assert versions_with("pending_reasons.txt")[0].startswith("22.05")
    assert versions_with("pending_reasons.txt")[-1].startswith("26.05")
    assert len(NAMES) > 200
    assert [name for name in NAMES if explain_reason(name) == name or "None" in explain_reason(name)] == []


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("Priority", "jobs with a higher priority are first"),
        ("Resources", "it is first in the queue and waits for free nodes"),
        (
            "QOSMaxGRESPerUser",
            "your jobs use all the GPUs that the quality of service allows: it starts when one of them ends",
        ),
        ("AssocGrpGRES", "the jobs of your account use all the GPUs that they may: it starts when one of them ends"),
        (
            "QOSMaxWallDurationPerJobLimit",
            "its time limit is longer than the quality of service allows: request a shorter --time",
        ),
        ("AssocGrpBillingMinutes", "the budget of billed resources times minutes of your account is used up"),
        (
            "QOSMinGRES",
            "it requests fewer GPUs than the quality of service requires: it does not start unless the request changes",
        ),
        (
            "QOSMaxCpuPerNode",
            "it requests more CPUs on a node than the quality of service allows: it does not start unless the request "
            "changes",
        ),
        (
            "MaxJobsPerAccount",
            "as many jobs of your account run as the quality of service allows: it starts when one of them ends",
        ),
        (
            "QOSMaxSubmitJobPerUserLimit",
            "as many jobs of yours are queued as the quality of service allows: it starts when one of them ends",
        ),
        (
            "ReqNodeNotAvail, UnavailableNodes:gpu[01-02]",
            "nodes that it needs are down, drained or reserved, perhaps for a maintenance (gpu[01-02])",
        ),
        ("ReqNodeNotAvail, May be reserved for other job", "nodes that it needs may be reserved for another job"),
        ("ReqNodeNotAvail,_May_be_reserved_for_other_job", "nodes that it needs may be reserved for another job"),
        ("RaisedSignal:9(Killed)", "a signal ended it"),
        (
            "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions",
            "nodes that it needs are down, drained or reserved for jobs with a higher priority",
        ),
        ("launch failed requeued held", "its start failed and Slurm holds it: scontrol release JOB lets it start"),
        ("QOSMaxMoonPerUser", "QOSMaxMoonPerUser"),
        ("SomethingNew", "SomethingNew"),
        ("", ""),
    ],
)
def test_reason_becomes_a_sentence_and_an_unknown_one_is_shown_as_it_is(reason, sentence):
    assert explain_reason(reason) == sentence
