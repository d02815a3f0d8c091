"""Rendezvous of ranks on hosts with unresolvable or wrong names, and with stores of other attempts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import network_hosts
import pytest
from network_hosts import LOCALHOST, HostPlan, network_of
from torch._C._distributed_c10d import HashStore, TCPStore

from hpc_yolo.cluster.ports import bind_first_free, candidate_ports
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import ClusterError, LostProcessError, TrainingError
from hpc_yolo.core.files import write_struct
from hpc_yolo.distributed import rendezvous
from hpc_yolo.distributed.rendezvous import (
    CheckIn,
    PublishedStore,
    StoreLink,
    address_for_ranks,
    check_in,
    open_store,
    part_of_start,
)
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import RankLocation

SERVER = Path(__file__).parents[1] / "helpers" / "rank_server.py"


class RankServer:
    """Server that starts the ranks of attempts on emulated hosts."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process, self._directory, self._number = process, directory, 0

    def run(
        self, plans: Sequence[HostPlan], variables: Mapping[str, str], per_host: int = 1, unreachable_s: float = 60
    ) -> list[dict[str, Any]]:
        """Return the `code` and `output` of every rank of a Slurm step on these hosts."""
        self._number += 1
        run = self._directory / str(self._number)
        (run / "rendezvous").mkdir(parents=True)
        with network_of(plans, run) as hosts:
            names = [host.name for host in hosts]
            ranks = [
                {"pid": hosts[rank // per_host].pid, "env": step_variables(rank, per_host, names) | dict(variables)}
                for rank in range(per_host * len(hosts))
            ]
            assert self._process.stdin is not None and self._process.stdout is not None
            print(
                json.dumps({"run": str(run), "ranks": ranks, "unreachable_s": unreachable_s}), file=self._process.stdin
            )
            self._process.stdin.flush()
            reply: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return reply


def step_variables(rank: int, per_host: int, names: Sequence[str]) -> dict[str, str]:
    """Return the variables that srun sets for a task, and RANK etc., which are ignored in a step."""
    node_rank, local_rank = divmod(rank, per_host)
    return {
        "PATH": os.environ["PATH"],
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(local_rank),
        "SLURM_NODEID": str(node_rank),
        "SLURM_STEP_NUM_TASKS": str(per_host * len(names)),
        "SLURM_STEP_NUM_NODES": str(len(names)),
        "SLURM_STEP_NODELIST": ",".join(names),
        "SLURMD_NODENAME": names[node_rank],
        "RANK": str(rank),
        "WORLD_SIZE": str(per_host * len(names)),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(per_host),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    if reason := network_hosts.unavailable_reason():
        pytest.skip(f"hosts cannot be emulated: {reason}")
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        yield RankServer(process, tmp_path_factory.mktemp("hosts"))
        process.stdin.close()


def pair(hosts: str = LOCALHOST, prepare: Sequence[str] = (), **interfaces: str) -> list[HostPlan]:
    """Return two hosts; `{}` is replaced by the number of the host, `{other}` by that of the other."""
    return [
        HostPlan(
            f"gpu0{number}",
            {name: [address.format(number)] for name, address in interfaces.items()},
            hosts=hosts.format(number, other=3 - number),
            prepare=prepare,
        )
        for number in (1, 2)
    ]


DEBIAN = LOCALHOST + "127.0.1.1 gpu0{}\n10.1.0.{other} gpu0{other}\n"
STALE = LOCALHOST + "10.9.0.1 gpu01\n10.9.0.2 gpu02\n"
ETHERNET = {"eth0": "10.1.0.{}/24"}
BOTH = {"eth0": "10.1.0.{}/24", "ib0": "10.2.0.{}/24"}
# A local bridge with the same address on every host.
DOCKER = ["ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0 && ip link set docker0 up"]
# The name of rank 0 resolves to a network that the other host does not have.
CUT_OFF = [
    HostPlan("gpu01", {"eth0": ["10.1.0.1/24"], "ib0": ["10.2.0.1/24"]}, hosts=LOCALHOST + "10.1.0.1 gpu01\n"),
    HostPlan("gpu02", {"ib0": ["10.2.0.2/24"]}),
]

CONNECTED: dict[str, tuple[list[HostPlan], dict[str, str], str]] = {
    "no name resolves": (pair(**ETHERNET), {}, "eth0"),
    "own name resolves to 127.0.1.1": (pair(DEBIAN, **ETHERNET), {}, "eth0"),
    "stale names": (pair(STALE, **ETHERNET), {}, "eth0"),
    "IPv6 only": (pair(eth0="fd00:1::{}/64"), {}, "eth0"),
    "local network comes first": (pair(DEBIAN, DOCKER, **ETHERNET), {}, "eth0"),
    "name of rank 0 resolves to unreachable network": (CUT_OFF, {}, "ib0"),
    "MASTER_ADDR is loopback": (pair(**ETHERNET), {"MASTER_ADDR": "localhost"}, "eth0"),
    "MASTER_ADDR resolves to 127.0.1.1 on rank 0": (pair(DEBIAN, **ETHERNET), {"MASTER_ADDR": "gpu01"}, "eth0"),
    "MASTER_ADDR selects network": (pair(**BOTH), {"MASTER_ADDR": "10.2.0.1"}, "ib0"),
    "GLOO_SOCKET_IFNAME selects network": (pair(**BOTH), {"GLOO_SOCKET_IFNAME": "ib0"}, "ib0"),
    "one node without network": ([HostPlan("gpu01")], {"MASTER_ADDR": "no-such-host"}, "lo"),
}


@pytest.mark.parametrize(("plans", "variables", "interface"), CONNECTED.values(), ids=CONNECTED.keys())
def test_ranks_connect_and_gloo_uses_reachable_interface(
    server: RankServer, plans: list[HostPlan], variables: dict[str, str], interface: str
) -> None:
    ends = server.run(plans, variables, per_host=2)
    assert [end["code"] for end in ends] == [0] * len(ends), ends
    for end in ends:
        printed = json.loads(end["output"].splitlines()[-1])
        assert printed == {"ranks": list(range(len(ends))), "interface": interface}


def test_torchrun_workers_connect_if_name_of_rank_0_is_loopback(server: RankServer) -> None:
    variables = {"MASTER_ADDR": "gpu01", "MASTER_PORT": "29511", "SLURM_STEP_ID": ""}
    ends = server.run(pair(DEBIAN, **ETHERNET), variables, per_host=2)
    assert [end["code"] for end in ends] == [0] * 4, ends
    assert {json.loads(end["output"].splitlines()[-1])["interface"] for end in ends} == {"eth0"}


UNREACHABLE = [
    HostPlan("gpu01", {"eth0": ["10.1.0.1/24"]}),
    HostPlan("gpu02", {"eth0": ["10.1.0.2/24"]}, commands=["ip route add unreachable 10.1.0.1"]),
]
WITHOUT_LINK = [HostPlan("gpu01", {"eth0": ["10.1.0.1/24"]}), HostPlan("gpu02")]
TORCHRUN = {"SLURM_STEP_ID": "", "MASTER_PORT": "29512"}

# The rank that fails, or None for any rank, and its output.
REFUSED: dict[str, tuple[list[HostPlan], dict[str, str], int | None, list[str]]] = {
    "MASTER_ADDR does not resolve": (
        pair(**ETHERNET),
        {"MASTER_ADDR": "nonsense"},
        0,
        ["MASTER_ADDR is 'nonsense', which does not resolve on gpu01", "unset MASTER_ADDR", "10.1.0.1 (eth0)"],
    ),
    "MASTER_ADDR has port": (pair(**ETHERNET), {"MASTER_ADDR": "gpu01:29500"}, 0, ["does not resolve on gpu01"]),
    "MASTER_ADDR is other host": (
        pair(DEBIAN, **ETHERNET),
        {"MASTER_ADDR": "gpu02"},
        0,
        ["MASTER_ADDR is 'gpu02', which is not an address of gpu01, where rank 0 runs: 10.1.0.2"],
    ),
    "MASTER_ADDR is any address": (pair(**ETHERNET), {"MASTER_ADDR": "0.0.0.0"}, 0, ["is not an address of gpu01"]),
    "host of rank 0 without network": (
        pair(),
        {},
        0,
        ["gpu01", "no address that other nodes", "cluster.exclude=[gpu01]"],
    ),
    "no route to rank 0": (
        UNREACHABLE,
        {},
        1,
        ["rank 1 on gpu02 cannot connect to rank 0 (gpu01): 10.1.0.1 port ", "No route to host (error 113)"],
    ),
    "host without network": (WITHOUT_LINK, {}, 1, ["rank 1 on gpu02", "Network is unreachable (error 101)"]),
    "GLOO_SOCKET_IFNAME is no interface": (
        pair(**ETHERNET),
        {"GLOO_SOCKET_IFNAME": "ib9"},
        None,
        ["GLOO_SOCKET_IFNAME is 'ib9'", "that could are eth0", "unset GLOO_SOCKET_IFNAME"],
    ),
    "GLOO_SOCKET_IFNAME is loopback": (
        pair(**ETHERNET),
        {"GLOO_SOCKET_IFNAME": "lo"},
        None,
        ["leads to no other node", "that could are eth0"],
    ),
    "address of torchrun does not resolve": (
        pair(**ETHERNET),
        TORCHRUN | {"MASTER_ADDR": "gpu01"},
        None,
        ["cannot connect to MASTER_ADDR gpu01, port 29512"],
    ),
}


@pytest.mark.parametrize(("plans", "variables", "rank", "clauses"), REFUSED.values(), ids=REFUSED.keys())
def test_unusable_network_is_reported_before_start_timeout(
    server: RankServer, plans: list[HostPlan], variables: dict[str, str], rank: int | None, clauses: list[str]
) -> None:
    """Within about a second, and not after the ten minutes that ranks wait for each other."""
    ends = server.run(plans, variables, unreachable_s=0.5)
    codes = (ClusterError.exit_code, LostProcessError.exit_code)
    failed = {number: end["output"] for number, end in enumerate(ends) if end["code"] in codes}
    assert failed and (rank is None or rank in failed), ends
    output = failed[min(failed) if rank is None else rank]
    for clause in clauses:
        assert clause in output
    assert "Traceback" not in output


def worker(**changes: Any) -> ProcessInfo:
    values: dict[str, Any] = {"job_id": "7", "host": "gpu02", **changes}
    return ProcessInfo(1, 0, 1, 2, 1, 2, "gpu01", None, "slurm", **values)


def serve(address: str, port: int, token: str) -> TCPStore:
    listener = bind_first_free([port] if port else candidate_ports("7", 1), address)
    port = listener.getsockname()[1]
    options = {"wait_for_workers": False, "master_listen_fd": listener.detach()}
    store = TCPStore(address, port, 2, is_master=True, timeout=timedelta(seconds=20), **options)
    store.set("token", token)
    return store


def test_rank_ignores_stores_of_other_attempts(tmp_path: Path) -> None:
    """Other programs may listen on a published port, such as a store of another attempt."""
    run = RunDirectory(tmp_path)
    published = run.rendezvous("7", 1)
    published.parent.mkdir()
    ours = serve("127.0.0.1", 0, "ours")
    other = serve("127.0.0.2", ours.port, "other")
    addresses = ["127.0.0.3", "127.0.0.2", "127.0.0.1"]  # no store, another attempt, rank 0
    write_struct(published, PublishedStore(addresses, ours.port, "ours"))
    link = open_store(worker(), run, 20)
    assert link.reached == "127.0.0.1"
    link.store.set("connected", "yes")
    assert ours.get("connected") == b"yes"
    assert not other.check(["connected"])


STORE_OF_RANK_0 = """
import sys, time
from datetime import timedelta
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
store.wait(["rank/1"], timedelta(seconds=60))
if sys.argv[1] == "ends":
    sys.exit()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("what", "timeout_s", "expected", "words"),
    [
        ("ends", 60, LostProcessError, r"lost the connection to rank 0 \(gpu01\) while the ranks met: "),
        ("waits", 1, TrainingError, "waited 1 s for the other ranks"),
    ],
)
def test_rank_tells_an_end_of_rank_0_from_ranks_that_do_not_come(
    what: str, timeout_s: float, expected: type[Exception], words: str
) -> None:
    """A rank that is killed while the ranks meet has ended first: the other has not waited, and is not to blame."""
    command = [sys.executable, "-c", STORE_OF_RANK_0, what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as rank_0:
        assert rank_0.stdout is not None
        store = TCPStore("127.0.0.1", int(rank_0.stdout.readline()), 2, is_master=False, wait_for_workers=False)
        with pytest.raises(expected, match=words):
            check_in(StoreLink(store, None, None), worker(), timeout_s)
        rank_0.kill()


def test_workers_that_torchrun_starts_again_meet_in_a_part_of_their_own() -> None:
    """Agents keep their store: what the first workers have written must not be taken for the second ones'."""
    agents = HashStore()
    agents.set("start/1", "question of a worker that has ended before it had an answer")
    ranks = [ProcessInfo(rank, rank, 0, 2, 2, 1, "gpu01", 1, "torchrun") for rank in (1, 0)]
    for start in ("first", "second"):
        with ThreadPoolExecutor(2) as pool:
            of_1, of_0 = pool.map(lambda process: part_of_start(agents, process, 60), ranks)
        assert not of_1.check(["addresses"])
        of_0.set("addresses", start)
        assert of_1.get("addresses") == start.encode()


def test_file_of_earlier_step_is_ignored(tmp_path: Path) -> None:
    """Several steps of an allocation may train one after another, with the same job and the same attempt."""
    run = RunDirectory(tmp_path)
    run.rendezvous("7", 1).parent.mkdir()
    earlier = serve("127.0.0.1", 0, "earlier")
    write_struct(run.rendezvous("7.0", 1), PublishedStore(["127.0.0.1"], earlier.port, "earlier"))
    with pytest.raises(TrainingError, match=r"waited 1 s for rank 0 \(gpu01\), which did not publish"):
        open_store(worker(step_id=1), run, 1)


@pytest.mark.parametrize("content", ["", "{", '{"master_addr": "gpu01", "master_port": 1}', "[]"])
def test_invalid_rendezvous_file_is_read_again(tmp_path: Path, content: str) -> None:
    run = RunDirectory(tmp_path)
    run.rendezvous("7", 1).parent.mkdir()
    run.rendezvous("7", 1).write_text(content)
    ours = serve("127.0.0.1", 0, "ours")
    store = PublishedStore(["127.0.0.1"], ours.port, "ours")
    late = threading.Timer(0.2, write_struct, (run.rendezvous("7", 1), store))
    late.start()
    assert open_store(worker(), run, 20).reached == "127.0.0.1"
    late.join()


def test_unreachable_store_error_lists_tried_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "UNREACHABLE_S", 0.1)
    run = RunDirectory(tmp_path)
    run.rendezvous("7", 1).parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    write_struct(run.rendezvous("7", 1), PublishedStore(["127.0.0.2", "127.0.0.1"], port, "gone"))
    with pytest.raises(LostProcessError) as caught:
        open_store(worker(), run, 600)
    refused = "Connection refused (error 111)"
    assert f"127.0.0.2 port {port}: {refused}; 127.0.0.1 port {port}: {refused}" in caught.value.message
    assert "MASTER_ADDR" in str(caught.value.hint)


OWN = "203.0.113.1"
OTHER, BRIDGE = "203.0.113.2", "172.17.0.1"
Ends = tuple[str | None, str | None]
# (own address, reached address) of this rank and of others, and the expected address.
ADDRESSES: dict[str, tuple[Ends, list[Ends], str | None]] = {
    "other host than store": ((OWN, OTHER), [(OTHER, OTHER)], OWN),
    "host of store: address reached by other hosts": ((BRIDGE, BRIDGE), [(OTHER, OWN)], OWN),
    "host of store with loopback name": (("127.0.0.1", "127.0.1.1"), [(OTHER, OWN)], OWN),
    "bridge on every host": ((OWN, OTHER), [(BRIDGE, BRIDGE)], OWN),
    "one host": (("127.0.0.1", "127.0.1.1"), [("127.0.0.1", "127.0.1.1")], "127.0.0.1"),
    "no addresses": ((None, None), [(None, None)], None),
}


@pytest.mark.parametrize(("mine", "others", "expected"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_address_of_rank_is_reachable_from_other_hosts(
    monkeypatch: pytest.MonkeyPatch,
    mine: Ends,
    others: list[Ends],
    expected: str | None,
) -> None:
    monkeypatch.setattr(rendezvous, "is_own", lambda address: address in (OWN, BRIDGE))
    check_ins = [
        CheckIn(
            location=RankLocation(rank=rank, local_rank=0, node_rank=rank, host=f"gpu{rank}", pid=1),
            machine=str(rank),
            start=1,
            own_address=own,
            reached_address=other_end,
        )
        for rank, (own, other_end) in enumerate([mine, *others])
    ]
    assert address_for_ranks(0, check_ins) == expected
