"""A loader worker that is killed just while it hands over a batch: the run counts it as killed, not as a mistake."""

import multiprocessing
import os
import pickle
from multiprocessing.reduction import ForkingPickler
from multiprocessing.resource_sharer import DupFd

from hpc_yolo.core.errors import LostProcessError
from hpc_yolo.training.failure import explained


def offer_and_die(connection) -> None:
    connection.send_bytes(ForkingPickler.dumps(DupFd(0)))
    os._exit(9)


def test_the_memory_of_a_dead_worker_is_a_lost_worker():
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=offer_and_die, args=(theirs,))
    worker.start()
    offered = pickle.loads(ours.recv_bytes())
    worker.join(20)
    ours.close()
    theirs.close()
    try:
        offered.detach()
    except (OSError, EOFError) as error:
        raised: Exception = error
    assert isinstance(explained(raised), LostProcessError)


def test_a_file_that_is_not_there_is_no_lost_worker():
    error = FileNotFoundError("image.jpg")
    assert explained(error) is error
