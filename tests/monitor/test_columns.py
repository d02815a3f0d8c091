"""The table of columns: its values as JSON and as text."""

import msgspec
from shown_runs import RANKS, run_facts

from hpc_yolo.monitor.columns import COLUMNS, LIST_COLUMNS, run_json
from hpc_yolo.monitor.run_facts import RunFacts


def test_json_of_a_run_has_every_column():
    facts = run_json(run_facts(step_logged=RANKS))
    assert set(facts) == {column.name for column in COLUMNS}
    assert (facts["epoch"], facts["num_nodes"], facts["map50"], facts["eta_s"]) == (1, 2, 0.625, 30 * 16 / 50.0)
    assert msgspec.json.decode(msgspec.json.encode(facts)) == facts


def test_column_without_a_value_shows_a_dash():
    unstarted = RunFacts(name="new", path="/runs/new", state="unstarted")
    texts = {column.name: column.text_of(unstarted) for column in LIST_COLUMNS}
    known = {"state", "num_nodes", "attempts", "causes", "loss_trend", "map_trend"}
    assert {name for name, text in texts.items() if text == "-"} == set(texts) - known
