"""Where the images of COCO's and VOC's files are looked for, if a directory there cannot be listed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from coco_sets import image, one, scanned, write_coco
from voc_sets import write_voc, xml_file, xml_object

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats import open_split
from hpc_yolo.data.formats.coco_images import NUM_TRIED


def write_dataset(root: Path, kind: str) -> str:
    """Write a dataset with an image, and return the name of the directory of that."""
    if kind == "voc":
        write_voc(root, {"1": xml_file(xml_object(), file_name="other.jpg")}, yaml="names: [cat]\n")
        return "JPEGImages"
    data = write_coco(root, [one()])
    (root / "pictures").rename(root / "train")
    data.write_text(data.read_text().replace("images: pictures", "images: train" if kind == "coco" else ""))
    return "train"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("coco", "1.jpg may be in .*/train, which cannot be listed: Permission denied"),
        ("coco without images", "1.jpg may be in .*/train, which cannot be listed: Permission denied"),
        ("voc", "1.xml: .*; .*/JPEGImages cannot be listed: Permission denied"),
    ],
)
def test_images_in_a_directory_that_cannot_be_listed_do_not_count_as_missing(tmp_path, monkeypatch, kind, message):
    """Root may list any directory, so the refusal is made here."""
    directory, real = write_dataset(tmp_path, kind), os.listdir

    def listdir(path):
        if Path(path).name == directory:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    dataset = load_dataset(tmp_path / "d.yaml")
    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(DataError, match=message):
        open_split(dataset, "train")


@pytest.mark.parametrize("error", [errno.EACCES, errno.ENAMETOOLONG], ids=errno.errorcode.get)
def test_images_beside_a_directory_that_cannot_be_listed_are_found(tmp_path, monkeypatch, error):
    """Also where the directory of all images has to be guessed, as the first of them are in that one."""
    entries = [image(number, file_name=f"shut/{number}.jpg") for number in range(NUM_TRIED)]
    write_coco(tmp_path, [one(99)], [*entries, image(99, file_name="open/99.jpg")])
    (tmp_path / "pictures" / "open").mkdir()
    (tmp_path / "pictures" / "99.jpg").rename(tmp_path / "pictures" / "open" / "99.jpg")
    for path in (tmp_path / "pictures").glob("*.jpg"):
        path.unlink()
    real = os.listdir

    def listdir(path):
        if "shut" in Path(path).parts:
            raise OSError(error, os.strerror(error), str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    index = scanned(tmp_path)
    assert [Path(path).name for path in index.paths] == ["99.jpg"]
    assert f"0.jpg may be in {tmp_path}/pictures/shut, which cannot be listed" in " ".join(index.messages)
