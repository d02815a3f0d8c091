"""Rules of cluster.container: images, mounts, options, and what is not a container."""

from __future__ import annotations

import pytest

from hpc_yolo.spec.container import Mount, image_form, parse_mount
from hpc_yolo.spec.container_rules import FORMS, takes

NAMED, ANY = "a name such as me/train:1.0", "such as /scratch, /data/coco:/coco"


def mounts(text: str) -> str:
    return f"{{image: /a.sif, mounts: [{text}]}}"


@pytest.mark.parametrize(
    ("container", "message", "allowed"),
    [
        ("{runtime: apptainer}", "container.image: is missing", "docker://…"),
        ("{image: ''}", "container.image: is missing", "docker://…"),
        ("{image: ' '}", "container.image: ' ' is not an image", "docker://…"),
        ("a.sif", "cluster.container: must hold fields", "image, runtime, mounts"),
        ("{image: /a.sif, runtime: docker}", "runtime: 'docker' is not allowed", "one of auto, apptainer"),
        ("{image: /a.sif, gpus: 1}", "container.gpus: unknown field", "is the nearest"),
        ("{image: /a.sif, code: host}", "container.code: 'host' is not allowed", "image, mounted"),
        ("{image: /a.sif, runtime: charliecloud}", "charliecloud does not run /a.sif", ".sif is for apptainer"),
        ("{image: /a.sqsh, runtime: podman-hpc}", "podman-hpc does not run /a.sqsh", NAMED),
        ("{image: /a.sif, runtime: pyxis}", "pyxis does not run /a.sif", ".sqsh"),
        ("{image: /images/a, runtime: shifter}", "shifter does not run /images/a", "a directory is for apptainer"),
        ("{image: 'docker://a/b', runtime: charliecloud}", "charliecloud does not run docker://a/b", "a directory"),
        ("{image: 'oras://a/b', runtime: shifter}", "shifter does not run oras://a/b", "docker://…"),
        ("{image: 'a/b:1', runtime: apptainer}", "apptainer does not run a/b:1", "is for podman-hpc"),
        (mounts("''"), "mounts[0]: '' mounts nothing: a path is empty", ANY),
        (mounts("':/data'"), "mounts[0]: ':/data' mounts nothing", ANY),
        (mounts("/a, 'data:/data'"), "mounts[1]: 'data:/data': data is not an absolute path", ANY),
        (mounts("'/a:b'"), "mounts[0]: '/a:b': b is not an absolute path", ANY),
        (mounts("'/a:/b:rx'"), "'/a:/b:rx' is not HOST, HOST:INSIDE or HOST:INSIDE:ro", ANY),
        (mounts("'/a:/b:ro:rw'"), "is not HOST, HOST:INSIDE or HOST:INSIDE:ro", ANY),
        (mounts("'/a,/b'"), "runtimes split paths at commas", ANY),
        (mounts("'/a:/'"), "'/a:/' hides the whole image", ANY),
        (mounts("'/a:/x', '/b:/x'"), "mounts[1]: /x is mounted twice", "one mount for each"),
        ("{image: /i, runtime: charliecloud, mounts: ['/a:/b:ro']}", "charliecloud has no read-only mounts", "/a:/b"),
        ("{image: /a.sif, workdir: work}", "workdir: 'work' is not an absolute path", "the run directory by default"),
        ("{image: /a.sif, env: {A-B: c}}", "container.env.A-B: not the name of a variable", "letters, digits and _"),
        ("{image: /a.sif, python: bin/python}", "'bin/python' is not a program inside", "an absolute path"),
        ("{image: /a.sif, python: python3 -s}", "'python3 -s' is not a program inside", "an absolute path"),
        ("{image: /a.sif, options: [--env A=b]}", "options[0]: '--env A=b' are two words", "[--env, 'A=b']"),
        ("{image: a/b, runtime: pyxis, options: [--output=x]}", "is not an option of pyxis", "cluster.srun"),
    ],
)
def test_mistake_in_container_is_found_at_its_place(spec_file, container, message, allowed):
    problem = spec_file.add(f"cluster:\n  container: {container}\n").only_problem()
    assert problem.startswith(f"{spec_file.path}:5:")
    assert message in problem.splitlines()[0]
    assert allowed in problem.splitlines()[-1]


def test_every_mistake_is_reported_at_once(spec_file):
    spec_file.add(
        "cluster:\n  container:\n    image: /a.sif\n    runtime: charliecloud\n    colour: red\n    mounts: [x, ':']\n"
        "    workdir: here\n    env: {1: a}\n    options: [--a b]\n    python: ~/python\n"
    )
    lines = [int(problem.split(":")[1]) for problem in spec_file.problems()]
    assert sorted(lines) == [6, 8, 9, 9, 10, 11, 12, 13]


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("{executor: local, container: {image: /a.sif}}", "cluster.container: not supported with executor local"),
        ("{executor: debug, container: {image: /a.sif}}", "cluster.container: not supported with executor debug"),
        (
            "{container: {image: /a.sqsh, runtime: pyxis}, srun: {container-image: x}}",
            "cluster.srun.container-image: cluster.container sets it",
        ),
    ],
)
def test_container_that_contradicts_another_field_is_refused(spec_file, cluster, message):
    assert message in spec_file.add(f"cluster: {cluster}\n").only_problem()


@pytest.mark.parametrize("written", ["null", "~", "", "{runtime: none, mounts: [x]}"])
def test_no_container_is_none(spec_file, written):
    cluster = spec_file.add(f"cluster:\n  executor: local\n  container: {written}\n").load().cluster
    assert cluster.used_container is None


def test_single_field_of_the_container_is_set_on_the_command_line(spec_file):
    spec = spec_file.load("cluster.container.image=/a.sif", "cluster.container.mounts=[/scratch]")
    assert (spec.cluster.container.image, spec.cluster.container.mounts) == ("/a.sif", ["/scratch"])
    assert spec_file.load("cluster.container=null").cluster.container is None
    problem = spec_file.only_problem("image=/a.sif")
    assert "there is cluster.container.image: move it there" in problem


def test_relative_image_is_beside_the_spec_and_a_name_stays_one(spec_file, tmp_path):
    (tmp_path / "sandbox").mkdir()
    for written, expected in {
        "train.sif": f"{tmp_path}/train.sif",
        "sandbox": f"{tmp_path}/sandbox",
        "$SCRATCH/a.sif": "$SCRATCH/a.sif",
        "~/a.sif": "~/a.sif",
        "docker://a/b": "docker://a/b",
        "nersc/pytorch:24.06": "nersc/pytorch:24.06",
    }.items():
        (tmp_path / "train.sif").touch()
        assert spec_file.load(f"cluster.container.image={written}").cluster.container.image == expected


@pytest.mark.parametrize(
    ("image", "form"),
    [
        ("/a/b.sif", "sif"),
        ("b.simg", "sif"),
        ("$X/b.sqsh", "squashfs"),
        ("/a/b.squashfs", "squashfs"),
        ("docker://a/b:1", "address"),
        ("library://a/b", "address"),
        ("/images/train", "path"),
        ("./train", "path"),
        ("$IMAGE", "path"),
        ("nvcr.io#nvidia/pytorch:24.05-py3", "name"),
    ],
)
def test_form_of_an_image(image, form):
    assert image_form(image) == form


def test_every_runtime_takes_a_variable_or_names_what_it_takes():
    assert {name for name in FORMS if takes(name, "$IMAGE")} == {"apptainer", "singularity", "charliecloud", "pyxis"}
    assert all(any(takes(name, image) for image in ("/a.sif", "/a.sqsh", "a:1", "/a")) for name in FORMS)


@pytest.mark.parametrize(
    ("written", "mount"),
    [
        ("/a", Mount("/a", "/a")),
        ("/a:/b", Mount("/a", "/b")),
        ("$X/a:/b:ro", Mount("$X/a", "/b", is_read_only=True)),
        ("~/a:/b:rw", Mount("~/a", "/b")),
    ],
)
def test_mount_is_host_inside_and_mode(written, mount):
    assert parse_mount(written) == mount
