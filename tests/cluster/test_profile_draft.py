"""The draft of a site profile, and the comparison of a profile with Slurm."""

from __future__ import annotations

import pytest

from hpc_yolo.cluster import this_site
from hpc_yolo.cluster.node_types import NodeType, parse_node_types
from hpc_yolo.cluster.profile_checks import SlurmNames, ask_slurm, slurm_findings
from hpc_yolo.cluster.profile_draft import SiteFacts, ask_site, draft
from hpc_yolo.cluster.slurm_command import Finished
from hpc_yolo.core.errors import SchedulerUnavailable
from hpc_yolo.spec.profile import Profile
from hpc_yolo.spec.site_files import check_profile

SINFO = """\
cpu*|(null)|96|380000|UNLIMITED|(null)
gpu|gpu:a100:4(S:0-1)|64+|512000|2-00:00:00|ib,a100
gpu|gpu:v100:8,nvme:1|40|370000|2-00:00:00|(null)
debug|gpu:a100:4|64|512000|30:00|ib
old|gpu:2|16|n/a|1-00:00:00|(null)

something else
"""


def profile_of(tmp_path, text) -> Profile:
    path = tmp_path / "here.yaml"
    path.write_text(text)
    problems = []
    read = check_profile(path, {}, problems)
    assert read is not None, "\n".join(map(str, problems))
    return read[1]


def test_kinds_of_nodes_are_parsed_and_other_lines_skipped():
    nodes = parse_node_types(SINFO)
    assert [(kind.partition, kind.gpu_type, kind.num_gpus) for kind in nodes] == [
        ("cpu", None, 0),
        ("gpu", "a100", 4),
        ("gpu", "v100", 8),
        ("debug", "a100", 4),
        ("old", None, 2),
    ]
    assert nodes[1] == NodeType("gpu", "a100", 4, 64, 512000, 172800, "ib,a100")
    assert (nodes[0].max_time_s, nodes[4].mem_mb) == (None, 0)


def test_draft_has_a_row_for_each_type_and_is_a_valid_profile(tmp_path):
    facts = SiteFacts("it's", parse_node_types(SINFO), ["normal", "long"], ["project: 1", "b"])
    text = draft("here", "login1", facts)
    profile = profile_of(tmp_path, text)
    assert profile.cluster_names == ["it's"]
    assert list(profile.gpus) == ["a100", "v100", "a100-debug", "gpu"]
    row = profile.gpus["a100"]
    assert (row.partition, row.gpu_type, row.cpus_per_task, row.mem_per_gpu, row.max_time) == (
        *("gpu", "a100", 16, "125G", "2-00:00:00"),
    )
    assert profile.gpus["gpu"].mem_per_gpu is None
    small = draft("here", "login1", SiteFacts(None, [NodeType("null", "yes", 4, 2, 8001, None, "")]))
    row = profile_of(tmp_path, small).gpus["yes"]
    assert (row.partition, row.cpus_per_task, row.mem_per_gpu, row.max_time) == ("null", 1, "2000M", None)
    assert "  # account: 'project: 1'\n" in text and "  # qos: normal, long\n" in text
    assert "constraint: one of ib,a100" in text


def test_draft_without_answers_has_them_as_comments(tmp_path, monkeypatch):
    monkeypatch.setattr(this_site, "CONFIGURATIONS", ())

    def silent(arguments, timeout_s):
        assert timeout_s <= 2
        raise SchedulerUnavailable(f"{arguments[0]} gave no answer\nwithin {timeout_s:g} s")

    facts = ask_site("me", {}, run=silent)
    assert [text.partition(":")[0] for text in facts.unanswered] == ["ClusterName", "nodes", "qos", "accounts"]
    text = draft("here", "login1", facts)
    assert "# not answered: nodes: sinfo gave no answer within 2 s\n" in text
    assert profile_of(tmp_path, text).gpus == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cluster: {partition: gpu, qos: long}", []),
        ("cluster: {partition: 'gpu,gpux'}", [("cluster.partition", "no partition 'gpux'", "gpu is the nearest")]),
        ("gpus: {a: {qos: lon}}", [("gpus.a.qos", "no qos 'lon'", "long")]),
        (
            "gpus: {a: {by_time: [{up_to: '1:00:00'}, {up_to: '2:00:00', partition: x}]}}",
            [("gpus.a.by_time[1].partition", "no partition 'x'", "debug, gpu")],
        ),
        ("cluster: {account: p}\ngpus: {a: {account_suffix: '@a'}}", []),
        (
            "cluster: {account: p}\ngpus: {a: {account_suffix: '@b'}}",
            [("gpus.a.account_suffix", "no account of yours 'p@b'", "p@a")],
        ),
        ("cluster: {account: q}", [("cluster.account", "no account 'q'", "p@a")]),
    ],
)
def test_names_that_slurm_does_not_know_are_found(tmp_path, text, expected):
    names = SlurmNames(["gpu", "debug"], ["normal", "long"], ["p@a"])
    findings = list(slurm_findings(profile_of(tmp_path, text + "\n"), names))
    assert len(findings) == len(expected)
    for finding, (field, message, allowed) in zip(findings, expected, strict=True):
        assert (finding.field, message in finding.message, allowed in finding.allowed) == (field, True, True)
    nothing = SlurmNames(None, None, None)
    assert list(slurm_findings(profile_of(tmp_path, text + "\n"), nothing)) == []


def test_one_sentence_for_queries_without_an_answer():
    def down(arguments, timeout_s):
        if arguments[0] == "sacctmgr":
            return Finished(1, "", "sacctmgr: error: no accounting")
        raise SchedulerUnavailable("the controller is down")

    names = ask_slurm("me", run=down)
    assert (names.partitions, names.qos, names.accounts) == (None, None, None)
    assert len(names.unanswered) == 2
    assert "qos, accounts" in "".join(names.unanswered)
