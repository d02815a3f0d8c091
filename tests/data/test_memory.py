"""Available memory: of the machine, and within the limits of the control groups of a job."""

from pathlib import Path

import pytest

from hpc_yolo.data import memory

MACHINE_BYTES = 64 * 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 64 GiB to take: write(path, text) writes a file of the kernel."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", f"MemTotal: 99999999 kB\nMemAvailable: {MACHINE_BYTES // 1024} kB\nHugePages_Total: 0\n")
    write("proc/self/cgroup", "0::/slurm/job_1/step_0\n")
    return write


def limit(write, directory: str, limit_bytes: str, used_bytes: int, files: tuple[int, int] = (0, 0)) -> None:
    write(f"{directory}/memory.max", f"{limit_bytes}\n")
    write(f"{directory}/memory.current", f"{used_bytes}\n")
    write(f"{directory}/memory.stat", f"anon 5\nactive_file {files[0]}\ninactive_file {files[1]}\n")


def test_memory_that_caches_files_counts_as_free():
    """On a node that has been up for a day nearly all memory holds files, and yields at once."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert 0 < memory.available_bytes() <= int(lines["MemAvailable"].split()[0]) * 1024 * 1.1


def test_machine_is_the_limit_where_groups_have_none(machine):
    limit(machine, "cgroup/slurm/job_1/step_0", "max", 10)
    assert memory.available_bytes() == MACHINE_BYTES


@pytest.mark.parametrize("level", ["slurm/job_1/step_0", "slurm/job_1", "slurm", "."])
def test_limit_of_any_enclosing_group_counts(machine, level):
    """Slurm sets it on the job, containers on their root; the group of the process itself often has none."""
    limit(machine, "cgroup/slurm/job_1/step_0", "max", 10)
    limit(machine, f"cgroup/{level}", str(8 * 2**30), 5 * 2**30, files=(2**29, 2**29))
    assert memory.available_bytes() == 4 * 2**30, "what only caches files yields"


def test_lowest_limit_counts_and_a_used_up_one_leaves_nothing(machine):
    limit(machine, "cgroup/slurm", str(8 * 2**30), 0)
    limit(machine, "cgroup/slurm/job_1", str(2**30), 2**30 + 5)
    assert memory.available_bytes() == 0


def test_groups_of_version_1_count(machine):
    machine("proc/self/cgroup", "9:cpuset:/slurm\n4:memory:/slurm/uid_1/job_1\n1:name=systemd:/\n0::/\n")
    directory = "cgroup/memory/slurm/uid_1/job_1"
    machine(f"{directory}/memory.limit_in_bytes", f"{2**31}\n")
    machine(f"{directory}/memory.usage_in_bytes", f"{2**30}\n")
    machine(f"{directory}/memory.stat", "cache 1\ntotal_active_file 100\ntotal_inactive_file 23\n")
    assert memory.available_bytes() == 2**30 + 123
