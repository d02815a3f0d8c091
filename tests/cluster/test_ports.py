"""Ports of rank 0: the candidates of a job, and the first one that is free."""

from __future__ import annotations

import itertools
import socket

import pytest

from hpc_yolo.cluster.ports import FIRST_PORT, LAST_PORT, bind_first_free, candidate_ports
from hpc_yolo.core.errors import ClusterError


def test_ports_are_below_the_ephemeral_range_and_differ_between_jobs() -> None:
    """Neighbouring jobs on one host must not start their search at the same port."""
    first = [next(candidate_ports(str(job_id), attempt)) for job_id in range(1000, 2000) for attempt in (1, 2)]
    assert min(first) >= FIRST_PORT
    assert max(first) <= LAST_PORT
    assert len(set(first)) > 1850  # 2,000 drawn from 22,768: 84 are expected to collide


def test_every_rank_derives_the_same_distinct_candidates() -> None:
    ports = list(candidate_ports("123_4", 2))
    assert ports == list(candidate_ports("123_4", 2))
    assert len(set(ports)) == len(ports) > 50
    assert ports[0] != next(candidate_ports("123_4", 1))


@pytest.mark.parametrize("taken_on", ["127.0.0.1", "0.0.0.0", "::"])
def test_port_in_use_is_skipped(taken_on: str) -> None:
    """The port is bound, not assumed to be free: "address already in use" is the most common error of launchers."""
    family = socket.AF_INET6 if ":" in taken_on else socket.AF_INET
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        taken_on, family = "0.0.0.0", socket.AF_INET
    with socket.create_server((taken_on, 0), family=family) as blocker:
        taken = blocker.getsockname()[1]
        with bind_first_free(itertools.chain([taken], candidate_ports("1", 1))) as listener:
            bound = listener.getsockname()[1]
            assert bound != taken
            assert bound in candidate_ports("1", 1)
            with socket.create_connection(("127.0.0.1", bound), timeout=5):
                pass


def test_only_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as blocker:
        taken = blocker.getsockname()[1]
        with pytest.raises(ClusterError, match=f"{taken} taken") as caught:
            bind_first_free([taken])
        assert "MASTER_PORT" in str(caught.value)


def test_listens_on_the_given_address_only() -> None:
    """Jobs of one machine must not be reachable from the network."""
    with bind_first_free(candidate_ports("1", 1), host="127.0.0.1") as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_address_of_another_machine_ends_the_search() -> None:
    """No other port would work either."""
    with pytest.raises(ClusterError, match=r"cannot listen on 192\.0\.2\.1"):
        bind_first_free(candidate_ports("1", 1), host="192.0.2.1")
