"""Who may read a run directory: its owner alone, or its group as far as the umask allows; the owner alone writes."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import append_json_line, make_directory, write_atomic
from hpc_yolo.runs.directory import RunDirectory, mode_warnings

STRANGER_UID, GROUP_GID = 54321, 54322  # nobody's
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user can be had by root alone")


@pytest.fixture
def umask():
    """Set the umask of this process for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def modes(directory: Path) -> set[str]:
    """The modes of a directory and of all in it, as octal numbers; those of directories begin with d."""
    paths = [directory, *(path for path in directory.rglob("*") if not path.is_symlink())]
    return {f"{'d' if path.is_dir() else ''}{stat.S_IMODE(path.stat().st_mode):o}" for path in paths}


def fill(run: RunDirectory) -> None:
    """Make what the parts of a run make, and what libraries make, which know nothing of modes."""
    write_atomic(run.spec, "name: a\n")
    append_json_line(run.journal, {})
    make_directory(run.results)
    write_atomic(run.evaluation, "{}")
    run.last.symlink_to("nowhere")
    (run.jobs / "7.log").write_text("from Slurm")
    (run.tensorboard / "deep").mkdir(parents=True)
    (run.tensorboard / "deep" / "events").write_text("from TensorBoard")


@pytest.mark.parametrize(
    ("for_group", "mask", "expected"),
    [
        (False, 0o000, {"d700", "600"}),
        (False, 0o002, {"d700", "600"}),
        (False, 0o077, {"d700", "600"}),
        (True, 0o000, {"d2750", "640"}),
        (True, 0o002, {"d2750", "640"}),
        (True, 0o022, {"d2750", "640"}),
        (True, 0o027, {"d2750", "640"}),
        (True, 0o077, {"d2700", "600"}),
    ],
)
def test_all_files_have_the_mode_of_the_run_directory(tmp_path, umask, for_group, mask, expected):
    umask(mask)
    run = RunDirectory(tmp_path / "run")
    run.create(for_group=for_group)
    fill(run)
    run.settle_modes()
    secret = run.rendezvous("7", 1)
    write_atomic(secret, "the ranks' own")
    assert stat.S_IMODE(secret.parent.stat().st_mode) & 0o77 == stat.S_IMODE(secret.stat().st_mode) & 0o77 == 0
    shutil.rmtree(secret.parent)
    assert modes(run.path) == expected


def test_files_of_a_run_are_created_with_its_mode(tmp_path, umask):
    umask(0o077)  # of a job, which need not be that of the shell
    run = RunDirectory(tmp_path / "run")
    umask(0o022)
    run.create(for_group=True)
    umask(0o077)
    write_atomic(run.spec, "name: a\n")
    append_json_line(run.journal, {})
    make_directory(run.results)
    write_atomic(run.evaluation, "{}")
    assert {oct(path.stat().st_mode & 0o7777) for path in (run.spec, run.journal, run.evaluation)} == {"0o640"}
    assert stat.S_IMODE(run.results.stat().st_mode) == 0o2750


def test_existing_run_takes_the_mode_of_its_next_submission(tmp_path, umask):
    run = RunDirectory(tmp_path / "run")
    run.create()
    fill(run)
    for for_group, expected in ((True, {"d2750", "640"}), (False, {"d700", "600"})):
        run.create(for_group=for_group)
        shutil.rmtree(run.path / "rendezvous")
        assert modes(run.path) == expected


@pytest.mark.parametrize(
    ("mode", "mask", "message"),
    [("group", 0o077, "the umask 0077 denies the group access"), ("group", 0o027, ""), ("private", 0o077, "")],
)
def test_umask_that_excludes_the_group_is_warned_about(umask, mode, mask, message):
    umask(mask)
    assert message in " ".join(mode_warnings(mode))
    assert bool(mode_warnings(mode)) == bool(message)


def as_member(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as another user, who is in the group of the run."""
    return subprocess.run(
        ["setpriv", f"--reuid={STRANGER_UID}", f"--regid={STRANGER_UID}", f"--groups={GROUP_GID}", *command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "XDG_STATE_HOME": str(cwd / "state")},
        check=False,
    )


@pytest.fixture
def open_path():
    """A directory that every user may reach, which pytest's own are not."""
    directory = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@needs_root
@pytest.mark.parametrize("for_group", [True, False])
def test_group_member_can_read_a_run_and_not_change_it(open_path, umask, for_group):
    run = RunDirectory(open_path / "runs" / "first")
    run.path.parent.mkdir()
    os.chown(run.path.parent, -1, GROUP_GID)
    run.path.parent.chmod(0o2775)  # as directories of groups are: members may rename what is in it
    run.create(for_group=for_group)
    write_atomic(run.spec, f"name: first\nmodel: yolov5n\ndata: d.yaml\noutput: {open_path}/runs\n")
    write_atomic(run.origin, '{"hpc_yolo": "1"}\n')
    write_atomic(run.journal, "")
    here = open_path / "member"
    here.mkdir()
    here.chmod(0o777)
    python = [sys.executable, "-c"]
    if as_member([*python, "import hpc_yolo, rich, click, yaml, msgspec"], here).returncode != 0:
        pytest.skip("this Python is closed to other users")

    def hpc_yolo(*arguments: object) -> subprocess.CompletedProcess[str]:
        return as_member([sys.executable, "-m", "hpc_yolo", *map(str, arguments)], here)

    status, listed = hpc_yolo("status", "--root", run.path.parent), hpc_yolo("list", "--root", run.path.parent)
    report = hpc_yolo("report", run.path)
    if for_group:
        assert "first unstarted" in status.stdout, status.stderr
        assert listed.stdout.split() == [str(run.path)]
        assert report.returncode == 0, report.stderr
        assert (here / "report.html").exists()
    else:
        assert "not readable" in status.stderr and listed.stdout == ""
        assert report.returncode == 6
    for command in (("rm", "--yes"), ("cancel", "--yes"), ("resume",)):
        done = hpc_yolo(command[0], run.path, *command[1:])
        assert done.returncode == 6, done.stdout + done.stderr
        assert "belongs to " in done.stderr and "Traceback" not in done.stderr
    assert as_member(["sh", "-c", f"echo x >>{run.journal}"], here).returncode != 0
    assert run.spec.exists()


@needs_root
def test_other_user_is_refused_before_anything_changes(open_path):
    run = RunDirectory(open_path / "run")
    run.create(for_group=True)
    code = (
        "from hpc_yolo.runs.directory import RunDirectory as R; from pathlib import Path\n"
        f"try: R(Path({str(run.path)!r})).create()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    os.chown(run.path, 1, GROUP_GID)
    run.path.chmod(0o2750)
    done = as_member([sys.executable, "-c", code], open_path)
    if "No module named" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("this Python is closed to other users")
    assert done.stdout.startswith(RunError.__name__), done.stderr
    assert "belongs to " in done.stdout and "who alone may change it" in done.stdout
