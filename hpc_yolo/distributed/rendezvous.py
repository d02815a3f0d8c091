"""Rendezvous of the ranks of an attempt: rank 0 serves a store and publishes its addresses, all others connect to it.

The addresses are numbers, so no other node has to resolve a name. Where rank 0's host has several, all are published,
and each rank takes the first that leads to this very store, as a token in it proves. Where all ranks are on one node
the loopback is used and nothing listens on the network.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed's own, with types
from torch.distributed.rendezvous import rendezvous

from hpc_yolo.cluster.addresses import addresses_for_others, is_loopback, is_own, resolve
from hpc_yolo.cluster.local_process import machine_id, process_start
from hpc_yolo.cluster.ports import bind_first_free, candidate_ports
from hpc_yolo.cluster.process import LOOPBACK, ProcessInfo
from hpc_yolo.core.errors import ClusterError, LostProcessError, TrainingError
from hpc_yolo.core.files import read_struct, write_struct
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import RankLocation

RETRY_S = 0.05
CONNECT_S = 5.0
HANDSHAKE_S = 30.0
UNREACHABLE_S = 20.0  # of refusals only, by one and the same published store
TOKEN = "token"


class PublishedStore(msgspec.Struct, frozen=True):
    """Where rank 0 listens, likeliest address first, and the token that distinguishes its store from others."""

    master_addresses: list[str]
    master_port: int
    token: str


@dataclass(frozen=True)
class StoreLink:
    """The store of an attempt, and the addresses at both ends of this rank's connection to it; None where unknown."""

    store: Store
    own: str | None
    reached: str | None


class CheckIn(msgspec.Struct, frozen=True, kw_only=True):
    """The record that a rank publishes when it arrives.

    Attributes:
        start: when its process started, in ticks since boot.
        gpu: see `device_identity`.
    """

    location: RankLocation
    machine: str
    start: int | None
    gpu: str | None = None
    own_address: str | None = None
    reached_address: str | None = None


def open_store(process: ProcessInfo, run: RunDirectory, timeout_s: float) -> StoreLink:
    """Serve the store of this attempt on rank 0, connect to it on the others.

    Raises:
        ClusterError: rank 0 has no address or port to listen on.
        LostProcessError: this rank cannot reach any address of rank 0.
        TrainingError: rank 0 published nothing within `timeout_s`.
    """
    if process.launcher == "torchrun":
        return _launcher_link(process, timeout_s)
    job = process.job_id or "0"
    published = run.rendezvous(job if process.step_id is None else f"{job}.{process.step_id}", process.attempt)
    if process.rank == 0:
        return _serve_store(process, published, timeout_s)
    return _join_store(process, published, timeout_s)


def launcher_store(process: ProcessInfo, timeout_s: float) -> Store:
    """Connect to the store that torchrun's agent serves, at the address that it gave to every worker.

    Raises:
        ClusterError: the address does not resolve.
        LostProcessError: no store responds there within `timeout_s`.
    """
    hint = "MASTER_ADDR is the host of rank 0, the same for all ranks; see torchrun --master-addr"
    address, port = process.master_addr, process.master_port
    where = f"rank {process.rank} on {_host(process)} cannot connect to MASTER_ADDR {address}, port {port}"
    try:
        resolve(address)
    except OSError as error:
        raise ClusterError(f"{where}: {_reason(error)}", hint=hint) from error
    try:
        timeout = timedelta(seconds=timeout_s)
        found: Store = next(iter(rendezvous("env://", process.rank, process.world_size, timeout=timeout)))[0]
    except dist.DistError as error:
        reason = str(error).partition("\n")[0]
        raise LostProcessError(f"{where}: {reason}", hint=hint) from error
    return found


def check_in(link: StoreLink, process: ProcessInfo, timeout_s: float, gpu: str | None = None) -> list[CheckIn]:
    """Publish this rank in the store and wait for all others; return what they published, by rank.

    Raises:
        TrainingError: some ranks did not come within `timeout_s`; rank 0's message names them.
        LostProcessError: rank 0 has ended meanwhile.
    """
    location = own_location(process)
    mine = CheckIn(
        location=location,
        machine=machine_id(),
        start=process_start(location.pid),
        gpu=gpu,
        own_address=link.own,
        reached_address=link.reached,
    )
    store = link.store
    store.set(f"rank/{process.rank}", msgspec.json.encode(mine).decode())
    if process.rank == 0:
        _wait_for_everyone(process, timeout_s, lambda rank: store.check([f"rank/{rank}"]))
        everyone = [json.loads(store.get(f"rank/{rank}")) for rank in range(process.world_size)]
        store.set("ranks", json.dumps(everyone))
    return msgspec.json.decode(_value_of(store, "ranks", process, timeout_s), type=list[CheckIn])


def _value_of(store: Store, key: str, process: ProcessInfo, timeout_s: float) -> bytes:
    """Return what rank 0 writes as `key` when the ranks meet; errors are as in `check_in`."""
    here = f"rank {process.rank} on {_host(process)}"
    try:
        store.wait([key], timedelta(seconds=timeout_s))
    except dist.DistNetworkError as error:
        raise LostProcessError(
            f"{here} lost the connection to rank 0 ({process.master_addr}) while the ranks met: {error}",
            hint="hpc-yolo logs RUN --errors shows the rank that ended first",
        ) from error
    except (dist.DistError, RuntimeError) as error:
        raise TrainingError(
            f"{here} waited {timeout_s:.0f} s for the other ranks; rank 0 ({process.master_addr}) logs which did not "
            "come"
        ) from error
    return store.get(key)


def own_location(process: ProcessInfo) -> RankLocation:
    """Return host, process and ranks of this process."""
    return RankLocation(
        rank=process.rank,
        local_rank=process.local_rank,
        node_rank=process.node_rank,
        host=_host(process),
        pid=os.getpid(),
    )


def address_for_ranks(rank: int, everyone: Sequence[CheckIn]) -> str | None:
    """Return the address of this host at which the other ranks can connect to `rank`, this one; None: not known.

    On the store's host that is the address at which other hosts reached the store; elsewhere, this rank's own end of
    its connection to it.
    """
    mine = everyone[rank]
    if _comes_from_another_host(mine):
        return mine.own_address
    reached = [other.reached_address for other in everyone if _comes_from_another_host(other)]
    return next((address for address in reached if address is not None and is_own(address)), mine.own_address)


def _comes_from_another_host(rank: CheckIn) -> bool:
    own, reached = rank.own_address, rank.reached_address
    return own is not None and reached is not None and own != reached and not is_loopback(reached)


def _launcher_link(process: ProcessInfo, timeout_s: float) -> StoreLink:
    store = part_of_start(launcher_store(process, timeout_s), process, timeout_s)
    assert process.master_port is not None
    with contextlib.suppress(OSError):
        own, reached = _ends_of_connection(process.master_addr, process.master_port)
        return StoreLink(store, own, reached)
    return StoreLink(store, None, None)


def part_of_start(store: Store, process: ProcessInfo, timeout_s: float) -> Store:
    """Return the part of torchrun's store that belongs to this start of the workers; errors are as in `check_in`.

    Agents keep the store when they start their workers again, with all that the earlier ones have written. Rank 0 names
    the part, and tells each process that asks: a question that is left of an earlier start is answered in vain.
    """
    name, answered = secrets.token_hex(8), set[bytes]()

    def has_name(rank: int) -> bool:
        if rank == 0 or store.check([f"{name}/named/{rank}"]):
            return True
        if store.check([f"start/{rank}"]) and (question := store.get(f"start/{rank}")) not in answered:
            store.set(f"start/{question.decode()}", name)
            answered.add(question)
        return False

    if process.rank == 0:
        _wait_for_everyone(process, timeout_s, has_name)
        return PrefixStore(name, store)
    question = secrets.token_hex(8)
    store.set(f"start/{process.rank}", question)
    name = _value_of(store, f"start/{question}", process, timeout_s).decode()
    store.set(f"{name}/named/{process.rank}", "")
    return PrefixStore(name, store)


def _serve_store(process: ProcessInfo, published: Path, timeout_s: float) -> StoreLink:
    if process.num_nodes == 1:
        addresses = [LOOPBACK]
    else:
        chosen = process.master_addr if process.is_addr_set else None
        addresses = addresses_for_others(_host(process), chosen)
    if process.master_port is not None:
        ports: Iterator[int] = iter([process.master_port])
    else:
        ports = candidate_ports(process.job_id or "0", process.attempt)
    with bind_first_free(ports, LOOPBACK if process.num_nodes == 1 else "") as listener:
        port = listener.getsockname()[1]
        # The store takes over the very socket that was bound, so nobody can take the port in between.
        store = TCPStore(
            LOOPBACK,
            port,
            process.world_size,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    token = secrets.token_hex(8)
    store.set(TOKEN, token)
    write_struct(published, PublishedStore(addresses, port, token))
    return StoreLink(store, addresses[0], addresses[0])


def _join_store(process: ProcessInfo, published: Path, timeout_s: float) -> StoreLink:
    """Connect to the published store, again and again: the file may be that of an earlier start."""
    begun_s = time.monotonic()
    tries: _Tries | None = None
    while time.monotonic() < begun_s + timeout_s:
        store = None
        with contextlib.suppress(OSError):
            store = read_struct(published, PublishedStore)
        if store is not None:
            if tries is None or tries.published != store:
                tries = _Tries(store)
            link = tries.connect(begun_s + timeout_s)
            if link is not None:
                return link
            if process.num_nodes > 1 and tries.is_hopeless:
                raise _unreachable(process, tries)
        time.sleep(RETRY_S)
    if tries is not None:
        raise _unreachable(process, tries)
    raise TrainingError(
        f"rank {process.rank} on {_host(process)} waited {timeout_s:.0f} s for rank 0 "
        f"({process.master_addr}), which did not publish where it listens ({published})",
        hint="is the run directory on a file system that all nodes share? did rank 0 start?",
    )


class _Tries:
    """Attempts to connect to one published store, and the error of the last one at each address."""

    def __init__(self, published: PublishedStore) -> None:
        self.published = published
        self.errors: dict[str, OSError] = {}
        self._since_s = time.monotonic()
        self._only_refusals = True

    @property
    def is_hopeless(self) -> bool:
        """True if no address has led to a store for so long that none will."""
        return self._only_refusals and time.monotonic() - self._since_s > UNREACHABLE_S

    def connect(self, deadline_s: float) -> StoreLink | None:
        """Try every address once."""
        port = self.published.master_port
        for address in self.published.master_addresses:
            try:
                own, reached = _ends_of_connection(address, port)
            except OSError as error:
                self.errors[address] = error
                continue
            remaining_s = max(deadline_s - time.monotonic(), 1)
            try:
                store = _store_at(address, port, min(remaining_s, HANDSHAKE_S))
                is_ours = store.check([TOKEN]) and store.get(TOKEN).decode() == self.published.token
            except dist.DistError as error:
                self.errors[address] = OSError(str(error).partition("\n")[0])
                self._only_refusals = False  # a busy store looks like that, too
                continue
            if is_ours:
                store.set_timeout(timedelta(seconds=remaining_s))
                return StoreLink(store, own, reached)
            self.errors[address] = OSError("another program listens there")
        return None


def _store_at(address: str, port: int, timeout_s: float) -> TCPStore:
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)


def _ends_of_connection(address: str, port: int) -> tuple[str, str]:
    """Connect to `address`; return the addresses of this host and of the other one."""
    with socket.create_connection((address, port), timeout=CONNECT_S) as connection:
        return connection.getsockname()[0], connection.getpeername()[0]


def _unreachable(process: ProcessInfo, tries: _Tries) -> LostProcessError:
    """Return the error for a rank that cannot reach rank 0. Its node may be lost, so the run may be tried again."""
    port = tries.published.master_port
    seen = "; ".join(f"{address} port {port}: {_reason(error)}" for address, error in tries.errors.items())
    return LostProcessError(
        f"rank {process.rank} on {_host(process)} cannot connect to rank 0 ({process.master_addr}): {seen}",
        hint="rank 0 has ended, or no network leads to its host. Is a firewall between the nodes? Choose another "
        "network with MASTER_ADDR, or an open port with MASTER_PORT, under cluster.env",
    )


def _host(process: ProcessInfo) -> str:
    return process.host or socket.gethostname()


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{text} (error {error.errno})" if error.errno is not None else text


def _wait_for_everyone(process: ProcessInfo, timeout_s: float, has_come: Callable[[int], bool]) -> None:
    deadline = time.monotonic() + timeout_s
    missing = list(range(process.world_size))
    while missing := [rank for rank in missing if not has_come(rank)]:
        if time.monotonic() > deadline:
            listed = ", ".join(f"{rank} (node {rank // process.local_world_size})" for rank in missing[:16])
            raise TrainingError(
                f"after {timeout_s:.0f} s {len(missing)} of {process.world_size} ranks are missing: "
                f"{listed}{' …' if len(missing) > 16 else ''}",
                hint="see the output of those tasks; train.start_timeout_s is the time they have",
            )
        time.sleep(RETRY_S)
