"""Conversion of times and amounts of memory as text to seconds and bytes, and back; numbers with their nouns.

Times follow sbatch: "90" is minutes, "mm:ss", "hh:mm:ss", "d-hh", "d-hh:mm", "d-hh:mm:ss". Memory follows sbatch too: a
number with K, M, G or T (powers of 1024), M when no unit is given.
"""

from __future__ import annotations

import re

_TIME = re.compile(
    r"(?:(?P<days>\d{1,9})-(?P<day_rest>\d{1,9}(?::\d{1,9}){0,2})|(?P<plain>\d{1,9}(?::\d{1,9}){0,2}))", re.A
)
_MEMORY = re.compile(r"(?P<number>\d{1,15})(?:(?P<unit>[KMGT])B?)?", re.IGNORECASE | re.ASCII)
_DURATIONS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_MEMORY_BYTES = {"K": 1024, "": 1024**2, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2 images", "0 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def parse_time_s(text: str) -> int:
    """Return the seconds in a Slurm time, at least 1.

    Raises:
        ValueError: `text` is not such a time, or is zero.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a time; write minutes, mm:ss, hh:mm:ss or d-hh:mm:ss")
    if match["days"] is not None:
        hours, minutes, seconds = (*map(int, match["day_rest"].split(":")), 0, 0)[:3]
        total_s = ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    else:
        parts = list(map(int, match["plain"].split(":")))
        hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
        total_s = (hours * 60 + minutes) * 60 + seconds
    if total_s == 0:
        raise ValueError(f"{text!r} is no time at all; a limit is at least one second")
    return total_s


def parse_limit_s(text: str) -> int | None:
    """Return the seconds of a job's time limit; None for what sbatch reads as no limit: UNLIMITED, INFINITE, -1 or 0.

    Raises:
        ValueError: `text` is not such a limit.
    """
    limit = text.strip()
    if limit.lower() in ("unlimited", "infinite", "-1") or (_TIME.fullmatch(limit) and not re.search("[1-9]", limit)):
        return None
    return parse_time_s(limit)


def format_time(total_s: int) -> str:
    """Return `total_s` seconds as Slurm prints them: "hh:mm:ss" or "d-hh:mm:ss"."""
    days, rest_s = divmod(total_s, 86400)
    clock = f"{rest_s // 3600:02d}:{rest_s // 60 % 60:02d}:{rest_s % 60:02d}"
    return f"{days}-{clock}" if days else clock


def parse_mem_bytes(text: str) -> int:
    """Return the bytes in an amount of memory such as "400G", "512M" or "4000" (megabytes, as sbatch reads it).

    Raises:
        ValueError: `text` is not an amount of memory, or is zero.
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None or int(match["number"]) == 0:
        raise ValueError(f"{text!r} is not an amount of memory; write a whole number with K, M, G or T, such as 400G")
    return int(match["number"]) * _MEMORY_BYTES[(match["unit"] or "").upper()]


def is_whole_memory(text: str) -> bool:
    """Return True for a memory of zero, which sbatch reads as all memory of a node."""
    match = _MEMORY.fullmatch(text.strip())
    return match is not None and int(match["number"]) == 0


def format_mem(mem_bytes: int) -> str:
    """Return bytes in the largest unit that holds them exactly, as sbatch reads them: 429496729600 -> "400G"."""
    for unit in ("T", "G", "M"):
        if mem_bytes % _MEMORY_BYTES[unit] == 0:
            return f"{mem_bytes // _MEMORY_BYTES[unit]}{unit}"
    return f"{-(-mem_bytes // 1024)}K"


def short_time(seconds: float) -> str:
    """Return a duration in at most two units: "42 s", "3 min 5 s", "2 h 10 min", "4 d 1 h"."""
    whole_s = max(0, round(seconds))
    for size_s, name, small_s, small_name in _DURATIONS:
        if whole_s >= size_s:
            rest = whole_s % size_s // small_s
            return f"{whole_s // size_s} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole_s} s"


def short_bytes(size_bytes: float) -> str:
    """Return an amount of memory with one decimal: "7.9 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
