"""A site's settings as Slurm prints them: recorded texts with the variations of other sites, then the real cluster."""

import dataclasses

import pytest
from recordings import NEWEST, VERSIONS, recorded, versions_with

from hpc_yolo.cluster import site
from hpc_yolo.cluster.site import Partition, QosLimits, SiteSettings
from hpc_yolo.cluster.slurm_command import Finished
from hpc_yolo.core.errors import ClusterError

CONFIG = recorded(NEWEST, "show_config.txt")
PARTITIONS = recorded(NEWEST, "show_partition.txt")
TEST_CLUSTER = SiteSettings(
    version=NEWEST,
    kill_wait_s=5,
    requeue_wait_s=5,
    requeue_wait_name="cred_expire",
    expedites=False,
    preempt_type="partition_prio",
    preempt_mode="REQUEUE",
    sends_user_signal=False,
    kills_on_bad_exit=False,
    slurmd_timeout_s=30,
    min_job_age_s=300,
    has_accounting=True,
    submit_plugins="",
    max_requeues=5,
)
TEST_PARTITIONS = {
    "gpu": Partition("gpu", "UP", True, 2, 3600, 600, 0, "OFF"),
    "preempt": Partition("preempt", "UP", False, 2, 3600, 600, 20, "REQUEUE"),
    "high": Partition("high", "UP", False, 2, 3600, 600, 0, "OFF"),
}


def config_with(**values: str | None) -> str:
    """The recorded configuration with other values; None leaves the line out, a new name is added."""
    lines = [line for line in CONFIG.splitlines() if line.partition("=")[0].strip() not in values]
    return "\n".join([*lines, *(f"{name:24}= {value}" for name, value in values.items() if value is not None)])


@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_settings_are_parsed(version):
    read = site.parse_site_settings(recorded(version, "show_config.txt"))
    assert read == dataclasses.replace(TEST_CLUSTER, version=version)


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"KillWait": "30 sec"}, "kill_wait_s", 30),
        ({"EnforcePartLimits": "ALL"}, "enforces_limits", True),
        ({"EnforcePartLimits": "any"}, "enforces_limits", True),
        ({"EnforcePartLimits": None}, "enforces_limits", False),
        ({"AuthInfo": "(null)"}, "requeue_wait_s", 120),
        ({"AuthInfo": "socket=/run/munge.socket"}, "requeue_wait_s", 120),
        ({"AuthInfo": "cred_expire=600,ttl=5"}, "requeue_wait_s", 600),
        ({"SchedulerParameters": "bf_interval=2,requeue_delay=7"}, "requeue_wait_s", 7),  # since 25.11
        ({"SchedulerParameters": "requeue_delay=0"}, "requeue_wait_s", 0),
        ({"SchedulerParameters": "requeue_delay=soon"}, "requeue_wait_s", 5),
        ({"SlurmctldParameters": "enable_configless,enable_expedited_requeue"}, "expedites", True),
        ({"SlurmctldParameters": "(null)"}, "expedites", False),
        ({"PreemptType": "preempt/none"}, "preempt_type", "none"),
        ({"PreemptType": "(null)"}, "preempt_type", "none"),  # since 23.11
        ({"PreemptType": "preempt/qos"}, "preempt_type", "qos"),
        ({"PreemptMode": "GANG,SUSPEND"}, "preempt_mode", "GANG,SUSPEND"),
        ({"SlurmctldParameters": "preempt_send_user_signal,enable_configless"}, "sends_user_signal", True),
        ({"PreemptParameters": "send_user_signal"}, "sends_user_signal", True),  # where newer versions have it
        ({"PreemptParameters": "(null)"}, "sends_user_signal", False),
        ({"KillOnBadExit": "1"}, "kills_on_bad_exit", True),
        ({"SlurmdTimeout": "0 sec"}, "slurmd_timeout_s", 0),
        ({"MinJobAge": "2 sec"}, "min_job_age_s", 2),
        ({"AccountingStorageType": "accounting_storage/none"}, "has_accounting", False),
        ({"AccountingStorageType": "(null)"}, "has_accounting", False),
        ({"AccountingStorageType": None}, "has_accounting", False),
        ({"JobSubmitPlugins": "lua"}, "submit_plugins", "lua"),
        ({"MaxBatchRequeue": "9"}, "max_requeues", 9),
        ({"SchedulerParameters": "bf_interval=2,max_batch_requeue=2"}, "max_requeues", 2),
    ],
)
def test_settings_of_other_sites_are_parsed(values, field, expected):
    assert getattr(site.parse_site_settings(config_with(**values)), field) == expected


@pytest.mark.parametrize("text", ["", "Slurmctld(primary) at vm is DOWN\n", config_with(KillWait=None)])
def test_output_that_is_not_a_configuration_is_refused(text):
    """Defaults in place of settings that were never read would be promises about nothing."""
    with pytest.raises(ClusterError, match="shows no configuration"):
        site.parse_site_settings(text)


@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_partitions_are_parsed(version):
    assert site.parse_partitions(recorded(version, "show_partition.txt")) == TEST_PARTITIONS


@pytest.mark.parametrize(
    ("before", "after", "field", "expected"),
    [
        ("MaxTime=01:00:00", "MaxTime=UNLIMITED", "max_time_s", None),
        ("MaxTime=01:00:00", "MaxTime=7-00:00:00", "max_time_s", 604800),
        ("DefaultTime=00:10:00", "DefaultTime=NONE", "default_time_s", None),
        ("PreemptMode=REQUEUE", "PreemptMode=GANG,SUSPEND", "preempt_mode", "GANG,SUSPEND"),
        ("State=UP", "State=DRAIN", "state", "DRAIN"),
    ],
)
def test_partitions_of_other_sites_are_parsed(before, after, field, expected):
    found = site.parse_partitions(PARTITIONS.replace(before, after))
    assert getattr(found["preempt"], field) == expected


@pytest.mark.parametrize(
    ("wanted", "values", "expected"),
    [
        ("auto", {}, ("requeue", 5, "a requeued job waits up to 5 s (cred_expire)")),
        (
            "auto",
            {"AuthInfo": "(null)"},
            ("chain", 10, "starts sooner: a requeued job waits up to 120 s (cred_expire)"),
        ),
        ("auto", {"SchedulerParameters": "requeue_delay=1"}, ("requeue", 1, "up to 1 s (requeue_delay)")),
        ("auto", {"SlurmctldParameters": "enable_expedited_requeue"}, ("expedite", 0, "enable_expedited_requeue")),
        ("requeue", {"AuthInfo": "(null)"}, ("requeue", 120, "up to 120 s")),
        ("chain", {"SlurmctldParameters": "enable_expedited_requeue"}, ("chain", 10, "a successor waits")),
        ("off", {}, ("off", None, "set by the spec")),
    ],
)
def test_choose_requeue(wanted, values, expected):
    """A preempted run waited two minutes where the site would have let it come back in the same second."""
    choice = site.choose_requeue(wanted, site.parse_site_settings(config_with(**values)))
    assert (choice.mode, choice.wait_s) == expected[:2]
    assert expected[2] in choice.why


def test_auto_without_settings_is_requeue():
    assert site.choose_requeue("auto", None).mode == "requeue"
    assert site.choose_requeue("chain", None).mode == "chain"


@pytest.mark.parametrize("version", versions_with("show_qos.txt"))
def test_qualities_of_service_are_parsed(version):
    assert site.parse_qos_limits(recorded(version, "show_qos.txt")) == {
        "normal": QosLimits(0, "CLUSTER"),
        "scavenge": QosLimits(150, "REQUEUE"),
    }


def test_unknown_partition_is_refused_with_the_existing_ones():
    assert site.chosen_partition(None, TEST_PARTITIONS) == TEST_PARTITIONS["gpu"]
    assert site.chosen_partition(None, {"high": TEST_PARTITIONS["high"]}) is None
    with pytest.raises(ClusterError, match=r"no partition 'gpus' here; there are gpu, high, preempt"):
        site.chosen_partition("gpus", TEST_PARTITIONS)


def test_failed_query_has_the_message_of_slurm():
    with pytest.raises(ClusterError, match="Access/permission denied"):
        site.partitions(run=lambda *_: Finished(1, "", "slurm_load_partitions error: Access/permission denied\n"))


def test_real_cluster_equals_the_recorded_one(in_slurm):
    settings = site.site_settings()
    assert settings == dataclasses.replace(TEST_CLUSTER, version=settings.version)
    assert tuple(int(part) for part in settings.version.split(".")[:2]) == in_slurm.version
    assert site.partitions() == TEST_PARTITIONS
    assert site.qos_limits() == {"normal": QosLimits(0, "CLUSTER")}
