"""Check whether runs survive how this site interrupts jobs: `examine` queries Slurm; `findings` is pure."""

from hpc_yolo.doctor.findings import Finding
from hpc_yolo.doctor.partition_checks import partition_warnings
from hpc_yolo.doctor.report import Report, examine, find_measured

__all__ = ["Finding", "Report", "examine", "find_measured", "partition_warnings"]
