"""The Python of a job, checked before it is queued."""

from __future__ import annotations

import sys

import pytest

from hpc_yolo.cluster.interpreter import require_python
from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.schema import ClusterSpec


@pytest.mark.parametrize(
    ("python", "setup", "message"),
    [
        ("/nowhere/bin/python", [], None),  # it may be there on compute nodes
        ("python3", [], None),
        (sys.executable, [], None),
        ("/bin/true", [], None),
        ("/bin/false", [], "/bin/false cannot import hpc_yolo"),
        ("/bin/false", ["true"], None),  # setup may change what it finds
        ("/etc/passwd", [], "/etc/passwd cannot import hpc_yolo: Permission denied"),
    ],
)
def test_python_without_this_package_is_refused_where_it_exists_here(
    python: str, setup: list[str], message: str | None
) -> None:
    cluster = ClusterSpec(python=python, setup=setup)
    if message is None:
        require_python(cluster)
    else:
        with pytest.raises(SpecError, match=message):
            require_python(cluster)
