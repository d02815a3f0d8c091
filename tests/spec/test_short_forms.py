"""Sections that may be written as the value of one of their fields."""

from __future__ import annotations

import pytest

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import Override, load_spec

HEAD = "name: a\nmodel: yolov5n\n"
DATA = DataSpec(path="/sets/d.yaml")


@pytest.mark.parametrize("written", ["data: /sets/d.yaml", "data: {path: /sets/d.yaml}", "data:\n  path: /sets/d.yaml"])
def test_path_alone_is_the_section_with_that_path(tmp_path, written):
    (tmp_path / "spec.yaml").write_text(f"{HEAD}{written}\n")
    assert load_spec(tmp_path / "spec.yaml").data == DATA


@pytest.mark.parametrize("written", ["data: d.yaml", "data: {path: d.yaml}", "data: null", ""])
@pytest.mark.parametrize("field", ["data", "data.path"])
def test_command_line_sets_path_of_either_form(tmp_path, written, field):
    (tmp_path / "spec.yaml").write_text(f"{HEAD}{written}\n")
    assert load_spec(tmp_path / "spec.yaml", [Override(field, "/sets/d.yaml", f"--set {field}")]).data == DATA


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("data:", r"(?s)spec.yaml:3:\d: data.path: is missing, and so is train.*allowed: path: d.yaml, or the dataset"),
        ("", r"(?s)data: is missing.*allowed: a dataset YAML, or a section with its path"),
        ("data: [a.yaml]", r"spec.yaml:3:7: data: must hold fields"),
        ("data: {pth: a.yaml}", r"(?s)spec.yaml:3:8: data.pth: unknown field.*allowed: path is the nearest"),
    ],
)
def test_section_without_a_path_is_refused(tmp_path, written, message):
    (tmp_path / "spec.yaml").write_text(f"{HEAD}{written}\n")
    with pytest.raises(SpecError, match=message):
        load_spec(tmp_path / "spec.yaml")
