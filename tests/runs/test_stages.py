"""Records of stages: one process claims a try, and only a further start of its own job may take it over."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from hpc_yolo.runs.stages import DONE, RUNNING, StageRecord, claim_stage, read_stages, write_stage

RECORD = StageRecord(stage="val", end=2, number=1, state=RUNNING, began=5.0, job_id="7", host="n1")


@pytest.mark.parametrize(
    ("before", "record", "is_claimed"),
    [
        ({}, {"job_id": "8"}, False),
        ({}, {"job_id": "8", "number": 2}, True),
        ({}, {"job_id": "8", "end": 3}, True),
        ({}, {"stage": "val-2"}, True),
        ({}, {}, False),
        ({}, {"restart": 2}, True),
        ({"restart": 2}, {"restart": 2}, False),
        ({"state": DONE, "ended": 9.0}, {"restart": 2}, False),
        ({"job_id": None}, {"job_id": None, "restart": 2}, False),
    ],
    ids=[
        "other job",
        "next try",
        "next end",
        "other stage",
        "same start",
        "restarted job",
        "same restart",
        "done",
        "local",
    ],
)
def test_stage_is_claimed_once(run, before, record, is_claimed):
    first = msgspec.structs.replace(RECORD, **before)
    second = msgspec.structs.replace(RECORD, **record)
    assert claim_stage(run, first)
    assert claim_stage(run, second) == is_claimed
    assert read_stages(run)[-1] == (second if is_claimed else first)


def test_one_of_many_processes_claims_a_stage(run):
    records = [msgspec.structs.replace(RECORD, job_id=str(number)) for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        claimed = [
            record
            for record, won in zip(records, pool.map(lambda one: claim_stage(run, one), records), strict=True)
            if won
        ]
    assert read_stages(run) == claimed and len(claimed) == 1
    assert [path.name for path in run.stages.iterdir()] == ["val.2.1.json"], "no temporary file is left"


def test_records_are_sorted_and_other_files_are_skipped(run):
    assert read_stages(run) == []
    for name, end in (("val-2", 10), ("val", 10), ("val", 9)):
        claim_stage(run, msgspec.structs.replace(RECORD, stage=name, end=end))
    (run.stages / "val-7.log").write_text("text")
    (run.stages / "val.3.1.json").write_text("{torn")
    assert [(record.stage, record.end) for record in read_stages(run)] == [("val", 9), ("val", 10), ("val-2", 10)]
    write_stage(run, msgspec.structs.replace(RECORD, end=9, state=DONE))
    assert read_stages(run)[0].state == DONE
