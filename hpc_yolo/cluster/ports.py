"""Ports that rank 0 may listen on."""

from __future__ import annotations

import errno
import hashlib
import itertools
import socket
from collections.abc import Iterable, Iterator

from hpc_yolo.core.errors import ClusterError

FIRST_PORT, LAST_PORT = 10000, 32767  # below Linux's ephemeral ports, which any connection may use
NUM_CANDIDATE_PORTS = 64


def candidate_ports(job_id: str, attempt: int) -> Iterator[int]:
    """Yield distinct ports in 10000-32767, a hash of job and attempt so that jobs on one host rarely collide."""
    seen: set[int] = set()
    for number in itertools.count():
        digest = hashlib.blake2b(f"{job_id}/{attempt}/{number}".encode(), digest_size=8).digest()
        port = FIRST_PORT + int.from_bytes(digest, "big") % (LAST_PORT - FIRST_PORT + 1)
        if port not in seen:
            seen.add(port)
            yield port
        if len(seen) == NUM_CANDIDATE_PORTS:
            return


def bind_first_free(ports: Iterable[int], host: str = "") -> socket.socket:
    """Return a socket that listens on the first free one of `ports`.

    Args:
        ports: in the order in which they are tried.
        host: address to listen on; all addresses of this machine when empty, IPv6 ones included.

    Raises:
        ClusterError: none is free, or this host may not listen on them; the message names them.
    """
    tried: list[int] = []
    for port in ports:
        try:
            return _listen(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ClusterError(f"cannot listen on {host or 'any address'}, port {port}: {error.strerror}") from None
            tried.append(port)
    shown = f"{', '.join(map(str, tried[:8]))}{' …' if len(tried) > 8 else ''}"
    raise ClusterError(
        f"rank 0 finds no free port on {socket.gethostname()}: {shown or 'none was allowed'} taken",
        hint="unset MASTER_PORT to let rank 0 search" if len(tried) == 1 else "see ss -ltnp",
    )


def _listen(host: str, port: int) -> socket.socket:
    if not host and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((host, port))
