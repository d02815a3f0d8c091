"""Pascal VOC's format as it is: which objects an image has, which XML is refused, and where files are looked for."""

import math
import re
from pathlib import Path

import pytest
from image_sets import JPEG, make_samples, plain
from voc_sets import MIDDLE_SIDES, write_voc, xml_file, xml_object

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import dataset_content, load_dataset
from hpc_yolo.data.formats import open_split
from hpc_yolo.data.formats.objects import cut_box
from hpc_yolo.data.formats.yolo_labels import label_line
from hpc_yolo.data.image_count import count_images
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.scan import scan_split

MIDDLE = [0.5, 0.5, 0.5, 0.5]
DIFFICULT = "<difficult>1</difficult>"


def scanned(root: Path, **options) -> ImageIndex:
    return scan_split(load_dataset(root / "d.yaml"), "train", **options)


def rounded(index: ImageIndex) -> list:
    return [[round(number, 6) for number in row] for row in index.labels[0].tolist()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (xml_file(xml_object()), [[0, *MIDDLE]]),
        (xml_file(xml_object("dog")), [[1, *MIDDLE]]),
        (xml_file(xml_object(" dog\n")), [[1, *MIDDLE]]),
        (xml_file(xml_object(), width=0), [[0, *MIDDLE]]),
        (xml_file(xml_object(), width="inf", height="nan"), [[0, *MIDDLE]]),
        (xml_file(xml_object(sides=(1, 1, 60, 40))), [[0, 0.5, 0.5, 1, 1]]),
        (xml_file(xml_object(sides=(0, 0, 60, 40))), [[0, 0.5, 0.5, 1, 1]]),
        (xml_file(xml_object(sides=(16.0, 11.0, 45.0, 30.0))), [[0, *MIDDLE]]),
        (xml_file(xml_object(sides=(5, 5, 5, 5))), [[0, 0.075, 0.1125, 0.016667, 0.025]]),
        (xml_file(xml_object(sides=(9, 9, 5, 5))), []),
        (xml_file(xml_object("horse")), []),
        (xml_file(xml_object(more="<part><name>head</name><bndbox/></part>")), [[0, *MIDDLE]]),
        (xml_file(xml_object(more=DIFFICULT)), [[0, *MIDDLE]]),
        (xml_file(xml_object(), xml_object()), [[0, *MIDDLE]]),
        (xml_file(), []),
        ('<?xml version="1.0"?>' + xml_file(xml_object()), [[0, *MIDDLE]]),
    ],
)
def test_object_becomes_the_label_of_its_box(tmp_path, text, expected):
    write_voc(tmp_path, {"1": text})
    assert rounded(scanned(tmp_path, needs_labels=False)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"1\.xml: is not XML: no element found"),
        ("words", r"1\.xml: is not XML"),
        *(
            (
                f'<?xml version="1.0" encoding="{name}"?>{xml_file()}',
                rf"1\.xml: is in an .* \({why}\); save it as UTF-8",
            )
            for name, why in (("gb2312", "multi-byte .*"), ("nothing", "unknown encoding: nothing"))
        ),
        ("<html/>", r"1\.xml: is not of Pascal VOC: it holds <html>, not <annotation>"),
        (xml_file("<object><name>cat</name></object>"), r"1\.xml: object 1 \(cat\): has no bndbox with a number xmin"),
        (xml_file(xml_object(sides=(1, 2, 3, "x"))), r"object 1 \(cat\): has no bndbox with a number ymax"),
        (xml_file(xml_object(sides=(1, 2, "nan", 3))), r"object 1 \(cat\): has no bndbox with a number xmax"),
        (xml_file(xml_object(sides=(1, "-inf", 3, 4))), r"object 1 \(cat\): has no bndbox with a number ymin"),
        (xml_file(xml_object(), xml_object("")), r"1\.xml: object 2: has no name"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + xml_file(xml_object("&b;")), r"1\.xml: has a document type \(a\)"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">' + xml_file(), r"has a document type"),
    ],
)
def test_invalid_xml_leaves_its_image_out(tmp_path, text, problem):
    write_voc(tmp_path, {"1": text, "2": xml_file(xml_object())})
    index = scanned(tmp_path)
    assert [Path(path).name for path in index.paths] == ["2.jpg"]
    assert re.search(problem, index.findings.problems.first[0]), index.findings.problems.first


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (xml_file(xml_object(), xml_object("horse")), r"\(.*1\.xml: object 2\) left out, of a class .* list \(horse\)"),
        (xml_file(xml_object(sides=(1, 1, 99, 9))), "object 1.* cut at the edges"),
        (xml_file(xml_object(), xml_object(sides=(70, 1, 99, 9))), "object 2.* left out, without an area"),
        (xml_file(xml_object(more=DIFFICULT)), "used although marked as difficult"),
        (xml_file(xml_object(), width=40, height=60), "1 of 1 image of another shape than is written"),
    ],
)
def test_unusual_objects_are_counted_with_the_first_also_from_the_cache(tmp_path, text, remark):
    write_voc(tmp_path, {"1": text})
    first, again = scanned(tmp_path), scanned(tmp_path)
    assert any(re.search(remark, message) for message in first.messages), first.messages
    assert plain(first) == plain(again)


@pytest.mark.parametrize("sides", [(0, 0.2, math.nan, 0.4), (0, math.nan, 0.5, 0.4), (math.nan,) * 4])
def test_box_with_a_side_that_is_not_a_number_has_no_area(sides):
    assert cut_box(*sides)[0] is None


@pytest.mark.parametrize("mark", ["1", "True", " true "])
def test_difficult_objects_can_be_dropped(tmp_path, mark):
    text = xml_file(
        xml_object(more=DIFFICULT.replace("1", mark)), xml_object("dog", more="<difficult>False</difficult>")
    )
    write_voc(tmp_path, {"1": text})
    assert [row[0] for row in rounded(scanned(tmp_path))] == [0, 1]
    write_voc(tmp_path, {"1": text}, yaml="names: [cat, dog]\ndifficult: drop\n")
    assert [row[0] for row in rounded(scanned(tmp_path))] == [1]
    write_voc(tmp_path, {"1": text}, yaml="names: [cat, dog]\ndifficult: some\n")
    with pytest.raises(DataError, match="difficult: 'some' is neither keep nor drop"):
        scanned(tmp_path)


def test_image_without_xml_is_background_and_xml_without_image_a_problem(tmp_path):
    write_voc(tmp_path, {"1": xml_file(xml_object()), "2": None, "3": xml_file(), "4": xml_file(file_name="4.jpg")})
    (tmp_path / "JPEGImages" / "4.jpg").unlink()
    index = scanned(tmp_path)
    assert (index.num_images, index.num_backgrounds, index.num_corrupt) == (3, 2, 1)
    text = "\n".join(index.messages)
    assert "4.xml: there is no image of that name in" in text
    assert "2 of 3 images without objects: 1 without a label file" in text


def test_image_without_xml_has_no_objects_to_convert(tmp_path):
    write_voc(tmp_path, {"1": None})
    reader = open_split(load_dataset(tmp_path / "d.yaml"), "train")
    assert reader.objects(reader.images[0]) == []


@pytest.mark.parametrize("source", ["ImageSets/Main/train.txt", "Annotations"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("1.XML", r"Annotations/1\.XML: is not read; the XML file of .*/1\.jpg must be called 1\.xml"),
        ("1.xml", r"Annotations/1\.xml: is a link to gone\.xml, which does not exist"),
    ],
)
def test_file_that_is_probably_meant_as_the_xml_leaves_its_image_out(tmp_path, source, name, problem):
    write_voc(tmp_path, {"1": None, "2": xml_file(xml_object())}, yaml="names: [cat]\n")
    (tmp_path / "d.yaml").write_text(f"format: voc\ntrain: {source}\nval: {source}\nnames: [cat]\n")
    scanned(tmp_path)
    (tmp_path / "Annotations" / name).symlink_to("gone.xml")
    index = scanned(tmp_path)
    assert [Path(path).name for path in index.paths] == ["2.jpg"]
    assert re.search(problem, index.findings.problems.first[0]), index.findings.problems.first


def test_image_whose_xml_cannot_be_examined_is_left_out(tmp_path):
    """As in a directory that may not be searched, which root always may: a name that is too long."""
    name = "x" * 252
    write_voc(tmp_path, {"1": None, "2": xml_file(xml_object())}, yaml="names: [cat]\n")
    (tmp_path / "JPEGImages" / "1.jpg").rename(tmp_path / "JPEGImages" / f"{name}.sr")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(f"{name}\n2\n")
    index = scanned(tmp_path)
    assert [Path(path).name for path in index.paths] == ["2.jpg"]
    assert "xx.xml: cannot be read: File name too long" in index.findings.problems.first[0]


def test_directory_of_xml_files_may_be_a_link_below_another(tmp_path):
    write_voc(tmp_path, {"1": xml_file(xml_object())})
    (tmp_path / "Annotations").rename(tmp_path / "elsewhere")
    (tmp_path / "JPEGImages").rename(tmp_path / "pictures")
    for directory, target in (("Annotations", "elsewhere"), ("JPEGImages", "pictures")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "part").symlink_to(tmp_path / target)
    (tmp_path / "Annotations" / "part" / "loop").symlink_to(tmp_path / "Annotations")
    (tmp_path / "d.yaml").write_text("format: voc\ntrain: Annotations\nval: Annotations\nnames: [cat]\n")
    assert scanned(tmp_path).paths == [str(tmp_path / "JPEGImages" / "part" / "1.jpg")]


@pytest.mark.parametrize(
    "line",
    ["1", "1.jpg", "1.xml", "JPEGImages/1.jpg", "/elsewhere/JPEGImages/1.jpg", "'1'", "1,", "1  1", "1 -1", "1\r", ""],
)
def test_list_may_have_names_paths_and_flags(tmp_path, line):
    write_voc(tmp_path, {"1": xml_file(xml_object()), "2": xml_file(xml_object())})
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(f"{line}\n2\n")
    assert [Path(path).name for path in scanned(tmp_path).paths] == [*(["1.jpg"] if line else []), "2.jpg"]


@pytest.mark.parametrize("with_xml", [True, False])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_list_may_have_any_name_that_exists(tmp_path, ending, with_xml):
    names = ["photo 0", "photo 1", "photo 2", "photo", "scan.tif", "sub/scan.tif", "sub/scan", "#7", "d'", "x,", " a"]
    (tmp_path / "JPEGImages" / "sub").mkdir(parents=True)
    (tmp_path / "Annotations" / "sub").mkdir(parents=True)
    write_voc(tmp_path, dict.fromkeys(names, xml_file(xml_object()) if with_xml else None))
    text = ending.join(["# of a tool", *names, ""])
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(text, newline="")
    dataset = load_dataset(tmp_path / "d.yaml")
    found = [image.relative_to(tmp_path / "JPEGImages") for image in open_split(dataset, "train").images]
    assert sorted(str(path).removesuffix(".jpg") for path in found) == sorted(names)
    assert count_images(dataset, "train") == len(names)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_list_of_a_class_in_another_encoding_has_its_flags_left_out(tmp_path, encoding):
    write_voc(tmp_path, {"é": xml_file(xml_object()), "2": xml_file()})
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("é  1\n2 -1\n", encoding=encoding)
    assert [Path(path).name for path in scanned(tmp_path).paths] == ["2.jpg", "é.jpg"]


@pytest.mark.parametrize(
    ("images", "annotations", "yaml"),
    [
        ("JPEGImages", "Annotations", "train: ImageSets/Main/train.txt"),
        ("JPEGImages", "Annotations", "train: Annotations"),
        ("images", "Annotations", "train: Annotations"),
        ("all", "all", "train: all"),
        ("pictures", "Annotations", "train: Annotations\nimages: pictures"),
        ("pictures", "labels", "train: ImageSets/Main/train.txt\nimages: {train: pictures}\nannotations: labels"),
        ("pictures/sub", "labels/sub", "train: labels\nimages: pictures"),
    ],
)
def test_files_are_found_as_exports_have_them(tmp_path, images, annotations, yaml):
    for directory in (images, annotations, "ImageSets/Main"):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
    (tmp_path / images / "1.JPG").write_bytes(JPEG)
    (tmp_path / annotations / "1.xml").write_text(xml_file(xml_object()))
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("1\n")
    (tmp_path / "d.yaml").write_text(f"format: voc\n{yaml}\nval: .\nnames: [cat]\n")
    assert scanned(tmp_path).paths[0] == str(tmp_path / images / "1.JPG")


def test_image_is_found_by_the_name_in_its_xml(tmp_path):
    write_voc(tmp_path, {"1": xml_file(xml_object(), file_name="C:\\pictures\\other.jpg")})
    (tmp_path / "JPEGImages" / "1.jpg").rename(tmp_path / "JPEGImages" / "other.jpg")
    assert Path(scanned(tmp_path).paths[0]).name == "other.jpg"


def test_image_of_several_with_one_stem_is_the_one_named_in_the_xml(tmp_path):
    files = {name: xml_file(xml_object(), file_name=f"{name}.jpg") for name in ("1", "2", "3")}
    write_voc(tmp_path, {**files, "2": xml_file(xml_object(), file_name="2.tif"), "3": None})
    for name in files:
        (tmp_path / "JPEGImages" / f"{name}.png").write_bytes(JPEG)
    reader = open_split(load_dataset(tmp_path / "d.yaml"), "train")
    assert [path.name for path in reader.images] == ["1.jpg"]
    ends = ["/JPEGImages has 2.jpg and 2.png, and its <filename> names none of them: 2.tif"]
    ends.append("/JPEGImages has 3.jpg and 3.png, and its <filename> names none of them: it has none")
    assert [problem.endswith(end) for problem, end in zip(reader.problems, ends, strict=True)] == [True, True]


def test_two_files_of_one_image_are_a_problem(tmp_path):
    write_voc(tmp_path, {"1": xml_file(xml_object()), "2": xml_file(xml_object(), file_name="1.jpg")})
    (tmp_path / "JPEGImages" / "2.jpg").unlink()
    assert re.search(r"2\.xml: its image .*1\.jpg is that of .*1\.xml too", scanned(tmp_path).messages[1])


def test_names_are_those_of_the_objects_sorted(tmp_path):
    write_voc(tmp_path, {"1": xml_file(xml_object("dog")), "2": xml_file(xml_object("cat")), "3": "broken"}, yaml="")
    assert load_dataset(tmp_path / "d.yaml").names == ("cat", "dog")
    write_voc(tmp_path, {"1": xml_file(), "2": xml_file(), "3": xml_file()}, yaml="")
    with pytest.raises(DataError, match="its files have no objects, so no names"):
        load_dataset(tmp_path / "d.yaml")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: empty", "empty: has no .xml files"),
        ("train: gone.txt", "gone.txt does not exist"),
        ("train: ImageSets/Main/train.txt\nannotations: gone", "annotations: .*gone is not a directory"),
        ("train: ImageSets/Main/train.txt\nimages: empty", r"none of its images was found\n.*1.xml: there is no image"),
        ("train: [nothing.txt]", "none of its images was found\n  the list is empty"),
    ],
)
def test_unusable_set_is_an_error_with_what_was_seen(tmp_path, yaml, message):
    write_voc(tmp_path, {"1": xml_file(xml_object())})
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.txt").write_text("\n")
    (tmp_path / "d.yaml").write_text(f"format: voc\n{yaml}\nval: empty\nnames: [cat]\n")
    with pytest.raises(DataError, match=message):
        scanned(tmp_path)


def test_cache_follows_files_names_and_the_choice_of_difficult_ones(tmp_path):
    write_voc(tmp_path, {"1": xml_file(xml_object(more=DIFFICULT), xml_object("dog"))})
    assert len(rounded(scanned(tmp_path))) == 2
    write_voc(tmp_path, {"1": xml_file(xml_object("dog"))})
    assert [row[0] for row in rounded(scanned(tmp_path))] == [1]
    write_voc(tmp_path, {"1": xml_file(xml_object("dog"))}, yaml="names: [dog, cat]\n")
    assert [row[0] for row in rounded(scanned(tmp_path))] == [0]


def test_every_object_is_reported_with_its_place(tmp_path):
    write_voc(tmp_path, {"1": xml_file(xml_object(), xml_object(sides=("x", 1, 1, 1))), "2": None})
    reader = open_split(load_dataset(tmp_path / "d.yaml"), "train")
    found = reader.read_each(reader.images[0]) or []
    assert [(each.position, each.label) for each in found] == [(1, (0, *MIDDLE)), (2, ())]
    assert found[1].problem.startswith(reader.where(reader.images[0], 2))
    assert reader.read_each(reader.images[1]) is None


def test_copy_for_a_run_has_absolute_directories(tmp_path):
    write_voc(tmp_path, {"1": xml_file(xml_object())}, yaml="annotations: Annotations\nimages: JPEGImages\n")
    copy = dataset_content(tmp_path / "d.yaml")
    assert (copy["annotations"], copy["names"]) == (str(tmp_path / "Annotations"), ["cat"])
    assert copy["images"]["train"] == str(tmp_path / "JPEGImages")


def test_samples_equal_those_of_the_same_labels_as_text(tmp_path):
    files = {
        str(number): xml_file(*(xml_object("dog", (number, 2, 20 + number + each, 37)) for each in range(3)))
        for number in range(1, 5)
    }
    write_voc(tmp_path / "voc", files)
    reader = open_split(load_dataset(tmp_path / "voc" / "d.yaml"), "train")
    (tmp_path / "yolo" / "labels").mkdir(parents=True)
    (tmp_path / "yolo" / "images").symlink_to(tmp_path / "voc" / "JPEGImages")
    for path in reader.images:
        lines = [label_line(each) for each in reader.objects(path)]
        (tmp_path / "yolo" / "labels" / f"{path.stem}.txt").write_text("\n".join(lines))
    (tmp_path / "yolo" / "d.yaml").write_text("train: images\nval: images\nnames: [cat, dog]\n")
    ours, theirs = scanned(tmp_path / "voc"), scanned(tmp_path / "yolo")
    assert ours.labels.rows.tobytes() == theirs.labels.rows.tobytes()
    for number in range(len(ours.paths)):
        pairs = [make_samples(index, 64, mosaic=1.0, mixup=0.5).sample(1, number) for index in (ours, theirs)]
        assert [part.tobytes() for part in pairs[0]] == [part.tobytes() for part in pairs[1]]


def test_the_whole_image_is_from_1_to_its_size():
    assert MIDDLE_SIDES == (15 + 1, 10 + 1, 45, 30)
