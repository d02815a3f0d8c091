"""What tests that train for real share."""

from spec_runs import events_of, hpc_yolo, shapes, write_spec

__all__ = ["events_of", "hpc_yolo", "shapes", "write_spec"]
