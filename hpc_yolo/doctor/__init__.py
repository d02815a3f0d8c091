"""Whether a run survives what this site does to its jobs: `examine` asks Slurm; the findings themselves are pure."""

from hpc_yolo.doctor.findings import Finding, losses, obstacles, startable
from hpc_yolo.doctor.report import Report, examine, find_measured

__all__ = ["Finding", "Report", "examine", "find_measured", "losses", "obstacles", "startable"]
