"""Numbers as block characters."""

from hpc_yolo.core.units import short_bytes, short_time
from hpc_yolo.monitor.blocks import bar, plot, trend_line


def test_numbers_become_blocks_and_short_texts():
    assert [short_time(seconds) for seconds in (0, 59.6, 185, 7810, 90000 * 4)] == [
        *("0 s", "1 min", "3 min 5 s", "2 h 10 min", "4 d 4 h"),
    ]
    assert [short_bytes(size) for size in (5, 2048, 3 * 2**30)] == ["5 B", "2 KiB", "3.0 GiB"]
    assert trend_line([]) == ""
    assert trend_line([1.0, 1.0]) == "▁▁"
    assert trend_line([0.0, 0.5, 1.0]) in ("▁▄█", "▁▅█")
    assert (bar(0.0, 2), bar(0.5, 2), bar(1.7, 2)) == ("  ", "█ ", "██")
    assert plot([0, 1], [0.0, 1.0], 2, 2) == [" █", "▁█"]
    assert plot([], [], 3, 1) == ["   "]
