"""`hpc-yolo data convert`: what it prints, and how it refuses."""

import json

from click.testing import CliRunner
from coco_sets import image, one, write_coco
from image_sets import add, make_set

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import DataError


def run(*arguments):
    return CliRunner().invoke(cli, ["data", "convert", *map(str, arguments)])


def test_counts_are_printed_with_what_was_lost(tmp_path):
    write_coco(tmp_path / "coco", [one(), one(iscrowd=1), one(2, category=99)], [image(1), image(2)])
    result = run(tmp_path / "coco" / "d.yaml", tmp_path / "to", "--to", "yolo")
    assert result.exit_code == 0, result.output
    counts = "train 1 image with 1 object, val 1 image with 1 object"
    assert result.stdout == f"{tmp_path / 'to' / 'dataset.yaml'}: {counts}\n"
    for text in ("2 images left out:", "annotations[2]: category_id 99", "2 objects left out: crowds"):
        assert text in result.stderr
    again = run(tmp_path / "coco" / "d.yaml", tmp_path / "to", "--to", "yolo", "--exist-ok")
    assert again.stdout.endswith("; it was there already\n")


def test_json_has_all_of_it(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "a.jpg")
    found = json.loads(run(root / "d.yaml", tmp_path / "to", "--to", "voc", "--json").stdout)
    assert found["splits"]["train"] == {"num_images": 1, "num_objects": 1, "num_left_out": 0}
    assert (found["format"], found["images"], found["lost"]) == ("voc", "none", {})


def test_json_names_files_that_are_not_utf_8(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "a.jpg")
    add(root, "caf\udce9.jpg", label="9 0.5 0.5 0.5 0.5")
    found = json.loads(run(root / "d.yaml", tmp_path / "to", "--to", "yolo", "--json").stdout)
    assert "caf\udce9.txt:1: class 9" in found["problems"][0]


def test_labels_alone_say_where_the_images_belong(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "a.jpg")
    result = run(root / "d.yaml", tmp_path / "to", "--to", "yolo", "--images", "none")
    assert f"put the images of each split into {tmp_path / 'to' / 'images'}/SPLIT" in result.stderr


def test_refusal_has_no_traceback(tmp_path):
    result = run(tmp_path / "gone.json", tmp_path / "to", "--to", "yolo")
    assert isinstance(result.exception, DataError)
    assert "gone.json" in result.exception.message
    assert not (tmp_path / "to").exists()
