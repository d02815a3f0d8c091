"""The runner of `make test-slurm`: its messages where it cannot run, and its clean-up."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_root
from waiting import wait_until

RUNNER = Path(slurm_root.__file__)

RUN_IN_ROOT = """
import sys
import slurm_root
sys.exit(slurm_root.in_namespaces("run", "26.05", *sys.argv[1:]))
"""


@pytest.fixture
def run_in_root(tmp_path) -> list[str]:
    """Arguments that run a command in a second view of this machine's root directory."""
    try:
        slurm_root.check_machine()
    except slurm_root.SkippedError as reason:
        pytest.skip(str(reason))
    for name in ("root", "scratch"):
        (tmp_path / name).mkdir()
    bind = 'mount --bind / "$0" && exec "$@"'
    runner = [
        "env",
        f"PYTHONPATH={RUNNER.parent}",
        sys.executable,
        "-c",
        RUN_IN_ROOT,
        str(tmp_path / "root"),
        str(tmp_path / "scratch"),
    ]
    return ["unshare", "--mount", "sh", "-c", bind, str(tmp_path / "root"), *runner]


@pytest.fixture
def other_slurm_installed(monkeypatch):
    monkeypatch.setattr(slurm_root, "installed_version", lambda: None)


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [([], "not set"), ([""], "not set"), (["23.02", "true"], "23.02"), (["26.5", "true"], "26.5"), (["x"], "x")],
)
def test_unknown_version_is_refused_with_the_known_ones(arguments, seen, capsys):
    assert slurm_root.main(arguments) == 2
    assert capsys.readouterr().err == f"SLURM must be one of 22.05, 24.11, 26.05; it is {seen}\n"


@pytest.mark.parametrize(
    ("target", "name", "fake", "reason"),
    [
        (os, "geteuid", lambda: 1000, "not root"),
        (shutil, "which", lambda program, path: None, "no apt-get here, so no Debian mirror"),
        (
            slurm_root,
            "NAMESPACES",
            ("sh", "-c", "echo unshare failed: Operation not permitted >&2; exit 1"),
            "no names",
        ),
        (slurm_root, "output_of", lambda *arguments: "", "the apt sources of this machine name no Debian mirror"),
    ],
)
def test_unsupported_machine_is_skipped_with_one_line(
    target, name, fake, reason, monkeypatch, capsys, tmp_path, other_slurm_installed
):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(slurm_root, "NAMESPACES", ("true",))
    monkeypatch.setattr(slurm_root, "ROOTS", tmp_path)
    monkeypatch.setattr(target, name, fake)
    with pytest.raises(SystemExit) as ended:
        slurm_root.main(["26.05", "false"])
    assert ended.value.code == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tests on Slurm 26.05 are skipped: {reason}")


@pytest.mark.parametrize(
    ("built", "version", "reason"),
    [
        (1, "", "no root directory could be made from http://mirror/debian: E: no such thing"),
        (0, "26.11.1", "has Slurm 26.11.1"),
    ],
)
def test_wrong_root_directory_fails_and_is_removed(
    built, version, reason, monkeypatch, capsys, tmp_path, other_slurm_installed
):
    def build(action, _version, root, mirror, log):
        Path(root, "etc").mkdir(parents=True)
        Path(log).write_text("I: Retrieving\nE: no such thing\n")
        return built

    monkeypatch.setattr(slurm_root, "ROOTS", tmp_path)
    monkeypatch.setattr(slurm_root, "check_machine", lambda: None)
    monkeypatch.setattr(slurm_root, "debian_mirror", lambda: "http://mirror/debian")
    monkeypatch.setattr(slurm_root, "in_namespaces", build)
    monkeypatch.setattr(slurm_root, "version_in", lambda root: version)
    with pytest.raises(SystemExit) as ended:
        slurm_root.main(["26.05", "true"])
    assert ended.value.code == 1
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "26.05").exists()


def test_root_directory_is_built_once_and_again_after_a_change_of_its_recipe(monkeypatch, tmp_path):
    made = []

    def build(action, _version, root, mirror, log):
        made.append(mirror)
        Path(root, "etc").mkdir(parents=True)  # fails where an interrupted one is still there
        return 0

    monkeypatch.setattr(slurm_root, "ROOTS", tmp_path)
    monkeypatch.setattr(slurm_root, "debian_mirror", lambda: "http://mirror/debian")
    monkeypatch.setattr(slurm_root, "in_namespaces", build)
    monkeypatch.setattr(slurm_root, "version_in", lambda root: "26.05.5")
    (tmp_path / "26.05.new" / "etc").mkdir(parents=True)
    assert [slurm_root.cached_root("26.05") for _ in range(2)] == [tmp_path / "26.05"] * 2
    assert len(made) == 1
    monkeypatch.setattr(slurm_root, "PACKAGES", (*slurm_root.PACKAGES, "less"))
    slurm_root.cached_root("26.05")
    assert len(made) == 2


@pytest.mark.parametrize(
    ("sources", "mirror"),
    [
        ("http://mirror/debian/ bookworm\nhttp://mirror/debian-security/ bookworm-security\n", "http://mirror/debian/"),
        ("http://mirror/security/ trixie-security\nhttps://own.mirror/d/ trixie\n", "https://own.mirror/d/"),
    ],
)
def test_mirror_is_that_of_a_complete_release(sources, mirror, monkeypatch):
    monkeypatch.setattr(slurm_root, "output_of", lambda *arguments: sources)
    assert slurm_root.debian_mirror() == mirror


def test_command_has_repository_python_and_own_directories(run_in_root, tmp_path):
    program = (
        "import os, pytest; print(os.getcwd(), os.listdir('/dev/shm')); open('/tmp/kept', 'w').close(); os._exit(7)"
    )
    mounts = Path("/proc/self/mounts").read_text()
    done = subprocess.run([*run_in_root, sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, f"{slurm_root.REPOSITORY} []\n"), done.stderr
    assert (tmp_path / "scratch" / "kept").exists()
    assert Path("/proc/self/mounts").read_text() == mounts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_process_survives_the_runner(number, run_in_root):
    mark = f"{time.time():.6f}"
    command = ["sh", "-c", f"setsid sleep 1{mark} & sleep 2{mark}"]
    # The tests themselves may run under nohup, and the runner leaves an ignored signal ignored.
    with subprocess.Popen([*run_in_root, *command], preexec_fn=lambda: restore(number)) as runner:
        try:
            wait_until(lambda: num_sleeping(mark) == 2, "the command to run")
        finally:
            runner.send_signal(number)
    wait_until(lambda: num_sleeping(mark) == 0, "everything to be gone")


def restore(number: signal.Signals) -> None:
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)


def num_sleeping(mark: str) -> int:
    found = subprocess.run(["pgrep", "-c", "-f", f"^sleep .*{mark}"], capture_output=True, text=True, check=False)
    return int(found.stdout)


def test_quick_selection_has_every_topic():
    sources = [path.read_text() for path in (slurm_root.REPOSITORY / "tests").rglob("test_*.py")]
    topics = {topic for source in sources for topic in re.findall(r'mark\.slurm_quick\("([^"]+)"\)', source)}
    assert topics == {"submit", "status", "preempt and resume", "cancel", "chain", "doctor"}
