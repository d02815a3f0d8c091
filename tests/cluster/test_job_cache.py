"""Many screens, one controller: it is queried seldom, and an old reply keeps its time."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_yolo.cluster.job_cache import INTERVAL_S, MAX_INTERVAL_S, SETTLED_FOR_S, SETTLES_S, JobCache
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.core.errors import SchedulerUnavailable


class Controller:
    """Slurm and the clock, as a screen sees them."""

    def __init__(self):
        self.now = 1000.0
        self.takes_s = 0.0
        self.is_down = False
        self.state = "RUNNING"
        self.queries = []

    def query_jobs(self, job_ids):
        self.queries.append((self.now, sorted(job_ids)))
        self.now += self.takes_s
        if self.is_down:
            raise SchedulerUnavailable("squeue gave no reply within 10 s")
        return {job_id: JobState(job_id, self.state) for job_id in job_ids}

    def screen(self, directory: Path) -> JobCache:
        return JobCache(directory, {}, query_jobs=self.query_jobs, clock=lambda: self.now)


@pytest.fixture
def controller() -> Controller:
    return Controller()


def test_screens_share_one_query_in_ten_seconds(tmp_path, controller):
    first, second = controller.screen(tmp_path / "state"), controller.screen(tmp_path / "state")
    assert first.query(["7"]).jobs["7"].job.state == "RUNNING"
    for _ in range(9):
        controller.now += 1.0
        assert second.query(["7"]).time == 1000.0
    assert len(controller.queries) == 1
    controller.now += 1.0
    assert second.query(["7"]).time == 1010.0
    assert first.latest().time == 1010.0
    assert len(controller.queries) == 2


def test_job_of_another_screen_is_in_the_next_reply(tmp_path, controller):
    first, second = controller.screen(tmp_path), controller.screen(tmp_path)
    first.query(["7"])
    assert "8_1" not in second.query(["8_1", "no job id", "9; rm"]).jobs
    controller.now += INTERVAL_S
    assert set(first.query(["7"]).jobs) == {"7", "8_1"}
    assert controller.queries[1][1] == ["7", "8_1"]


def test_slow_controller_is_queried_less_often(tmp_path, controller):
    controller.takes_s = 4.0
    cache = controller.screen(tmp_path)
    for _ in range(100):
        cache.query(["7"])
        controller.now += 1.0
    assert [round(time) for time, _ in controller.queries] == [1000, 1044, 1088]


def test_controller_without_reply_leaves_the_old_one_and_doubles_the_interval(tmp_path, controller):
    cache = controller.screen(tmp_path)
    cache.query(["7"])
    controller.is_down = True
    for _ in range(2000):
        controller.now += 1.0
        reply = cache.query(["7"])
    assert (reply.time, reply.jobs["7"].time) == (1000.0, 1000.0)
    assert "gave no reply" in reply.error
    times = [time for time, _ in controller.queries]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[:5] == [10.0, 20.0, 40.0, 80.0, 160.0]
    assert set(waits[5:]) == {MAX_INTERVAL_S}
    controller.is_down = False
    controller.now += MAX_INTERVAL_S
    reply = cache.query(["7"])
    assert (reply.error, reply.interval_s) == ("", INTERVAL_S)


def test_ended_job_is_queried_until_it_is_settled_and_then_seldom(tmp_path, controller):
    """A preempted job looks ended for a moment; a thousand old jobs must not be queried every ten seconds."""
    controller.state = "PREEMPTED"
    cache = controller.screen(tmp_path)
    while controller.now < 1000.0 + SETTLES_S + SETTLED_FOR_S + 30.0:
        cache.query(["7"])
        controller.now += INTERVAL_S
    times = [time - 1000.0 for time, _ in controller.queries]
    assert times == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 360.0, 370.0, 380.0][: len(times)]
    assert len(times) >= 8


@pytest.mark.parametrize("content", [b"", b"{", b'{"time": "noon"}', b"\xff"])
def test_damaged_file_is_ignored(tmp_path, controller, content):
    cache = controller.screen(tmp_path)
    cache.query(["7"])
    (path,) = tmp_path.glob("slurm-*.json")
    path.write_bytes(content)
    assert controller.screen(tmp_path).query(["7"]).jobs["7"].job.state == "RUNNING"


def test_interval_holds_where_the_directory_is_not_writable(tmp_path, controller):
    (tmp_path / "file").write_text("")
    cache = controller.screen(tmp_path / "file" / "state")
    for _ in range(10):
        assert cache.query(["7"]).jobs["7"].job.state == "RUNNING"
        controller.now += 1.0
    assert len(controller.queries) == 1


def test_clock_that_was_set_back_does_not_delay_the_next_query(tmp_path, controller):
    cache = controller.screen(tmp_path)
    cache.query(["7"])
    controller.now -= 86400.0
    cache.query(["7"])
    assert len(controller.queries) == 2


def test_concurrent_processes_query_once(tmp_path):
    """A process that waited for the lock takes the reply of the one that held it."""
    program = """
import sys, time
from pathlib import Path
from hpc_yolo.cluster.job_cache import JobCache
from hpc_yolo.cluster.slurm_output import JobState
directory = Path(sys.argv[1])
def query_jobs(job_ids):
    with open(directory / "queries", "a") as file:
        file.write("x")
    time.sleep(0.3)
    return {job_id: JobState(job_id, "RUNNING") for job_id in job_ids}
print("ready", flush=True)
sys.stdin.readline()
assert JobCache(directory, {}, query_jobs=query_jobs).query(["7"]).jobs["7"].job.state == "RUNNING"
"""
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    screens = [subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    assert [screen.stdout.readline() for screen in screens] == ["ready\n"] * 4
    for screen in screens:
        screen.stdin.write("\n")
        screen.stdin.flush()
    for screen in screens:
        screen.communicate()
    assert [screen.returncode for screen in screens] == [0] * 4
    assert (tmp_path / "queries").read_text() == "x"


def test_short_timeout_does_not_wait_for_a_screen_that_waits_for_slurm(tmp_path, controller):
    controller.screen(tmp_path).query(["7"])
    program = (
        "import pathlib, sys; from hpc_yolo.core.files import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    (lock,) = tmp_path.glob("*.lock")
    arguments = [sys.executable, "-c", program, str(lock)]
    controller.now += INTERVAL_S
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        impatient = JobCache(
            tmp_path, {}, timeout_s=0.1, query_jobs=controller.query_jobs, clock=lambda: controller.now
        )
        assert impatient.query(["7"]).time == 1000.0
        other.stdin.close()
    assert impatient.query(["7"]).time == 1010.0
