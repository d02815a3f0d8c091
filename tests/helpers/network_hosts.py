"""Simulate hosts by network, mount and UTS namespaces, each with its own name, addresses and /etc/hosts.

Needs root and iproute2. A host lives as long as a `cat` that reads from this process, so nothing outlives it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LOCALHOST = "127.0.0.1 localhost\n::1 localhost\n"


@dataclass(frozen=True)
class HostPlan:
    """A host to be made: name, addresses by interface (`{"eth0": ["10.1.0.1/24"]}`), /etc/hosts, resolver.

    Interfaces of one name are on one network. `prepare` runs inside it first, `commands` last.
    """

    name: str
    interfaces: Mapping[str, Sequence[str]] = field(default_factory=dict)
    hosts: str = LOCALHOST
    resolv: str = ""
    prepare: Sequence[str] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Host:
    """A running host."""

    name: str
    pid: int

    def start(self, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start a program in it, with its output and errors in one stream."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--", *command]
        return subprocess.Popen(enter, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def unavailable_reason() -> str | None:
    """Return why no hosts can be made here; None where they can."""
    missing = [program for program in ("ip", "unshare", "nsenter") if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "true"], capture_output=True, text=True, check=False
    )
    return None if tried.returncode == 0 else tried.stderr.strip()


@contextlib.contextmanager
def network_of(plans: Sequence[HostPlan], directory: Path) -> Iterator[list[Host]]:
    """Start the hosts on their networks; the end of the block removes all of them."""
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(_namespace(HostPlan("switch"), directory))
        for network in sorted({name for plan in plans for name in plan.interfaces}):
            _run(switch, f"ip link add {network} type bridge && ip link set {network} up")
        hosts = [stack.enter_context(_namespace(plan, directory)) for plan in plans]
        for number, (host, plan) in enumerate(zip(hosts, plans, strict=True)):
            for command in plan.prepare:
                _run(host, command)
            for network, addresses in plan.interfaces.items():
                port = f"{network}-{number}"
                _run(switch, f"ip link add {port} type veth peer name {network} netns {host.pid}")
                _run(switch, f"ip link set {port} master {network} && ip link set {port} up")
                for address in addresses:
                    flag = " nodad" if ":" in address else ""  # the kernel would first look for a duplicate
                    _run(host, f"ip address add {address} dev {network}{flag}")
                _run(host, f"ip link set {network} up")
            for command in plan.commands:
                _run(host, command)
        yield hosts


@contextlib.contextmanager
def _namespace(plan: HostPlan, directory: Path) -> Iterator[Host]:
    for name, content in (("hosts", plan.hosts), ("resolv.conf", plan.resolv)):
        (directory / f"{plan.name}.{name}").write_text(content)
    binds = [f"mount --bind {directory}/{plan.name}.{name} /etc/{name}" for name in ("hosts", "resolv.conf")]
    script = " && ".join([f"hostname {plan.name}", *binds, "ip link set lo up", "echo up", "exec cat"])
    command = ["unshare", "--net", "--mount", "--uts", "--", "sh", "-ec", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        yield Host(plan.name, holder.pid)


def _run(host: Host, command: str) -> None:
    process = host.start(["sh", "-ec", command], os.environ)
    output, _ = process.communicate()
    assert process.returncode == 0, f"{host.name}: {command}: {output}"
