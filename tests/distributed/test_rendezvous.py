"""How ranks find each other: on hosts whose names lead nowhere, or to the wrong host, and past stores of others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import network_hosts
import pytest
from network_hosts import LOCALHOST, HostPlan, network_of
from torch._C._distributed_c10d import TCPStore

from hpc_yolo.cluster.ports import bind_first_free, candidate_ports
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import ClusterError, LostProcessError, TrainingError
from hpc_yolo.core.files import write_struct
from hpc_yolo.distributed import rendezvous
from hpc_yolo.distributed.rendezvous import CheckIn, PublishedStore, address_for_ranks, open_store
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import RankLocation

SERVER = Path(__file__).parents[1] / "helpers" / "rank_server.py"


class RankServer:
    """Ranks of attempts in hosts of their own, two hosts with one rank each unless given."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process, self._directory, self._number = process, directory, 0

    def run(
        self, plans: Sequence[HostPlan], variables: Mapping[str, str], per_host: int = 1, unreachable_s: float = 60
    ) -> list[dict[str, Any]]:
        """`code` and `output` of every rank of a Slurm step on such hosts."""
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
            answer: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return answer


def step_variables(rank: int, per_host: int, names: Sequence[str]) -> dict[str, str]:
    """What srun sets for a task, and RANK and its like, which count only outside of a step."""
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
        pytest.skip(f"no hosts of their own here: {reason}")
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        yield RankServer(process, tmp_path_factory.mktemp("hosts"))
        process.stdin.close()


def pair(hosts: str = LOCALHOST, prepare: Sequence[str] = (), **interfaces: str) -> list[HostPlan]:
    """Two hosts; `{}` stands for the host's number, `{other}` for the other's."""
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
# A bridge of the host alone, with the same address on every host.
DOCKER = ["ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0 && ip link set docker0 up"]
# Rank 0's name leads to a network that the other host has not.
CUT_OFF = [
    HostPlan("gpu01", {"eth0": ["10.1.0.1/24"], "ib0": ["10.2.0.1/24"]}, hosts=LOCALHOST + "10.1.0.1 gpu01\n"),
    HostPlan("gpu02", {"ib0": ["10.2.0.2/24"]}),
]

MEET: dict[str, tuple[list[HostPlan], dict[str, str], str]] = {
    "no name resolves": (pair(**ETHERNET), {}, "eth0"),
    "a host's own name is 127.0.1.1": (pair(DEBIAN, **ETHERNET), {}, "eth0"),
    "names lead to hosts that are no more": (pair(STALE, **ETHERNET), {}, "eth0"),
    "only IPv6": (pair(eth0="fd00:1::{}/64"), {}, "eth0"),
    "a network of the host alone comes first": (pair(DEBIAN, DOCKER, **ETHERNET), {}, "eth0"),
    "rank 0's name leads to a network of few": (CUT_OFF, {}, "ib0"),
    "MASTER_ADDR is the loopback": (pair(**ETHERNET), {"MASTER_ADDR": "localhost"}, "eth0"),
    "MASTER_ADDR is rank 0's own name at 127.0.1.1": (pair(DEBIAN, **ETHERNET), {"MASTER_ADDR": "gpu01"}, "eth0"),
    "MASTER_ADDR chooses a network": (pair(**BOTH), {"MASTER_ADDR": "10.2.0.1"}, "ib0"),
    "GLOO_SOCKET_IFNAME is chosen": (pair(**BOTH), {"GLOO_SOCKET_IFNAME": "ib0"}, "ib0"),
    "one node without a network": ([HostPlan("gpu01")], {"MASTER_ADDR": "no-such-host"}, "lo"),
}


@pytest.mark.parametrize(("plans", "variables", "interface"), MEET.values(), ids=MEET.keys())
def test_ranks_meet_and_gloo_takes_the_interface_that_reaches_them(
    server: RankServer, plans: list[HostPlan], variables: dict[str, str], interface: str
) -> None:
    ends = server.run(plans, variables, per_host=2)
    assert [end["code"] for end in ends] == [0] * len(ends), ends
    for end in ends:
        printed = json.loads(end["output"].splitlines()[-1])
        assert printed == {"ranks": list(range(len(ends))), "interface": interface}


def test_workers_of_torchrun_meet_where_the_name_of_rank_0s_host_is_its_loopback(server: RankServer) -> None:
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

# The rank that fails, None for any of them, and what it prints.
REFUSED: dict[str, tuple[list[HostPlan], dict[str, str], int | None, list[str]]] = {
    "MASTER_ADDR is no name": (
        pair(**ETHERNET),
        {"MASTER_ADDR": "nonsense"},
        0,
        ["MASTER_ADDR is 'nonsense', which does not resolve on gpu01", "unset MASTER_ADDR", "10.1.0.1 (eth0)"],
    ),
    "MASTER_ADDR has a port": (pair(**ETHERNET), {"MASTER_ADDR": "gpu01:29500"}, 0, ["does not resolve on gpu01"]),
    "MASTER_ADDR is another host": (
        pair(DEBIAN, **ETHERNET),
        {"MASTER_ADDR": "gpu02"},
        0,
        ["MASTER_ADDR is 'gpu02', which is not an address of gpu01, where rank 0 runs: 10.1.0.2"],
    ),
    "MASTER_ADDR is any address": (pair(**ETHERNET), {"MASTER_ADDR": "0.0.0.0"}, 0, ["is not an address of gpu01"]),
    "rank 0's host has no network": (
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
    "a host without a network": (WITHOUT_LINK, {}, 1, ["rank 1 on gpu02", "Network is unreachable (error 101)"]),
    "GLOO_SOCKET_IFNAME is no interface": (
        pair(**ETHERNET),
        {"GLOO_SOCKET_IFNAME": "ib9"},
        None,
        ["GLOO_SOCKET_IFNAME is 'ib9'", "that could are eth0", "unset GLOO_SOCKET_IFNAME"],
    ),
    "GLOO_SOCKET_IFNAME is the loopback": (
        pair(**ETHERNET),
        {"GLOO_SOCKET_IFNAME": "lo"},
        None,
        ["leads to no other node", "that could are eth0"],
    ),
    "torchrun's address does not resolve": (
        pair(**ETHERNET),
        TORCHRUN | {"MASTER_ADDR": "gpu01"},
        None,
        ["cannot connect to MASTER_ADDR gpu01, port 29512"],
    ),
}


@pytest.mark.parametrize(("plans", "variables", "rank", "clauses"), REFUSED.values(), ids=REFUSED.keys())
def test_a_network_that_cannot_work_is_named_at_once(
    server: RankServer, plans: list[HostPlan], variables: dict[str, str], rank: int | None, clauses: list[str]
) -> None:
    """Within a second or so, and not after the ten minutes that ranks wait for each other."""
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


def test_a_rank_passes_by_what_is_not_its_own_store(tmp_path: Path) -> None:
    """Other programs may listen on a published port: a store of another attempt, or something else altogether."""
    run = RunDirectory(tmp_path)
    published = run.rendezvous("7", 1)
    published.parent.mkdir()
    ours = serve("127.0.0.1", 0, "ours")
    other = serve("127.0.0.2", ours.port, "other")
    addresses = ["127.0.0.3", "127.0.0.2", "127.0.0.1"]  # nobody, another attempt, rank 0
    write_struct(published, PublishedStore(addresses, ours.port, "ours"))
    link = open_store(worker(), run, 20)
    assert link.reached == "127.0.0.1"
    link.store.set("met", "yes")
    assert ours.get("met") == b"yes"
    assert not other.check(["met"])


def test_a_file_of_an_earlier_step_is_passed_by(tmp_path: Path) -> None:
    """In an allocation a person may train in one step after another: same job, same attempt."""
    run = RunDirectory(tmp_path)
    run.rendezvous("7", 1).parent.mkdir()
    earlier = serve("127.0.0.1", 0, "earlier")
    write_struct(run.rendezvous("7.0", 1), PublishedStore(["127.0.0.1"], earlier.port, "earlier"))
    with pytest.raises(TrainingError, match=r"waited 1 s for rank 0 \(gpu01\), which did not publish"):
        open_store(worker(step_id=1), run, 1)


@pytest.mark.parametrize("content", ["", "{", '{"master_addr": "gpu01", "master_port": 1}', "[]"])
def test_a_published_file_that_is_not_readable_is_read_again(tmp_path: Path, content: str) -> None:
    run = RunDirectory(tmp_path)
    run.rendezvous("7", 1).parent.mkdir()
    run.rendezvous("7", 1).write_text(content)
    ours = serve("127.0.0.1", 0, "ours")
    meeting = PublishedStore(["127.0.0.1"], ours.port, "ours")
    late = threading.Timer(0.2, write_struct, (run.rendezvous("7", 1), meeting))
    late.start()
    assert open_store(worker(), run, 20).reached == "127.0.0.1"
    late.join()


def test_a_store_that_is_gone_is_named_with_every_address_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
THERE, BRIDGE = "203.0.113.2", "172.17.0.1"
Ends = tuple[str | None, str | None]
# (own address, reached address) of this rank and of others, and what is right for this one.
ADDRESSES: dict[str, tuple[Ends, list[Ends], str | None]] = {
    "a rank on another host than the store": ((OWN, THERE), [(THERE, THERE)], OWN),
    "on the store's host: the address that other hosts reached": ((BRIDGE, BRIDGE), [(THERE, OWN)], OWN),
    "the store's host has a name for itself alone": (("127.0.0.1", "127.0.1.1"), [(THERE, OWN)], OWN),
    "a bridge that every host has": ((OWN, THERE), [(BRIDGE, BRIDGE)], OWN),
    "all on this machine": (("127.0.0.1", "127.0.1.1"), [("127.0.0.1", "127.0.1.1")], "127.0.0.1"),
    "nothing is known": ((None, None), [(None, None)], None),
}


@pytest.mark.parametrize(("mine", "others", "expected"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_the_address_of_a_rank_is_one_at_which_others_reach_its_host(
    monkeypatch: pytest.MonkeyPatch,
    mine: Ends,
    others: list[Ends],
    expected: str | None,
) -> None:
    monkeypatch.setattr(rendezvous, "is_own", lambda address: address in (OWN, BRIDGE))
    everyone = [
        CheckIn(
            location=RankLocation(rank=rank, local_rank=0, node_rank=rank, host=f"gpu{rank}", pid=1),
            machine=str(rank),
            start=1,
            own_address=own,
            reached_address=other_end,
        )
        for rank, (own, other_end) in enumerate([mine, *others])
    ]
    assert address_for_ranks(0, everyone) == expected
