"""Node lists against a table and against `scontrol show hostnames`."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from hpc_yolo.cluster.hostlist import first_host
from hpc_yolo.core.errors import ClusterError

TABLE = [
    ("node1", "node1"),
    ("a,b,c", "a b c"),
    ("a, b ,c", "a b c"),
    ("host[5-9]", "host5 host6 host7 host8 host9"),
    ("n[008-011]", "n008 n009 n010 n011"),
    ("n[8-11]", "n8 n9 n10 n11"),
    ("n[98-101]", "n98 n99 n100 n101"),
    ("a1,b[2-3]", "a1 b2 b3"),
    ("r[1-2]n[1-2]", "r1n1 r1n2 r2n1 r2n2"),
    ("a[1-2][3-4]", "a13 a14 a23 a24"),
    ("gpu-a[01,03-04],gpu-b7", "gpu-a01 gpu-a03 gpu-a04 gpu-b7"),
    ("x[1-2]-ib", "x1-ib x2-ib"),
    ("alpha[3,1],beta[5-6]", "alpha3 alpha1 beta5 beta6"),
    ("rack[1-2]n[01-04]", "rack1n01 rack1n02 rack1n03 rack1n04 rack2n01 rack2n02 rack2n03 rack2n04"),
    ("linux[1,2]", "linux1 linux2"),
    ("n1-ib0.cluster.example", "n1-ib0.cluster.example"),
    ("ip-10-0-0-[7-8]", "ip-10-0-0-7 ip-10-0-0-8"),
    ("10.0.0.[1-2]", "10.0.0.1 10.0.0.2"),
    ("n[1-2,1]", "n1 n2 n1"),
    ("n[001,2-3]", "n001 n2 n3"),
    ("n[1-1]", "n1"),
    ("[1-3]", "1 2 3"),
]


@pytest.mark.parametrize(("text", "hosts"), TABLE)
def test_first_host_of_a_list(text: str, hosts: str) -> None:
    assert first_host(text) == hosts.split()[0]


@pytest.mark.parametrize(
    ("text", "part", "problem"),
    [
        ("", "", "empty"),
        ("  ", "", "empty"),
        ("b2[1-,4]", "'[1-,4]'", "'1-' is neither a number nor a range"),
        ("n[1-2", "'n[1-2'", "not closed"),
        ("n1]", "'n1]'", "closes no bracket"),
        ("]", "']'", "closes no bracket"),
        ("n[1[2]]", "'n[1[2]]'", "not closed"),
        ("n[5-2]", "'[5-2]'", "descending"),
        ("n[]", "'[]'", "neither a number nor a range"),
        ("n[a-b]", "'[a-b]'", "neither a number nor a range"),
        ("n[1-2-3]", "'[1-2-3]'", "neither a number nor a range"),
        ("n[,2]", "'[,2]'", "neither a number nor a range"),
        ("n[-3]", "'[-3]'", "neither a number nor a range"),
        (",a", "','", "a host name is missing"),
        ("a b", "'a b'", "host names have"),
        ("$(hostname)", "'$(hostname)'", "host names have"),
    ],
)
def test_malformed_list_is_refused_with_the_faulty_part(text: str, part: str, problem: str) -> None:
    with pytest.raises(ClusterError, match="node list") as caught:
        first_host(text)
    assert part in caught.value.message
    assert problem in caught.value.message


def test_long_list_is_shortened_in_the_message() -> None:
    with pytest.raises(ClusterError) as caught:
        first_host("!" + ",".join(f"n{number}" for number in range(1000)))
    assert len(caught.value.message) < 250


def test_first_host_of_ten_thousand_million_hosts_is_read_at_once() -> None:
    assert first_host("r[1-99999]n[1-99999]") == "r1n1"


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="scontrol is not installed")
def test_first_host_of_random_lists_equals_that_of_scontrol(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=a\nPartitionName=p Nodes=a\n")
    chance = random.Random(20)
    lists = [random_list(chance) for _ in range(1000)]
    environ = {**os.environ, "SLURM_CONF": str(conf)}
    ask_each = 'for text; do scontrol show hostnames "$text"; echo /; done'
    shown = subprocess.run(
        ["sh", "-c", ask_each, "sh", *lists], env=environ, capture_output=True, text=True, check=True
    )
    for text, hosts in zip(lists, shown.stdout.split("/\n"), strict=False):
        assert first_host(text) == hosts.split()[0], text
    assert shown.stdout.count("/\n") == len(lists)


def random_list(chance: random.Random) -> str:
    """One to four items of up to two bracket groups; Slurm refuses suffixes and orders three groups oddly."""
    names = ["n", "gpu-a", "rack7node", "linux", "x2-", "c0.b"]
    items = []
    for _ in range(chance.randint(1, 4)):
        groups = [chance.choice(names)]
        for position in range(chance.randint(0, 2)):
            groups += [chance.choice(["", "n", "-u"])] if position else []
            groups.append(f"[{','.join(random_range(chance) for _ in range(chance.randint(1, 3)))}]")
        items.append("".join(groups))
    return ",".join(items)


def random_range(chance: random.Random) -> str:
    width = chance.randint(1, 4)
    first = chance.randrange(0, 10 ** chance.randint(1, width))
    if chance.random() < 0.4:
        return f"{first:0{width}d}"
    return f"{first:0{width}d}-{first + chance.randrange(0, 30):0{width}d}"
