"""Addresses of this host: which of them other hosts can connect to, and to which interface one belongs.

The name of a host is not reliable: DNS may not resolve it, Debian's /etc/hosts maps it to 127.0.1.1, and a stale entry
may lead to another host. It only determines which of the addresses of the interfaces comes first.
"""

from __future__ import annotations

import array
import errno
import fcntl
import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hpc_yolo.core.errors import ClusterError

RESOLVE_S = 10.0  # a resolver without a server takes minutes
IPV6_INTERFACES = Path("/proc/net/if_inet6")
_SIOCGIFCONF = 0x8912
_IFREQ_BYTES = 40
_MAX_INTERFACES = 1024
_GLOBAL_SCOPE = 0


class InterfaceAddress(NamedTuple):
    """One numeric address of this host and its interface."""

    interface: str
    address: str


def interface_addresses() -> list[InterfaceAddress]:
    """Return the addresses of this host's interfaces, IPv4 before IPv6; those of a single link are left out."""
    return [*_ipv4_addresses(), *_ipv6_addresses()]


def interface_of(address: str) -> str | None:
    """Return the interface that has `address`; the loopback interface has all of 127.0.0.0/8."""
    addresses = interface_addresses()
    exact = [found.interface for found in addresses if found.address == address]
    loopbacks = [found.interface for found in addresses if is_loopback(found.address)] if is_loopback(address) else []
    return next(iter(exact + loopbacks), None)


def is_loopback(address: str) -> bool:
    """Return whether the numeric `address` is a loopback address."""
    return ipaddress.ip_address(address).is_loopback


def is_own(address: str) -> bool:
    """Return whether the numeric `address` belongs to this host."""
    return interface_of(address) is not None


def resolve(name: str, timeout_s: float = RESOLVE_S) -> list[str]:
    """Return the numeric addresses of `name`, in the order of the resolver.

    Raises:
        OSError: there are none, or the resolver does not answer within `timeout_s`.
    """
    found: list[str] = []
    errors: list[OSError] = []

    def look_up() -> None:
        try:
            results = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(result[4][0]) for result in results if "%" not in str(result[4][0])))
        except UnicodeError:  # not a possible name
            errors.append(OSError(errno.EINVAL, "not a host name"))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=look_up, name="resolver", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {timeout_s:.0f} s")
    if errors:
        raise errors[0]
    return found


def addresses_for_others(host: str, chosen: str | None = None) -> list[str]:
    """Return the addresses at which other hosts can reach this one, the most likely first.

    Loopback addresses come last: they work where all nodes of a job are one machine.

    Args:
        host: name of this host.
        chosen: value of MASTER_ADDR, if it is set. Only its addresses are returned, unless they are loopback ones.

    Raises:
        ClusterError: `chosen` is not an address of this host, or the host has none that others can use.
    """
    interfaces = [found.address for found in interface_addresses()]
    try:
        named, problem = resolve(chosen or host), ""
    except OSError as error:
        named, problem = [], error.strerror or str(error)
    own = [address for address in named if is_own(address)]
    elsewhere = [address for address in own if not is_loopback(address)]
    if chosen and not own:
        wrong = f"is not an address of {host}" if named else f"does not resolve on {host}"
        raise ClusterError(
            f"MASTER_ADDR is {chosen!r}, which {wrong}, where rank 0 runs: {', '.join(named) or problem}",
            hint="unset MASTER_ADDR, in cluster.env too: rank 0 then publishes its own addresses; or set it to one of "
            f"them: {_listed() or 'none'}",
        )
    if chosen and elsewhere:
        return elsewhere
    usable = [address for address in interfaces if not is_loopback(address)]
    addresses = list(dict.fromkeys([*elsewhere, *usable, *own]))
    if not addresses:
        raise ClusterError(
            f"rank 0 runs on {host}, which has no address that other nodes can connect to: its name does not resolve "
            f"({problem or 'to an address of its own'}), and no interface but the loopback has an address",
            hint="check the network of that node; set MASTER_ADDR under cluster.env to an address of that node, or "
            f"exclude it: --set cluster.exclude=[{host}]",
        )
    return addresses


def _listed() -> str:
    """Return the addresses of this host with their interfaces, for messages."""
    usable = [found for found in interface_addresses() if not is_loopback(found.address)]
    return ", ".join(f"{found.address} ({found.interface})" for found in usable)


def _ipv4_addresses() -> Iterator[InterfaceAddress]:
    buffer = array.array("B", bytes(_MAX_INTERFACES * _IFREQ_BYTES))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("iL", len(buffer), buffer.buffer_info()[0])
        filled, _ = struct.unpack("iL", fcntl.ioctl(any_socket, _SIOCGIFCONF, request))
    for start in range(0, filled, _IFREQ_BYTES):
        name = bytes(buffer[start : start + 16]).partition(b"\0")[0].decode(errors="replace")
        yield InterfaceAddress(name, socket.inet_ntoa(bytes(buffer[start + 20 : start + 24])))


def _ipv6_addresses() -> Iterator[InterfaceAddress]:
    try:
        lines = IPV6_INTERFACES.read_text().splitlines()
    except OSError:  # no IPv6 here
        return
    for digits, _index, _prefix, scope, _flags, name in map(str.split, lines):
        if int(scope, 16) == _GLOBAL_SCOPE:
            yield InterfaceAddress(name, socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
