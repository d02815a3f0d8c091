"""Run a command with another version of Slurm, in the root directory of the Debian release that packages it.

    python tests/helpers/slurm_root.py VERSION COMMAND ...     # as root; `make test-slurm` uses it

The root directory is made once by debootstrap, from the Debian mirror in the apt sources of this machine, and kept in
the directory that HPC_YOLO_SLURM_ROOTS names. The command runs in it with this repository, this virtual environment and
this Python mounted at their usual paths, with its own /tmp and /dev/shm, and in its own mount and process namespaces:
when it ends, however it ends, the kernel removes its mounts and kills its processes. Where the installed Slurm is of
the requested version, the command runs directly.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from slurm_cluster import unavailable_reason
from slurm_daemons import SYSTEM_PATH, installed_version

RELEASES = {"22.05": "bookworm", "24.11": "trixie", "26.05": "forky"}
# The test cluster, the libraries of the host's Python and of OpenCV's wheel, and the programs that other tests use.
PACKAGES = (
    *("slurmctld", "slurmd", "slurmdbd", "slurm-client", "munge", "mariadb-server"),
    *("libbz2-1.0", "libexpat1", "libffi8", "liblzma5", "libncursesw6", "libsqlite3-0", "libuuid1", "zlib1g"),
    *("git", "hostname", "procps", "tmux", "zsh", "fish", "libgl1", "libxcb1"),
)
# Named with the suffix t64 since Debian 13.
PACKAGES_T64 = ("libglib2.0-0", "libreadline8", "libssl3")
# debootstrap runs this script for a release that it does not know yet.
NEWEST_SCRIPT = "sid"
# What the host's apt needs to reach the mirror, its root directories need too.
APT_SETTINGS = re.compile(r"Acquire::(http|https|Check-|Retries|ForceIPv)")
ROOTS = Path(os.environ.get("HPC_YOLO_SLURM_ROOTS") or "/var/cache/hpc-yolo/slurm-roots")
REPOSITORY = Path(__file__).resolve().parents[2]
SCRATCH_PREFIX = "hpc-yolo-slurm-root-"
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
PR_SET_PDEATHSIG = 1


class SkippedError(Exception):
    """This machine cannot provide another version of Slurm."""


class FailedError(Exception):
    """This machine can provide it, but the attempt failed."""


def main(arguments: Sequence[str]) -> int:
    """Run the command that the command line names; return its exit status."""
    version, *command = arguments or [""]
    if version not in RELEASES:
        print(f"SLURM must be one of {', '.join(RELEASES)}; it is {version or 'not set'}", file=sys.stderr)
        return 2
    if not command:
        print(f"usage: {Path(__file__).name} VERSION COMMAND ...", file=sys.stderr)
        return 2
    with explained(version):
        if installed_version() == version_tuple(version):
            return run_installed(command)
        check_machine()
        root = cached_root(version)
        with scratch_directory() as scratch:
            return in_namespaces("run", version, str(root), str(scratch), *command)


@contextlib.contextmanager
def explained(version: str) -> Iterator[None]:
    """End this process with one line where the block raises one of the errors of this module."""
    try:
        yield
    except SkippedError as error:
        print(f"tests on Slurm {version} are skipped: {error}", file=sys.stderr)
        raise SystemExit(0) from None
    except FailedError as error:
        print(f"tests on Slurm {version} could not run: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def version_tuple(version: str) -> tuple[int, int]:
    """Return "22.05" as (22, 5)."""
    year, month = version.split(".")
    return int(year), int(month)


def run_installed(command: Sequence[str]) -> int:
    if reason := unavailable_reason():
        raise SkippedError(reason)
    return subprocess.run(command, check=False).returncode


def check_machine() -> None:
    """Raise SkippedError where no other root directory can be made or used."""
    if os.geteuid() != 0:
        raise SkippedError("not root")
    if shutil.which("apt-get", path=SYSTEM_PATH) is None:
        raise SkippedError("no apt-get here, so no Debian mirror")
    tried = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise SkippedError(f"no namespaces here: {tried.stderr.strip()}")


def cached_root(version: str) -> Path:
    """Return the root directory with Slurm `version`; make it where there is none or one of another recipe."""
    root, building = ROOTS / version, ROOTS / f"{version}.new"
    stamp, recipe = "etc/hpc-yolo-recipe", recipe_digest(version)
    ROOTS.mkdir(parents=True, exist_ok=True)
    with locked(ROOTS / f"{version}.lock", fcntl.LOCK_EX):
        if (root / stamp).exists() and (root / stamp).read_text() == recipe:
            return root
        for outdated in (building, root):
            if outdated.exists():
                shutil.rmtree(outdated)
        mirror = debian_mirror()
        log = ROOTS / f"{version}.log"
        print(f"making a root directory with Slurm {version} in {root} (once, a few minutes)", file=sys.stderr)
        if in_namespaces("build", version, str(building), mirror, str(log)) != 0:
            raise FailedError(f"no root directory could be made from {mirror}: {last_line(log.read_text())} ({log})")
        found = version_in(building)
        if not found.startswith(f"{version}."):
            raise FailedError(f"Debian {RELEASES[version]} on {mirror} has Slurm {found or 'of an unknown version'}")
        (building / stamp).write_text(recipe)
        building.rename(root)
    return root


def recipe_digest(version: str) -> str:
    """Return a digest that changes when what is in a root directory changes."""
    release = RELEASES[version]
    return hashlib.sha256(repr((release, packages_of(release))).encode()).hexdigest()


def packages_of(release: str) -> list[str]:
    suffix = "" if release == "bookworm" else "t64"
    return [*PACKAGES, *(f"{package}{suffix}" for package in PACKAGES_T64)]


def debian_mirror() -> str:
    """Return the address of the Debian mirror in this machine's apt sources."""
    for needs_update in (False, True):
        if needs_update:
            output_of("apt-get", "-qq", "update")
        wanted = ["Created-By: Packages", "Origin: Debian", "Component: main"]
        for line in output_of("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", *wanted).splitlines():
            address, release = line.split()
            if "-" not in release:  # bookworm-security and bookworm-updates are no whole releases
                return address
    raise SkippedError("the apt sources of this machine name no Debian mirror")


def output_of(*command: str) -> str:
    """Return what a command prints; raise FailedError with the last line of its errors where it fails."""
    done = subprocess.run(command, env=system_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FailedError(f"{command[0]} {command[1]}: {last_line(done.stderr)}")
    return done.stdout


def last_line(text: str) -> str:
    return (text.strip() or "no message").splitlines()[-1]


def system_environment() -> dict[str, str]:
    """Return the environment of programs that install packages."""
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    return {**proxies, "PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}


def version_in(root: Path) -> str:
    """Return the version of the Slurm in `root`, such as 26.05.5."""
    shown = subprocess.run(
        ["chroot", str(root), "/usr/sbin/slurmctld", "-V"], capture_output=True, text=True, check=False
    )
    return (shown.stdout.split() or [""])[-1]


@contextlib.contextmanager
def locked(path: Path, operation: int) -> Iterator[None]:
    """Hold a lock on a file, or on a directory that exists, inside the block."""
    descriptor = os.open(path, os.O_RDONLY | (0 if path.is_dir() else os.O_CREAT), 0o644)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Make the directory that the command sees as /tmp; remove those whose owners were killed."""
    with contextlib.ExitStack() as held:
        with locked(ROOTS / "scratch.lock", fcntl.LOCK_EX):
            for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
                with contextlib.suppress(OSError), locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(left)
            scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
            held.callback(shutil.rmtree, scratch, ignore_errors=True)
            held.enter_context(locked(scratch, fcntl.LOCK_EX))
        scratch.chmod(0o1777)
        yield scratch


def in_namespaces(action: str, *arguments: str) -> int:
    """Run an action of this file in namespaces of its own; return its exit status.

    The first process of a process namespace takes all others with it when it ends; here it ends with this process.
    """
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    # Ctrl-C reaches the command too, which ends by itself; a request to terminate ends it at once.
    signal.signal(signal.SIGINT, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    inside = subprocess.Popen(
        [*NAMESPACES, sys.executable, __file__, f"--{action}", *arguments], preexec_fn=die_with_parent
    )
    try:
        return inside.wait()
    finally:
        inside.kill()
        inside.wait()


def build(release: str, root: Path, mirror: str, log: Path) -> int:
    """Fill `root` with a minimal Debian and the packages; its output goes to `log`."""
    with log.open("w") as output:

        def run(*command: str) -> None:
            print("+", *command, file=output, flush=True)
            subprocess.run(
                command, env=system_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True
            )

        install = ("apt-get", "install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300")
        try:
            if shutil.which("debootstrap", path=SYSTEM_PATH) is None:
                run(*install, "debootstrap")
            script = [] if Path("/usr/share/debootstrap/scripts", release).exists() else [NEWEST_SCRIPT]
            run("debootstrap", "--variant=minbase", release, str(root), mirror, *script)
            write_settings(root, release, mirror)
            mount_system(root)
            run("chroot", str(root), "apt-get", "-qq", "update")
            run("chroot", str(root), *install, *packages_of(release))
            run("chroot", str(root), "apt-get", "clean")
        except (OSError, subprocess.CalledProcessError) as error:
            print(error, file=output)
            return 1
    return 0


def write_settings(root: Path, release: str, mirror: str) -> None:
    """Write the source of packages, this machine's download settings, and a policy that starts no service."""
    (root / "etc/apt/sources.list").write_text(f"deb {mirror} {release} main\n")
    settings = output_of("apt-config", "dump", "--format", '%F "%v";%n').splitlines()
    kept = [line for line in settings if APT_SETTINGS.match(line)]
    (root / "etc/apt/apt.conf.d/host").write_text("".join(f"{line}\n" for line in kept))
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)


def run_in_root(version: str, root: Path, scratch: Path, command: Sequence[str]) -> int:
    """Make `root` the root directory of this process and run `command` in it; return its exit status."""
    mount("--bind", root, root)  # a root directory must be a mount point, or nodes get no namespaces
    mount_system(root)
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "dev/shm")
    mount("--bind", scratch, root / "tmp")
    for path in mounted_paths():
        target = root / path.relative_to("/")
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif not target.exists():
            target.touch()
        mount("--bind", path, target)
    os.chroot(root)
    os.chdir(REPOSITORY)
    os.environ.update(PATH=SYSTEM_PATH, HOME="/root", TMPDIR="/tmp", LC_ALL="C.UTF-8")
    if subprocess.run([sys.executable, "-c", "import ssl"], capture_output=True, check=False).returncode != 0:
        raise SkippedError(f"the Python of this machine does not run on Debian {RELEASES[version]}")
    if reason := unavailable_reason():
        raise FailedError(reason)
    return run_as_first_process(command)


def mount_system(root: Path) -> None:
    """Mount what programs in `root` need of the running system."""
    for directory in ("proc", "sys", "dev"):
        mount("--rbind", f"/{directory}", root / directory)
    for name in ("hosts", "resolv.conf"):
        (root / "etc" / name).touch()
        mount("--bind", Path("/etc", name).resolve(), root / "etc" / name)


def mounted_paths() -> list[Path]:
    """Return what the command finds at its usual path: repository, virtual environment and Python."""
    executable = Path(getattr(sys, "_base_executable", sys.executable))
    prefixes = {Path(sys.base_prefix), executable.parent.parent, executable.resolve().parent.parent}
    python = prefixes - {Path("/usr")}
    if Path("/usr") in prefixes:  # the system's Python: its own files only
        python |= {Path(sysconfig.get_path("stdlib")), executable, executable.resolve()}
    paths = {REPOSITORY, Path(sys.prefix), *python}
    return sorted(path for path in paths if not paths.intersection(path.parents))


def mount(*arguments: str | Path) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FailedError(last_line(done.stderr))


def run_as_first_process(command: Sequence[str]) -> int:
    """Run a command and reap, as the first process of a namespace must, all that it leaves; return its exit status."""
    signal.signal(signal.SIGINT, lambda *_: None)
    child = subprocess.Popen(command)
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return os.waitstatus_to_exitcode(status) % 256


def inside(action: str, version: str, *arguments: str) -> int:
    """Run an action in the namespaces that `in_namespaces` made."""
    with explained(version):
        if action == "--build":
            root, mirror, log = arguments
            return build(RELEASES[version], Path(root), mirror, Path(log))
        root, scratch, *command = arguments
        return run_in_root(version, Path(root), Path(scratch), command)


if __name__ == "__main__":
    raise SystemExit(inside(*sys.argv[1:]) if sys.argv[1:2] in (["--build"], ["--run"]) else main(sys.argv[1:]))
