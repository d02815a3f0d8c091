"""hpc-yolo: one YAML spec goes in, Slurm jobs train a YOLOv5-family detector on any number of nodes.

Importing the package imports nothing heavy: torch is loaded by the packages that train (see docs/design.md).
"""

__version__ = "0.1.0"
