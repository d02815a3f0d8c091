"""The process group of an attempt, and the interface that it uses."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore  # torch.distributed's own, with types

from hpc_yolo.cluster.addresses import interface_addresses, interface_of, is_loopback
from hpc_yolo.cluster.local_process import process_start
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import ClusterError, LostProcessError, StallError, TrainingError
from hpc_yolo.distributed.device import device_identity
from hpc_yolo.distributed.rendezvous import CheckIn, address_for_ranks, check_in, open_store, own_location
from hpc_yolo.distributed.world import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import RankLocation

COLLECTIVE_TIMEOUT_S = 1800
NEIGHBOUR_CHECK_S = 0.5
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


@contextlib.contextmanager
def connected(process: ProcessInfo, run: RunDirectory, device: torch.device, timeout_s: float) -> Iterator[World]:
    """Enter the process group of this attempt once all ranks are there; destroy it when the block ends without error.

    After an error the group is left as it is: a collective teardown would wait for ranks that are gone.

    Raises:
        TrainingError: some ranks did not come within `timeout_s`; the message names them.
        ClusterError: rank 0 has no address that others could use; GLOO_SOCKET_IFNAME cannot work.
        LostProcessError: the ranks cannot connect to each other; the message names addresses and errors.
    """
    if process.world_size == 1:
        yield World(process, device, (own_location(process),))
        return
    link = open_store(process, run, timeout_s)
    everyone = check_in(link, process, timeout_s, device_identity(device))
    _require_gpus_of_their_own(everyone)
    locations = tuple(other.location for other in everyone)
    neighbours = _neighbours(process.rank, everyone)
    address = address_for_ranks(process.rank, everyone)
    with (
        _ends_with_a_neighbour(locations, neighbours),
        _gloo_over(address),
        _connection_errors(locations[process.rank]),
    ):
        dist.init_process_group(
            backend="nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", link.store),
            rank=process.rank,
            world_size=process.world_size,
            timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
            device_id=device if device.type == "cuda" else None,
        )
        control = dist.new_group(backend="gloo", timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    assert isinstance(control, dist.ProcessGroup)  # every rank is a member
    world = World(process, device, locations, control, link.store, neighbours)
    yield world
    world.barrier()
    dist.destroy_process_group()


def _require_gpus_of_their_own(everyone: Sequence[CheckIn]) -> None:
    """Refuse ranks that would share a GPU: NCCL would fail some seconds later, with a message of its own."""
    users: dict[str, RankLocation] = {}
    for other in everyone:
        if other.gpu is None:
            continue
        first = users.setdefault(other.gpu, other.location)
        if first is not other.location:
            ranks = f"ranks {first.rank} and {other.location.rank} on {other.location.host}"
            raise TrainingError(
                f"{ranks} would compute on one GPU ({other.gpu})",
                hint="ask for as many GPUs as tasks a node (cluster.gpus_per_node), or set train.device to cpu",
            )


@contextlib.contextmanager
def _connection_errors(own: RankLocation) -> Iterator[None]:
    """Raise one readable error for those that gloo and NCCL raise while they connect the ranks."""
    try:
        yield
    except RuntimeError as error:
        seen = " ".join(str(error).partition("Exception raised from")[0].split())
        raise LostProcessError(
            f"rank {own.rank} on {own.host} cannot connect to all other ranks: {seen}",
            hint="another rank has died, or its node cannot be reached over the interface that was taken: name another "
            "interface with GLOO_SOCKET_IFNAME, and NCCL_SOCKET_IFNAME for GPUs, under cluster.env",
        ) from error


def _neighbours(rank: int, everyone: Sequence[CheckIn]) -> dict[int, int]:
    """Return when the processes of the other ranks on this machine started, by rank."""
    machine = everyone[rank].machine
    return {
        other.location.rank: other.start
        for other in everyone
        if other.machine == machine and other.location.rank != rank and other.start is not None
    }


@contextlib.contextmanager
def _gloo_over(address: str | None) -> Iterator[None]:
    """Make gloo connect over the interface that has `address` within the block, unless GLOO_SOCKET_IFNAME is set.

    By default gloo takes the address of this host's name, which may be the loopback's or none at all.

    Raises:
        ClusterError: GLOO_SOCKET_IFNAME names no usable interface.
    """
    interface = None if address is None else interface_of(address)
    chosen = current_environment().get(GLOO_INTERFACE)
    if chosen:
        _require_interface(chosen, address)
    if chosen or interface is None:
        yield
        return
    os.environ[GLOO_INTERFACE] = interface
    try:
        yield
    finally:
        del os.environ[GLOO_INTERFACE]


def _require_interface(chosen: str, address: str | None) -> None:
    """Refuse a value of GLOO_SOCKET_IFNAME with which ranks on other nodes cannot be reached."""
    present = interface_addresses()
    found = [each.address for each in present if each.interface in chosen.split(",")]
    needs_network = address is not None and not is_loopback(address)
    if not found or (needs_network and all(map(is_loopback, found))):
        usable = {each.interface for each in present if not (needs_network and is_loopback(each.address))}
        raise ClusterError(
            f"{GLOO_INTERFACE} is {chosen!r}, which leads to no other node; the interfaces of {socket.gethostname()} "
            f"that could are {', '.join(sorted(usable))}",
            hint=f"unset {GLOO_INTERFACE}, in cluster.env too: the interface that reaches rank 0 is then taken",
        )


@contextlib.contextmanager
def _ends_with_a_neighbour(locations: Sequence[RankLocation], neighbours: Mapping[int, int]) -> Iterator[None]:
    """End this process if another rank of this machine dies within the block.

    gloo, which connects all ranks in it, would wait for a dead one for `COLLECTIVE_TIMEOUT_S`. Ranks on other machines
    are left to the launcher: Slurm ends a step whose task has died.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(NEIGHBOUR_CHECK_S):
            gone = [
                locations[rank] for rank, start in neighbours.items() if process_start(locations[rank].pid) != start
            ]
            if gone:
                message = (
                    f"rank {gone[0].rank} on {gone[0].host} (process {gone[0].pid}) is gone: it never met the others\n"
                )
                os.write(2, message.encode())
                os._exit(StallError.exit_code)

    thread = threading.Thread(target=watch, name="neighbours", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
