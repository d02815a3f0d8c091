"""Outputs of `predict`: failed writes, failed sources, and names of files and directories."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from hpc_yolo.checkpoint import ModelDescription, save_model
from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import DataError, SpecError
from hpc_yolo.inference.outputs import Outputs, Stems
from hpc_yolo.inference.predict import Prediction
from hpc_yolo.inference.result_dirs import MARKER
from hpc_yolo.inference.sources import Frame, Source, find_sources, frames_of
from hpc_yolo.inference.video import VideoFile, writable_fps
from hpc_yolo.models import load_config

RESULTS = Path("runs/detect/exp")


def noise(height=96, width=160):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def write_video(path, *, fps=10.0, size=(96, 64), frames=6):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    for value in range(frames):
        writer.write(np.full((size[1], size[0], 3), 40 * value % 255, dtype=np.uint8))
    writer.release()
    return path


def video_properties(path):
    capture = cv2.VideoCapture(str(path))
    kinds = (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    found = tuple(int(capture.get(kind)) for kind in kinds)
    capture.release()
    return found


def predictions(source, pixels, *, fps=25.0, count=3):
    box = [1.0, 1.0, min(9.0, pixels.shape[1]), min(9.0, pixels.shape[0]), 0.9, 0.0]
    return [Prediction(Frame(source, pixels, number, fps), [box], 0.0) for number in range(count)]


@pytest.mark.parametrize("fps", [210.953, 211.0, 119.88, 29.97002997, 999.9, 0.001, 1e-9])
@pytest.mark.parametrize("size_hw", [(64, 96)])
def test_video_of_any_rate_is_written_completely(fps, size_hw, tmp_path):
    check_video(tmp_path, size_hw, fps)


@pytest.mark.parametrize("size_hw", [(65, 97), (1, 1), (1, 100), (20, 9000), (2, 3)])
def test_video_of_any_size_is_written_completely(size_hw, tmp_path):
    check_video(tmp_path, size_hw, 25.0)


def check_video(directory, size_hw, fps):
    outputs = Outputs(directory, ["cat"])
    for prediction in predictions(Source("clip.mp4", Path("clip.mp4")), noise(*size_hw), fps=fps):
        assert outputs.write(prediction) == []
    assert outputs.close() == []
    (path,) = directory.iterdir()
    height, width = (side + side % 2 for side in size_hw)
    assert video_properties(path) == (3, width, height)


@pytest.mark.parametrize("fps", [1.0, 12.5, 23.976, 59.94, 144.0, 239.76, 999.999])
def test_frame_rate_changes_by_less_than_a_thousandth(fps):
    assert writable_fps(fps) == pytest.approx(fps, rel=1e-3)


def test_frames_of_other_sizes_are_scaled_to_first_frame(tmp_path):
    outputs = Outputs(tmp_path, ["cat"])
    for size_hw in ((64, 96), (32, 48), (65, 97)):
        assert outputs.write(predictions(Source("stream"), noise(*size_hw), count=1)[0]) == []
    assert outputs.close() == [] and video_properties(tmp_path / "stream.mp4") == (3, 96, 64)


def test_video_on_full_disk_is_reported(tmp_path, file_limit):
    outputs = Outputs(tmp_path, ["cat"])
    with file_limit(20_000):
        for prediction in predictions(Source("clip.mp4", Path("clip.mp4")), noise(480, 640), count=20):
            assert outputs.write(prediction) == []
        (error,) = outputs.close()
    assert "of 20 frames are in the file" in error.message and "free space" in error.hint


def test_failed_video_is_reported_once_and_labels_are_written(tmp_path):
    outputs = Outputs(tmp_path, ["cat"], labels=True)
    for suffix in (".mp4", ".avi"):
        (tmp_path / f"clip{suffix}").mkdir()
    errors = [
        error for item in predictions(Source("clip.mp4", Path("clip.mp4")), noise()) for error in outputs.write(item)
    ]
    assert len(errors) == 1 and "no video of 160 x 96 pixels" in errors[0].message
    assert outputs.close() == []
    assert len(list((tmp_path / "labels").iterdir())) == 3


@pytest.mark.parametrize(
    ("suffix", "size_hw", "expected"),
    [
        (".jpg", (10, 20), ".jpg"),
        (".JPG", (10, 20), ".JPG"),
        (".tif", (10, 20), ".tif"),
        (".dng", (10, 20), ".png"),
        (".mpo", (10, 20), ".png"),
        (".pfm", (10, 20), None),
        (".unknown", (10, 20), ".png"),
        ("", (10, 20), ".jpg"),
        (".jpg", (2, 70_000), ".png"),
        (".webp", (2, 20_000), ".png"),
    ],
)
def test_image_is_written_in_own_format_or_as_png(suffix, size_hw, expected, tmp_path):
    outputs = Outputs(tmp_path, ["cat"])
    frame = Frame(Source("x", tmp_path / "sources" / f"x{suffix}"), noise(*size_hw))
    assert outputs.write(Prediction(frame, [], 0.0)) == []
    (path,) = tmp_path.iterdir()
    assert expected in (None, path.suffix)
    assert cv2.imread(str(path)).shape == (*size_hw, 3)


def test_failed_sources_of_directory_do_not_stop_others(run_predict, tmp_path):
    directory = tmp_path / "mixed"
    directory.mkdir()
    for name in ("a.png", "z.png"):
        cv2.imwrite(str(directory / name), noise())
    cv2.imwrite(str(directory / "b.dng.png"), noise())
    (directory / "b.dng.png").rename(directory / "b.dng")
    for name in ("empty.jpg", "empty.mp4", "empty.gif"):
        (directory / name).touch()
    (directory / "text.jpg").write_text("not an image")
    (directory / "text.mp4").write_text("not a video")
    (directory / "notes.txt").write_text("not a source")
    write_video(directory / "fast.avi", fps=210.953)
    write_video(directory / "none.avi", frames=0)
    whole = write_video(directory / "cut.avi", frames=40).read_bytes()
    (directory / "cut.avi").write_bytes(whole[: len(whole) // 2])
    result = run_predict(directory, "--save-txt", "--save-crop")
    assert result.exit_code == 3, (result.output, result.exception)
    failed = {line.split(": ")[1].rpartition("/")[2] for line in result.stderr.splitlines() if "failed: " in line}
    assert failed == {"empty.jpg", "empty.mp4", "empty.gif", "text.jpg", "text.mp4", "none.avi", "cut.avi"}
    assert "7 of 11 sources failed; each is named above" in result.stderr
    written = {path.name for path in (tmp_path / RESULTS).iterdir()} - {MARKER}
    assert written == {"a.png", "z.png", "b.png", "fast.mp4", "cut.mp4", "labels", "crops"}
    assert (
        video_properties(tmp_path / RESULTS / "fast.mp4")[0] == 6
        and 0 < video_properties(tmp_path / RESULTS / "cut.mp4")[0] < 40
    )


def test_truncated_video_error_has_number_of_frames(tmp_path):
    whole = write_video(tmp_path / "cut.avi", frames=40).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (source,) = find_sources(str(tmp_path / "cut.avi")).sources
    frames = frames_of(source)
    assert next(frames).number == 0
    with pytest.raises(DataError, match=r"ends after \d+ of 40 frames"):
        list(frames)


def test_failed_writes_are_reported_and_counted(run_predict, images, tmp_path, file_limit):
    with file_limit(2_000):
        result = run_predict(images, "--save-txt")
    assert result.exit_code == 3 and "3 of 3 sources failed" in result.stderr
    assert result.stderr.count("cannot be written: File too large") == 3
    assert not list((tmp_path / RESULTS).glob("*.png")), "no partial file is left"
    assert (tmp_path / RESULTS / "labels" / "a.txt").read_text()


def test_unwritable_results_directory_is_reported_per_output(images, tmp_path):
    outputs = Outputs(tmp_path / "file", ["cat"], labels=True)
    (tmp_path / "file").touch()
    source = find_sources(str(images / "a.png")).sources[0]
    (prediction,) = predictions(source, noise(), count=1)
    frame = Frame(source, noise())
    errors = outputs.write(Prediction(frame, prediction.detections, 0.0))
    assert len(errors) == 2 and all(": cannot be written: " in error.message for error in errors)


def test_names_of_maximum_length_have_results(run_predict, tmp_path):
    directory = tmp_path / "long"
    directory.mkdir()
    for letter in "ab":
        cv2.imwrite(str(directory / ("x" * 250 + letter + ".png")), noise())
    result = run_predict(directory, "--save-txt", "--save-crop")
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(list((tmp_path / RESULTS).glob("*.png"))) == len(list((tmp_path / RESULTS / "labels").iterdir())) == 2


def test_names_with_invalid_or_control_characters_are_escaped(run_predict, tmp_path):
    directory = tmp_path / "odd"
    directory.mkdir()
    content = cv2.imencode(".png", noise())[1].tobytes()
    for name in (b"latin \xe9.png", b"escape \x1b[2J.png", b"line\nbreak.png"):
        Path(os.fsdecode(bytes(directory) + b"/" + name)).write_bytes(content)
    Path(os.fsdecode(bytes(directory) + b"/video \xe9.avi")).write_bytes(write_video(tmp_path / "v.avi").read_bytes())
    result = run_predict(directory, "--save-txt")
    assert "escape \\x1b[2J.png" in result.stdout and "\x1b[2J" not in result.stdout
    assert "latin \\udce9.png" in result.stdout and "line\\nbreak.png: " in result.stdout
    assert len(list((tmp_path / RESULTS).glob("*.png"))) == 3
    assert result.exit_code == 0 and video_properties(tmp_path / RESULTS / "video %E9.mp4")[0] == 6


def test_sources_in_json_are_paths_of_files(run_predict, tmp_path):
    names = ["line\nbreak.png", "line\\nbreak.png", "at 3\u202fPM.png", os.fsdecode(b"latin \xe9.png"), 'q".png']
    for name in names:
        (tmp_path / name).write_bytes(cv2.imencode(".png", noise())[1].tobytes())
    result = run_predict(tmp_path, "--json", "--nosave")
    found = [json.loads(line)["source"] for line in result.stdout.splitlines()]
    assert sorted(found) == sorted(str(tmp_path / name) for name in names)


def test_missing_sources_do_not_stop_others(run_predict, images, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"\ufeffimages/a.png\nimages/missing.png\n\n{listed}\n{images / 'b.JPG'}\n")
    result = run_predict("missing.jpg", listed, images / "a.png", "--nosave")
    assert result.exit_code == 3, (result.output, result.exception)
    assert "missing.jpg: there is no such file" in result.stderr
    assert f"{listed}:2: images/missing.png: there is no such file" in result.stderr
    assert f"{listed}:4: " in result.stderr and "a list inside a list" in result.stderr
    assert "3 of 6 sources failed" in result.stderr or "3 of 5 sources failed" in result.stderr
    assert result.stdout.count("a.png: 160x96") in (1, 2) and "b.JPG: 160x96" in result.stdout


def test_image_with_video_suffix_is_one_frame(tmp_path):
    content = cv2.imencode(".jpg", noise())[1].tobytes()
    for number in (1, 2, 3):
        (tmp_path / f"clip{number}.mp4").write_bytes(content)
    (source,) = find_sources(str(tmp_path / "clip1.mp4")).sources
    assert len(list(frames_of(source))) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"", b"\n\n"])
def test_invalid_list_is_refused(content, tmp_path):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"is not text|empty list"):
        find_sources(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("written", ["x" * 5000, "nul\0byte.jpg", "a/" * 3000])
def test_invalid_file_name_is_refused(written):
    with pytest.raises(DataError):
        find_sources(written)


def test_truncated_jpeg_is_read_with_warning(run_predict, tmp_path):
    content = cv2.imencode(".jpg", noise(240, 320))[1].tobytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: len(content) // 2])
    assert cv2.imread(str(path)).shape == (240, 320, 3)
    result = run_predict(path)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "cut.jpg: 320x240" in result.stdout
    assert "cut.jpg: the JPEG is cut off; the existing part is used" in result.stderr
    path.write_bytes(content + b"\x00" * 100)
    assert "cut off" not in run_predict(path).stderr


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0" + b"\x00" * 50, b"\x89PNG\r\n\x1a\n"])
def test_undecodable_image_is_reported_by_source(content, run_predict, tmp_path):
    (tmp_path / "x.jpg").write_bytes(content)
    result = run_predict("x.jpg")
    assert result.exit_code == 3 and "failed: x.jpg: cannot be decoded: " in result.stderr
    assert "scan" not in result.stderr and "1 of 1 source failed" in result.stderr


@pytest.mark.parametrize("sources", [["."], ["**/*.png"], ["./images", "runs"], ["*/*", "."]])
def test_earlier_results_are_excluded_from_sources(sources, run_predict, images, tmp_path):
    first = run_predict(images, "--save-crop", "--name", "mine")
    assert first.exit_code == 0, (first.output, first.exception)
    run = tmp_path / "runs/train/first"
    for name in ("leases/1", "results/train_mosaics.png"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    (run / "spec.yaml").write_text("name: first\n")
    result = run_predict(*sources, "--nosave")
    read = [line.partition(": ")[0] for line in result.stdout.splitlines()]
    assert read and all(Path(name).parts[0] == "images" or str(images) in name for name in read)
    assert "results of earlier commands" in result.stderr


def test_earlier_results_are_sources_if_named(run_predict, images, tmp_path):
    assert run_predict(images).exit_code == 0
    for written in (RESULTS, RESULTS / "*.png"):
        assert run_predict(written, "--nosave").exit_code == 0
    result = run_predict("runs", "--nosave")
    assert isinstance(result.exception, DataError)
    assert "no image and no video; results of earlier commands in runs/detect/exp" in str(result.exception)


def test_unsupported_file_types_are_reported(run_predict, images):
    for name in ("phone.heic", "camera.CR2", "scan.exr"):
        (images / name).touch()
    result = run_predict(images, "--nosave")
    assert result.exit_code == 0 and "3 files of formats that are not supported: .cr2, .exr, .heic" in result.stderr
    with pytest.raises(DataError, match=r"phone\.heic is no image and no video; 1 file of formats .*\.heic"):
        find_sources(str(images / "phone.heic"))


def test_results_directory_with_sources_is_refused(run_predict, images):
    contents = {path: path.read_bytes() for path in images.iterdir() if path.is_file()}
    result = run_predict(images, "--project", images.parent, "--name", images.name, "--exist-ok")
    assert isinstance(result.exception, SpecError) and "written over the sources" in str(result.exception)
    assert {path: path.read_bytes() for path in contents} == contents and not (images / MARKER).exists()


CLASS_NAMES = ["..", ".", "a/b", "a%2Fb", "x" * 300, "nul\0", "CON", "/etc", "A/B", "\x1b[2J"]


def test_repeated_command_leaves_no_labels_and_crops_of_earlier_one(run_predict, images, tmp_path):
    options = ("--save-txt", "--save-crop", "--nosave", "--project", tmp_path / "results", "--exist-ok")
    results = tmp_path / "results" / "exp"

    def files(pattern):
        return sorted(path.name for path in results.rglob(pattern))

    run_predict(images / "a.png", images / "b.JPG", "--iou", "1", *options)
    crops = files("*.jpg")
    assert files("*.txt") == ["a.txt", "b.txt"] and sum(name.startswith("a_") for name in crops) > 10
    next(results.rglob("a_3.jpg")).unlink()  # by the user, or a removal that was interrupted
    run_predict(images / "a.png", "--max-det", "2", *options)
    assert files("a_*.jpg") == ["a_0.jpg", "a_1.jpg"]
    assert files("b_*.jpg") == [name for name in crops if name.startswith("b_")]
    assert run_predict(images / "a.png", "--conf", "1", *options).exit_code == 0
    assert (files("*.txt"), files("a_*.jpg")) == (["b.txt"], [])


def test_crops_of_classes_with_unsafe_names_stay_in_their_directory(tmp_path):
    results = tmp_path / "deep" / "results"
    results.mkdir(parents=True)
    outputs = Outputs(results, CLASS_NAMES, crops=True, images=False)
    rows = [[1.0, 1.0, 9.0, 9.0, 0.9, float(kind)] for kind in range(len(CLASS_NAMES))]
    assert outputs.write(Prediction(Frame(Source("x", Path("x.jpg")), noise()), rows, 0.0)) == []
    crops = [path.relative_to(results / "crops") for path in tmp_path.rglob("*.jpg")]
    assert len(crops) == len(CLASS_NAMES) and {len(path.parts) for path in crops} == {2}
    assert len({path.parts[0].casefold() for path in crops}) == len(CLASS_NAMES)


def test_class_named_like_path_is_cropped_printed_and_drawn(model, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "best.safetensors"
    description = ModelDescription(model="yolov5n", config=load_config("yolov5n"), names=["a", "..\x1b[2J"], imgsz=128)
    save_model(weights, model, description)
    result = CliRunner().invoke(cli, ["predict", str(images / "a.png"), "--weights", str(weights), "--save-crop"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "..\\x1b[2J" in result.stdout and "\x1b" not in result.stdout
    assert not list((tmp_path / RESULTS).glob("*.jpg")) and list((tmp_path / RESULTS / "crops").glob("*/*.jpg"))


def test_stems_of_video_frames_and_numbered_images_are_unique():
    stems = Stems()
    names = [("clip_1.png", False), ("clip.mp4", True), ("clip_2.png", False), ("a.png", False), ("a.jpg", False)]
    found = [stems.stem_of(Source(name, Path(name)), is_video=is_video) for name, is_video in names]
    assert len(set(found)) == len(names) and found[0] == "clip_1" and found[3] == "a"
    video = found[1]
    assert not any(stem.startswith(f"{video}_") and stem.removeprefix(f"{video}_").isdigit() for stem in found)


def test_failed_video_writer_error_has_size_and_rate(tmp_path):
    with pytest.raises(DataError, match=r"no video of 96 x 64 pixels and 25 fps"):
        VideoFile(tmp_path / "missing", "clip", 25.0, noise(64, 96))
