"""The page of `hpc-yolo data check`: every kind of finding with its images, whole without a network."""

import base64
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from html_page import Page
from image_sets import JPEG, add, encoded, make_set

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import DataError
from hpc_yolo.data.check.illustrations import EMPHASISED_BGR, SIDE_PIXELS, illustrate
from hpc_yolo.data.check.kinds import KINDS
from hpc_yolo.data.check.result import Finding, Item
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats import open_split

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def dirty(tmp_path):
    """The dataset YAML of a set with an unusable image, a tiny box, equal images and a hostile class name."""
    root = make_set(tmp_path / "set")
    add(root, "good.jpg", label="0 0.5 0.5 0.5 0.5\n0 0.2 0.2 0.001 0.1\n")
    add(root, "same.jpg")
    add(root, "cut.jpg", JPEG[: len(JPEG) // 2])
    (root / "d.yaml").write_text(f"train: images/train\nnames: [cat, '{HOSTILE}']\n")
    return root / "d.yaml"


def run(*arguments):
    return CliRunner().invoke(cli, ["data", "check", *map(str, arguments)])


def decoded(source):
    content = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)


def test_page_has_totals_findings_and_classes(dirty, tmp_path):
    path = tmp_path / "check.html"
    result = run(dirty, "--split", "train", "--html", path)
    assert result.exit_code == 3 and f"page with images: {path}" in result.output
    text = path.read_text()
    assert HOSTILE not in text
    page = Page(text)
    for section, texts in {
        "summary": ["images 3", "left out 1", "errors 1", "all 60x40"],
        "findings": ["not decodable completely", "cut.jpg", "same.jpg", "good.txt:2", "class without an object"],
        "classes": ["cat", HOSTILE, "train"],
    }.items():
        for expected in texts:
            assert expected in " ".join(page.sections[section].split()), section
    images = [decoded(source) for source in page.sources if source.startswith("data:")]
    assert len(images) == 4, "the cut one, a pair, a box"
    assert {max(image.shape) for image in images} == {SIDE_PIXELS}


def test_name_that_is_no_text_is_shown_with_its_bytes(dirty, tmp_path):
    name = os.fsencode(dirty.parent / "images" / "train") + b"/cut\xe9.png"
    Path(os.fsdecode(name)).write_bytes(b"no image")
    assert run(dirty, "--split", "train", "--html", tmp_path / "c.html").exit_code == 3
    assert "cut\\udce9.png" in (tmp_path / "c.html").read_text()


def test_page_of_a_clean_dataset_has_no_images(tmp_path):
    root = make_set(tmp_path / "set")
    add(root, "good.jpg", label="0 0.5 0.5 0.5 0.5\n1 0.2 0.2 0.2 0.2\n")
    assert run(root / "d.yaml", "--split", "train", "--html", tmp_path / "c.html").exit_code == 0
    page = Page((tmp_path / "c.html").read_text())
    assert "None." in page.sections["findings"] and not [source for source in page.sources if "data:" in source]


def test_box_of_the_finding_is_emphasised(tmp_path):
    root = make_set(tmp_path / "set")
    plain = np.full((200, 320, 3), 120, dtype=np.uint8)
    add(root, "x.png", encoded(".png", plain), label="0 0.25 0.5 0.2 0.2\n0 0.75 0.5 0.2 0.2\n")
    (root / "d.yaml").write_text("train: images/train\nnames: [cat]\n")
    readers = {"train": open_split(load_dataset(root / "d.yaml", needed_splits=("train",)), "train")}
    image = str(root / "images" / "train" / "x.png")
    finding = Finding(KINDS["tiny-box"], "train", 1, [Item("x.txt:2", image=image, box=2)])
    (shown,) = illustrate([finding], readers)
    pixels = cv2.imdecode(np.frombuffer(shown.jpeg, dtype=np.uint8), cv2.IMREAD_COLOR).astype(int)
    red = (np.abs(pixels - EMPHASISED_BGR).sum(axis=2) < 120).nonzero()[1]
    assert len(red) and red.min() > 160


@pytest.mark.parametrize("change", ["removed", "no image"])
def test_image_that_cannot_be_drawn_is_left_out(dirty, change):
    readers = {"train": open_split(load_dataset(dirty, needed_splits=("train",)), "train")}
    image = dirty.parent / "images" / "train" / "good.jpg"
    image.unlink() if change == "removed" else image.write_bytes(b"no image")
    finding = Finding(KINDS["background"], "train", 1, [Item(str(image), image=str(image))])
    assert list(illustrate([finding], readers)) == []


def test_worst_findings_are_shown_and_of_each_image_one():
    items = [Item(f"{image}:{weight}", image=image, weight=weight) for image in "abc" for weight in range(3)]
    worst = Finding(KINDS["beyond-frame"], "train", 9, [*items, Item("d:9", image="d", weight=9)]).worst(3)
    assert [item.where for item in worst] == ["d:9", "a:2", "b:2"]


def test_page_that_cannot_be_written_is_an_error(dirty, tmp_path):
    missing = run(dirty, "--split", "train", "--html", tmp_path / "no" / "c.html")
    assert missing.exit_code == 2 and "there is no directory" in missing.output
    (tmp_path / "c.html").mkdir()
    assert run(dirty, "--split", "train", "--html", tmp_path / "c.html").exit_code == 2
    assert DataError.exit_code == 3
