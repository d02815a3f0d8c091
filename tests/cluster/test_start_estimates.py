"""Ways to ask for a job, and the answers of Slurm to them."""

import pytest
from recordings import VERSIONS, recorded, versions_with

from hpc_yolo.cluster.node_types import NodeType
from hpc_yolo.cluster.site import Partition
from hpc_yolo.cluster.slurm_command import Finished
from hpc_yolo.cluster.start_estimates import MAX_WAYS, Way, ask_starts, ways_to_ask, with_gpus
from hpc_yolo.core.errors import SchedulerUnavailable
from hpc_yolo.spec.schema import ClusterSpec


def partition(name: str, *, state: str = "UP", is_default: bool = False, num_nodes: int | None = 4) -> Partition:
    return Partition(name, state, is_default, num_nodes, 3600, None, 0, "OFF")


PARTITIONS = {
    one.name: one
    for one in (
        partition("gpu", is_default=True),
        partition("long"),
        partition("closed", state="DOWN"),
        partition("tiny", num_nodes=1),
    )
}


@pytest.mark.parametrize(
    ("cluster", "batch", "qos", "time", "expected"),
    {
        "other partitions that are up and large enough": (
            {"nodes": 2},
            7,
            [],
            None,
            ["as it is", "--nodes 1", "--partition long"],
        ),
        "half and twice the nodes": (
            {"nodes": 2, "partition": "long"},
            16,
            [],
            None,
            ["as it is", "--nodes 1", "--nodes 4", "--partition gpu"],
        ),
        "no more nodes than the partition has": (
            {"nodes": 4, "partition": "gpu"},
            64,
            [],
            None,
            ["as it is", "--nodes 2", "--partition long"],
        ),
        "the only quality of service is no choice": (
            {"nodes": 4},
            4,
            ["normal"],
            None,
            ["as it is", "--nodes 2", "--partition long"],
        ),
        "other qualities of service, and the suggested time": (
            {"nodes": 4, "qos": "a", "time": "01:00:00"},
            4,
            ["a", "b"],
            "00:30:00",
            ["as it is", "--time 00:30:00", "--nodes 2", "--qos b", "--partition long"],
        ),
    }.values(),
    ids=lambda value: "",
)
def test_each_way_changes_one_thing(cluster, batch, qos, time, expected):
    ways = ways_to_ask(ClusterSpec(**cluster), batch, PARTITIONS, qos, time=time)
    assert [way.text for way in ways] == expected


def test_number_of_questions_is_bounded():
    many = {f"p{number}": partition(f"p{number}") for number in range(300)}
    assert len(ways_to_ask(ClusterSpec(), 8, many, [f"q{number}" for number in range(300)])) == MAX_WAYS


def kind(partition: str, num_gpus: int, gpu_type: str | None = "a100") -> NodeType:
    return NodeType(partition, gpu_type, num_gpus, 64, 1000, None, "")


@pytest.mark.parametrize(
    ("cluster", "kinds", "names"),
    [
        ({"gpus_per_node": 4}, [kind("gpu", 4), kind("long", 2), kind("tiny", 8)], ["gpu", "tiny"]),
        ({"gpus_per_node": 4, "gpu_type": "v100"}, [kind("gpu", 4), kind("tiny", 8, "v100")], ["tiny"]),
        ({"gpus_per_node": 0}, [kind("gpu", 4)], list(PARTITIONS)),
        ({"gpus_per_node": 4}, [kind("gpu", 0), kind("long", 0)], list(PARTITIONS)),  # the site lists no GPUs
        ({"gpus_per_node": 9}, [kind("gpu", 4)], list(PARTITIONS)),  # sbatch says that itself
    ],
)
def test_only_partitions_with_the_gpus_are_asked_about(cluster, kinds, names):
    assert list(with_gpus(ClusterSpec(**cluster), PARTITIONS, kinds)) == names


@pytest.mark.parametrize("version", VERSIONS)
def test_answers_of_each_version_are_read_and_a_refusal_ends_nothing(version):
    texts = [recorded(version, "test_only.txt")]
    refused = (
        recorded(version, "test_only_too_large.txt") if version in versions_with("test_only_too_large.txt") else ""
    )
    answers = [Finished(0, "", texts[0]), Finished(1, "", refused or "allocation failure: no"), Finished(0, "", "?")]
    commands = []

    def run(arguments, _timeout_s):
        commands.append(arguments)
        return answers[len(commands) - 1]

    progress = []
    ways = [
        Way((), 1),
        Way(("--partition=long",), 1),
        Way(("--set cluster.gpu=a100",), 1, script="#!/bin/sh\n# other\n"),
    ]
    told = lambda done, total: progress.append((done, total))  # noqa: E731
    found = list(ask_starts(ways, "#!/bin/sh\n", ["--no-requeue"], run=run, on_progress=told))
    assert found[0].start.startswith("2026-")
    assert found[0].nodes == "gpu[01-02]"
    assert "allocation failure" in found[1].refusal
    assert (found[2].start, found[2].refusal) == (None, "")
    assert [command[1:-1] for command in commands] == [
        ["--test-only", "--no-requeue"],
        ["--test-only", "--no-requeue", "--partition=long"],
        ["--test-only", "--no-requeue"],
    ]
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_no_further_question_after_one_without_an_answer():
    calls = []

    def run(arguments, timeout_s):
        calls.append(timeout_s)
        raise SchedulerUnavailable("sbatch gave no answer")

    assert list(ask_starts([Way((), 1)] * 5, "#!/bin/sh\n", run=run)) == []
    assert calls == [5.0]
