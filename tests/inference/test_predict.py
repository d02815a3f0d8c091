"""Prediction: kinds of sources, coordinates of boxes, and drawn labels."""

import http.server
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpc_yolo.checkpoint import ModelDescription, save_model
from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import DataError, HpcYoloError
from hpc_yolo.inference.predict import Predictor, PredictSettings, read_frames
from hpc_yolo.inference.result_dirs import MARKER
from hpc_yolo.inference.sources import Frame, Source, find_sources, frames_of
from hpc_yolo.models import load_config
from hpc_yolo.plots.draw import DARK, LIGHT, PALETTE, Style, crop, draw_boxes


def test_boxes_are_mapped_to_original_image(model):
    """An image of 160 x 96 letterboxed to 128: every box must be scaled by the ratio."""
    frame = Frame(Source("x"), np.zeros((96, 160, 3), dtype=np.uint8))
    settings = PredictSettings((128, 128), iou_threshold=1.0)
    found = np.array(Predictor(model, settings)(frame).detections)
    framed_height = 96  # 128 x 76.8 px, padded to whole strides
    assert len(found) == (128 // 32) * (framed_height // 32)
    assert set(found[:, 5]) == {1}
    centres = (found[:, 0] + found[:, 2]) / 2
    inside = (found[:, 0] > 0) & (found[:, 2] < 160)
    width = (2 * torch.sigmoid(torch.tensor(-1.0)).item()) ** 2 * 116 * 160 / 128
    assert (found[:, 2] - found[:, 0])[inside] == pytest.approx(np.full(inside.sum(), width), rel=1e-4)
    assert set(np.round(centres[inside], 2)) <= {round((column + 0.5) * 32 * 160 / 128, 2) for column in range(4)}
    assert found[:, [0, 1]].min() >= 0 and found[:, 2].max() <= 160 and found[:, 3].max() <= 96


def test_classes_confidence_and_augmentation_are_applied(model):
    frame = Frame(Source("x"), np.zeros((128, 128, 3), dtype=np.uint8))
    for changes, expected in (({"classes": (0,)}, False), ({"classes": (1,)}, True), ({"conf_threshold": 0.99}, False)):
        assert bool(Predictor(model, PredictSettings((128, 128), **changes))(frame).detections) is expected
    assert Predictor(model, PredictSettings((128, 128), augment=True))(frame).detections


def test_sources_of_all_kinds_are_found(images, video, tmp_path):
    names = lambda written: [Path(source.name).name for source in find_sources(str(written)).sources]  # noqa: E731
    assert names(images) == ["a.png", "b.JPG", "a.png"]
    assert names(images / "a.png") == ["a.png"]
    assert names(images / "*.png") == ["a.png"]
    assert names(images / "**" / "*.png") == ["a.png", "a.png"]
    (tmp_path / "list.txt").write_text(f"{images / 'b.JPG'}\n\n{video}\n")
    assert names(tmp_path / "list.txt") == ["b.JPG", "clip.avi"]
    foreign = f"C:\\work\\{images.name}\\a.png\n# notes\nx/{images.name}/b.JPG\n"
    lines = f'file://{images}/a.png\n"{images}/b.JPG"\n{foreign}'
    (tmp_path / "list.txt").write_text(lines, encoding="utf-16")
    assert names(tmp_path / "list.txt") == ["a.png", "b.JPG", "a.png", "b.JPG"], "as a dataset's lists are read"
    assert find_sources("0").sources[0].address == 0
    assert find_sources("rtsp://host/live").sources[0].address == "rtsp://host/live"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("99999999999999999999", "there is no such file or directory, and nothing matches it"),
        ("200", "there is no such file or directory, and nothing matches it"),
        ("nothing", "there is no such file or directory, and nothing matches it"),
        ("empty", "holds no image and no video"),
        ("notes.md", "is no image and no video"),
        ("ftp://me:secret@host/a.jpg", r"ftp://me:\*\*\*@host/a\.jpg: addresses of this kind are not supported"),
    ],
)
def test_invalid_source_is_refused(tmp_path, monkeypatch, written, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataError, match=message):
        find_sources(written)


def test_frame_stride_skips_frames_of_video(video):
    (source,) = find_sources(str(video)).sources
    frames = list(frames_of(source, stride=2))
    assert [frame.number for frame in frames] == [0, 2, 4]
    assert frames[0].fps == 10
    assert frames[2].pixels.mean() == pytest.approx(160, abs=3)


def write_video(path, num_frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for _ in range(num_frames):
        writer.write(np.zeros((64, 96, 3), dtype=np.uint8))
    writer.release()


def test_ignored_sigterm_does_not_end_command(weights, tmp_path):
    write_video(tmp_path / "video.avi", 50)
    command = [sys.executable, "-m", "hpc_yolo", "predict", "video.avi", "--weights", str(weights), "--nosave"]
    script = ["sh", "-c", "trap '' TERM; exec \"$@\"", "sh", *command]
    with subprocess.Popen(script, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and "frame 0" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert len(process.stdout.readlines()) == 49
    assert process.returncode == 0


def test_video_of_terminated_command_is_readable(weights, tmp_path):
    path = tmp_path / "long.avi"
    write_video(path, 2000)
    command = [sys.executable, "-m", "hpc_yolo", "predict", str(path), "--weights", str(weights), "--project", "out"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and "frame 0" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        num_printed = 1 + len(process.stdout.readlines())
        assert process.stderr is not None and "interrupted" in process.stderr.read()
    assert process.returncode == 130
    capture = cv2.VideoCapture(str(tmp_path / "out" / "exp" / "long.mp4"))
    assert num_printed <= capture.get(cv2.CAP_PROP_FRAME_COUNT) <= num_printed + 1


def test_missing_camera_error_lists_devices():
    with pytest.raises(DataError, match=r"camera 77: cannot be opened\n.*ls /dev/video"):
        list(frames_of(Source("camera 77", address=77)))


class Stream(http.server.BaseHTTPRequestHandler):
    """HTTP handler of a network camera: a multipart reply with several JPEGs."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        jpeg = cv2.imencode(".jpg", np.full((64, 96, 3), 120, dtype=np.uint8))[1].tobytes()
        part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: " + str(len(jpeg)).encode() + b"\r\n\r\n" + jpeg
        for _ in range(8):
            self.wfile.write(part + b"\r\n")

    def log_message(self, *_arguments):
        pass


def test_stream_of_http_camera_is_read(run_predict):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        result = run_predict(f"http://127.0.0.1:{server.server_address[1]}/live.mjpg", "--nosave", "--json")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    frames = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(frames) >= 4, (result.output, result.exception)
    assert {(frame["width"], frame["height"]) for frame in frames} == {(96, 64)}


def test_all_outputs_are_written_and_sources_stay_unchanged(run_predict, images, video, tmp_path):
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    result = run_predict(images, video, "--save-txt", "--save-conf", "--save-crop")
    assert result.exit_code == 0, result.output
    directory = tmp_path / "runs" / "detect" / "exp"
    assert f"results in {Path('runs/detect/exp')}" in result.output
    assert sorted(path.name for path in directory.iterdir()) == [
        MARKER,
        "a.png",
        "a_2.png",
        "b.JPG",
        "clip.mp4",
        "crops",
        "labels",
    ]
    assert cv2.imread(str(directory / "a.png")).shape == (96, 160, 3)
    clip = cv2.VideoCapture(str(directory / "clip.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    clip.release()
    rows = [line.split() for line in (directory / "labels" / "a.txt").read_text().splitlines()]
    assert all(len(row) == 6 and row[0] == "1" and 0 <= float(row[1]) <= 1 for row in rows)
    assert (directory / "labels" / "clip_5.txt").exists()
    assert list((directory / "crops" / "dog").glob("a_0.jpg"))
    assert "dog" in result.output and "160x96" in result.output
    assert {path: path.read_bytes() for path in before} == before
    again = run_predict(images / "a.png", "--nosave")
    assert again.exit_code == 0 and not (tmp_path / "runs" / "detect" / "exp2").exists()
    assert "results in" not in again.output


def test_unreadable_image_is_reported_and_others_are_processed(run_predict, images, tmp_path):
    (images / "b.JPG").write_bytes(b"not an image")
    result = run_predict(images)
    assert result.exit_code == 3
    assert "failed:" in result.output and "b.JPG" in result.output
    assert (tmp_path / "runs" / "detect" / "exp" / "a_2.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a SOURCE"),
        (("",), "name a SOURCE"),
        (("a.png", "--classes", "²"), "there are cat, dog, or 0 to 1"),
        (("a.png", "--img", "100000000"), "at most 32768"),
        (("a.png", "--img", "64,100000000"), "at most 32768"),
        (("a.png", "--img", "1" * 5000), "at most 32768"),
        (("a.png", "--classes", "1" * 5000), "there are cat, dog, or 0 to 1"),
        (("a.png", "--classes", "zebra"), "there are cat, dog, or 0 to 1"),
        (("a.png", "--img", "huge"), "one side in pixels"),
        (("a.png", "--conf", "nan"), "nan is not a finite number"),
        (("a.png", "--view-img"), "--view-img is not supported"),
    ],
)
def test_invalid_arguments_are_reported(run_predict, images, arguments, message):
    result = run_predict(*(images / argument if argument == "a.png" else argument for argument in arguments))
    assert result.exit_code == 2 and message in result.output, result.output


def test_number_that_is_name_of_another_class_gives_message(model, images, tmp_path):
    description = ModelDescription(model="yolov5n", config=load_config("yolov5n"), names=["1", "0"], imgsz=128)
    save_model(tmp_path / "digits.safetensors", model, description)
    arguments = ["predict", str(images / "a.png"), "--weights", str(tmp_path / "digits.safetensors"), "--nosave"]
    result = CliRunner().invoke(cli, [*arguments, "--classes", "1", "--json"])
    assert {row["name"] for row in json.loads(result.stdout)["detections"]} == {"0"}
    assert "--classes 1: is class 1, '0'; '1' is class 0" in result.stderr


def test_half_precision_without_gpu_is_refused(run_predict, images):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = run_predict(images / "a.png", "--half")
    assert isinstance(result.exception, HpcYoloError) and "half precision is for GPUs" in str(result.exception)


def test_reader_thread_ends_when_frames_are_closed(images):
    frames: Any = read_frames(find_sources(str(images)).sources * 10, 1)
    next(frames)
    frames.close()
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(read)")]


@pytest.mark.parametrize(
    "box", [(0, 0, 10, 10), (-5, -5, 20, 20), (60, 90, 64, 96), (63, 0, 200, 50), (5.2, 5.2, 5.4, 5.4), (0, 0, 64, 96)]
)
@pytest.mark.parametrize("name", ["x", "a class with a very long name of many characters", "Café 猫"])
def test_label_stays_inside_image(box, name):
    """OpenCV clips without an error: the background of the label must be visible."""
    pixels = np.full((96, 64, 3), 90, dtype=np.uint8)
    drawn = draw_boxes(pixels, [[*box, 0.9, 0.0]], [name], Style())
    assert drawn.shape == pixels.shape and (pixels == 90).all()
    background = (drawn == np.array(PALETTE[0][::-1], dtype=np.uint8)).all(axis=2)
    assert background.sum() > 20
    assert crop(pixels, box).size > 0


def test_text_contrasts_with_its_background():
    for kind in range(len(PALETTE)):
        drawn = draw_boxes(
            np.zeros((200, 400, 3), dtype=np.uint8), [[50, 60, 300, 150, 0.9, kind]], ["M"] * 12, Style()
        )
        label = drawn[20:60, 45:150].reshape(-1, 3).astype(int)
        luminance = label @ [0.114, 0.587, 0.299]
        red, green, blue = PALETTE[kind]
        background = 0.299 * red + 0.587 * green + 0.114 * blue
        text = (DARK if background > 140 else LIGHT)[0]
        assert abs(luminance - text).min() < 12, "the colour of the text"
        assert abs(background - text) > 80, kind
