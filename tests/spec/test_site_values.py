"""A site profile in a spec: which one applies, whose value wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.container import ContainerSpec
from hpc_yolo.spec.load import Override, dump_spec, load_resolved_spec, load_spec, load_with_origins
from hpc_yolo.spec.schema import ClusterSpec
from hpc_yolo.spec.site_files import SiteLookup

PROFILE = """\
description: a test
hosts: [login*.example.org]
cluster_names: [big]
network: ib0
proxy: http://proxy:3128
paths: {scratch: /scratch/$USER}
cluster:
  qos: normal
  env: {A: profile, B: profile}
  sbatch: {comment: profile, hint: nomultithread}
  modules: [site]
  container: {runtime: apptainer}
  setup: |
    first
    second
gpus:
  v100:
    cpus_per_task: 10
    account_suffix: "@v100"
    mem_per_gpu: 40G
    setup:
    - |
      row
      block
    by_time: [{up_to: "20:00:00", qos: t3}, {up_to: "100:00:00", qos: t4, partition: long}]
  a100:
    cpus_per_task: 8
    account_suffix: "@a100"
    modules: [arch/a100]
    max_time: 1-00:00:00
    gpu_cpus: [0-7, 8-15]
"""
SPEC = "name: a\nmodel: yolov5n\ndata: d.yaml\ncluster:\n"


def overrides(*assignments: str) -> list[Override]:
    pairs = [text.split("=", 1) for text in assignments]
    return [Override(path, value, f"--set {path}={value}") for path, value in pairs]


class Sites:
    """A directory with a profile, and a spec."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[str] = []
        self.write("big", PROFILE)
        self.spec = directory.parent / "spec.yaml"

    def write(self, name: str, text: str) -> Path:
        path = self.directory / f"{name}.yaml"
        path.write_text(text)
        return path

    def lookup(self, *, wanted=None, hosts=("laptop",), named=None, has_slurm=True, directories=None):
        def cluster_name():
            self.asked.append("cluster name")
            return named

        return SiteLookup(directories or (self.directory,), wanted, hosts, cluster_name, has_slurm)

    def load(self, cluster, *assignments, top="site: big\n", **lookup):
        self.spec.write_text(top + SPEC + "".join(f"  {line}\n" for line in cluster.splitlines()))
        return load_with_origins(self.spec, overrides(*assignments), self.lookup(**lookup))

    def problem(self, cluster, *assignments, **lookup):
        with pytest.raises(SpecError) as caught:
            self.load(cluster, *assignments, **lookup)
        return caught.value.message


@pytest.fixture
def sites(tmp_path):
    (tmp_path / "sites").mkdir()
    return Sites(tmp_path / "sites")


@pytest.mark.parametrize(
    ("cluster", "assignments", "expected"),
    [
        ("nodes: 2", [], {"qos": "normal", "cpus_per_task": 4}),
        ("gpu: v100", [], {"qos": "t3", "cpus_per_task": 10, "mem_per_gpu": "40G"}),
        ("{gpu: v100, time: 20:00:00}", [], {"qos": "t3", "partition": None}),
        ("{gpu: v100, time: 20:00:01}", [], {"qos": "t4", "partition": "long"}),
        ("gpu: v100", ["cluster.time=99:00:00"], {"qos": "t4"}),
        ("{gpu: v100, qos: mine}", [], {"qos": "mine"}),
        ("{gpu: v100, qos: mine}", ["cluster.qos=typed"], {"qos": "typed"}),
        ("{gpu: v100, qos: null}", [], {"qos": None}),
        ("gpu: v100", ["cluster.gpu=a100"], {"gpu": "a100", "cpus_per_task": 8, "qos": "normal"}),
        ("{gpu: v100, mem: 1G}", [], {"mem": "1G", "mem_per_gpu": None}),
        ("{gpu: v100, account: abc}", [], {"account": "abc@v100"}),
        ("{gpu: v100, account: abc@v100}", [], {"account": "abc@v100"}),
        ("gpu: v100", ["cluster.account=x"], {"account": "x@v100"}),
        ("{gpu: a100, time: 2-00:00:00, partition: own}", [], {"time": "2-00:00:00"}),
        ("{gpu: a100, time: 2-00:00:00, sbatch: {reservation: r}}", [], {"time": "2-00:00:00"}),
        ("{gpu: a100, modules: [x]}", [], {"modules": ["site", "arch/a100", "x"]}),
        ("{gpu: a100, modules: [purge, x]}", [], {"modules": ["purge", "site", "arch/a100", "x"]}),
        ("{gpu: a100, modules: null}", [], {"modules": []}),
        ("setup: own", [], {"setup": ["first\nsecond\n", "own"]}),
        ("{setup: [own, more]}", [], {"setup": ["first\nsecond\n", "own", "more"]}),
        ("{setup: null}", [], {"setup": []}),
        ("{gpu: v100}", [], {"setup": ["first\nsecond\n", "row\nblock\n"]}),
        ("{gpu: a100, gpus_per_node: 2, cpu_bind: auto}", [], {"srun": {"cpu-bind": "mask_cpu:0xff,0xff00"}}),
        ("{gpu: a100, cpu_bind: auto, srun: {cpu-bind: none}}", [], {"srun": {"cpu-bind": "none"}}),
        ("{sbatch: {comment: own}}", [], {"sbatch": {"comment": "own", "hint": "nomultithread"}}),
        ("nodes: 1", [], {"container": None}),
        ("", [], {"qos": "normal"}),
        ("{container: {image: /x.sif}}", [], {"container": ContainerSpec(image="/x.sif", runtime="apptainer")}),
        ("{container: {image: a, runtime: pyxis}}", [], {"container": ContainerSpec(image="a", runtime="pyxis")}),
        ("{container: null}", [], {"container": None}),
    ],
)
def test_value_of_spec_wins_over_row_and_row_over_profile(sites, cluster, assignments, expected):
    loaded = sites.load(cluster, *assignments)
    found = loaded.spec.cluster
    assert {name: getattr(found, name) for name in expected} == expected
    assert loaded.spec.site == "big"


LAYER_FIELDS = ("qos", "partition", "nodes", "exclude", "env", "sbatch", "mem", "login_shell")
NAMES = st.sampled_from(["a", "b", "c"])
LAYER = st.fixed_dictionaries(
    {},
    optional={
        "qos": st.none() | NAMES,
        "partition": NAMES,
        "nodes": st.sampled_from([1, 2, 4]),
        "exclude": st.lists(NAMES, max_size=2),
        "env": st.dictionaries(st.sampled_from(["A", "B", "C"]), NAMES),
        "sbatch": st.dictionaries(st.sampled_from(["comment", "wckey"]), NAMES),
        "mem": st.just("1G"),
        "login_shell": st.booleans(),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.tuples(LAYER, LAYER, LAYER, LAYER))
def test_last_layer_that_has_a_value_wins(sites, layers):
    defaults, row, band, spec = layers
    profile = {"cluster": defaults, "gpus": {"x": row | {"by_time": [band | {"up_to": "10"}]}}}
    sites.write("big", yaml.safe_dump(profile))
    found = sites.load(yaml.safe_dump(spec | {"gpu": "x"}, sort_keys=False)).spec.cluster
    for name in LAYER_FIELDS:
        written = [layer[name] for layer in layers if name in layer]
        expected = getattr(ClusterSpec(), name) if not written else written[-1]
        if name in ("env", "sbatch"):
            expected = {key: value for mapping in written for key, value in mapping.items()}
        assert getattr(found, name) == expected, name


def test_environment_is_merged_by_name_and_paths_are_replaced(sites):
    loaded = sites.load('env: {B: own, TORCH_HOME: "${site.scratch}/torch"}\nprefix: ["${site.scratch}/run"]')
    assert loaded.spec.cluster.env == {
        "NCCL_SOCKET_IFNAME": "ib0",
        "GLOO_SOCKET_IFNAME": "ib0",
        "http_proxy": "http://proxy:3128",
        "https_proxy": "http://proxy:3128",
        "no_proxy": "localhost,127.0.0.1",
        "A": "profile",
        "B": "own",
        "TORCH_HOME": "/scratch/$USER/torch",
    }
    assert loaded.spec.cluster.prefix == ["/scratch/$USER/run"]
    origins = {name: (Path(place.source).stem, place.line) for name, place in loaded.origins.items()}
    assert origins["cluster.env.A"] == ("big", 9)
    assert origins["cluster.env.B"] == ("spec", 6)
    assert origins["cluster.env.GLOO_SOCKET_IFNAME"] == ("big", 4)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("gpu: A1OO", "cluster.gpu: there is no row 'A1OO' in the profile big"),
        ("gpu: A10", "allowed: v100, a100; a100 is the nearest"),
        (
            "{gpu: a100, time: 2-00:00:00}",
            "cluster.time: 2-00:00:00 is longer than 1-00:00:00, the longest on a100 of big",
        ),
        ("{gpu: a100, time: UNLIMITED}", "cluster.time: UNLIMITED is longer than 1-00:00:00"),
        ("{gpu: v100, time: 200:00:00}", "is longer than 4-04:00:00"),
        ("{gpu: a100, time: soon}", "cluster.time: 'soon' is not a time"),
        ("{gpu: a100, account: abc@v100}", "cluster.account: abc@v100 is for v100, and cluster.gpu is a100"),
        ("{gpu: v100, cpu_bind: auto}", "the row v100 of big has no gpu_cpus"),
        ("cpu_bind: auto", "cluster.cpu_bind: auto needs the type of GPU"),
        ("{gpu: a100, cpu_bind: auto}", "cluster.cpu_bind: auto needs all 2 GPUs of a node, and gpus_per_node is 1"),
        ('env: {A: "${site.data}"}', "the profile big has no path 'data'"),
    ],
)
def test_value_that_does_not_fit_the_profile_is_refused(sites, cluster, message):
    problem = sites.problem(cluster)
    assert problem.startswith("1 mistake in the spec\n"), problem
    assert message in problem
    assert problem.splitlines()[1].startswith(f"{sites.spec}:6:")


def test_mistakes_of_the_profile_are_reported_with_its_file(sites):
    path = sites.write("big", "cluster: {nodes: x, colour: red}\n")
    problem = sites.problem("time: soon")
    assert problem.startswith("3 mistakes in the spec and its site profile\n")
    for place, message in (
        (f"{path}:1:18", "cluster.nodes: 'x'"),
        (f"{path}:1:21", "cluster.colour: unknown field"),
        (f"{sites.spec}:6:9", "cluster.time: 'soon'"),
    ):
        assert f"{place}: {message}" in problem


@pytest.mark.parametrize(
    ("top", "lookup", "expected", "asked"),
    [
        ("site: big\n", {"hosts": ("login1.example.org",)}, "named by the spec", 0),
        ("", {"wanted": "big"}, "named by HPC_YOLO_SITE", 0),
        ("", {"hosts": ("LOGIN7.example.org",)}, "for host LOGIN7.example.org", 0),
        ("", {"named": "Big"}, "for cluster Big", 1),
        ("", {}, None, 1),
        ("", {"wanted": "none", "hosts": ("login1.example.org",)}, None, 0),
        ("site: none\n", {"wanted": "big", "hosts": ("login1.example.org",)}, None, 0),
        ("site: other\n", {"wanted": "big"}, "named by the spec", 0),
        ("site: big\n", {"has_slurm": False}, None, 0),
        ("site: unknown\n", {"has_slurm": False}, None, 0),
    ],
)
def test_profile_is_chosen_by_spec_then_variable_host_and_cluster(sites, top, lookup, expected, asked):
    sites.write("other", "cluster: {qos: other}\n")
    site = sites.load("nodes: 1", top=top, **lookup).site
    assert (site and site.why) == expected
    assert len(sites.asked) == asked


@pytest.mark.parametrize(
    ("cluster", "top", "lookup", "message"),
    [
        ("nodes: 1", "site: bigg\n", {}, "spec.yaml:1:7: site: there is no profile 'bigg'"),
        ("nodes: 1", "site: bigg\n", {}, "allowed: big is the nearest of big, none"),
        ("nodes: 1", "", {"wanted": "bigg"}, "HPC_YOLO_SITE: site: there is no profile 'bigg'"),
        ("nodes: 1", "site: x\n", {"directories": (Path("/a"), Path("/b"), Path("/c"))}, "'x' (/b: no such directory)"),
        ("gpu: a100", "", {}, "cluster.gpu: a100 needs a site profile, and none applies here"),
        ("gpu: a100", "site: none\n", {}, "cluster.gpu: a100 needs a site profile"),
        ("cpu_bind: auto", "", {}, "cluster.cpu_bind: auto needs a site profile"),
        ('env: {A: "${site.scratch}"}', "", {}, "${site.scratch} is a path of a site profile"),
        ('env: {A: "${site.scratch}"}', "", {"has_slurm": False}, "${site.scratch} is a path of a site profile"),
        ("nodes: 1", "", {"hosts": ("login1.example.org",)}, "the profiles big and two are for host login1"),
    ],
)
def test_profile_that_cannot_be_chosen_is_reported_in_one_message(sites, cluster, top, lookup, message):
    sites.write("two", "hosts: [login1*]\n") if "hosts" in lookup else None
    problem = sites.problem(cluster, top=top, **lookup)
    assert problem.startswith("1 mistake in ")
    assert message in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "must hold fields"),
        ("site: big\nname: a\nmodel: yolov5n\ndata: d\ncluster: [gpu]\n", "cluster: must hold fields"),
        ("site: big\nname: a\nmodel: yolov5n\ndata: d\ncluster: {gpu: [a100]}\n", "cluster.gpu: a list is not allowed"),
        ("site: [big]\nname: a\nmodel: yolov5n\ndata: d\n", "site: a list is not allowed"),
        ("site: big\nname: a\nmodel: yolov5n\ndata: d\ncluster: {env: [A]}\n", "cluster.env: a list is not allowed"),
    ],
)
def test_mistake_of_the_spec_is_not_hidden_by_the_profile(sites, text, message):
    sites.spec.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_with_origins(sites.spec, [], sites.lookup(named="big"))
    assert message in caught.value.message
    assert caught.value.message.startswith("1 mistake in the spec\n")


def test_profile_that_adds_to_another_one_is_preferred_to_it(sites):
    sites.write("ours", "base: big\ncluster: {account: group}\n")
    loaded = sites.load("gpu: a100", top="", hosts=("login1.example.org",))
    assert (loaded.site.name, loaded.spec.cluster.account) == ("ours", "group@a100")


def test_profile_that_is_not_readable_is_named_where_the_spec_names_it(sites):
    (sites.directory / "big.yaml").unlink()
    (sites.directory / "big.yaml").mkdir()
    assert "big.yaml: is a directory" in sites.problem("nodes: 1")
    assert sites.load("nodes: 1", top="", hosts=("login1.example.org",)).site is None


def test_local_run_ignores_the_profile(sites):
    cluster = sites.load("{gpu: a100, cpu_bind: auto, executor: local}", hosts=("login1.example.org",)).spec.cluster
    assert (cluster.qos, cluster.env, cluster.srun) == (None, {}, {})


def test_resolved_spec_needs_no_profile_and_refuses_another_row(sites, tmp_path):
    spec = sites.load(
        "{gpu: a100, account: abc, gpus_per_node: 2, cpu_bind: auto, modules: [purge, x], setup: [a]}\n"
    ).spec
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_spec(spec))
    assert load_resolved_spec(resolved) == spec
    assert load_spec(resolved).cluster == spec.cluster
    assert load_spec(resolved, (), sites.lookup()).cluster == spec.cluster, "submitted again with its profile"
    with pytest.raises(SpecError, match=r"cluster\.gpu: is resolved at submission"):
        load_resolved_spec(resolved, overrides("cluster.gpu=v100"))


def test_key_in_a_profile_is_refused_at_its_position(sites):
    path = sites.write("big", f"{PROFILE}source: https://me:letmein@example.org\n")
    message = sites.problem("{}")
    line = len(PROFILE.splitlines()) + 1
    assert f"{path}:{line}:20: source: looks like a password in an address" in message and "letmein" not in message


@pytest.mark.parametrize(
    ("notify", "smtp"),
    [
        ("{mail: a@b.org}", "mail.example.org"),
        ("{mail: a@b.org, smtp: own}", "own"),
        ("{command: 'true'}", None),
        ("null", None),
    ],
)
def test_host_for_mail_is_that_of_the_profile_where_mail_is_sent(sites, notify, smtp):
    sites.write("big", f"{PROFILE}smtp: mail.example.org\n")
    spec = sites.load("{}", top=f"site: big\nnotify: {notify}\n").spec
    assert (None if spec.notify is None else spec.notify.smtp) == smtp


@pytest.mark.parametrize(
    ("stage", "paths", "expected"),
    [
        ("auto", "{local: $LOCAL_SCRATCH}", "$LOCAL_SCRATCH"),
        ("off", "{local: $LOCAL_SCRATCH}", "off"),
        ("/mine", "{local: $LOCAL_SCRATCH}", "/mine"),
        ("auto", "{scratch: /scratch}", "auto"),
    ],
)
def test_auto_stages_to_the_local_path_of_the_profile(sites, stage, paths, expected):
    sites.write("big", PROFILE.replace("paths: {scratch: /scratch/$USER}", f"paths: {paths}"))
    found = sites.load("{}", f"data.stage={stage}")
    assert found.spec.data.stage == expected
    if expected == "$LOCAL_SCRATCH":
        assert found.origins["data.stage"].source.endswith("big.yaml")
