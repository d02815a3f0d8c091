"""The process group of an attempt: how its ranks find each other, and the few things they say to each other.

Two groups exist. The default one moves gradients (NCCL on GPUs, gloo without). The control group is always gloo: stop
agreement, evaluation results and per-rank figures go through it, so that none of them waits for the device.
Nothing travels as a pickle.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed's own, with types
from torch.distributed.rendezvous import rendezvous

from hpc_yolo.cluster.local import machine_id, process_start
from hpc_yolo.cluster.process import LOOPBACK, ProcessInfo, bind_first_free, candidate_ports
from hpc_yolo.errors import StallError, TrainingError
from hpc_yolo.fileio import write_atomic
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import RankPlace

COLLECTIVE_TIMEOUT_S = 1800
RETRY_S = 0.05
NEIGHBOUR_LOOK_S = 0.5


@dataclass(frozen=True)
class World:
    """This rank's view of all ranks. With a single rank every operation is the identity.

    `neighbours`: when the process of each other rank on this machine started, in ticks since boot, by rank.
    """

    process: ProcessInfo
    device: torch.device
    places: tuple[RankPlace, ...]
    control: dist.ProcessGroup | None = None
    store: Store | None = None
    neighbours: Mapping[int, int] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return self.process.rank

    @property
    def size(self) -> int:
        return self.process.world_size

    @property
    def is_main(self) -> bool:
        """Whether this rank prints and writes."""
        return self.process.rank == 0

    def sum_over_ranks(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of `tensor` over all ranks, on its device; not differentiable."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrite `tensors` with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def second_store(self, prefix: str) -> Store | None:
        """The store of this attempt over a connection of its own, its keys under `prefix`; None for a single rank.

        An operation on a store holds up all others over the same connection.
        """
        return None if self.store is None else PrefixStore(prefix, self.store.clone())

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def gather_figures(self, figures: Sequence[float]) -> list[list[float]]:
        """The same few numbers of every rank, by rank."""
        if self.size == 1:
            return [list(figures)]
        mine = torch.tensor(figures, dtype=torch.float64)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine, group=self.control)
        return [tensor.tolist() for tensor in everyone]

    def gather_arrays(self, arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Every rank's `arrays` (any shapes, no objects), by rank, on every rank."""
        if self.size == 1:
            return [arrays]
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **arrays)
        mine = torch.frombuffer(bytearray(packed.getvalue()), dtype=torch.uint8)
        sizes = [int(size) for (size,) in self.gather_figures([len(mine)])]
        everyone = [torch.zeros(max(sizes), dtype=torch.uint8) for _ in range(self.size)]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(mine)] = mine
        dist.all_gather(everyone, padded, group=self.control)
        return [_unpack(tensor[:size]) for tensor, size in zip(everyone, sizes, strict=True)]


class StopAgreement:
    """All ranks learn after the same step that one of them was asked to stop.

    The reduction begun at one step is read at the next: by then it is over, and nobody waited for it.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def ask(self, signal_number: int) -> int:
        """Tell the others this rank's `signal_number` (0: none); the highest that any rank told one step ago."""
        if self._world.size == 1:
            return signal_number
        agreed = self.settle()
        told = torch.tensor([signal_number], dtype=torch.int64)
        work = dist.all_reduce(told, op=dist.ReduceOp.MAX, group=self._world.control, async_op=True)
        assert work is not None
        self._pending = (work, told)
        return agreed

    def settle(self) -> int:
        """Wait for the reduction under way, if any, and read it."""
        if self._pending is None:
            return 0
        work, told = self._pending
        work.wait()
        self._pending = None
        return int(told.item())


@contextlib.contextmanager
def connected(process: ProcessInfo, run: RunDirectory, device: torch.device, timeout_s: float) -> Iterator[World]:
    """The process group of this attempt, once all ranks are there; taken down when the block ends well.

    After an exception the group is left as it is: a collective teardown would wait for ranks that are gone.

    Raises:
        TrainingError: some ranks did not come within `timeout_s`; the message names them.
    """
    if process.world_size == 1:
        yield World(process, device, (_own_place(process),))
        return
    store = _open_store(process, run, timeout_s)
    places, neighbours = _check_in(store, process, timeout_s)
    with _ends_with_a_neighbour(places, neighbours):
        dist.init_process_group(
            backend="nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=process.rank,
            world_size=process.world_size,
            timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
            device_id=device if device.type == "cuda" else None,
        )
        control = dist.new_group(backend="gloo", timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    assert isinstance(control, dist.ProcessGroup)  # every rank is a member
    world = World(process, device, places, control, store, neighbours)
    yield world
    world.barrier()
    dist.destroy_process_group()


def choose_device(requested: str, process: ProcessInfo) -> torch.device:
    """This task's device: `auto` takes a GPU where there is one, `cpu` none, "0,1" the local rank's in the list.

    Tasks that `submit` started on this machine see just the GPUs that were chosen for them, in the order of ranks.

    Raises:
        TrainingError: the GPU that was asked for is not there.
    """
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local_rank = process.local_rank
    is_narrowed = requested == "auto" or process.launcher == "submitit-local"
    index = local_rank if is_narrowed else int(requested.split(",")[local_rank])
    if index >= torch.cuda.device_count():
        raise TrainingError(
            f"GPU {index} is not there: this task (local rank {local_rank}) sees {torch.cuda.device_count()} GPUs",
            hint="ask for as many GPUs as tasks a node (cluster.gpus_per_node), or set train.device to cpu",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def make_deterministic() -> None:
    """Prefer operations that give the same result every time; one that has no such form warns and runs."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's libraries start
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def launcher_store(process: ProcessInfo) -> Store:
    """The store that torchrun's agent serves, at the address that it gave to every worker."""
    found: Store = next(iter(rendezvous("env://", process.rank, process.world_size)))[0]
    return found


def _open_store(process: ProcessInfo, run: RunDirectory, timeout_s: float) -> Store:
    if process.launcher == "torchrun":
        return launcher_store(process)
    published = run.rendezvous(process.job_id or "0", process.attempt)
    if process.rank == 0:
        return _serve_store(process, published, timeout_s)
    return _join_store(process, published, timeout_s)


def _serve_store(process: ProcessInfo, published: Path, timeout_s: float) -> Store:
    if process.master_port is not None:
        ports: Iterator[int] = iter([process.master_port])
    else:
        ports = candidate_ports(process.job_id or "0", process.attempt)
    # A run on one machine has no business with the network.
    host = LOOPBACK if process.master_addr == LOOPBACK else ""
    with bind_first_free(ports, host) as listener:
        port = listener.getsockname()[1]
        # The store takes over the very socket that was bound, so nobody can take the port in between.
        store = TCPStore(
            process.master_addr,
            port,
            process.world_size,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    write_atomic(published, json.dumps({"master_addr": process.master_addr, "master_port": port}))
    return store


def _join_store(process: ProcessInfo, published: Path, timeout_s: float) -> Store:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        # A file left by an earlier job of the same number leads nowhere; read it again until rank 0 has renewed it.
        with contextlib.suppress(OSError, ValueError, KeyError):
            place = json.loads(published.read_text())
            address, port = str(place["master_addr"]), int(place["master_port"])
            with socket.create_connection((address, port), timeout=5):
                pass
            remaining = timedelta(seconds=max(deadline - time.monotonic(), 1))
            return TCPStore(address, port, process.world_size, is_master=False, timeout=remaining)
        time.sleep(RETRY_S)
    raise TrainingError(
        f"rank {process.rank} on {socket.gethostname()} waited {timeout_s:.0f} s for rank 0 "
        f"({process.master_addr}), which never said where it listens ({published})",
        hint="is the run directory on a file system that all nodes see? did rank 0 start?",
    )


def _check_in(store: Store, process: ProcessInfo, timeout_s: float) -> tuple[tuple[RankPlace, ...], dict[int, int]]:
    """Wait until every rank has said where it is; rank 0 publishes the whole list. The places, and the neighbours."""
    place, machine = _own_place(process), machine_id()
    told = {"place": _place_to_dict(place), "machine": machine, "start": process_start(place.pid)}
    store.set(f"place/{process.rank}", json.dumps(told))
    if process.rank == 0:
        _wait_for_everyone(store, process, timeout_s)
        everyone = [json.loads(store.get(f"place/{rank}")) for rank in range(process.world_size)]
        store.set("places", json.dumps(everyone))
    else:
        try:
            store.wait(["places"], timedelta(seconds=timeout_s))
        except (dist.DistError, RuntimeError) as error:
            raise TrainingError(
                f"rank {process.rank} on {place.host} waited {timeout_s:.0f} s for the other ranks; rank 0 "
                f"({process.master_addr}) says which did not come"
            ) from error
        everyone = json.loads(store.get("places"))
    neighbours = {
        rank: int(other["start"])
        for rank, other in enumerate(everyone)
        if other["machine"] == machine and rank != process.rank and other["start"] is not None
    }
    return tuple(RankPlace(**other["place"]) for other in everyone), neighbours


@contextlib.contextmanager
def _ends_with_a_neighbour(places: Sequence[RankPlace], neighbours: Mapping[int, int]) -> Iterator[None]:
    """End this process if another rank of this machine dies within the block.

    gloo, which connects all ranks in it, would wait for a dead one for `COLLECTIVE_TIMEOUT_S`. Ranks on other machines
    are the launcher's: Slurm ends a step whose task has died.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(NEIGHBOUR_LOOK_S):
            gone = [places[rank] for rank, start in neighbours.items() if process_start(places[rank].pid) != start]
            if gone:
                words = (
                    f"rank {gone[0].rank} on {gone[0].host} (process {gone[0].pid}) is gone: it never met the others\n"
                )
                os.write(2, words.encode())
                os._exit(StallError.exit_code)

    thread = threading.Thread(target=watch, name="neighbours", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _wait_for_everyone(store: Store, process: ProcessInfo, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    missing = list(range(process.world_size))
    while missing := [rank for rank in missing if not store.check([f"place/{rank}"])]:
        if time.monotonic() > deadline:
            listed = ", ".join(f"{rank} (node {rank // process.local_world_size})" for rank in missing[:16])
            raise TrainingError(
                f"after {timeout_s:.0f} s {len(missing)} of {process.world_size} ranks are missing: "
                f"{listed}{' …' if len(missing) > 16 else ''}",
                hint="look at the output of those tasks; train.start_timeout_s is the time they have",
            )
        time.sleep(RETRY_S)


def _own_place(process: ProcessInfo) -> RankPlace:
    return RankPlace(
        rank=process.rank,
        local_rank=process.local_rank,
        node_rank=process.node_rank,
        host=process.host or socket.gethostname(),
        pid=os.getpid(),
    )


def _place_to_dict(place: RankPlace) -> dict[str, int | str]:
    return {field: getattr(place, field) for field in place.__struct_fields__}


def _unpack(packed: torch.Tensor) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(packed.numpy().tobytes()), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
