"""Detection of a rank that makes no progress, which ends the attempt.

`Watchdog` is all that the rest of the package uses. `stall` holds the time limits of one rank, `diagnosis` finds the
ranks that hold up the others, `heartbeats` exchanges both over the store, `peers` acts on processes of this machine.
"""

from hpc_yolo.training.watchdog.watchdog import Watchdog

__all__ = ["Watchdog"]
