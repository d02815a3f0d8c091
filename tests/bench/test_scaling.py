"""The table of a scaling benchmark, from journals, and the specs of its runs."""

from __future__ import annotations

import os

import pytest

from hpc_yolo.bench.scaling import ScalingRow, scaling_row, scaling_table
from hpc_yolo.bench.scaling_runs import scaled_spec, usual_ranks
from hpc_yolo.core.errors import SpecError
from hpc_yolo.runs.events import AttemptStarted, EpochEnded, Evaluated, StepLogged
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.train import TrainSpec


def row(ranks, step_s, *, batch=None, data_wait_s=0.0, val_s=1.0):
    return ScalingRow(
        **{"ranks": ranks, "nodes": 1, "device": "cpu", "batch": batch or 16 * ranks, "num_images": 160},
        **{"mem_bytes": 1, "train_s": 10 * step_s, "val_s": val_s, "step_s": step_s},
        **{"data_wait_s": data_wait_s, "num_epochs": 2},
    )


def started(attempt=1, ranks=2, step=0):
    return AttemptStarted(
        **{"attempt": attempt, "job_id": None, "launcher": "local", "device": "cpu", "precision": "float32"},
        **{"world_size": ranks, "num_nodes": 1, "batch": 32, "epochs": 3, "steps_per_epoch": 5, "num_images": 160},
        **{"epoch": step // 5, "step": step, "ranks": []},
    )


def epoch(number, seconds, attempt=1):
    return EpochEnded(
        attempt=attempt, epoch=number, step=5 * number + 5, losses={}, lr=0.1, images_per_s=1.0, seconds=seconds
    )


def step(number, wait_s, mem=7, attempt=1):
    return StepLogged(
        **{"attempt": attempt, "epoch": number, "step": 5 * number + 1, "losses": {}, "grad_norm": 1.0, "lr": 0.1},
        **{"images_per_s": 1.0, "rank_step_s": [1.0, 1.0], "rank_data_wait_s": [0.0, wait_s]},
        rank_mem_bytes=[mem, 1],
    )


def evaluated(seconds):
    return Evaluated(
        **{"attempt": 1, "epoch": 0, "step": 5, "num_images": 8, "metrics": {}, "images_per_s": 1.0},
        **{"seconds": seconds, "is_best": True, "classes": []},
    )


def test_first_epoch_of_an_attempt_does_not_count():
    events = [
        *(started(), step(0, 9.0, mem=50), epoch(0, 99.0), evaluated(4.0)),
        *(step(1, 0.2), epoch(1, 10.0), evaluated(6.0), step(2, 0.4), epoch(2, 20.0)),
    ]
    found = scaling_row(events)
    assert (found.train_s, found.step_s, found.val_s, found.num_epochs) == (15.0, 3.0, 5.0, 2)
    assert (found.data_wait_s, found.mem_bytes, found.images_per_s) == (pytest.approx(0.3), 50, 32 / 3)


@pytest.mark.parametrize(
    ("events", "train_s"),
    [
        ([], None),
        ([started()], None),
        ([started(), epoch(0, 7.0)], 7.0),
        ([started(1, ranks=4), epoch(0, 7.0), started(2, step=5), epoch(1, 8.0, attempt=2)], 8.0),
        ([started(1), epoch(0, 9.0), started(2, step=8), epoch(1, 4.0, attempt=2)], (9.0 + 10.0) / 2),
        ([started(1), epoch(0, 9.0), epoch(1, 7.0), started(2, step=11), epoch(2, 9.0, attempt=2)], 7.0),
    ],
    ids=["nothing", "no epoch", "one epoch", "newest number of ranks", "a part of an epoch", "later epochs first"],
)
def test_row_needs_one_epoch_with_the_newest_number_of_ranks(events, train_s):
    found = scaling_row(events)
    assert (None if found is None else found.train_s) == pytest.approx(train_s)


def test_efficiency_communication_and_waits_are_beside_the_fewest_ranks():
    two, one = row(2, 1.25, data_wait_s=0.05, val_s=2.5), row(1, 1.0)
    first, second = scaling_table([two, one], num_parameters=1000)
    assert (first.row.ranks, first.efficiency, first.communication, first.ring_bytes) == (1, 1.0, 0.0, 0.0)
    assert second.ideal_images_per_s == 32.0
    assert second.efficiency == pytest.approx(0.8)
    assert second.communication == pytest.approx(0.2 / 1.25)
    assert second.data_wait == pytest.approx(0.04)
    assert second.validation == pytest.approx(2.5 / 15)
    assert second.ring_bytes == 4000
    assert second.limit_images_per_s is None


def test_limit_adds_the_ring_to_the_step_of_the_fewest_ranks():
    _, second = scaling_table([row(1, 1.0), row(4, 1.5)], num_parameters=1000, bandwidth_bytes_per_s=24_000)
    assert second.limit_images_per_s == pytest.approx(64 / (1 + 6000 / 24_000))


def test_same_batch_is_compared_with_as_many_images_a_rank():
    _, second = scaling_table([row(1, 1.0, batch=16), row(2, 0.6, batch=16)], num_parameters=1000)
    assert second.efficiency == pytest.approx(16 / 0.6 / 32)
    assert second.communication == pytest.approx(0.1 / 0.6)


def test_row_without_evaluation_has_no_fraction_of_it():
    assert scaling_table([row(1, 1.0, val_s=None)], 1)[0].validation is None


def spec(nodes=1, gpus=0, tasks=None, batch=16, workers=8):
    return Spec(
        name="coco",
        model="yolov5n",
        data=DataSpec(path="d.yaml"),
        output="/runs",
        cluster=ClusterSpec(nodes=nodes, gpus_per_node=gpus, tasks_per_node=tasks, executor="local"),
        train=TrainSpec(batch=batch, epochs=300, workers=workers),
    )


def scaled(one, ranks, **options):
    options = {"epochs": 3, "is_local": False, "same_batch": False, "most_ranks": ranks} | options
    return scaled_spec(one, ranks, **options)


@pytest.mark.parametrize(
    ("one", "ranks", "nodes", "on_node", "batch"),
    [
        (spec(nodes=2, gpus=4, batch=128), 1, 1, 1, 16),
        (spec(nodes=2, gpus=4, batch=128), 4, 1, 4, 64),
        (spec(nodes=2, gpus=4, batch=128), 8, 2, 4, 128),
        (spec(nodes=2, gpus=4, batch=128), 16, 4, 4, 256),
        (spec(tasks=1), 4, 1, 4, 64),
        (spec(nodes=2, tasks=2, batch=32), 4, 2, 2, 32),
    ],
    ids=["one GPU", "a node", "two nodes", "more than the spec", "CPU ranks of one node", "CPU ranks of two nodes"],
)
def test_ranks_fill_nodes_and_keep_the_images_of_a_rank(one, ranks, nodes, on_node, batch):
    found = scaled(one, ranks)
    assert (found.cluster.nodes, found.cluster.num_tasks_per_node, found.train.batch) == (nodes, on_node, batch)
    assert (found.cluster.world_size, found.train.epochs, found.output) == (ranks, 3, "/runs/coco-scaling")
    assert found.then == []
    assert found.train.workers == 8


def test_same_batch_keeps_the_images_of_a_step():
    assert scaled(spec(gpus=4, batch=64), 2, same_batch=True).train.batch == 64


@pytest.mark.parametrize(
    ("one", "ranks", "options"),
    [
        (spec(nodes=2, gpus=4, batch=128), 6, {}),
        (spec(batch=-1), 2, {}),
        (spec(batch=16), 3, {"same_batch": True}),
    ],
    ids=["half a node", "measured batch", "not divisible"],
)
def test_ranks_that_cannot_be_are_refused(one, ranks, options):
    with pytest.raises(SpecError):
        scaled(one, ranks, **options)


def test_cpu_ranks_of_a_job_have_the_threads_of_their_cores():
    found = scaled(spec(tasks=2), 1)
    assert (found.cluster.env["OMP_NUM_THREADS"], found.train.workers) == ("4", 8)
    assert "OMP_NUM_THREADS" not in scaled(spec(gpus=4, batch=64), 1).cluster.env


def test_local_cpu_ranks_have_equal_threads_and_load_their_own_images(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    found = [scaled(spec(tasks=1), ranks, is_local=True, most_ranks=4) for ranks in (1, 4)]
    assert [one.cluster.env["OMP_NUM_THREADS"] for one in found] == ["2", "2"]
    assert [one.train.workers for one in found] == [0, 0]


@pytest.mark.parametrize(
    ("one", "ranks"),
    [(spec(), [1]), (spec(gpus=8, batch=8), [1, 2, 4, 8]), (spec(gpus=6, batch=6), [1, 2, 4, 6])],
    ids=["one", "a power of two", "another"],
)
def test_usual_ranks_are_powers_of_two_and_all(one, ranks):
    assert usual_ranks(one) == ranks
