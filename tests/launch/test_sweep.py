"""Plans of sweeps: how trials are divided over arrays, and what each submission starts."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from hpc_yolo.cluster.site import parse_site_settings
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.core.errors import DataError, NameTakenError, RunError, SpecError
from hpc_yolo.launch import sweep as module
from hpc_yolo.launch.plan import ArrayTasks, planned_run
from hpc_yolo.launch.sweep import only_submission, plan_sweep, prepare_sweep, submit_sweep, with_new_trials
from hpc_yolo.launch.sweep_here import run_trials_here
from hpc_yolo.launch.trial import trial_spec
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission
from hpc_yolo.runs.sweep import SweepDirectory, label_cache_of, run_in_job
from hpc_yolo.spec.load import load_spec

LR0 = "train.hyp_overrides.lr0"
GRID = {"grid": {LR0: [0.01, 0.02]}}
WAITS = JobState("7_[0-1]", "PENDING")
RANDOM = {"method": "random", "trials": 2, "space": {LR0: {"low": 0.001, "high": 0.1}}}


@pytest.fixture
def spec_of(write_spec):
    def load(cluster=None, **sweep):
        return load_spec(write_spec("lr", {"executor": "slurm", **(cluster or {})}, sweep=sweep))

    return load


@pytest.mark.parametrize(
    ("numbers", "limit", "expected"),
    [
        ((0,), None, "0"),
        (tuple(range(100)), 8, "0-99%8"),
        ((0, 1, 2, 7, 9, 10), None, "0-2,7,9-10"),
    ],
)
def test_tasks_of_an_array_are_written_as_spans(numbers, limit, expected):
    assert ArrayTasks(SweepDirectory(Path("/s")), 1, numbers, limit).option == expected


def test_percent_sign_in_the_path_is_no_pattern():
    assert ArrayTasks(SweepDirectory(Path("/50%/s")), 2, (0,)).log == "/50%%/s/2-%4a/jobs/%A_%a.log"


def test_more_trials_than_an_array_may_have_become_several_arrays(spec_of):
    plan = plan_sweep(spec_of(seeds=25))
    settings = parse_site_settings("KillWait = 30 sec\nMaxArraySize = 10\n")
    plan = with_new_trials(replace(plan, job=replace(plan.job, settings=settings)))
    assert [job.array.option for job in plan.jobs] == ["0-9", "0-9", "0-4"]
    assert [job.run.name for job in plan.jobs] == ["array-1", "array-2", "array-3"]
    assert plan.new[24].name == "3-0004"


def test_values_added_later_start_the_new_trials_alone(spec_of, monkeypatch):
    monkeypatch.setattr(module, "task_states", lambda sweep: {trial.name: WAITS for trial in sweep.trials()})
    monkeypatch.setattr(module, "adopt_lost_jobs", lambda _run: {})
    prepare_sweep(plan_sweep(spec_of(grid={"train.batch": [8, 16]})))
    plan = plan_sweep(spec_of(grid={"train.batch": [8, 24, 16]}))
    assert [trial.values for trial in plan.new] == [{"train.batch": 24}]
    assert [trial.name for trial in plan.to_start] == ["2-0000"] and plan.num_active == 2


def test_trials_that_have_not_finished_start_again_under_their_names(spec_of, monkeypatch):
    monkeypatch.setattr(module, "task_states", lambda _sweep: {"1-0001": WAITS})
    monkeypatch.setattr(module, "adopt_lost_jobs", lambda _run: {})
    monkeypatch.setattr(module, "is_finished", lambda run: run.name == "1-0002")
    prepare_sweep(plan_sweep(spec_of(seeds=4)))
    plan = plan_sweep(spec_of(seeds=5))
    assert [job.array.option for job in plan.jobs] == ["0,3", "0"]
    assert [trial.name for trial in plan.to_start] == ["1-0000", "1-0003", "2-0000"]
    assert (plan.num_active, plan.num_finished) == (1, 1)


def test_arrays_with_a_limit_follow_each_other(spec_of, monkeypatch):
    """Slurm's limit is that of one array: in several, as many times the trials would run at once."""
    queued = []

    def queue(plan, options):
        queued.append((plan.run.name, options))
        numbers = {"time": 0.0, "num_nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}
        return Submission(executor="slurm", job_id=f"{7 + len(queued)}", host="here", **numbers)

    monkeypatch.setattr(module, "task_states", lambda _sweep: {"1-0001": WAITS})
    monkeypatch.setattr(module, "adopt_lost_jobs", lambda _run: {})
    monkeypatch.setattr(module, "queue", queue)
    submit_sweep(plan_sweep(spec_of(seeds=2, limit=1)))
    assert queued.pop() == ("array-1", [])
    plan = plan_sweep(spec_of(seeds=3, limit=1))
    assert [line for subject, line in plan.decisions() if subject == "array"] == [
        "array-1: tasks 0%1, when those before it have ended",
        "array-2: tasks 0%1, when those before it have ended",
    ]
    submit_sweep(plan)
    assert queued == [("array-1", ["--dependency=afterany:7"]), ("array-2", ["--dependency=afterany:8"])]
    queued.clear()
    submit_sweep(plan_sweep(spec_of(seeds=4, limit=4)))
    assert [options for _, options in queued] == [[], [], []], "one that waits and three more are no more than four"


def test_removed_directory_of_a_trial_is_made_again(spec_of, monkeypatch):
    """Slurm ends a job without a word if it cannot open the file of its output."""
    monkeypatch.setattr(module, "task_states", lambda _sweep: {})
    monkeypatch.setattr(module, "adopt_lost_jobs", lambda _run: {})
    plan = plan_sweep(spec_of(search=RANDOM))
    prepare_sweep(plan)
    shutil.rmtree(plan.sweep.trial("1-0001").path)
    prepare_sweep(plan_sweep(spec_of(search=RANDOM)))
    assert plan.sweep.trial("1-0001").jobs.is_dir()


def test_of_two_submissions_at_once_the_second_is_refused(spec_of):
    """Both would have trials of the same names, with the values of the second."""
    first, second = plan_sweep(spec_of(grid={LR0: [0.01]})), plan_sweep(spec_of(grid={LR0: [0.02]}))
    with only_submission(first):
        prepare_sweep(first)
    with pytest.raises(NameTakenError, match="another command has just submitted this sweep"), only_submission(second):
        pass
    assert [trial.values for trial in first.sweep.trials()] == [{LR0: 0.01}]


def test_sweep_that_is_being_submitted_is_left_alone(spec_of, tmp_path):
    spec = msgspec.structs.replace(spec_of(seeds=2), output=str(tmp_path / "my runs"))
    plan = plan_sweep(spec)
    plan.sweep.path.mkdir(parents=True)
    held = "from hpc_yolo.core.files import exclusive_lock; import sys\nfrom pathlib import Path\n"
    held += "with exclusive_lock(Path(sys.argv[1])): print(); sys.stdin.read()"
    command = [sys.executable, "-c", held, str(plan.sweep.lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(NameTakenError, match="another command submits it or runs its trials") as refused:
            submit_sweep(plan)
        other.stdin.close()
    assert f"hpc-yolo sweep status '{plan.sweep.path}'," in refused.value.hint
    assert not plan.sweep.exists
    assert plan_sweep(spec).new, "what is left of a lock is no reason to refuse"


def test_sweep_of_another_spec_is_refused_with_what_differs(spec_of, write_spec):
    prepare_sweep(plan_sweep(spec_of(seeds=2)))
    other = load_spec(write_spec("lr", {"executor": "slurm"}, {"imgsz": 96}, sweep={"seeds": 2}))
    with pytest.raises(RunError, match=r"train\.imgsz: 64 -> 96"):
        plan_sweep(other)


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        (GRID, {"search": RANDOM}, f"sweep.search.space.{LR0}: None -> {{'low': 0.001"),
        ({"search": RANDOM}, GRID, f"sweep.search.space.{LR0}: {{'low': 0.001"),
        ({"search": RANDOM}, {"search": RANDOM | {"space": {LR0: [0.01, 0.02]}}}, "-> [0.01, 0.02]"),
    ],
    ids=["grid to search", "search to grid", "another space"],
)
def test_values_from_another_source_need_a_sweep_of_another_name(before, now, differs, spec_of):
    """A trial that has not begun would be trained with values of the new source."""
    prepare_sweep(plan_sweep(spec_of(**before)))
    with pytest.raises(RunError) as raised:
        plan_sweep(spec_of(**now))
    assert differs in raised.value.message


def test_other_epochs_of_all_trials_need_a_sweep_of_another_name(spec_of, write_spec):
    """Trials of 10 and of 20 epochs would be compared, and a trial of the grid would be trained twice."""
    grid = {"grid": {"train.epochs": [10, 20]}}
    prepare_sweep(plan_sweep(load_spec(write_spec("lr", {"executor": "slurm"}, {"epochs": 10}, sweep=grid))))
    with pytest.raises(RunError, match=r"train\.epochs: 10 -> 20"):
        plan_sweep(load_spec(write_spec("lr", {"executor": "slurm"}, {"epochs": 20}, sweep=grid)))


def test_directory_of_a_sweep_is_no_place_for_a_run(spec_of):
    spec = spec_of(seeds=2)
    prepare_sweep(plan_sweep(spec))
    with pytest.raises(RunError, match="is the directory of a sweep"):
        planned_run(msgspec.structs.replace(spec, sweep=None))
    with pytest.raises(SpecError, match="for one run"):
        planned_run(spec)


def test_script_of_an_array_names_its_tasks_and_starts_the_trial_first(spec_of):
    plan = plan_sweep(spec_of(seeds=3, limit=2))
    script = plan.jobs[0].script
    path = plan.sweep.path
    assert "#SBATCH --array=0-2%2\n" in script
    assert f"#SBATCH --output={path}/1-%4a/jobs/%A_%a.log\n" in script
    lines = script.splitlines()
    assert lines[-3].endswith(f"-m hpc_yolo start-trial {path}/array-1 &&")
    assert lines[-2].startswith("srun ") and lines[-2].endswith(f"-m hpc_yolo train {path}/array-1")
    assert lines[-1].endswith(f"-m hpc_yolo after-job {path}/array-1 --exit-code $?")


def test_task_of_an_array_finds_its_trial(spec_of, tmp_path):
    prepare_sweep(plan_sweep(spec_of(grid={"train.batch": [8, 16]})))
    sweep = SweepDirectory(tmp_path / "runs" / "lr")
    run = run_in_job(sweep.path / "array-1", {"SLURM_ARRAY_TASK_ID": "1"})
    assert run.path == sweep.path / "1-0001"
    spec = trial_spec(sweep, run)
    assert (spec.train.batch, spec.name, spec.output, spec.sweep) == (16, "1-0001", str(sweep.path), None)
    with pytest.raises(RunError, match="SLURM_ARRAY_TASK_ID is not set"):
        run_in_job(sweep.path / "array-1", {})
    with pytest.raises(RunError, match="has no trial 1-0007"):
        trial_spec(sweep, sweep.trial("1-0007"))
    assert run_in_job(tmp_path / "array-1", {}) == RunDirectory(tmp_path / "array-1"), "a run may have that name"


def test_trials_keep_what_variables_of_the_shell_request(spec_of, tmp_path):
    """Their stages and evaluations, which jobs queue, were charged to the default account of the user."""
    prepare_sweep(plan_sweep(spec_of(seeds=1), {"SBATCH_ACCOUNT": "a", "SBATCH_QOS": "long"}))
    sweep = SweepDirectory(tmp_path / "runs" / "lr")
    cluster = trial_spec(sweep, sweep.trial("1-0000")).cluster
    assert (cluster.account, cluster.qos) == ("a", "long")


def test_search_draws_values_once_for_each_trial(spec_of, tmp_path):
    space = {LR0: {"low": 0.001, "high": 0.1, "log": True}}
    search = {"method": "random", "trials": 2, "space": space}
    prepare_sweep(plan_sweep(spec_of(search=search)))
    sweep = SweepDirectory(tmp_path / "runs" / "lr")
    drawn = [trial_spec(sweep, sweep.trial(trial.name)).train.hyp_overrides["lr0"] for trial in sweep.trials()]
    again = [trial_spec(sweep, sweep.trial(trial.name)).train.hyp_overrides["lr0"] for trial in sweep.trials()]
    assert drawn == again and len(set(drawn)) == 2 and all(0.001 <= value <= 0.1 for value in drawn)
    assert [sweep.drawn_values(trial.name) for trial in sweep.trials()] == [
        {"train.hyp_overrides.lr0": value} for value in drawn
    ]


def test_trials_share_the_labels_of_a_dataset(spec_of, tmp_path):
    prepare_sweep(plan_sweep(spec_of(seeds=2)))
    sweep = SweepDirectory(tmp_path / "runs" / "lr")
    first, second = sweep.trial("1-0000"), sweep.trial("1-0001")
    assert label_cache_of(first, "train", "/a") == label_cache_of(second, "train", "/a")
    assert label_cache_of(first, "train", "/a").parent == sweep.path
    assert len({label_cache_of(first, split, data) for split in ("train", "val") for data in ("/a", "/b")}) == 4
    alone = RunDirectory(tmp_path / "runs" / "alone")
    assert label_cache_of(alone, "train", "/a") == alone.label_cache("train")


def test_trials_that_cannot_start_here_are_reported_and_counted(write_spec, tmp_path, shapes):
    """An error in the thread of a trial would end the sweep with exit code 0."""
    data = tmp_path / "data.yaml"
    data.write_text(shapes.read_text())
    plan = plan_sweep(load_spec(write_spec("lr", {"executor": "local"}, data=str(data), sweep={"seeds": 2})))
    data.unlink()
    lines = []
    code = run_trials_here(plan, parallel=1, is_silent=True, say=lines.append)
    assert code == DataError.exit_code
    for name in ("1-0000", "1-0001"):
        assert any(f"trial {name} does not start: data: there is no dataset {data}" in line for line in lines)
    assert lines[-1].startswith("2 trials failed")
