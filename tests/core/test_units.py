"""Times and memory are parsed as by sbatch, and formatted values parse to the same value."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_yolo.core.units import counted, format_mem, format_time, parse_mem_bytes, parse_time_s

QUICK = settings(deadline=None, database=None, derandomize=True)
MIB, GIB, TIB = 1024**2, 1024**3, 1024**4


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90 * 60),
        ("1:30", 90),
        ("00:00:01", 1),
        ("24:00:00", 86_400),
        ("100:00:00", 360_000),
        ("1-0", 86_400),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("2-00:00:30", 172_830),
        ("0-0:0:5", 5),
        (" 90 ", 5_400),
    ],
)
def test_time_is_parsed_as_by_sbatch(text, seconds):
    assert parse_time_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, "is not a time")
            for text in ("", "soon", "1h", "-5", "1:2:3:4", "1-", "-1", "1-2:3:4:5", "1.5", "1e3")
        ),
        *((text, "is not a time") for text in ("1:", ":1", "1 - 2", "90\n90", "٩٠", "9" * 5000, "UNLIMITED")),
        *((text, "is no time at all") for text in ("0", "00:00:00", "0-0")),
    ],
)
def test_invalid_time_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_time_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "00:00:01"), (5_400, "01:30:00"), (86_399, "23:59:59"), (86_400, "1-00:00:00"), (900_061, "10-10:01:01")],
)
def test_time_is_formatted_as_by_slurm(seconds, text):
    assert format_time(seconds) == text


@QUICK
@given(seconds=st.integers(1, 10**10))
def test_formatted_time_parses_to_same_value(seconds):
    assert parse_time_s(format_time(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("400G", 400 * GIB),
        ("4000", 4000 * MIB),
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("64GB", 64 * GIB),
        ("1T", TIB),
        ("2048K", 2 * MIB),
        ("08G", 8 * GIB),
        (" 1G ", GIB),
    ],
)
def test_memory_is_parsed_as_by_sbatch(text, size):
    assert parse_mem_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", "much", "G", "0", "0G", "-1G", "1.5G", "4 G", "4GiB", "1P", "1e3", "٤G", "4\u212a", "9" * 5000),
        "400B",  # reads as bytes, but is megabytes for sbatch
    ],
)
def test_invalid_memory_is_refused(text):
    with pytest.raises(ValueError, match="is not an amount of memory"):
        parse_mem_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(400 * GIB, "400G"), (TIB, "1T"), (1536 * MIB, "1536M"), (5 * 1024, "5K"), (MIB + 1, "1025K"), (1, "1K")],
)
def test_memory_is_formatted_in_largest_whole_unit_rounded_up(size, text):
    assert format_mem(size) == text


@QUICK
@given(size=st.integers(1, 10**14).map(lambda size: size * 1024))
def test_formatted_memory_parses_to_same_value(size):
    assert parse_mem_bytes(format_mem(size)) == size


@pytest.mark.parametrize(("number", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1200, "1200 images")])
def test_counted_noun_is_singular_or_plural(number, text):
    assert counted(number, "image") == text
