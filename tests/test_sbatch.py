"""The sbatch script of a spec: the flags that a cluster needs, and the templates that people edit."""

import shlex
import subprocess
from pathlib import Path

import pytest

from hpc_yolo import sbatch
from hpc_yolo.runs.save_times import SaveTimes
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.successor import ARGUMENTS_VARIABLE

TEMPLATES = Path(__file__).parents[1] / "slurm"


def spec_of(**cluster) -> Spec:
    return Spec(name="run", model="yolov5n", data="data.yaml", cluster=ClusterSpec(**cluster))


def options_of(**cluster) -> dict:
    return sbatch.sbatch_options(spec_of(**cluster), "%j.log")


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({"nodes": 4, "gpus_per_node": 8}, {"nodes": "4", "ntasks-per-node": "8", "gpus-per-node": "8"}),
        ({"gpus_per_node": 8, "gpu_type": "a100"}, {"gpus-per-node": "a100:8"}),
        ({"gpus_per_node": 8, "gpu_type": "a100", "gpu_request": "gres"}, {"gres": "gpu:a100:8"}),
        ({"gpus_per_node": 0, "tasks_per_node": 3}, {"ntasks-per-node": "3"}),
        ({"mem": "400G"}, {"mem": "400G"}),
        ({"mem_per_gpu": "60G"}, {"mem-per-gpu": "60G"}),
        ({"exclude": ["n1", "n[3-4]"]}, {"exclude": "n1,n[3-4]"}),
        ({"partition": "gpu", "account": "a", "qos": "q", "constraint": "c"}, {"partition": "gpu", "account": "a"}),
        ({"requeue": "off"}, {"no-requeue": True}),
        ({"time": "12:00:00"}, {"time": "12:00:00", "signal": "USR2@120", "requeue": True, "open-mode": "append"}),
        ({"time": "00:02:00"}, {"signal": "USR2@60"}),
        ({"signal_lead": 30}, {"signal": "USR2@30"}),
        (
            {"sbatch": {"comment": "nightly run", "exclusive": True, "hold": False}},
            {"comment": "nightly run", "exclusive": True},
        ),
    ],
)
def test_a_field_becomes_its_flag(cluster, expected):
    options = options_of(**cluster)
    assert expected.items() <= options.items()


@pytest.mark.parametrize(
    ("cluster", "save_s", "step_s", "expected"),
    [
        ({"time": "12:00:00"}, 0.15, 0.4, 31),  # 0.45 + 0.4, and 30 s in which to be requeued
        ({"time": "12:00:00"}, 90.0, 12.5, 313),
        ({"time": "00:05:00"}, 90.0, 12.5, 150),  # half of the limit
        ({}, 90.0, 12.5, 313),
        ({"time": "12:00:00", "signal_lead": 45}, 90.0, 12.5, 45),
    ],
)
def test_the_warning_before_the_limit_follows_from_what_was_measured(cluster, save_s, step_s, expected):
    """A slow disk needs an earlier warning; a quick one need not give two minutes of every job away."""
    text = sbatch.script(
        spec_of(**cluster), "true", "true", log="log", save_times=SaveTimes(save_s, step_s, size_bytes=1)
    )
    assert f"#SBATCH --signal=USR2@{expected}\n" in text


@pytest.mark.parametrize(
    ("cluster", "absent"),
    [
        ({"gpus_per_node": 0}, {"gpus-per-node", "gres"}),
        ({"gpu_request": "gres"}, {"gpus-per-node"}),
        ({}, {"time", "mem", "partition", "account", "exclude", "no-requeue"}),
        ({"requeue": "off"}, {"requeue"}),
        ({"sbatch": {"hold": False}}, {"hold"}),
    ],
)
def test_what_is_not_said_is_not_asked_for(cluster, absent):
    assert not absent & options_of(**cluster).keys()


def test_values_are_quoted_so_that_a_spec_cannot_run_shell(tmp_path):
    spec = spec_of(sbatch={"comment": "it's; touch owned"}, env={"A": "$(touch owned) 'b'"}, setup=["true"])
    text = sbatch.script(spec, shlex.join(["printf", "%s", "$HOME; touch owned"]), "true", log="a b.log")
    assert "#SBATCH --comment='it'\"'\"'s; touch owned'" in text
    body = text.replace(shlex.join(sbatch.srun_words(spec.cluster)), "printf '%s|' \"$A\"; ")
    done = subprocess.run(["bash", "-e"], input=body, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "$(touch owned) 'b'|$HOME; touch owned"
    assert not list(tmp_path.iterdir())


def test_tasks_get_the_cpus_that_were_asked_for_and_a_dead_rank_ends_the_job():
    """srun has not inherited --cpus-per-task since Slurm 22.05, and keeps a job with a dead rank by default."""
    words = sbatch.srun_words(ClusterSpec(cpus_per_task=7))
    assert {"--cpus-per-task=7", "--kill-on-bad-exit=1"} <= set(words)


def without_comments(text: str) -> list[str]:
    return [
        line
        for line in text.splitlines()
        if line and (not line.startswith("#") or line.startswith(("#SBATCH", "#!"))) and ARGUMENTS_VARIABLE not in line
    ]


def template_spec(cpus_per_task: int, nodes: int) -> Spec:
    cluster = ClusterSpec(nodes=nodes, gpus_per_node=2, cpus_per_task=cpus_per_task, time="01:00:00")
    return Spec(name="hpc-yolo", model="", data="", cluster=cluster)


def test_the_srun_template_is_what_render_prints():
    python, words = "python -u -m hpc_yolo", '"${@:-configs/quickstart.yaml}"'
    task, afterwards = f"{python} train {words}", f"{python} after-job {words}"
    rendered = sbatch.script(template_spec(2, nodes=2), task, afterwards, log="%x-%j.log")
    assert without_comments((TEMPLATES / "train.sbatch").read_text()) == without_comments(rendered)


@pytest.mark.parametrize(
    ("template", "spec", "log", "differing"),
    [
        ("train_torchrun.sbatch", template_spec(4, nodes=2), "%x-%j.log", {"#SBATCH --ntasks-per-node=1"}),
        ("array.sbatch", template_spec(2, nodes=1), "%x-%A_%a.log", {"#SBATCH --array=1-2"}),
    ],
)
def test_the_other_templates_have_its_flags_and_its_srun(template, spec, log, differing):
    lines = without_comments((TEMPLATES / template).read_text())
    flags = {line for line in lines if line.startswith("#SBATCH")}
    assert flags - differing == set(sbatch.flag_lines(sbatch.sbatch_options(spec, log))) - {
        "#SBATCH --ntasks-per-node=2"
    } | (set() if template.startswith("train") else {"#SBATCH --ntasks-per-node=2"})
    assert lines[-2].startswith(shlex.join(sbatch.srun_words(spec.cluster)))
    assert lines[-1].startswith("exec python -u -m hpc_yolo after-job ")
    assert lines[-1].endswith(" --exit-code $?")


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.sbatch")), ids=lambda path: path.name)
def test_a_template_is_good_bash(template):
    subprocess.run(["bash", "-n", str(template)], check=True)
