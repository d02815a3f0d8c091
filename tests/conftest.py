"""Fixtures of all tests: a check for leaks after every test, and one real Slurm cluster for the tests that request it.

`slurm_cluster` is the cluster itself (`tests/helpers/slurm_cluster.py`), started on the first request. `in_slurm` makes
this process a client of it for one test and cancels the jobs that the test leaves queued. Both mark a test `slurm`;
such a test is skipped only where no cluster can be started, and a skip anywhere else counts as a failure.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Set
from pathlib import Path

import pytest
import slurm_cluster as rig
from slurm_daemons import children_by_parent
from spec_runs import events_of, hpc_yolo, shapes, start, write_spec

from hpc_yolo.runs.directory import RunDirectory

__all__ = ["events_of", "hpc_yolo", "shapes", "start", "write_spec"]  # fixtures of all tests

GRACE_S = 30.0  # only a leak waits for so long
CLUSTER_FIXTURES = {"slurm_cluster", "in_slurm", "slurm_with"}
# Helpers that a library starts once and keeps for the life of the process.
KEPT_PROCESSES = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver", rig.SUPERVISOR.name.encode())
STATE_NUMBERS = itertools.count()
# With this variable, coverage measures every Python process that is started; its value between tests.
COVERAGE_SETTINGS, STASHED_SETTINGS = "COVERAGE_PROCESS_CONFIG", pytest.StashKey[str]()
# Set by libraries when they are imported, not by a test.
KEPT_VARIABLES = ("PYTEST_", "COV", "QT_", "KMP_", "TORCHINDUCTOR_", "LD_LIBRARY_PATH", "CUDA_MODULE_LOADING")


@functools.lru_cache(maxsize=1)
def why_no_cluster() -> str | None:
    return rig.unavailable_reason()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of Slurm, and begin with the modules that last longest, theirs and the kills.

    Coverage leaves properties alone: it triples the time of their hundreds of examples, and tables run the same lines.
    """
    slow = set()
    for item in items:
        if getattr(getattr(item, "function", None), "is_hypothesis_test", False):
            item.add_marker("no_cover")
        if CLUSTER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slurm")
            slow.add(item.path)
        elif item.get_closest_marker("kills"):
            slow.add(item.path)
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Measure the processes of tests marked `measured` alone: coverage in all of them costs a fifth of the suite."""
    settings = os.environ.pop(COVERAGE_SETTINGS, None) or item.config.stash.get(STASHED_SETTINGS, None)
    if settings is not None:
        item.config.stash[STASHED_SETTINGS] = settings
        if item.get_closest_marker("measured"):
            os.environ[COVERAGE_SETTINGS] = settings


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.get_closest_marker("slurm") and why_no_cluster() is None:
        report.outcome = "failed"
        report.longrepr = f"Slurm is installed here, so no test of it may be skipped: {report.longrepr}"
    return report


def pytest_configure(config: pytest.Config) -> None:
    """Set up what all tests and the processes that they start have in common, before the first test."""
    # The models of tests are so small that a second thread costs time, and a lot of it where other work runs beside.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Without bytecode files each of the many processes that tests start would compile the package again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # A shell ignores Ctrl-C in what it starts in the background, and so would the commands that tests interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="hpc-yolo-tests-state-")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def own_state(no_leaks: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a test its own state directory: no runs of other tests, and no wait until Slurm may be queried again.

    Nor does it see site profiles of the user who runs it.
    """
    base = tmp_path_factory.getbasetemp()  # whose mktemp() searches all directories of earlier tests
    monkeypatch.setenv("XDG_STATE_HOME", str(base / "state" / str(next(STATE_NUMBERS))))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(base / "no-config"))
    for name in ("HPC_YOLO_SITE", "HPC_YOLO_SITES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """An empty run directory."""
    run = RunDirectory(tmp_path / "run")
    run.create()
    return run


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[rig.SlurmCluster]:
    """The private cluster, started. Its variables are in `environment`, not in this process."""
    if reason := why_no_cluster():
        pytest.skip(reason)
    cluster = rig.SlurmCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def in_slurm(slurm_cluster: rig.SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[rig.SlurmCluster]:
    """The private cluster, with this process as its client; jobs that the test leaves are cancelled."""
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_cluster
    slurm_cluster.cancel_all()


@pytest.fixture
def slurm_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., rig.SlurmCluster]]:
    """Start a cluster for one test with its own settings in slurm.conf; this process becomes its client.

    `{directory}` in a setting is the directory of the cluster.
    """
    if reason := why_no_cluster():
        pytest.skip(reason)
    started: list[rig.SlurmCluster] = []

    def start(**settings: str) -> rig.SlurmCluster:
        directory = Path(tempfile.mkdtemp(prefix=rig.DIRECTORY_PREFIX))
        placed = {name: value.format(directory=directory) for name, value in settings.items()}
        started.append(rig.SlurmCluster(directory=directory, settings=placed))
        started[-1].start()
        for name, value in started[-1].environment.items():
            monkeypatch.setenv(name, value)
        return started[-1]

    yield start
    for cluster in started:
        cluster.stop()


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves processes, threads, listening ports or environment variables behind."""
    processes, threads, ports = child_processes(), set(threading.enumerate()), listening_ports()
    variables = dict(os.environ)
    yield
    leaks = [
        *still_there("child process", lambda: child_processes() - processes),
        *still_there("listening port", lambda: listening_ports() - ports),
        *still_there("thread", lambda: {thread.name for thread in lasting_threads() - threads}),
        *changed_variables(variables),
    ]
    if leaks:
        pytest.fail(f"{request.node.nodeid} leaves behind: {', '.join(leaks)}")


def still_there(kind: str, find: Callable[[], Set[object]]) -> list[str]:
    """Return what `find` still returns after a grace period, for what is about to end anyway."""
    found = find()
    if found:
        gc.collect()
    deadline = time.monotonic() + GRACE_S
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [f"{kind} {item}" for item in sorted(found, key=str)]


def child_processes() -> set[str]:
    """Return the living children of this process, as "pid command"."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()  # no children at all, which is the usual case and needs no search
    found = set()
    for pid in child_ids():
        with contextlib.suppress(OSError):
            command = Path("/proc", str(pid), "cmdline").read_bytes()  # empty for a moment when it begins
            has_ended = b") Z" in Path("/proc", str(pid), "stat").read_bytes()
            if not has_ended and not any(kept in command for kept in KEPT_PROCESSES):
                found.add(f"{pid} {command.replace(bytes(1), b' ').decode(errors='replace')[:120]}")
    return found


def child_ids() -> list[int]:
    """Return the process ids of the children of this process, of its threads where the kernel lists those."""
    lists = list(Path("/proc/self/task").glob("*/children"))
    if not lists:
        return children_by_parent().get(os.getpid(), [])
    found = []
    for path in lists:
        with contextlib.suppress(OSError):  # the thread has ended
            found += [int(pid) for pid in path.read_text().split()]
    return found


def lasting_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.daemon}


def listening_ports() -> set[int]:
    """Return the TCP ports on which this process listens."""
    mine = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                mine.add(target[8:-1])
    if not mine:
        return set()
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and line[9] in mine}


def changed_variables(before: dict[str, str]) -> list[str]:
    """Return environment variables that differ from `before` and restore them, so that only one test fails."""
    after = dict(os.environ)
    names = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    names = {name for name in names if not name.startswith(KEPT_VARIABLES)}
    for name in names:
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]
    return [f"environment variable {name}" for name in sorted(names)]
