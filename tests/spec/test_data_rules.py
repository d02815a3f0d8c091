"""The section `data` with a dataset YAML, or with the dataset itself."""

from __future__ import annotations

import pytest

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.fingerprint import learned_digest, learned_fields
from hpc_yolo.spec.load import dump_spec, load_resolved_spec, load_spec
from hpc_yolo.spec.schema import Spec

HEAD = "name: a\nmodel: yolov5n\ndata: "
INLINE = "{format: coco, train: a.json, val: [b.json, c.json], images: pictures, names: [cat]}"


def loaded(tmp_path, text):
    (tmp_path / "spec.yaml").write_text(HEAD + text + "\n")
    return load_spec(tmp_path / "spec.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{stage: auto}", "data.path: is missing, and so is train"),
        ("{val: b.json}", "data.path: is missing, and so is train, although val is there"),
        ("{path: d.yaml, train: a.json}", "data.train: is a key of the dataset YAML, and path names one: d.yaml"),
        ("{path: d.yaml, format: coco}", "data.format: is a key of the dataset YAML"),
        ("{format: coco, train: a.json}", "data.val: is missing"),
        ("{train: a, val: b}", "data.names: is missing: labels of yolo have none"),
        ("{format: coconut, train: a, val: b}", "(?s)data.format: .*allowed: .*yolo.*coco.*voc"),
        ("{train: a, val: b, names: [c], images: d}", "data.images: is for format: coco and voc"),
        ("{format: coco, train: a, val: b, annotations: d}", "data.annotations: is for format: voc"),
        ("{format: coco, train: a, val: b, difficult: drop}", "data.difficult: is for format: voc"),
        (
            "{format: coco, train: '$TMPDIR_/a', val: x$D}",
            "data.train: 'x.D' depends on a variable and on the working directory",
        ),
    ],
)
def test_contradictions_are_refused_with_their_place(tmp_path, text, message):
    with pytest.raises(SpecError, match=rf"spec.yaml:3:\d+: {message}" if "(?s)" not in message else message):
        loaded(tmp_path, text)


def test_paths_become_absolute_beside_the_spec_then_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "spec").mkdir()
    (tmp_path / "spec" / "a.json").touch()
    monkeypatch.chdir(tmp_path)
    data = loaded(tmp_path / "spec", INLINE).data
    assert data.train == str(tmp_path / "spec" / "a.json")
    assert data.val == [str(tmp_path / "b.json"), str(tmp_path / "c.json")]
    assert (data.images, data.path, data.annotations) == (str(tmp_path / "pictures"), "", "")
    assert data.described == data.train
    assert data.paths == [data.train, *data.val, data.images]


def test_paths_with_variables_stay_as_they_are_written(tmp_path):
    data = loaded(tmp_path, "{format: coco, train: $SLURM_TMPDIR/a.json, val: ~/b.json, names: [cat]}").data
    assert (data.train, data.val) == ("$SLURM_TMPDIR/a.json", "~/b.json")


def test_spec_is_written_and_read_as_the_same(tmp_path):
    spec = loaded(tmp_path, INLINE)
    (tmp_path / "resolved.yaml").write_text(dump_spec(spec))
    assert load_resolved_spec(tmp_path / "resolved.yaml") == spec


def test_dataset_itself_decides_what_is_learned():
    one, other = (Spec(name="r", data=DataSpec(train="a.json", val="b", format=kind)) for kind in ("coco", "voc"))
    assert learned_digest(one) != learned_digest(other)
    assert learned_fields(one)["data.train"] == "a.json"
