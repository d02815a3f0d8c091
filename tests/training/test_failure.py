"""A loader worker that is killed while it passes on a batch is a lost process, not an error of the program."""

import multiprocessing
import os
import pickle
from multiprocessing.reduction import ForkingPickler
from multiprocessing.resource_sharer import DupFd

from hpc_yolo.core.errors import LostProcessError
from hpc_yolo.training.failure import explained


def send_and_exit(connection) -> None:
    connection.send_bytes(ForkingPickler.dumps(DupFd(0)))
    os._exit(9)


def test_memory_of_dead_worker_raises_lost_process_error():
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=send_and_exit, args=(theirs,))
    worker.start()
    received = pickle.loads(ours.recv_bytes())
    worker.join(20)
    ours.close()
    theirs.close()
    try:
        received.detach()
    except (OSError, EOFError) as error:
        raised: Exception = error
    assert isinstance(explained(raised), LostProcessError)


def test_missing_file_is_no_lost_worker():
    error = FileNotFoundError("image.jpg")
    assert explained(error) is error
