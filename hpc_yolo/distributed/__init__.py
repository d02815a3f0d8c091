"""The process group of an attempt: devices, rendezvous, collectives."""

from hpc_yolo.distributed.device import choose_device, make_deterministic
from hpc_yolo.distributed.group import connected
from hpc_yolo.distributed.rendezvous import launcher_store
from hpc_yolo.distributed.world import StepRequest, StopAgreement, World

__all__ = [
    "StepRequest",
    "StopAgreement",
    "World",
    "choose_device",
    "connected",
    "launcher_store",
    "make_deterministic",
]
