import gc

import pytest

from hpc_yolo.core.collector import collector_paused


def test_nothing_is_collected_in_the_block():
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_error_and_a_collector_that_was_disabled_leave_it_as_it_was():
    with pytest.raises(ImportError), collector_paused():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
