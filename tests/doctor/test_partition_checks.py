"""A job against Slurm's partitions: one that Slurm would accept is never refused."""

import re

import pytest

from hpc_yolo.cluster import site
from hpc_yolo.cluster.site import Partition
from hpc_yolo.cluster.slurm_output import StartEstimate
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.doctor.partition_checks import obstacle_warnings, partition_warnings
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.schema import ClusterSpec

PARTITIONS = {
    "gpu": Partition("gpu", "UP", True, 2, 3600, 600, 0, "OFF"),
    "short": Partition("short", "UP", False, 8, 60, 60, 0, "OFF"),
    "endless": Partition("endless", "UP", False, None, None, None, 0, "OFF"),
}
OVER_TIME = "cluster.time: 02:00:00 is over the 01:00:00 of partition gpu"
OVER_NODES = "cluster.nodes: partition gpu has 2 nodes, the spec requests 4"


@pytest.mark.parametrize(
    ("cluster", "obstacle"),
    [
        ({}, None),
        ({"time": "01:00:00", "nodes": 2}, None),
        ({"time": "02:00:00"}, OVER_TIME),
        ({"time": "UNLIMITED"}, "cluster.time: UNLIMITED is over the 01:00:00 of partition gpu"),
        ({"time": "0"}, "cluster.time: 0 is over the 01:00:00 of partition gpu"),
        ({"time": "UNLIMITED", "partition": "endless"}, None),
        ({"nodes": 4}, OVER_NODES),
        ({"time": "02:00:00", "partition": "short,gpu"}, OVER_TIME),
        ({"time": "02:00:00", "partition": ["gpu", "endless"]}, None),  # the longest limit counts
        ({"nodes": 4, "time": "00:01:00", "partition": "gpu,short"}, None),
        ({"nodes": 4, "time": "01:00:00", "partition": "gpu,short"}, OVER_NODES),  # neither takes both
        ({"partition": "gpu,nope"}, "there is no partition 'nope' here"),
    ],
)
def test_job_over_a_limit_is_refused_if_slurm_refuses_it_and_is_a_warning_otherwise(monkeypatch, cluster, obstacle):
    requested = ClusterSpec(gpus_per_node=0, **cluster)
    monkeypatch.setattr(site, "partitions", lambda **_: PARTITIONS)
    monkeypatch.setattr(site, "site_settings", lambda **_: None)

    def answer(refusal: ClusterError | None):
        def estimate_start(_script, _options=(), **_):
            if refusal is not None:
                raise refusal
            return StartEstimate()

        monkeypatch.setattr("hpc_yolo.cluster.scheduler.estimate_start", estimate_start)

    answer(ClusterError("sbatch: allocation failure"))
    if obstacle is None:
        assert partition_warnings(requested, CheckpointSpec(), None) == [], "what else is wrong, sbatch says itself"
        return
    with pytest.raises(ClusterError, match=re.escape(obstacle)):
        partition_warnings(requested, CheckpointSpec(), None)
    for accepted in (None, SchedulerUnavailable("no answer")):
        answer(accepted)
        warnings = partition_warnings(requested, CheckpointSpec(), None)
        assert (
            obstacle.startswith("there is no")
            or warnings[0].startswith(f"{obstacle}; Slurm accepts")
            or any(obstacle in warning for warning in warnings)
        )


def test_variable_that_the_spec_replaces_does_not_decide_whether_slurm_accepts_the_job(monkeypatch, tmp_path):
    """SBATCH_GPUS never reaches the sbatch that queues the job, but with it Slurm refused the one that was checked."""
    (tmp_path / "sbatch").write_text(
        "#!/bin/sh\n[ -z \"$SBATCH_GPUS\" ] || { echo 'sbatch: error: refused' >&2; exit 1; }\n"
    )
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SBATCH_GPUS", "99")
    (warning,) = obstacle_warnings(ClusterSpec(gpus_per_node=0, time="02:00:00"), [PARTITIONS["gpu"]], is_lifted=False)
    assert warning.startswith(f"{OVER_TIME}; Slurm accepts the job")


def test_site_that_enforces_limits_yields_no_warning_for_an_accepted_job(monkeypatch):
    """A QOS has lifted it."""
    cluster = ClusterSpec(gpus_per_node=0, time="02:00:00")
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.estimate_start", lambda *_args, **_: StartEstimate())
    partitions = [PARTITIONS["gpu"]]
    assert len(obstacle_warnings(cluster, partitions, is_lifted=False)) == 1
    assert obstacle_warnings(cluster, partitions, is_lifted=True) == []
