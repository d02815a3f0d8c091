"""SBATCH_ variables of a shell: those that the script does not override reach sbatch."""

import pytest

from hpc_yolo.cluster.sbatch_variables import split_variables


@pytest.mark.parametrize(
    ("variable", "options", "applies"),
    [
        ("SBATCH_PARTITION", ["partition"], False),
        ("SBATCH_PARTITION", [], True),
        ("SBATCH_TIMELIMIT", ["time"], False),
        ("SBATCH_ACCOUNT", ["partition"], True),
        ("SBATCH_MEM_PER_CPU", ["mem"], False),  # the two exclude each other
        ("SBATCH_MEM_PER_NODE", ["mem-per-gpu"], False),
        ("SBATCH_MEM_PER_NODE", [], True),
        ("SBATCH_CPUS_PER_GPU", ["cpus-per-task"], False),
        ("SBATCH_TRES_PER_TASK", ["cpus-per-task"], False),
        ("SBATCH_CONSTRAINT", ["constraint"], False),
        ("SBATCH_THREADS_PER_CORE", ["threads-per-core"], False),
        ("SBATCH_CPU_FREQ_REQ", ["cpu-freq"], False),
        ("SBATCH_BURST_BUFFER", ["bb"], False),
        ("SBATCH_EXCLUSIVE", [], True),
        ("SBATCH_EXPORT", [], True),
        ("SBATCH_A_NAME_OF_27_05", ["partition"], True),
        *((f"SBATCH_{name}", [], False) for name in ("NO_REQUEUE", "REQUEUE", "OUTPUT", "ERROR", "OPEN_MODE", "WAIT")),
        *((f"SBATCH_{name}", [], False) for name in ("ARRAY_INX", "JOB_NAME", "SIGNAL", "CLUSTERS")),
        *((f"SBATCH_{name}", [], False) for name in ("GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK", "GRES")),
    ],
)
def test_variable_applies_where_the_script_has_no_such_option(variable, options, applies):
    """sbatch puts variables above the lines of a script: the script that is shown would not be what counts."""
    environ = {variable: "x", "PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf"}
    kept, ignored = split_variables(environ, options)
    assert (kept, ignored) == (({variable: "x"}, {}) if applies else ({}, {variable: "x"}))
