"""The check of `make test` on coverage."""

import pytest
from coverage_floors import Floor, below

FILES = {
    "hpc_yolo/a/x.py": {
        "summary": {"covered_lines": 90, "num_statements": 100, "covered_branches": 3, "num_branches": 4}
    },
    "hpc_yolo/b/y.py": {
        "summary": {"covered_lines": 100, "num_statements": 100, "covered_branches": 0, "num_branches": 0}
    },
}


@pytest.mark.parametrize(
    ("floor", "is_reached"),
    [
        (Floor("hpc_yolo/", "lines", 95), True),
        (Floor("hpc_yolo/", "lines", 95.1), False),
        (Floor("hpc_yolo/a/", "lines", 91), False),
        (Floor("hpc_yolo/b/", "lines", 100), True),
        (Floor("hpc_yolo/", "branches", 75), True),
        (Floor("hpc_yolo/a/", "branches", 76), False),
        (Floor("hpc_yolo/gone/", "lines", 1), False),
    ],
    ids=str,
)
def test_floor_counts_files_below_its_path(floor, is_reached):
    assert (below(FILES, [floor]) == []) is is_reached
