"""Addresses of this machine. Whole hosts with strange names are in tests/distributed/test_rendezvous.py."""

from __future__ import annotations

import socket
import threading

import pytest

from hpc_yolo.cluster import addresses
from hpc_yolo.cluster.addresses import (
    InterfaceAddress,
    addresses_for_others,
    interface_addresses,
    interface_of,
    is_loopback,
    is_own,
    resolve,
)
from hpc_yolo.core.errors import ClusterError

LO, ETH, IB = (
    InterfaceAddress("lo", "127.0.0.1"),
    InterfaceAddress("eth0", "10.1.0.1"),
    InterfaceAddress("ib0", "fd00::1"),
)


def test_interface_addresses_can_be_listened_on() -> None:
    found = interface_addresses()
    assert InterfaceAddress("lo", "127.0.0.1") in found
    for each in found:
        family = socket.AF_INET6 if ":" in each.address else socket.AF_INET
        with socket.socket(family) as listener:
            listener.bind((each.address, 0))
        assert interface_of(each.address) == each.interface
        assert each.interface in {name for _, name in socket.if_nameindex()}


@pytest.mark.parametrize(
    ("address", "interface"),
    [("127.0.0.1", "lo"), ("127.0.1.1", "lo"), ("127.255.0.9", "lo"), ("192.0.2.77", None), ("0.0.0.0", None)],
)
def test_interface_of_an_address(address: str, interface: str | None) -> None:
    assert interface_of(address) == interface
    assert is_own(address) == (interface is not None)


def test_all_addresses_of_the_loopback_network_belong_to_the_loopback() -> None:
    assert is_loopback("127.0.1.1") and is_loopback("::1")
    assert not is_loopback("10.1.0.1") and not is_loopback("fd00::1")


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 64, "gpu01:29500", "a b"])
def test_resolve_of_an_impossible_name_raises_os_error(name: str) -> None:
    with pytest.raises(OSError, match=r"."):
        resolve(name)


def test_resolve_without_an_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With servers that are gone, the system's own limits add up to minutes."""
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait() and [])
    with pytest.raises(TimeoutError, match="no answer within 0 s"):
        resolve("gpu01", timeout_s=0.05)
    answer.set()


ORDER = {
    # interfaces, what the name resolves to, MASTER_ADDR: the addresses in their order
    "a name that resolves comes first": ([LO, ETH, IB], ["fd00::1"], None, ["fd00::1", "10.1.0.1"]),
    "a name that does not resolve": ([LO, ETH, IB], None, None, ["10.1.0.1", "fd00::1"]),
    "a name of the loopback comes last": ([LO, ETH], ["127.0.1.1"], None, ["10.1.0.1", "127.0.1.1"]),
    "all nodes on a machine without a network": ([LO], ["127.0.1.1"], None, ["127.0.1.1"]),
    "a name of another host is passed over": ([LO, ETH], ["10.9.9.9"], None, ["10.1.0.1"]),
    "a choice is the only one": ([LO, ETH, IB], ["fd00::1"], "gpu01-ib", ["fd00::1"]),
    "a choice that leads to the loopback is none": ([LO, ETH], ["127.0.0.1"], "localhost", ["10.1.0.1", "127.0.0.1"]),
}


@pytest.mark.parametrize(("interfaces", "named", "chosen", "expected"), ORDER.values(), ids=ORDER.keys())
def test_addresses_for_others(
    monkeypatch: pytest.MonkeyPatch,
    interfaces: list[InterfaceAddress],
    named: list[str] | None,
    chosen: str | None,
    expected: list[str],
) -> None:
    imitate(monkeypatch, interfaces, named)
    assert addresses_for_others("gpu01", chosen) == expected


REFUSED = {
    "a choice that does not resolve": (
        [LO, ETH],
        None,
        "gpu1",
        "MASTER_ADDR is 'gpu1', which does not resolve on gpu01",
    ),
    "a choice of another host": (
        [LO, ETH],
        ["10.9.9.9"],
        "gpu02",
        "not an address of gpu01, where rank 0 runs: 10.9.9.9",
    ),
    "nothing but the loopback": ([LO], None, None, "rank 0 runs on gpu01, which has no address that other nodes"),
    "nothing, and a name of another host": ([LO], ["10.9.9.9"], None, "no interface but the loopback has an address"),
}


@pytest.mark.parametrize(("interfaces", "named", "chosen", "clause"), REFUSED.values(), ids=REFUSED.keys())
def test_host_without_a_usable_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    interfaces: list[InterfaceAddress],
    named: list[str] | None,
    chosen: str | None,
    clause: str,
) -> None:
    imitate(monkeypatch, interfaces, named)
    with pytest.raises(ClusterError) as caught:
        addresses_for_others("gpu01", chosen)
    assert clause in caught.value.message
    assert "MASTER_ADDR" in str(caught.value.hint)


def imitate(monkeypatch: pytest.MonkeyPatch, interfaces: list[InterfaceAddress], named: list[str] | None) -> None:
    """Make this machine one with these interfaces, whose names resolve to `named`, or not at all."""

    def resolved(name: str) -> list[str]:
        if named is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return named

    monkeypatch.setattr(addresses, "interface_addresses", lambda: interfaces)
    monkeypatch.setattr(addresses, "resolve", resolved)
