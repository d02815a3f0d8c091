"""What real cluster scripts need, and the spec that does it: a table from 60 public scripts, one row a need.

Each row is a spec and what its script must have. How the parts work is tested with their modules.
"""

import re

import pytest
import yaml

from hpc_yolo.launch.plan import Plan, make_plan, slurm_plan
from hpc_yolo.launch.run_names import with_filled_name
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.load import check_spec, load_spec
from hpc_yolo.spec.site_files import SiteLookup

BASE = {"name": "run", "model": "yolov5n", "data": "coco", "train": {"batch": 32}}


@pytest.fixture
def plan_of(tmp_path, monkeypatch):
    """Plan a Slurm job from the `cluster` section, or from `top` for fields beside it."""
    monkeypatch.chdir(tmp_path)

    def plan(cluster: str = "{}", top: str = "{}") -> Plan:
        path = tmp_path / "spec.yaml"
        section = {"executor": "slurm", **yaml.safe_load(cluster)}
        path.write_text(yaml.safe_dump({**BASE, "cluster": section, **yaml.safe_load(top)}, sort_keys=False))
        return make_plan(load_spec(path), {})

    return plan


# Need -> cluster section, and the parts that the script must have, in this order.
NEEDS = {
    "time, cpus, mem": (
        "{time: 1-12:00:00, cpus_per_task: 10, mem: 120G}",
        ["#SBATCH --cpus-per-task=10", "#SBATCH --mem=120G", "#SBATCH --time=1-12:00:00"],
    ),
    "partition, account, qos, constraint": (
        "{partition: gpu_p13, account: abc@v100, qos: qos_gpu-t4, constraint: v100-32g}",
        ["--partition=gpu_p13", "--account=abc@v100", "--qos=qos_gpu-t4", "--constraint=v100-32g"],
    ),
    "several partitions": ("{partition: 'a,b,c'}", ["#SBATCH --partition=a,b,c\n"]),
    "memory per CPU or GPU, or all of it": ("{mem: 0}", ["#SBATCH --mem=0\n"]),
    "modules and an environment": (
        "{setup: [module purge, module load cuda/12.4, source ~/venv/bin/activate], python: python}",
        ["module purge\nmodule load cuda/12.4\nsource ~/venv/bin/activate\n", " python -u -m hpc_yolo train "],
    ),
    "a setup that begins with set -e": (
        "{setup: ['set -euo pipefail', module load cuda]}",
        ["set -euo pipefail\nmodule load cuda\n", "set +eu;", "--exit-code $HPC_YOLO_STATUS"],
    ),
    "a setup as one block": ('{setup: "module load a\\nmodule load b\\n"}', ["\nmodule load a\nmodule load b\n"]),
    "GPUs per node": ("{nodes: 2, gpus_per_node: 4}", ["--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"]),
    "GPUs by gres": ("{gpus_per_node: 4, gpu_request: gres}", ["#SBATCH --gres=gpu:4\n"]),
    "GPUs of a type": ("{gpus_per_node: 4, gpu_type: a100}", ["#SBATCH --gpus-per-node=a100:4\n"]),
    "GPUs of a type by gres": ("{gpus_per_node: 4, gpu_type: a100, gpu_request: gres}", ["--gres=gpu:a100:4\n"]),
    "another resource beside GPUs": (
        "{gpus_per_node: 4, gpu_type: a100, gpu_request: gres, gres: ['nvme:50']}",
        ["#SBATCH --gres=gpu:a100:4,nvme:50\n"],
    ),
    "whole nodes, without an option for GPUs": (
        "{nodes: 2, gpus_per_node: 4, gpu_request: none, partition: gh}",
        ["#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n#SBATCH --cpus-per-task=", "#SBATCH --partition=gh\n"],
    ),
    "mail": (
        "{sbatch: {mail-type: [END, FAIL], mail-user: me@example.org}}",
        ["#SBATCH --mail-type=END,FAIL\n#SBATCH --mail-user=me@example.org\n"],
    ),
    "apptainer or singularity with GPUs, mounts, variables and a directory": (
        "{gpus_per_node: 4, container: {image: /i/x.sif, runtime: apptainer, mounts: ['/data/coco:/coco:ro'], "
        "env: {K: V}, workdir: /work, options: [--cleanenv]}}",
        [
            " apptainer exec --nv --bind=/data/coco:/coco:ro ",
            " --pwd=/work --cleanenv /i/x.sif env ",
            " K=V ",
            " python3 -u",
        ],
    ),
    "singularity with AMD GPUs": (
        "{gpus_per_node: 8, container: {image: /i/x.sif, runtime: singularity, options: [--rocm]}}",
        [" singularity exec --bind=", " --rocm /i/x.sif env "],
    ),
    "pyxis": (
        "{container: {image: nvcr.io/nvidia/pytorch:24.05-py3, runtime: pyxis, mounts: ['/a:/b', /c], workdir: /b, "
        "options: [--no-container-mount-home], code: mounted}}",
        [
            " --container-image='nvcr.io#nvidia/pytorch:24.05-py3' --container-mounts=",
            " --container-workdir=/b --no-container-mount-home env ",
            " PYTHONPATH=",
        ],
    ),
    "shifter with modules of the site": (
        "{container: {image: 'nersc/pytorch:24.06', runtime: shifter, options: ['--module=gpu,nccl-2.18']}}",
        [" shifter --image=nersc/pytorch:24.06 --workdir=", " --module=gpu,nccl-2.18 env "],
    ),
    "certain nodes, or not certain nodes": (
        "{sbatch: {nodelist: 'n[1-4]'}, exclude: [n7]}",
        ["#SBATCH --exclude=n7\n", "#SBATCH --nodelist='n[1-4]'\n"],
    ),
    "tmp, exclusive, reservation, hint, licenses, switches": (
        "{sbatch: {tmp: 200G, exclusive: true, reservation: c, hint: nomultithread, licenses: 'fs:1', switches: 1}}",
        [
            "--tmp=200G",
            "--exclusive\n",
            "--reservation=c",
            "--hint=nomultithread",
            "--licenses=fs:1",
            "--switches=1",
        ],
    ),
    "fabric variables, NCCL's debug output and threads": (
        "{env: {NCCL_SOCKET_IFNAME: hsn, NCCL_DEBUG: INFO, OMP_NUM_THREADS: 8}}",
        ["export NCCL_SOCKET_IFNAME=hsn\nexport NCCL_DEBUG=INFO\nexport OMP_NUM_THREADS=8\n"],
    ),
    "a signal before the limit, a requeue and a log that goes on": (
        "{time: 02:00:00}",
        ["#SBATCH --requeue\n", "#SBATCH --open-mode=append\n", "#SBATCH --signal=USR2@", "after-job"],
    ),
    "a binding and other options of srun": (
        "{srun: {cpu-bind: 'mask_cpu:0xfe,0xfe00', mpi: pmi2, gres-flags: allow-task-sharing}}",
        [" --cpu-bind=mask_cpu:0xfe,0xfe00 --mpi=pmi2 --gres-flags=allow-task-sharing "],
    ),
    "a command in front of Python": ("{prefix: [./bind_gpu.sh]}", [" ./bind_gpu.sh ", " -m hpc_yolo train "]),
    "directories of caches": (
        "{env: {TORCH_HOME: '/scratch/$USER/torch', MPLCONFIGDIR: '~/.mpl'}}",
        ["export TORCH_HOME=/scratch/", "${USER?", "/torch\n", "export MPLCONFIGDIR=", "${HOME?", "/.mpl\n"],
    ),
    "a proxy of compute nodes": (
        "{env: {http_proxy: 'http://proxy:3128', https_proxy: 'http://proxy:3128'}}",
        ["export http_proxy=http://proxy:3128\nexport https_proxy=http://proxy:3128\n"],
    ),
    "a login shell": ("{login_shell: true}", ["#!/bin/bash -l\n"]),
    "a file of exported variables": ("{sbatch: {export: NONE}}", ["#SBATCH --export=NONE\n", " --export=ALL "]),
}


@pytest.mark.parametrize("need", NEEDS)
def test_spec_does_what_scripts_need(plan_of, need):
    cluster, parts = NEEDS[need]
    script = plan_of(cluster).script
    assert re.search(".*".join(map(re.escape, parts)), script, re.DOTALL), script


# What scripts have that a spec does not take as it is -> what the message says to write.
REWRITTEN = {
    "--gpus=8": ("{sbatch: {gpus: 8}}", "cluster.gpus_per_node"),
    "--gpus-per-task=1": ("{sbatch: {gpus-per-task: 1}}", "cluster.gpus_per_node"),
    "a log file": ("{sbatch: {output: train.log}}", "output"),
    "an error file": ("{sbatch: {error: train.err}}", "output"),
    "an array": ("{sbatch: {array: 0-2}}", "sweep"),
    "#SBATCH lines in the setup": ("{setup: ['#SBATCH --array=0-2']}", "sweep"),
    "memory in the setup": ("{setup: ['#SBATCH --mem=0']}", "cluster.mem"),
}


@pytest.mark.parametrize("need", REWRITTEN)
def test_message_names_the_field_for_what_scripts_have(tmp_path, need):
    cluster, field = REWRITTEN[need]
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**BASE, "cluster": yaml.safe_load(cluster)}, sort_keys=False))
    _, problems = check_spec(path)
    assert len(problems) == 1
    assert field in problems[0].allowed


PROFILE = """
cluster: {account: vision, modules: [cuda/12.4], sbatch: {mail-user: me@example.org, mail-type: END}}
gpus:
  h100-96: {partition: gpu-long, gpu_type: h100-96, mem: 256G, max_time: 3-00:00:00}
  a100-40: {partition: gpu, gpu_type: a100-40, mem: 128G, max_time: "3:00:00"}
"""


@pytest.mark.parametrize(("gpu", "options"), [("h100-96", ["256G", "gpu-long"]), ("a100-40", ["128G", "gpu"])])
def test_profile_of_a_site_replaces_what_every_script_repeats(tmp_path, gpu, options):
    """22 of 60 scripts repeat an account, 30 their modules, and two have a table of GPU types."""
    (tmp_path / "ours.yaml").write_text(PROFILE)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**BASE, "cluster": {"gpu": gpu, "time": "03:00:00"}}))
    spec = load_spec(path, sites=SiteLookup((tmp_path,), "ours", (), lambda: None, has_slurm=True))
    script = slurm_plan(spec, RunDirectory(tmp_path / "run"), "", {}).script
    lines = [f"--gpus-per-node={gpu}:1", f"--mem={options[0]}", f"--partition={options[1]}", "--account=vision"]
    lines += ["--mail-type=END", "module load cuda/12.4"]
    assert [line for line in lines if f"{line}\n" not in script] == []


def test_steps_before_and_after_the_training_are_in_the_spec(plan_of):
    """10 scripts have their data on the node's disk only; 6 evaluate, copy results and clean up afterwards."""
    copy = {"shell": "cp -r $RUN/results $HOME/", "when": "always"}
    top = {"data": "$SLURM_TMPDIR/coco.yaml", "then": [{"val": {"split": "val"}}, {"val": {"weights": "last"}}, copy]}
    setup = "tar -xf coco.tar -C $SLURM_TMPDIR"
    plan = plan_of(f"{{setup: ['{setup}']}}", yaml.safe_dump(top))
    assert f"\n{setup}\n" in plan.script
    decisions = "\n".join(f"{subject}: {decision}" for subject, decision in plan.decisions())
    assert "$SLURM_TMPDIR/coco.yaml is expanded where the tasks run" in decisions
    for stage in ("val", "val-2", "shell"):
        assert f"{stage}: " in decisions or f"{stage} " in decisions, decisions


def test_each_submission_is_a_new_run_where_the_name_has_a_number(plan_of, tmp_path):
    """Two scripts have the job id in the name of the run."""
    spec = plan_of(top="{name: 'coco-{n}', output: runs}").spec
    (tmp_path / "runs" / "coco-1").mkdir(parents=True)
    assert with_filled_name(spec).name == "coco-2"


def test_variables_of_the_shell_do_not_change_what_the_spec_says(plan_of, monkeypatch):
    """SBATCH_PARTITION of a shell's profile replaced the partition of the script that was shown."""
    shell = {"SBATCH_PARTITION": "high", "SBATCH_TIMELIMIT": "1", "SBATCH_QOS": "site"}
    plan = make_plan(plan_of("{partition: gpu, time: 02:00:00}").spec, shell)
    assert plan.variables == {"SBATCH_QOS": "site"}
    assert plan.ignored_variables.keys() == {"SBATCH_PARTITION", "SBATCH_TIMELIMIT"}
