"""`hpc-yolo data check`: what is printed, and exit codes for scripts."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from click.testing import CliRunner
from image_sets import JPEG, add, different, make_set
from voc_sets import write_voc, xml_file, xml_object

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import DataError
from hpc_yolo.data.synth import write_shapes_dataset


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The dataset YAML of a drawn set without errors."""
    return write_shapes_dataset(tmp_path_factory.mktemp("clean") / "set", num_train=16, num_val=8, image_size=(96, 64))


@pytest.fixture
def dirty(tmp_path):
    """The dataset YAML of a set with an unusable image, and a class whose name looks like markup."""
    root = make_set(tmp_path / "set")
    add(root, "good.jpg")
    add(root, "cut.jpg", JPEG[: len(JPEG) // 2])
    path = root / "d.yaml"
    path.write_text("train: images/train\nval: images/train\nnames: [cat, 'dog[red]']\n")
    return path


def run(*arguments):
    return CliRunner().invoke(cli, ["data", "check", *map(str, arguments)])


def test_clean_dataset_ends_with_0_and_totals_of_each_split_and_class(shapes):
    result = run(shapes, "--strict")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["train", "16", "0", "0"] in [line[:4] for line in lines]
    assert ["val", "8", "0", "0"] in [line[:4] for line in lines]
    assert {"circle", "square", "triangle", "star"} <= {line[0] for line in lines if len(line) == 3}
    assert "24 images in" in result.output and "no errors, no warnings" in result.output


def test_error_ends_with_3_and_is_shown_with_file_and_remedy(dirty):
    result = run(dirty, "--split", "train")
    assert result.exit_code == DataError.exit_code == 3
    assert (
        f"error: train: 1 image not decodable completely, or too small: left out\n    {dirty.parent}" in result.output
    )
    assert "images/train/cut.jpg: the JPEG is cut off" in result.output
    assert "  -> copy the files again" in result.output
    assert "dog[red]" in result.output
    assert "1 error, 1 warning; training leaves out 1 image" in result.output


def test_warnings_end_with_0_unless_strict(dirty):
    (dirty.parent / "images" / "train" / "cut.jpg").unlink()
    assert run(dirty).exit_code == 0
    assert run(dirty, "--strict").exit_code == 3


def test_json_is_all_of_standard_output(dirty):
    result = run(dirty, "--json", "--examples", "0")
    content = json.loads(result.stdout)
    assert result.exit_code == 3
    assert content["errors"] == 2 and {finding["split"] for finding in content["findings"]} == {"train", "val"}
    assert {finding["kind"] for finding in content["findings"]} >= {"unusable-image", "leak"}


def test_examples_are_as_many_as_asked_for(dirty):
    for number in range(6):
        add(dirty.parent, f"bad{number}.png", b"no image")
    output = run(dirty, "--split", "train", "--examples", "2").output
    assert output.count("cannot be decoded") == 2 and "… and 5 more" in output


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--split", "vall"], 2, "no split is called 'vall'; they are train, val, test"),
        (["--split", "test"], 3, "there is no split test"),
        (["--imgsz", "0"], 2, "--imgsz"),
        (["--html", "pipe"], 2, "--html pipe: is no regular file, and would be replaced"),
        (["--html", "x" * 300], 3, "x: cannot be written: File name too long"),
    ],
)
def test_wrong_option_is_an_error_that_says_what_is_allowed(shapes, tmp_path, monkeypatch, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    result = run(shapes, *arguments)
    ends_with = result.exception.exit_code if isinstance(result.exception, DataError) else result.exit_code
    assert ends_with == code and text in f"{result.output} {result.exception}"


def test_dataset_is_that_of_a_spec_or_a_shipped_name(shapes, tmp_path, monkeypatch):
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"name: x\nmodel: yolov5n\ndata: {shapes}\ntrain: {{imgsz: 128}}\n")
    contents = [json.loads(run(path, "--json").stdout) for path in (spec, shapes)]
    assert [content["splits"]["train"]["num_images"] for content in contents] == [16, 16]
    assert [content["imgsz"] for content in contents] == [128, 640]
    assert json.loads(run(spec, "--json", "--imgsz", "96").stdout)["imgsz"] == 96
    monkeypatch.chdir(tmp_path)
    missing = run("shapes")
    assert isinstance(missing.exception, DataError) and "shapes.yaml" in str(missing.exception)
    unknown = run("nothing.yaml")
    assert isinstance(unknown.exception, DataError) and "there is no dataset nothing.yaml" in str(unknown.exception)


def test_corrected_copy_is_written_with_yes_only(dirty, tmp_path):
    target = tmp_path / "fixed"
    shown = run(dirty, "--split", "train", "--fix", target)
    assert "train: 1 image kept, 1 (1 unusable-image) left out" in shown.output
    assert "nothing is written without --yes" in shown.output and not target.exists()
    content = json.loads(run(dirty, "--split", "train", "--fix", target, "--json").stdout)
    assert content["fix"]["train"] == {
        "images_kept": 1, "images_left_out": {"unusable-image": 1}, "labels_changed": {}
    }  # fmt: skip
    written = run(dirty, "--split", "train", "--fix", target, "--yes")
    assert written.exit_code == 3 and f"hpc-yolo data check {target}/dataset.yaml" in written.output
    assert run(target / "dataset.yaml", "--split", "train").exit_code == 0
    again = run(dirty, "--split", "train", "--fix", target, "--yes")
    assert isinstance(again.exception, DataError) and "has content, which is never replaced" in str(again.exception)
    assert run(dirty, "--yes").exit_code == 2


def test_corrected_copy_of_a_dataset_in_a_spec(dirty, tmp_path):
    spec, target = tmp_path / "spec.yaml", tmp_path / "fixed"
    content = yaml.safe_load(dirty.read_text())
    for split in ("train", "val"):
        content[split] = str(dirty.parent / content[split])
    spec.write_text(yaml.safe_dump({"name": "x", "model": "yolov5n", "data": content}))
    run(spec, "--split", "train", "--fix", target, "--yes")
    assert run(target / "dataset.yaml", "--split", "train").exit_code == 0


def test_labels_of_a_dataset_in_a_spec_are_to_be_converted_from_a_dataset_yaml(tmp_path):
    data = yaml.safe_load(write_voc(tmp_path, {"1": xml_file(xml_object())}).read_text())
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({"name": "x", "model": "yolov5n", "data": data}))
    result = run(spec, "--fix", tmp_path / "fixed")
    assert "write data: into a dataset YAML, and convert it" in str(result.exception.hint)


def test_dropped_invalid_lines_are_pointed_out(dirty, tmp_path):
    add(dirty.parent, "x.png", different(1), label="hello\n")
    assert "objects of dropped invalid lines would have no label" in run(dirty, "--fix", tmp_path / "f").output


def test_decoder_prints_nothing_between_the_lines(dirty):
    done = subprocess.run(
        [sys.executable, "-m", "hpc_yolo", "data", "check", str(dirty)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (3, "")


SLOW_CHECK = """
import sys, time
from pathlib import Path
from hpc_yolo.cli.main import main
from hpc_yolo.data.check import dataset

real, began = dataset.check_image, Path(sys.argv.pop())

def slow(*arguments):
    began.touch()
    time.sleep(0.05)
    return real(*arguments)

dataset.check_image = slow
main()
"""


def test_ctrl_c_ends_with_130_and_leaves_no_process(dirty, tmp_path):
    for number in range(1000):
        os.link(dirty.parent / "images" / "train" / "good.jpg", dirty.parent / "images" / "train" / f"{number}.jpg")
    began = tmp_path / "began"
    command = [sys.executable, "-c", SLOW_CHECK, "data", "check", str(dirty), "--workers", "2", str(began)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while not began.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Traceback" not in error, error
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
