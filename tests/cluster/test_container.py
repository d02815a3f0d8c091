"""Command lines of each container runtime, word by word."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from hpc_yolo.cluster.container import RUNTIMES, JobFacts, all_mounts, choose_runtime, container_command
from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.container import ContainerSpec, Mount
from hpc_yolo.spec.container_rules import FORMS
from hpc_yolo.spec.schema import ClusterSpec

RUN, DATA, CODE = "/runs/r", "/data/coco", "/home/me/hpc-yolo"
FACTS = JobFacts(RUN, "1.2", [DATA])
MOUNTED = JobFacts(RUN, "1.2", [DATA], code=(Mount(CODE, CODE), CODE))
ENV = "env --unset=PYTHONHOME --unset=PYTHONPATH"
PYTHON = f"{ENV} PYTHONNOUSERSITE=1 HPC_YOLO_VERSION=1.2 python3"


def command(facts: JobFacts = FACTS, cluster: dict | None = None, **fields) -> tuple[str, str, str]:
    """Return (options of srun, runtime with its options, Python) as one line each."""
    container = ContainerSpec(**fields)
    found = container_command(container, ClusterSpec(**{"gpus_per_node": 0} | (cluster or {})), facts)
    return " ".join(found.srun_options), " ".join(found.launcher), " ".join(found.python)


LINES = {
    "apptainer": ("/i/t.sif", "", f"apptainer exec --bind={RUN}:{RUN} --bind={DATA}:{DATA} --pwd={RUN} /i/t.sif"),
    "singularity": (
        "docker://a/b:1",
        "",
        f"singularity exec --bind={RUN}:{RUN} --bind={DATA}:{DATA} --pwd={RUN} docker://a/b:1",
    ),
    "charliecloud": ("/i/t", "", f"ch-run --bind={RUN}:{RUN} --bind={DATA}:{DATA} --cd={RUN} /i/t --"),
    "shifter": ("docker://a/b:1", "", f"shifter --image=docker:a/b:1 --workdir={RUN}"),
    "pyxis": (
        "docker://nvcr.io/nvidia/pytorch:24.05-py3",
        "--container-image='docker://nvcr.io#nvidia/pytorch:24.05-py3' "
        f"--container-mounts={RUN}:{RUN},{DATA}:{DATA} --container-workdir={RUN}",
        "",
    ),
    "podman-hpc": (
        "a/b:1",
        "",
        "podman-hpc run --rm --network=host --ipc=host --pid=host --entrypoint= "
        + " ".join(
            f"'--env={name}*'"
            for name in (
                *("SLURM", "MASTER_", "PMI", "HPC_YOLO_", "OMP_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_"),
                *("NCCL_", "RCCL_", "GLOO_", "TORCH", "FI_", "UCX_"),
            )
        )
        + f" --volume={RUN}:{RUN} --volume={DATA}:{DATA} --workdir={RUN} a/b:1",
    ),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_command_line_of_each_runtime(runtime):
    image, srun_options, launcher = LINES[runtime]
    assert command(image=image, runtime=runtime) == (srun_options, launcher, PYTHON)


def test_every_runtime_has_a_command_and_forms_of_images():
    assert set(RUNTIMES) == set(FORMS) == set(LINES)


@pytest.mark.parametrize(
    ("fields", "cluster", "expected"),
    [
        ({}, {"gpus_per_node": 4}, "apptainer exec --nv --bind"),
        ({}, {"gpus_per_node": 4, "gpu_type": "a100"}, "apptainer exec --nv --bind"),
        ({}, {"gpus_per_node": 8, "gpu_type": "mi250"}, "apptainer exec --rocm --bind"),
        ({}, {"gpus_per_node": 8, "gpu_type": "AMD-MI300X"}, "apptainer exec --rocm --bind"),
        ({}, {"gpus_per_node": 8, "gpu": "mi250x-small"}, "apptainer exec --rocm --bind"),
        ({}, {"gpus_per_node": 8, "gpu_request": "none"}, "apptainer exec --nv --bind"),
        ({"options": ["--rocm"]}, {"gpus_per_node": 8}, "apptainer exec --bind"),
        ({"options": ["--nv"]}, {"gpus_per_node": 8}, "apptainer exec --bind"),
        ({}, {"gpus_per_node": 0}, "apptainer exec --bind"),
        ({"runtime": "podman-hpc", "image": "a"}, {"gpus_per_node": 1}, "--entrypoint= --gpu "),
        ({"runtime": "podman-hpc", "image": "a"}, {"gpus_per_node": 1, "gpu_type": "mi250"}, "--device=/dev/kfd"),
        ({"runtime": "charliecloud", "image": "/i.sqsh"}, {"gpus_per_node": 1}, "ch-run --write-fake --bind"),
        ({"workdir": "/project/$USER"}, {}, '--pwd=/project/"${USER}" /a.sif'),
        ({"options": ["--cleanenv", "--hostname", "a b"]}, {}, f"--pwd={RUN} --cleanenv --hostname 'a b' /a.sif"),
        ({"mounts": ["$X/a b:/b:ro"]}, {}, """--bind="${X}"'/a b':/b:ro --bind=/runs"""),
        ({"mounts": ["~"]}, {}, '--bind="${HOME}":"${HOME}" '),
        ({"image": "~/i/t.sif"}, {}, '"${HOME}"/i/t.sif'),
        ({"runtime": "shifter", "image": "a:1", "mounts": ["/x"]}, {}, "--image=a:1 --volume=/x:/x --workdir"),
    ],
    ids=str,
)
def test_field_appears_in_the_command_line(fields, cluster, expected):
    assert expected in command(cluster=cluster, **{"runtime": "apptainer", "image": "/a.sif"} | fields)[1]


@pytest.mark.parametrize(
    ("facts", "fields", "cluster", "expected"),
    [
        (FACTS, {}, {"env": {"A": "$HOME/x"}}, f'{ENV} A="$A" PYTHONNOUSERSITE=1 HPC_YOLO_VERSION=1.2 python3'),
        (FACTS, {"env": {"B": "$HOME/x y"}}, {}, f"{ENV} B=\"${{HOME}}\"'/x y' PYTHONNOUSERSITE=1"),
        (FACTS, {"env": {"A": "mine"}}, {"env": {"A": "a"}}, f"{ENV} A=mine PYTHONNOUSERSITE=1"),
        (FACTS, {"env": {"PYTHONPATH": "/opt"}}, {}, "env --unset=PYTHONHOME PYTHONPATH=/opt PYTHONNOUSERSITE=1"),
        (FACTS, {"env": {"PYTHONNOUSERSITE": ""}}, {}, f"{ENV} PYTHONNOUSERSITE='' HPC"),
        (FACTS, {"python": "/opt/conda/bin/python"}, {}, "HPC_YOLO_VERSION=1.2 /opt/conda/bin/python"),
        (MOUNTED, {"code": "mounted"}, {}, f"env --unset=PYTHONHOME PYTHONNOUSERSITE=1 PYTHONPATH={CODE} python3"),
        (MOUNTED, {"env": {"PYTHONPATH": "/opt"}}, {}, f"PYTHONPATH={CODE}:/opt PYTHONNOUSERSITE=1 python3"),
        (MOUNTED, {}, {"env": {"PYTHONPATH": "/x"}}, f'PYTHONPATH={CODE}:"$PYTHONPATH" PYTHONNOUSERSITE=1 python3'),
    ],
)
def test_variables_of_the_spec_are_set_inside(facts, fields, cluster, expected):
    """An image's own variables would win over those of the host in some runtimes, and be missing in others."""
    for runtime in RUNTIMES:
        image = LINES[runtime][0]
        assert expected in command(facts, cluster, image=image, runtime=runtime, **fields)[2]


@pytest.mark.parametrize(
    ("mounts", "paths", "expected"),
    [
        ([], [DATA], [DATA, RUN]),
        ([], [DATA, f"{DATA}/images", RUN], [DATA, RUN]),
        (["/scratch"], [DATA], ["/scratch", DATA, RUN]),
        (["/runs"], [DATA], ["/runs", DATA]),
        (["/runs:/runs:ro"], [DATA], ["/runs:ro", DATA, RUN]),
        (["/fast:/data/coco"], [DATA], ["/fast at /data/coco", RUN]),
        (["/data/coco/extra:/data/coco/extra", "/a/b/c/d"], [DATA], [DATA, RUN, "/data/coco/extra", "/a/b/c/d"]),
        (["/home/me"], ["/home/me/x", "/home/men"], ["/home/me", RUN, "/home/men"]),
    ],
)
def test_mounts_of_the_run_are_added_each_after_what_contains_it(mounts, paths, expected):
    found = all_mounts(ContainerSpec(image="/a.sif", runtime="apptainer", mounts=mounts), JobFacts(RUN, "1", paths))
    shown = [
        mount.host
        + (f" at {mount.inside}" if mount.inside != mount.host else "")
        + (":ro" if mount.is_read_only else "")
        for mount in found
    ]
    assert sorted(shown) == sorted(expected)
    insides = [mount.inside for mount in found]
    assert all(not earlier.startswith(f"{later}/") for i, later in enumerate(insides) for earlier in insides[:i])


def test_mounted_package_of_an_installation_has_a_directory_of_its_own():
    """Mounting all of site-packages would replace the packages of the image."""
    package = "/usr/lib/python3/site-packages/hpc_yolo"
    facts = JobFacts(RUN, "1", code=(Mount(package, "/opt/hpc-yolo/hpc_yolo"), "/opt/hpc-yolo"))
    _, launcher, python = command(facts, image="/a.sif", runtime="apptainer", code="mounted")
    assert f"--bind={package}:/opt/hpc-yolo/hpc_yolo" in launcher
    assert "PYTHONPATH=/opt/hpc-yolo python3" in python


def test_dollar_sign_in_a_path_of_the_run_is_no_variable():
    launcher = command(JobFacts("/runs/$x", "1"), image="/a.sif", runtime="apptainer")[1]
    assert launcher == "apptainer exec --bind='/runs/$x':'/runs/$x' --pwd='/runs/$x' /a.sif"


@pytest.mark.parametrize("path", ["/a:b", "/a,b"])
def test_path_that_no_runtime_can_mount_is_refused(path):
    with pytest.raises(SpecError, match=f"cluster.container: {path} cannot be mounted"):
        command(JobFacts(RUN, "1", [path]), image="/a.sif", runtime="apptainer")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("nvcr.io/nvidia/pytorch:24.05", "'nvcr.io#nvidia/pytorch:24.05'"),
        ("nvcr.io#nvidia/pytorch:24.05", "'nvcr.io#nvidia/pytorch:24.05'"),
        ("docker://localhost:5000/a", "'docker://localhost:5000#a'"),
        ("ubuntu", "ubuntu"),
        ("me/train:1", "me/train:1"),
        ("/i/t.sqsh", "/i/t.sqsh"),
        ("$SCRATCH/t.sqsh", '"${SCRATCH}"/t.sqsh'),
    ],
)
def test_registry_is_written_as_enroot_reads_it(image, expected):
    assert command(image=image, runtime="pyxis")[0].split()[0] == f"--container-image={expected}"


@pytest.mark.parametrize(
    ("image", "runtime", "installed", "expected"),
    [
        ("/a.sif", "auto", ["apptainer", "singularity"], "apptainer"),
        ("/a.sif", "auto", ["singularity", "podman-hpc"], "singularity"),
        ("/a.sif", "auto", ["podman-hpc", "charliecloud"], "apptainer"),
        ("docker://a", "auto", ["shifter", "podman-hpc"], "podman-hpc"),
        ("/i", "auto", ["charliecloud", "pyxis"], "charliecloud"),
        ("/a.sqsh", "auto", ["pyxis"], "pyxis"),
        ("/a.sif", "auto", [], "apptainer"),
        ("a:1", "auto", ["shifter"], "shifter"),
        ("/a.sif", "singularity", ["apptainer"], "singularity"),
    ],
)
def test_auto_is_the_first_installed_runtime_that_takes_the_image(image, runtime, installed, expected):
    assert choose_runtime(ContainerSpec(image=image, runtime=runtime), installed.__contains__) == expected


def test_auto_without_a_runtime_for_a_name_asks_for_one():
    with pytest.raises(SpecError, match="none that runs a:1 is installed here") as raised:
        choose_runtime(ContainerSpec(image="a:1"), lambda _: False)
    assert raised.value.hint == "name the one of the compute nodes: podman-hpc, shifter, charliecloud, pyxis"


def test_words_pass_through_bash_unchanged(tmp_path):
    """The values of a spec cannot run commands, and its variables are those of the job."""
    evil = "$(touch owned) `id` 'q' \"$USER\" ; #"
    fields = {"image": f"/i/{evil}.sif", "env": {"A": evil}, "options": [f"--x={evil}"], "workdir": f"/{evil}"}
    _, launcher, python = command(runtime="apptainer", mounts=[f"/m{evil}:/x"], **fields)
    script = f"apptainer() {{ printf '%s\\n' \"$@\"; }}\n{launcher} {python}"
    done = subprocess.run(
        ["bash"],
        input=script,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "USER": "me"},
        capture_output=True,
        text=True,
        check=True,
    )
    shown = evil.replace("$USER", "me")
    assert done.stdout.splitlines() == [
        "exec",
        *(f"--bind={path}" for path in (f"/m{shown}:/x", f"{RUN}:{RUN}", f"{DATA}:{DATA}")),
        f"--pwd=/{shown}",
        f"--x={evil}",
        f"/i/{shown}.sif",
        *("env", "--unset=PYTHONHOME", "--unset=PYTHONPATH", f"A={shown}", "PYTHONNOUSERSITE=1"),
        *("HPC_YOLO_VERSION=1.2", "python3"),
    ]
    assert shlex.split(launcher)
    assert not list(tmp_path.iterdir())
