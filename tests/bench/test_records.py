"""Ratios, noise and files of benchmark records."""

from __future__ import annotations

import msgspec
import pytest
from bench_records import record, result

from hpc_yolo.bench.records import middle_half, read_record, read_records, spread, write_record
from hpc_yolo.core.errors import DataError


def test_ratio_is_over_mean_of_both_references():
    one = result([3.0, 4.0], reference_s=[1.0, 1.0], again_s=[2.0, 3.0])
    assert one.ratios(one.timings[0]) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("first", "again", "noise"),
    [([1.0, 1.0], [1.0, 1.0], 0.0), ([1.0, 1.0, 1.0], [1.1, 0.8, 1.0], 0.1), ([2.0], [1.0], 1.0)],
    ids=["none", "median", "either order"],
)
def test_noise_floor_is_median_difference_of_references(first, again, noise):
    assert result([1.0] * len(first), reference_s=first, again_s=again).noise == pytest.approx(noise)


def test_spread_is_half_distance_of_quartiles_over_median():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert middle_half(values) == (2.0, 4.0)
    assert spread(values) == pytest.approx(1 / 3)
    assert middle_half([7.0]) == (7.0, 7.0)


def test_written_record_is_read_again(tmp_path):
    written = record(result([1.0]), commit="abc+", time=5.0)
    path = write_record(tmp_path / "new", written)
    assert path.name == "5-abc-changed.json"
    assert read_record(path) == written


def damaged(work=(1.0, 1.0), reference=(1.0, 1.0), again=(1.0, 1.0), amount=1.0):
    """Return the bytes of a record of two rounds with these values."""
    values = msgspec.to_builtins(record(result([1.0, 1.0])))
    (one,) = values["results"]
    one |= {"reference_s": reference, "again_s": again}
    one["timings"][0] |= {"seconds": work, "amount": amount}
    return msgspec.json.encode(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"{", "is no record of benchmarks"),
        (b'{"device": "H100"}', "is no record of benchmarks"),
        (msgspec.json.encode(msgspec.structs.replace(record(), format="other 9")), "other 9"),
        (damaged(work=[]), "length >= 1"),
        (damaged(work=[1.0]), "must have one length"),
        (damaged(again=[1.0]), "must have one length"),
        (damaged(work=[], reference=[], again=[]), "length >= 1"),
        (damaged(work=[0.0, 1.0]), r"timings\[0\].seconds\[0\]"),
        (damaged(work=[1.0, -1.0]), r"timings\[0\].seconds\[1\]"),
        (damaged(reference=[0.0, 0.0]), r"reference_s\[0\]"),
        (damaged(work=[1e308, 1.0]), "<= 1000000000"),
        (damaged(amount=0.0), "amount"),
        (b'{"x":' + 100_000 * b"[", "is no record of benchmarks"),
    ],
    ids=[
        *("missing", "no JSON", "other JSON", "other form", "no seconds", "a round missing", "no second reference"),
        *("no rounds", "zero", "negative", "zero reference", "huge", "no work", "deep"),
    ],
)
def test_file_that_is_no_record_is_named(tmp_path, content, message):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_record(path)
    assert "x.json" in str(raised.value)


def test_records_of_a_directory_are_in_order_of_time_without_other_files(tmp_path):
    for time in (20.0, 3.0):
        write_record(tmp_path, record(time=time))
    (tmp_path / "h100.json").write_text('{"device": "H100"}')
    assert [one.time for one in read_records(tmp_path)] == [3.0, 20.0]


def test_directory_without_records_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no record"):
        read_records(tmp_path)
