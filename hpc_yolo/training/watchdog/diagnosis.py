"""The ranks that hold up the others when no rank makes progress: pure functions of all ranks' heartbeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from hpc_yolo.runs.events import RankLocation

MAX_LISTED_RANKS = 16


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one rank.

    Attributes:
        ticks: grows while the rank's watchdog itself runs.
        step, num_phases: position of its main thread; phases count from 0 within the step.
        remaining_s: how long the main thread may stay there; none remains when 0 or less.
        has_left: it has reached the end of its training loop.
    """

    ticks: int
    step: int
    num_phases: int
    phase: str
    remaining_s: float
    has_left: bool = False


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The rank that ended the attempt, and why.

    Attributes:
        author: the rank whose watchdog found it.
        unresponsive: ranks whose own watchdogs do not run.
        gone: ranks whose processes have died.
    """

    author: int
    rank: int
    message: str
    unresponsive: list[int] = []
    gone: list[int] = []


@dataclass(frozen=True)
class StalledRanks:
    """Ranks that hold up the others, in ascending order; all of them where none is behind."""

    ranks: list[int]
    are_unresponsive: bool


def find_stalled(
    earlier: Mapping[int, Heartbeat], later: Mapping[int, Heartbeat], world_size: int
) -> StalledRanks | None:
    """Return the ranks that hold up the others, from all heartbeats at two times some seconds apart.

    None while a rank has time remaining: those that wait for it may wait as long.
    """
    away = {rank for rank, heartbeat in later.items() if heartbeat.has_left}
    living = {
        rank: heartbeat
        for rank, heartbeat in later.items()
        if rank not in away and rank in earlier and earlier[rank].ticks != heartbeat.ticks
    }
    if any(heartbeat.remaining_s > 0 for heartbeat in living.values()):
        return None
    if unresponsive := sorted(set(range(world_size)) - living.keys() - away):
        return StalledRanks(unresponsive, are_unresponsive=True)
    progress = {rank: (heartbeat.step, heartbeat.num_phases) for rank, heartbeat in living.items()}
    least = min(progress.values(), default=(0, 0))
    return StalledRanks(sorted(rank for rank in progress if progress[rank] == least), are_unresponsive=False)


def describe_stalled(
    stalled: StalledRanks,
    heartbeats: Mapping[int, Heartbeat],
    ranks: Sequence[RankLocation],
    condition: str = "it is stopped, gone, or blocked outside of Python",
) -> str:
    """Return a message: the first stalled rank with host, process and position, and the numbers of the others.

    Args:
        condition: of the first one's process, for the message if it does not respond.
    """
    first, *others = stalled.ranks
    heartbeat = heartbeats.get(first)
    name = f"rank {first} on {ranks[first].host} (process {ranks[first].pid})"
    position = "" if heartbeat is None else f"in {heartbeat.phase!r} at step {heartbeat.step}"
    if stalled.are_unresponsive:
        seen = f"last seen {position}" if position else "it has not started training"
        also = f"; nor {_listed(others)}" if others else ""
        return f"{name} does not respond: {condition}; {seen}{also}"
    where = f" {position}" if position else ""
    num_here = sum(1 for each in heartbeats.values() if not each.has_left)
    if num_here == 1:
        return f"{name} makes no progress{where}"
    if len(stalled.ranks) == num_here:
        return f"all {num_here} ranks are at the same point{where}; {name} is the first of them"
    also = f"; so {'does' if len(others) == 1 else 'do'} {_listed(others)}" if others else ""
    return f"{name} holds up the others{where}{also}"


def _listed(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:MAX_LISTED_RANKS]))
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {shown}{' …' if len(ranks) > MAX_LISTED_RANKS else ''}"
