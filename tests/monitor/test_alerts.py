"""Problems of a run: each rule with a record that breaks it and one that does not."""

import msgspec
import pytest
from status_runs import END, START, STEP

from hpc_yolo.monitor.alerts import problems_of
from hpc_yolo.monitor.run_record import RunRecord
from hpc_yolo.runs.events import AnyEvent


def record_of(*events) -> RunRecord:
    record = RunRecord()
    kinds = msgspec.json.Decoder(AnyEvent)
    record.add(kinds.decode(msgspec.json.encode({"time": 20.0 + n, "attempt": 1} | e)) for n, e in enumerate(events))
    return record


LOST = END | {"cause": "killed"}


SLOW = [
    STEP | {"rank_forward_s": [0.2, seconds], "step": step}
    for step, seconds in enumerate((0.4, 0.5, 0.4, 0.6, 0.3), start=1)
]


STEPS = [STEP | {"step": 10 * number} for number in range(1, 12)]


SAVED = {"event": "checkpoint", "epoch": 0, "step": 10, "path": "p", "size_bytes": 1, "seconds": 0.1}


SAVES = [START, SAVED, SAVED | {"time": 30.0}, STEP | {"time": 2000.0}]


LEVEL = [STEP | {"step": 2 * number} for number in range(1, 41)]


FALLING = [step | {"losses": {"box": 10 - 0.1 * number}} for number, step in enumerate(LEVEL)]


@pytest.mark.parametrize(
    ("events", "now", "problem"),
    [
        ([START, STEP], 25.0, None),
        ([START | {"format_version": 3}, STEP], 25.0, "written by a newer version (format 3, this one reads 2)"),
        ([START, STEP], 400.0, "no event for 6 min 19 s"),
        ([START, STEP | {"losses": {"box": 0.1, "cls": None}}], 25.0, "the loss is not a number"),
        ([START, STEP | {"rank_data_wait_s": [0.2, 0.2]}], 25.0, "40% of a step is waiting for data"),
        ([START, STEP | {"rank_data_wait_s": [0.11, 0.11]}], 25.0, "22% of a step"),
        (SAVES, 2000.0, "the last checkpoint is 32 min 50 s old"),
        ([*SAVES, SAVED | {"time": 1900.0}], 2000.0, None),
        ([START, *LEVEL], 65.0, "the loss has not fallen since step 42"),
        ([START, *FALLING], 65.0, None),
        ([START | {"epochs": 1, "steps_per_epoch": 100}, *LEVEL], 65.0, None),
        ([START, STEP | {"rank_data_wait_s": [0.0, 0.0, 0.3]}], 25.0, "rank 2 waits 0.30 s a step for data"),
        ([START, *SLOW], 25.0, "rank 1 computes 1.5 times as long as the others"),
        ([START, *SLOW[:4]], 25.0, None),
        ([START, *SLOW[:4], STEP | {"rank_forward_s": [0.3, 0.2]}], 25.0, None),
        ([START, *SLOW, START | {"attempt": 2, "time": 24.0}, *SLOW[:4]], 25.0, None),
        ([START | {"device_mem_bytes": 100}, STEP | {"rank_mem_bytes": [5, 98]}], 25.0, "98 B of 100 B"),
        ([START | {"device_mem_bytes": 100}, STEP | {"rank_mem_bytes": [5, 90]}], 25.0, None),
        ([START, *STEPS, *({**step, "images_per_s": 9.0, "step": 200} for step in STEPS[:1])], 35.0, None),
        ([START, *STEPS, *(STEP | {"images_per_s": 9.0, "step": 200 + n} for n in (1, 2))], 35.0, "usually 50.0"),
        ([START, LOST, *(event | {"attempt": n} for n in (2, 3) for event in (START, LOST))], 35.0, "3 x killed"),
    ],
)
def test_rule_reports_its_problem_only(events, now, problem):
    found = problems_of(record_of(*events), is_running=True, now=now)
    assert (found == []) if problem is None else any(problem in text for text in found)
