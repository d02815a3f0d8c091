"""Check whether runs survive how this site interrupts jobs: `examine` queries Slurm; `findings` is pure."""

from hpc_yolo.doctor.findings import Finding, losses, obstacles, startable
from hpc_yolo.doctor.report import Report, examine, find_measured

__all__ = ["Finding", "Report", "examine", "find_measured", "losses", "obstacles", "startable"]
