"""The sbatch script of a spec, and the templates in slurm/."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from hpc_yolo.cluster import sbatch, scheduler
from hpc_yolo.cluster.container import ContainerCommand
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.resilience.chain import ARGUMENTS_VARIABLE
from hpc_yolo.runs.save_times import SaveTimes
from hpc_yolo.spec.schema import ClusterSpec

TEMPLATES = Path(__file__).parents[2] / "slurm"


def options_of(**cluster) -> dict:
    return sbatch.sbatch_options("run", ClusterSpec(**cluster), "%j.log")


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({"nodes": 4, "gpus_per_node": 8}, {"nodes": "4", "ntasks-per-node": "8", "gpus-per-node": "8"}),
        ({"gpus_per_node": 8, "gpu_type": "a100"}, {"gpus-per-node": "a100:8"}),
        ({"gpus_per_node": 8, "gpu_type": "a100", "gpu_request": "gres"}, {"gres": "gpu:a100:8"}),
        ({"gres": "nvme:50"}, {"gpus-per-node": "1", "gres": "nvme:50"}),
        ({"gpus_per_node": 4, "gpu_request": "gres", "gres": ["nvme:50", "a, b:2"]}, {"gres": "gpu:4,nvme:50,a,b:2"}),
        ({"gpus_per_node": 4, "gpu_request": "none", "gres": ["nvme:50"]}, {"ntasks-per-node": "4", "gres": "nvme:50"}),
        ({"gpus_per_node": 0, "tasks_per_node": 3}, {"ntasks-per-node": "3"}),
        ({"mem": "400G"}, {"mem": "400G"}),
        ({"mem_per_gpu": "60G"}, {"mem-per-gpu": "60G"}),
        ({"mem": "0"}, {"mem": "0"}),
        ({"exclude": ["n1", "n[3-4]"]}, {"exclude": "n1,n[3-4]"}),
        ({"exclude": "n1,n[3-4]"}, {"exclude": "n1,n[3-4]"}),
        ({"partition": "a, b"}, {"partition": "a,b"}),
        ({"partition": ["a", "b,c"]}, {"partition": "a,b,c"}),
        ({"time": "UNLIMITED"}, {"time": "UNLIMITED", "signal": "USR2@120"}),
        ({"time": "0"}, {"time": "0", "signal": "USR2@120"}),
        ({"sbatch": {"mail-type": ["BEGIN", "END"]}}, {"mail-type": "BEGIN,END"}),
        ({"partition": "gpu", "account": "a", "qos": "q", "constraint": "c"}, {"partition": "gpu", "account": "a"}),
        ({"requeue": "off"}, {"no-requeue": True}),
        ({"time": "12:00:00"}, {"time": "12:00:00", "signal": "USR2@120", "requeue": True, "open-mode": "append"}),
        ({"time": "00:02:00"}, {"signal": "USR2@60"}),
        ({"signal_before_s": 30}, {"signal": "USR2@30"}),
        (
            {"sbatch": {"comment": "nightly run", "exclusive": True, "hold": False}},
            {"comment": "nightly run", "exclusive": True},
        ),
    ],
)
def test_field_becomes_its_option(cluster, expected):
    options = options_of(**cluster)
    assert expected.items() <= options.items()


@pytest.mark.parametrize(
    ("cluster", "save_s", "step_s", "expected"),
    [
        ({"time": "12:00:00"}, 0.15, 0.4, 31),  # 0.45 + 0.4, and 30 s in which to be requeued
        ({"time": "12:00:00"}, 90.0, 12.5, 313),
        ({"time": "00:05:00"}, 90.0, 12.5, 150),  # half of the limit
        ({}, 90.0, 12.5, 313),
        ({"time": "12:00:00", "signal_before_s": 45}, 90.0, 12.5, 45),
    ],
)
def test_signal_before_the_limit_follows_from_save_times(cluster, save_s, step_s, expected):
    """A slow disk needs an earlier warning; a quick one need not give two minutes of every job away."""
    text = sbatch.script(
        "run", ClusterSpec(**cluster), "true", "true", log="log", save_times=SaveTimes(save_s, step_s, size_bytes=1)
    )
    assert f"#SBATCH --signal=USR2@{expected}\n" in text


@pytest.mark.parametrize(
    ("cluster", "absent"),
    [
        ({"gpus_per_node": 0}, {"gpus-per-node", "gres"}),
        ({"gpu_request": "gres"}, {"gpus-per-node"}),
        ({"gpu_request": "none", "gpus_per_node": 4}, {"gpus-per-node", "gres"}),
        ({}, {"time", "mem", "partition", "account", "exclude", "no-requeue"}),
        ({"requeue": "off"}, {"requeue"}),
        ({"sbatch": {"hold": False}}, {"hold"}),
    ],
)
def test_unset_fields_yield_no_options(cluster, absent):
    assert not absent & options_of(**cluster).keys()


def test_values_are_quoted_so_that_a_spec_cannot_run_shell(tmp_path):
    cluster = ClusterSpec(sbatch={"comment": "it's; touch owned"}, env={"A": "$(touch owned) 'b'"})
    text = sbatch.script("run", cluster, shlex.join(["printf", "%s", "$HOME; touch owned"]), "true", log="a b.log")
    assert "#SBATCH --comment='it'\"'\"'s; touch owned'" in text
    body = text.replace(shlex.join(sbatch.srun_arguments(cluster)), "printf '%s|' \"$A\"; ")
    done = subprocess.run(["bash", "-e"], input=body, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "$(touch owned) 'b'|$HOME; touch owned"
    assert not list(tmp_path.iterdir())


TASKS, AFTER_TASKS, AFTER_SETUP = "TASKS", "after tasks --exit-code", "after setup --failed-setup"


@pytest.fixture
def run_setup(tmp_path):
    """Run the script of a setup with tasks that end with 5; (output, status, number of the setup line that failed)."""
    (tmp_path / "fails_inside.sh").write_text("false\nexport INSIDE=went-on\n")
    (tmp_path / "fails_at_its_end.sh").write_text("true\nfalse\n")
    (tmp_path / "exits.sh").write_text("exit 6\n")
    record = tmp_path / "a b" / "7.setup"
    record.parent.mkdir()

    def run(setup: str | list[str], *, env: dict[str, str] | None = None, **cluster):
        text = sbatch.script(
            "run",
            ClusterSpec(setup=setup, env=env or {"FROM_ENV": "it's"}, **cluster),
            "",
            "echo after tasks",
            log="log",
            setup_record=shlex.quote(f"{record.parent}/") + "$SLURM_JOB_ID.setup",
            after_failed_setup="echo after setup",
        )
        tasks = "bash -c 'echo TASKS in $PWD with $X,$INSIDE,$FROM_ENV; exit 5'"
        script = tmp_path / "job.sbatch"
        script.write_text(text.replace(shlex.join(sbatch.srun_arguments(ClusterSpec())), tasks))
        done = subprocess.run(
            ["bash", str(script)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", "LC_ALL": "C"},
            check=False,
        )
        number = record.read_text().strip() if record.exists() else None
        return done.stdout, done.returncode, number

    return run


GOOD_SETUPS = {
    "lines": ["export X=1", "cd /tmp"],
    "a block": "export X=1\ncd /tmp\n",
    "a block among lines": ["true", "if true; then\n  export X=1\nfi\n", "cd /tmp"],
    "a block over lines": ["if true; then", "export X=1", "fi", "cd /tmp"],
    "what may fail": [
        "false || true",
        "nope 2>/dev/null || true",
        "! false",
        "[ -d /nope ] && X=2",
        "export X=1",
        "cd /tmp",
    ],
    "conditions": "if false; then X=3; elif ! true; then X=4; else export X=1; fi\nwhile false; do :; done\ncd /tmp",
    "a condition at the end": ["export X=1", "cd /tmp", "[ -d /nope ] && export X=2"],
    "inside of what is sourced": ["source ./fails_inside.sh", "export X=1", "cd /tmp"],
    "inside of a function": "f() { false; export X=1; }\nf\ncd /tmp",
    "an early return": ["export X=1", "cd /tmp", "[ -d / ] && return 0", "false"],
    "set -euo pipefail": ["set -euo pipefail", "export X=1", "cd /tmp"],
    "set -C": ["set -C", "export X=1", "cd /tmp"],
    "set -T and -E": ["set -TE", "source /dev/null", "export X=1", "cd /tmp"],
    "a trap at the end": ["trap 'echo cleaned up' EXIT", "export X=1", "cd /tmp"],
    "traps of one's own": ["trap 'echo mine' ERR DEBUG", "export X=1", "cd /tmp"],
    "another output": ["exec 2>/dev/null", "export X=1", "cd /tmp"],
    "arguments": ["set -- 1 2", "export X=$1", "cd /tmp"],
    "in the background": ["sleep 0.1 &", "export X=1", "cd /tmp"],
    "input": ["cat", "read -r line || true", "export X=1", "cd /tmp"],
    "a document": "cat >/dev/null <<'SETUP'\n$(false)\nSETUP\nexport X=1\ncd /tmp",
    "a line that goes on": ["export \\", "  X=1", "cd \\", "  /tmp"],
    "a last line that goes on": ["export X=1", "cd /tmp \\"],
    "comments": ["# it's", "", "export X=1 # (", "cd /tmp"],
    "quotes": ["export X='1' Y=\"it's\"", "Z='$(touch \"owned\")'", "cd /tmp"],
    "a variable of ours": ["unset HPC_YOLO_CHECK", "export X=1", "cd /tmp"],
}


@pytest.mark.parametrize("name", GOOD_SETUPS)
def test_tasks_and_last_command_run_in_the_environment_of_setup(run_setup, name):
    output, status, number = run_setup(GOOD_SETUPS[name])
    inside = "went-on" if "fails_inside" in str(GOOD_SETUPS[name]) else ""
    assert f"{TASKS} in /tmp with 1,{inside},it's\n" in output
    assert f"{AFTER_TASKS} 5\n" in output
    assert (AFTER_SETUP in output, status, number) == (False, 0, None)
    assert ("cleaned up" in output) == ("cleaned up" in str(GOOD_SETUPS[name]))


BAD_SETUPS = [
    ("module load nope", 1, 127),
    ("true\nmodule load nope\ntrue", 2, 127),
    ("true\n\n# why\nfalse\n", 4, 1),
    (["true", "if true; then", "false", "fi"], 3, 1),
    ("for i in 1 2; do\n  false\ndone", 2, 1),
    ("true\n(exit 9)", 2, 9),
    ("true\n( cd /\nfalse )", 3, 1),
    ("true | false", 1, 1),
    ("set -o pipefail\nfalse | true", 2, 1),
    ("X=$(nope)", 1, 127),
    ("[[ -n $NOPE ]]", 1, 1),
    ("(( 0 ))", 1, 1),
    ("false; true", 1, 1),
    ("eval 'true; false'", 1, 1),
    ("source ./nope.sh", 1, 1),
    ("true\nsource ./fails_at_its_end.sh", 2, 1),
    ("true\nsource ./exits.sh\ntrue", 2, 6),
    ("f() { return 3; }\nf", 2, 3),
    ("f() { exit 4; }\nf", 2, 4),
    ("true\nexit 3", 2, 3),
    ("true\nexit 0", 2, 0),
    ("true\nreturn 4", 2, 4),
    ("true\nexec bash -c 'exit 7'", 2, 7),
    ("exec true", 1, 0),
    ("set -e\nfalse", 2, 1),
    ("set -e\nsource ./fails_inside.sh", 2, 1),
    ("set -e\nf() { false; true; }\nf", 3, 1),
    ("set -u\necho $NOPE", 2, None),
    ("true\n: ${NOPE:?is not set}", 2, None),
    ("set -C\nfalse", 2, 1),
    ("set -x\nfalse", 2, 1),
    ("set -T\nsource ./fails_inside.sh\nfalse", 3, 1),
    ("set -o posix\n. /nope/nope", 2, 1),
    ("trap 'echo mine' EXIT\nfalse", 2, 1),
    ("trap 'echo mine' EXIT\ntrue\nexit 4", 3, 4),
    ("trap 'echo mine' ERR\nfalse\ntrue", 2, 1),
    ("trap 'exit 3' TERM\nkill -TERM $BASHPID\ntrue", 2, 3),
    ("true\nkill -KILL $BASHPID", 2, 137),
    ("exec 2>&1\nfalse", 2, 1),
    ("cd /nope", 1, 1),
    ("cd /\nfalse", 2, 1),
]


@pytest.mark.parametrize(("setup", "number", "failure"), BAD_SETUPS, ids=[repr(row[0]) for row in BAD_SETUPS])
def test_first_failing_setup_line_ends_the_job_through_the_last_command(run_setup, setup, number, failure):
    output, status, seen = run_setup(setup)
    assert TASKS not in output and AFTER_TASKS not in output
    found = re.search(rf"{AFTER_SETUP} .*/a b/7\.setup --exit-code (\d+)\n", output)
    assert found, output
    assert (seen, status) == (str(number), 0)
    assert int(found[1]) == failure if failure is not None else int(found[1]) != 0


def test_continued_setup_line_is_found_by_one_of_its_parts(run_setup):
    _, _, seen = run_setup("true\nnope \\\n  a \\\n  b\ntrue")
    assert seen in ("2", "3", "4"), "which one depends on the version of bash"


@pytest.mark.parametrize("setup", ["if true", "true\necho 'open", ")", "}", "done", "cat <<EOF >/dev/null && if"])
def test_syntax_error_in_setup_ends_the_job_through_the_last_command(run_setup, setup):
    output, _, _ = run_setup(setup)
    assert AFTER_SETUP in output and TASKS not in output


@pytest.mark.parametrize("setup", [[], ["X=1", "export Y=here"]])
def test_variable_that_is_not_set_ends_the_job_through_the_last_command(run_setup, setup):
    """The script ended at that line, and the journal had no end."""
    output, status, number = run_setup(setup, env={"A": "a", "B": "$A/$NOPE"})
    assert AFTER_SETUP in output and TASKS not in output
    assert status == 0  # of the last command
    assert number == str(len(setup) + 2)


def test_values_may_refer_to_the_setup_and_to_earlier_values(run_setup):
    env = {"Z": "two\nSETUP\nlines", "INSIDE": "$Y/b", "FROM_ENV": "$INSIDE/c"}
    output, status, number = run_setup(["export Y=a"], env=env)
    assert f"{TASKS} in" in output and ",a/b,a/b/c" in output and AFTER_TASKS in output
    assert (status, number) == (0, None)


@pytest.mark.parametrize("setup", [[], ["true"]])
def test_command_beside_the_tasks_delays_neither_them_nor_the_end(tmp_path, setup):
    cluster = ClusterSpec(setup=setup)
    text = sbatch.script("run", cluster, "", "echo after", log="log", beside=["sleep 60"], setup_record=f"{tmp_path}/s")
    tasks = "kill $(jobs -p) && echo TASKS"  # while the other command runs
    script = text.replace(shlex.join(sbatch.srun_arguments(cluster)), tasks)
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, timeout=30, check=False)
    assert "TASKS" in done.stdout and "after --exit-code 0" in done.stdout, done.stderr


@pytest.mark.parametrize("setup", ["", "true"])
@pytest.mark.parametrize(("status", "starts"), [(0, True), (6, False)])
def test_tasks_start_only_after_a_first_command_that_succeeds(tmp_path, setup, status, starts):
    container = ContainerCommand(srun_options=["--container-image=x"], launcher=["apptainer", "exec", "i"])
    cluster = ClusterSpec(setup=setup, prefix=["numactl"])
    text = sbatch.script(
        "run", cluster, "python x", "echo after", log="log", container=container, before=f"(exit {status})"
    )
    srun = shlex.join(sbatch.srun_arguments(cluster))
    line = f"{srun} --container-image=x numactl apptainer exec i python x\n"
    assert f"(exit {status}) &&\n{line}" in text
    script = text.replace(line, "bash -c 'echo TASKS; exit 5'\n")
    done = subprocess.run(["bash"], input=script, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ("TASKS" in done.stdout) == starts
    assert f"after --exit-code {5 if starts else status}\n" in done.stdout


def test_script_without_setup_is_options_variables_srun_and_last_command():
    text = sbatch.script("run", ClusterSpec(env={"A": "b"}), "task", "after", log="log")
    srun = shlex.join(sbatch.srun_arguments(ClusterSpec()))
    assert text.split("\n\n", 1)[1] == f"export A=b\n\n{srun} task\nexec after --exit-code $?\n"


def test_srun_exports_the_environment_and_ends_the_job_with_a_failed_rank():
    """srun of 22.05 inherits no --cpus-per-task, srun of all versions sbatch's --export, and a dead rank is no end."""
    arguments = sbatch.srun_arguments(ClusterSpec(cpus_per_task=7))
    assert {"--cpus-per-task=7", "--export=ALL", "--kill-on-bad-exit=1"} <= set(arguments)


def test_srun_options_and_prefix_stand_before_the_task():
    cluster = ClusterSpec(
        srun={"cpu-bind": ["mask_cpu:0xff", "0xff00"], "mpi": "pmi2", "overlap": True, "mem-bind": False},
        prefix=["numactl", "--membind=$(touch owned)"],
        login_shell=True,
    )
    text = sbatch.script("run", cluster, "task", "after", log="log")
    assert text.startswith("#!/bin/bash -l\n")
    assert (
        " --export=ALL --cpu-bind=mask_cpu:0xff,0xff00 --mpi=pmi2 --overlap numactl '--membind=$(touch owned)' task\n"
        in text
    )


def test_real_sbatch_takes_every_request_form(in_slurm):
    """--test-only is what Slurm itself says of them; licences and reservations depend on the site."""
    forms = [
        {"gpu_request": "none", "gpus_per_node": 2},
        {"gpu_request": "gres", "gpus_per_node": 2},
        {"gpus_per_node": 2},
        {"mem": "0", "gpus_per_node": 0},
        {"gpus_per_node": 0, "sbatch": {"nodelist": ["gpu01"], "exclusive": True, "hint": "nomultithread"}},
        {"gpus_per_node": 0, "sbatch": {"exclusive": "user", "switches": "1@00:10:00", "mail-type": "END,FAIL"}},
    ]
    for form in forms:
        text = sbatch.script("run", ClusterSpec(cpus_per_task=1, **form), "true", "true", log="/dev/null")
        assert scheduler.estimate_start(text).nodes, form
    unknown = sbatch.script("run", ClusterSpec(gpus_per_node=0, gres="nvme:50"), "true", "true", log="/dev/null")
    with pytest.raises(ClusterError, match=r"(?i)generic resource|gres"):
        scheduler.estimate_start(unknown)


def test_tasks_of_a_real_job_start_through_prefix_with_srun_options_in_a_login_shell(in_slurm):
    cluster = ClusterSpec(
        gpus_per_node=0,
        tasks_per_node=2,
        cpus_per_task=1,
        srun={"cpu-bind": "none", "distribution": "block"},
        prefix=["env", "MARK=it's here"],
        login_shell=True,
        env={"CACHE": "/tmp/$USER_OF_SETUP/$SLURM_JOB_ID", "PRICE": "5$"},
        setup=["export USER_OF_SETUP=me", "shopt -q login_shell && echo in a login shell"],
    )
    job_id = in_slurm.submit(
        sbatch.script("run", cluster, "sh -c 'echo $SLURM_PROCID $MARK $CACHE $PRICE'", "echo after", log="x")
    )
    in_slurm.wait_for_state(job_id, "COMPLETED")
    lines = in_slurm.output(job_id).splitlines()
    printed = f"it's here /tmp/me/{job_id} 5$"
    assert {f"0: 0 {printed}", f"1: 1 {printed}", "in a login shell"} <= set(lines)


def without_comments(text: str) -> list[str]:
    return [
        line
        for line in text.splitlines()
        if line and (not line.startswith("#") or line.startswith(("#SBATCH", "#!"))) and ARGUMENTS_VARIABLE not in line
    ]


def template_cluster(cpus_per_task: int, nodes: int) -> ClusterSpec:
    return ClusterSpec(nodes=nodes, gpus_per_node=2, cpus_per_task=cpus_per_task, time="01:00:00")


def test_srun_template_equals_render():
    python, arguments = "python -u -m hpc_yolo", '"${@:-configs/quickstart.yaml}"'
    task, afterwards = f"{python} train {arguments}", f"{python} after-job {arguments}"
    rendered = sbatch.script("hpc-yolo", template_cluster(2, nodes=2), task, afterwards, log="%x-%j.log")
    assert without_comments((TEMPLATES / "train.sbatch").read_text()) == without_comments(rendered)


@pytest.mark.parametrize(
    ("template", "cluster", "log", "differing"),
    [
        ("train_torchrun.sbatch", template_cluster(4, nodes=2), "%x-%j.log", {"#SBATCH --ntasks-per-node=1"}),
        ("array.sbatch", template_cluster(2, nodes=1), "%x-%A_%a.log", {"#SBATCH --array=1-2"}),
    ],
)
def test_other_templates_have_the_options_and_srun_of_render(template, cluster, log, differing):
    lines = without_comments((TEMPLATES / template).read_text())
    flags = {line for line in lines if line.startswith("#SBATCH")}
    assert flags - differing == set(sbatch.flag_lines(sbatch.sbatch_options("hpc-yolo", cluster, log))) - {
        "#SBATCH --ntasks-per-node=2"
    } | (set() if template.startswith("train") else {"#SBATCH --ntasks-per-node=2"})
    assert lines[-2].startswith(shlex.join(sbatch.srun_arguments(cluster)))
    assert lines[-1].startswith("exec python -u -m hpc_yolo after-job ")
    assert lines[-1].endswith(" --exit-code $?")


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.sbatch")), ids=lambda path: path.name)
def test_template_is_valid_bash(template):
    subprocess.run(["bash", "-n", str(template)], check=True)
