"""Times and memory are read as sbatch reads them, or refused; what is printed is read back as the same."""

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
def test_a_time_is_read_as_sbatch_reads_it(text, seconds):
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
def test_what_is_no_time_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_time_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "00:00:01"), (5_400, "01:30:00"), (86_399, "23:59:59"), (86_400, "1-00:00:00"), (900_061, "10-10:01:01")],
)
def test_a_time_is_printed_as_slurm_prints_it(seconds, text):
    assert format_time(seconds) == text


@QUICK
@given(seconds=st.integers(1, 10**10))
def test_a_printed_time_is_read_back_as_the_same(seconds):
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
def test_memory_is_read_as_sbatch_reads_it(text, size):
    assert parse_mem_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", "much", "G", "0", "0G", "-1G", "1.5G", "4 G", "4GiB", "1P", "1e3", "٤G", "4\u212a", "9" * 5000),
        "400B",  # bytes to a person, megabytes to sbatch
    ],
)
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(ValueError, match="is not an amount of memory"):
        parse_mem_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(400 * GIB, "400G"), (TIB, "1T"), (1536 * MIB, "1536M"), (5 * 1024, "5K"), (MIB + 1, "1025K"), (1, "1K")],
)
def test_memory_is_printed_in_the_largest_whole_unit_and_never_less(size, text):
    assert format_mem(size) == text


@QUICK
@given(size=st.integers(1, 10**14).map(lambda size: size * 1024))
def test_printed_memory_is_read_back_as_the_same(size):
    assert parse_mem_bytes(format_mem(size)) == size


@pytest.mark.parametrize(("number", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1200, "1200 images")])
def test_a_number_stands_with_the_right_form_of_its_noun(number, text):
    assert counted(number, "image") == text
