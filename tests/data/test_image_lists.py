"""Lists of images as labelling tools, Windows and shells write them; a line without an image is named."""

import re
import unicodedata

import cv2
import numpy as np
import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats.yolo_files import label_path
from hpc_yolo.data.image_files import find_images
from hpc_yolo.data.scan import scan_split

PIXELS = np.random.default_rng(0).integers(0, 256, size=(32, 48, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    """root/set/images/train has a.jpg and b.jpg; lists are written to root/set/lists."""
    root = tmp_path / "root"
    images = root / "set" / "images" / "train"
    images.mkdir(parents=True)
    for name in "ab":
        cv2.imwrite(str(images / f"{name}.jpg"), PIXELS)
    (root / "set" / "lists").mkdir()
    return root


def found(root, text: str | bytes):
    path = root / "set" / "lists" / "train.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return find_images((path,))


@pytest.mark.parametrize(
    "text",
    [
        "../images/train/a.jpg\n../images/train/b.jpg\n",
        "{root}/set/images/train/a.jpg\n{root}/set/images/train/b.jpg",
        "./images/train/a.jpg\nimages/train/b.jpg\n",
        "set/images/train/a.jpg\r\n\r\n  set/images/train/b.jpg  \r\n",
        "data/set/images/train/a.jpg\ndata/set/images/train/b.jpg\n",
        "/home/annotator/project/images/train/a.jpg\n/home/annotator/project/images/train/b.jpg\n",
        "images\\train\\a.jpg\r\nimages\\train\\b.jpg\r\n",
        "C:\\sets\\images\\train\\a.jpg\r\nC:\\sets\\images\\train\\b.jpg\r\n",
        "C:/data/images/train/a.jpg\nC:/sets/images/train/b.jpg\n",
        "\"../images/train/a.jpg\"\n'../images/train/b.jpg',\n",
        "file://{root}/set/images/train/a.jpg\nfile:///elsewhere/images/train/b.jpg\n",
        "# made by a tool\n../images/train/a.jpg\n\n# end\n../images/train/b.jpg",
        b"\xef\xbb\xbf../images/train/a.jpg\n../images/train/b.jpg\n",
        "../images/train/a.jpg\n../images/train/b.jpg\n".encode("utf-16"),
    ],
    ids=[
        *(
            "list's directory",
            "absolute",
            "above the list",
            "crlf and blanks",
            "prefix",
            "another machine",
            "backslashes",
        ),
        *("drive", "drive with slashes", "quotes", "file url", "comments", "byte order mark", "utf-16"),
    ],
)
def test_lists_of_many_tools_name_the_same_images(root, text):
    listed = found(root, text.replace("{root}", str(root)) if isinstance(text, str) else text)
    assert [path.name for path in listed.paths] == ["a.jpg", "b.jpg"]
    assert all(path.samefile(root / "set" / "images" / "train" / path.name) for path in listed.paths)
    assert listed.problems == ()


def test_names_with_spaces_percent_signs_and_of_old_code_pages_are_found(root):
    images = root / "set" / "images" / "train"
    names = [b"with space.jpg", b"100%25.jpg", b"gr\xfcn.jpg", b"back\\slash.jpg"]
    for name in names:
        (images / name.decode(errors="surrogateescape")).write_bytes((images / "a.jpg").read_bytes())
    listed = found(root, b"".join(b"../images/train/" + name + b"\n" for name in names))
    assert (len(listed.paths), listed.problems) == (4, ())


def test_space_in_a_file_url_is_decoded(root):
    (root / "set" / "images" / "train" / "a.jpg").rename(root / "set" / "images" / "train" / "a b.jpg")
    assert found(root, f"file://{root}/set/images/train/a%20b.jpg\n").paths[0].name == "a b.jpg"


def test_accents_are_found_composed_or_not(root):
    """A list from macOS, images from an archive that was packed on Linux."""
    composed = unicodedata.normalize("NFC", "Straße é.jpg")
    (root / "set" / "images" / "train" / composed).write_bytes(b"x")
    listed = found(root, f"../images/train/{unicodedata.normalize('NFD', composed)}\n")
    assert [path.name for path in listed.paths] == [composed]


def test_list_elsewhere_names_images_below_the_path_of_the_yaml(root, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "list.txt").write_text("images/train/a.jpg\n")
    path = tmp_path / "mine" / "d.yaml"
    path.write_text(f"path: {root / 'set'}\ntrain: {tmp_path}/mine/list.txt\nval: images/train\nnames: [cat]\n")
    index = scan_split(load_dataset(path), "train", needs_labels=False)
    assert index.paths == (str(root / "set" / "images" / "train" / "a.jpg"),)


def test_paths_relative_to_the_working_directory_are_found(root, monkeypatch):
    monkeypatch.chdir(root / "set" / "images")
    assert found(root, "train/a.jpg\n").paths == (root / "set" / "images" / "train" / "a.jpg",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gone/c.jpg", r"train\.txt:2: gone/c\.jpg does not exist \(looked for .*/lists/gone/c\.jpg, .*\)"),
        ("/gone/c.jpg", r"train\.txt:2: /gone/c\.jpg does not exist \(looked for /gone/c\.jpg, and without its first"),
        ("https://example.org/c.jpg", r"train\.txt:2: https.* is an address"),
        ("c.jpg 10,20,30,40,0", r"train\.txt:2: 'c\.jpg 10,20,30,40,0' does not end in the suffix of an image"),
        ("images/train", r"train\.txt:2: 'images/train' does not end"),
        (f"{'x' * 300}.jpg", r"train\.txt:2: x*\.jpg does not exist"),
    ],
)
def test_line_without_an_image_is_named_with_searched_paths(root, line, message):
    listed = found(root, f"../images/train/a.jpg\n{line}\n")
    assert len(listed.paths) == 1
    (problem,) = listed.problems
    assert re.search(message, problem)


def test_lines_without_an_image_are_left_out_and_counted_by_a_scan(root):
    (root / "set" / "labels" / "train").mkdir(parents=True)
    (root / "set" / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    found(root, "../images/train/a.jpg\n../images/train/gone.jpg\n")
    (root / "set" / "d.yaml").write_text("train: lists/train.txt\nval: lists/train.txt\nnames: [cat]\n")
    for _ in range(2):  # the second from the cache
        index = scan_split(load_dataset(root / "set" / "d.yaml"), "val")
        assert (index.num_images, index.num_corrupt) == (1, 1)
        assert index.messages[0] == "val: 1 image left out:"
        assert "train.txt:2: ../images/train/gone.jpg does not exist" in index.messages[1]


def test_list_without_any_image_is_an_error_with_its_first_lines(root):
    with pytest.raises(
        DataError, match=r"no images in .*train\.txt: 2 lines cannot be used\n.*train\.txt:1: gone/a"
    ) as caught:
        found(root, "gone/a.jpg\ngone/c.jpg\n")
    assert "relative to the directory of the list" in caught.value.hint


def test_two_lines_for_one_image_are_refused(root):
    """The cameras' directories are gone, and only one a.jpg is here."""
    (root / "set" / "train").symlink_to("images/train")
    with pytest.raises(DataError, match=r"txt:2: cam2/train/a\.jpg and cam1/train/a\.jpg do not exist, and wi.* both"):
        found(root, "cam1/train/a.jpg\ncam2/train/a.jpg\n")


def test_paths_found_without_their_first_directories_are_noted_once(root):
    listed = found(root, "/home/x/images/train/a.jpg\n/home/x/images/train/b.jpg\n")
    (note,) = listed.notes
    assert "train.txt: 2 paths found without the first directories, such as /home/x/images/train/a.jpg as " in note
    assert found(root, "../images/train/a.jpg\n").notes == ()


def test_name_alone_is_not_searched_in_the_working_directory(root, monkeypatch):
    """Without all of its directories a path may be any file of that name."""
    monkeypatch.chdir(root / "set" / "images" / "train")
    with pytest.raises(DataError, match="no images in"):
        found(root, "/home/x/elsewhere/a.jpg\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xd8\xff\xe0", "is not a list of images"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is not text"),
        (b'{"images": []}\n', "none of its lines ends in the suffix"),
        (b"", "no images in"),
        (b"\n\n", "no images in"),
    ],
)
def test_file_that_is_no_list_is_refused(root, content, message):
    with pytest.raises(DataError, match=message):
        found(root, content)


def test_image_given_as_a_list_is_refused(tmp_path):
    (tmp_path / "one.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="is not a list of images"):
        find_images((tmp_path / "one.jpg",))


def test_image_behind_two_dots_has_the_path_of_its_directory(root):
    """`images` in images/../photos is no directory of the image, so that its label file is beside it."""
    photos = root / "set" / "photos"
    (root / "set" / "images" / "train").rename(photos)
    listed = root / "set" / "images" / "train.txt"
    listed.write_text("../photos/a.jpg\n../../set/photos/b.jpg\nphotos/a.jpg\n")
    assert find_images((listed, photos)).paths == (photos / "a.jpg", photos / "b.jpg")
    assert label_path(find_images((listed,)).paths[0]) == photos / "a.txt"


@pytest.mark.parametrize("linked", ["lists", "lists images"])
def test_labels_are_beside_a_link_to_images_behind_two_dots(root, linked):
    """A list in a linked directory names ../images, whose images are themselves in a directory without labels."""
    (root / "set" / "images").rename(root / "shared")
    (root / "set" / "images").symlink_to(root / "shared")
    (root / "set" / "lists" / "train.txt").write_text("../images/train/a.jpg\n")
    (root / "project").mkdir()
    for name in linked.split():
        (root / "project" / name).symlink_to(root / "set" / name)
    image = find_images((root / "project" / "lists" / "train.txt",)).paths[0]
    assert label_path(image) == root / "set" / "labels" / "train" / "a.txt"
