"""Many screens, one controller: it is asked seldom, and an old answer never passes for a new one."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_yolo.cluster.job_cache import INTERVAL_S, MAX_INTERVAL_S, SETTLED_FOR_S, SETTLES_S, SharedAnswers
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.core.errors import SchedulerUnavailable


class Controller:
    """Slurm and the clock, as a screen sees them."""

    def __init__(self):
        self.now = 1000.0
        self.takes_s = 0.0
        self.is_down = False
        self.state = "RUNNING"
        self.asked = []

    def ask(self, job_ids):
        self.asked.append((self.now, sorted(job_ids)))
        self.now += self.takes_s
        if self.is_down:
            raise SchedulerUnavailable("squeue gave no answer within 10 s")
        return {job_id: JobState(job_id, self.state) for job_id in job_ids}

    def screen(self, directory: Path) -> SharedAnswers:
        return SharedAnswers(directory, {}, ask=self.ask, clock=lambda: self.now)


@pytest.fixture
def controller() -> Controller:
    return Controller()


def test_screens_share_an_answer_and_its_ten_seconds(tmp_path, controller):
    first, second = controller.screen(tmp_path / "state"), controller.screen(tmp_path / "state")
    assert first.about(["7"]).jobs["7"].job.state == "RUNNING"
    for _ in range(9):
        controller.now += 1.0
        assert second.about(["7"]).time == 1000.0
    assert len(controller.asked) == 1
    controller.now += 1.0
    assert second.about(["7"]).time == 1010.0
    assert first.latest().time == 1010.0
    assert len(controller.asked) == 2


def test_a_job_that_another_screen_wants_is_in_the_next_answer(tmp_path, controller):
    first, second = controller.screen(tmp_path), controller.screen(tmp_path)
    first.about(["7"])
    assert "8_1" not in second.about(["8_1", "no job id", "9; rm"]).jobs
    controller.now += INTERVAL_S
    assert set(first.about(["7"]).jobs) == {"7", "8_1"}
    assert controller.asked[1][1] == ["7", "8_1"]


def test_a_slow_controller_is_asked_less_often(tmp_path, controller):
    controller.takes_s = 4.0
    answers = controller.screen(tmp_path)
    for _ in range(100):
        answers.about(["7"])
        controller.now += 1.0
    assert [round(time) for time, _ in controller.asked] == [1000, 1044, 1088]


def test_a_silent_controller_leaves_the_old_answer_with_its_time_and_is_asked_less_and_less(tmp_path, controller):
    answers = controller.screen(tmp_path)
    answers.about(["7"])
    controller.is_down = True
    for _ in range(2000):
        controller.now += 1.0
        answer = answers.about(["7"])
    assert (answer.time, answer.jobs["7"].time) == (1000.0, 1000.0)
    assert "gave no answer" in answer.error
    times = [time for time, _ in controller.asked]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[:5] == [10.0, 20.0, 40.0, 80.0, 160.0]
    assert set(waits[5:]) == {MAX_INTERVAL_S}
    controller.is_down = False
    controller.now += MAX_INTERVAL_S
    answer = answers.about(["7"])
    assert (answer.error, answer.interval_s) == ("", INTERVAL_S)


def test_a_job_that_is_over_is_asked_for_until_that_is_sure_and_then_seldom(tmp_path, controller):
    """A preempted job looks over for a moment; and a thousand old jobs must not be asked for every ten seconds."""
    controller.state = "PREEMPTED"
    answers = controller.screen(tmp_path)
    while controller.now < 1000.0 + SETTLES_S + SETTLED_FOR_S + 30.0:
        answers.about(["7"])
        controller.now += INTERVAL_S
    times = [time - 1000.0 for time, _ in controller.asked]
    assert times == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 360.0, 370.0, 380.0][: len(times)]
    assert len(times) >= 8


@pytest.mark.parametrize("content", [b"", b"{", b'{"time": "noon"}', b"\xff"])
def test_a_damaged_file_is_no_answer(tmp_path, controller, content):
    answers = controller.screen(tmp_path)
    answers.about(["7"])
    (path,) = tmp_path.glob("slurm-*.json")
    path.write_bytes(content)
    assert controller.screen(tmp_path).about(["7"]).jobs["7"].job.state == "RUNNING"


def test_without_a_directory_a_screen_still_keeps_to_the_ten_seconds(tmp_path, controller):
    (tmp_path / "file").write_text("")
    answers = controller.screen(tmp_path / "file" / "state")
    for _ in range(10):
        assert answers.about(["7"]).jobs["7"].job.state == "RUNNING"
        controller.now += 1.0
    assert len(controller.asked) == 1


def test_a_clock_that_was_set_back_does_not_silence_slurm(tmp_path, controller):
    answers = controller.screen(tmp_path)
    answers.about(["7"])
    controller.now -= 86400.0
    answers.about(["7"])
    assert len(controller.asked) == 2


def test_processes_that_ask_at_once_ask_once(tmp_path):
    """The lock holds between processes, and who waited for it takes the answer of who had it."""
    program = """
import sys, time
from pathlib import Path
from hpc_yolo.cluster.job_cache import SharedAnswers
from hpc_yolo.cluster.slurm_output import JobState
directory = Path(sys.argv[1])
def ask(job_ids):
    with open(directory / "asked", "a") as file:
        file.write("x")
    time.sleep(0.3)
    return {job_id: JobState(job_id, "RUNNING") for job_id in job_ids}
print("ready", flush=True)
sys.stdin.readline()
assert SharedAnswers(directory, {}, ask=ask).about(["7"]).jobs["7"].job.state == "RUNNING"
"""
    words = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    screens = [subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    assert [screen.stdout.readline() for screen in screens] == ["ready\n"] * 4
    for screen in screens:
        screen.stdin.write("\n")
        screen.stdin.flush()
    for screen in screens:
        screen.communicate()
    assert [screen.returncode for screen in screens] == [0] * 4
    assert (tmp_path / "asked").read_text() == "x"


def test_who_is_in_a_hurry_does_not_wait_for_a_screen_that_waits_for_slurm(tmp_path, controller):
    controller.screen(tmp_path).about(["7"])
    program = (
        "import pathlib, sys; from hpc_yolo.core.files import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    (lock,) = tmp_path.glob("*.lock")
    words = [sys.executable, "-c", program, str(lock)]
    controller.now += INTERVAL_S
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        hurried = SharedAnswers(tmp_path, {}, patience_s=0.1, ask=controller.ask, clock=lambda: controller.now)
        assert hurried.about(["7"]).time == 1000.0
        other.stdin.close()
    assert hurried.about(["7"]).time == 1010.0
