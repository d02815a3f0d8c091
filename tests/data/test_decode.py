"""Decoding files of cameras, phones and programs: the content decides, and only missing pixels are damage."""

import io
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.decode import decode_image, describe_content, is_cut_off, lacks_end_mark
from hpc_yolo.data.images import read_image

HEIGHT, WIDTH = 120, 160
RANDOM = np.random.default_rng(0)
COARSE = RANDOM.integers(0, 256, size=(HEIGHT // 16 + 1, WIDTH // 16, 3), dtype=np.uint8)
PIXELS = cv2.resize(COARSE, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
END = b"\xff\xd9"
MP4 = b"\x00\x00\x00\x18ftypmp42" + RANDOM.integers(0, 256, 50_000, dtype=np.uint8).tobytes()


def encoded(suffix: str, *options: int, pixels=PIXELS) -> bytes:
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def written(form: str, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[:, :, ::-1]).convert(mode).save(file, form, **options)
    return file.getvalue()


JPEGS = {
    "baseline": encoded(".jpg"),
    "progressive": encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart marks": encoded(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "grey": encoded(".jpg", pixels=PIXELS[:, :, 0]),
    "CMYK": written("JPEG", "CMYK"),
    "MPO": written("MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
    "thumbnail": written("JPEG", exif=b"Exif\x00\x00" + encoded(".jpg", pixels=PIXELS[:32, :32])),
    "fill bytes": encoded(".jpg")[:2] + b"\xff\xff" + encoded(".jpg")[2:],
}


@pytest.mark.parametrize("tail", [b"", b"\x00" * 9000, b"\r\n", MP4, END * 3, b"notes of a camera"])
@pytest.mark.parametrize("kind", JPEGS)
def test_bytes_after_the_end_mark_of_a_jpeg_are_no_damage(kind, tail):
    content = JPEGS[kind] + tail
    assert not lacks_end_mark(content)
    assert np.array_equal(decode_image(content), decode_image(JPEGS[kind]))


@pytest.mark.parametrize("tail", [b"", b"\x00" * 9000, b"\xff" * 999], ids=["bare", "zeros", "ones"])
@pytest.mark.parametrize("kind", sorted(JPEGS.keys() - {"MPO"}))
def test_jpeg_without_end_mark_is_whole(kind, tail):
    content = JPEGS[kind].removesuffix(END) + tail
    pixels = decode_image(content)
    assert lacks_end_mark(content)
    assert np.array_equal(pixels, decode_image(JPEGS[kind]))
    assert not is_cut_off(content, pixels)


@pytest.mark.parametrize("tail", [b"", b"\x00" * 9000, b"\xff" * 999], ids=["bare", "zeros", "ones"])
@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", sorted(JPEGS.keys() - {"MPO"}))
def test_jpeg_without_all_pixels_is_cut_off_and_decoded_as_far_as_it_goes(kind, fraction, tail):
    whole = JPEGS[kind]
    content = whole[: int(len(whole) * fraction)] + tail
    pixels = decode_image(content)
    assert lacks_end_mark(content)
    assert pixels is not None and pixels.shape == (HEIGHT, WIDTH, 3)
    assert is_cut_off(content, pixels)


def test_jpeg_without_end_mark_is_decoded_twice_only_once(monkeypatch):
    """Loaders read it in every epoch."""
    content = JPEGS["baseline"][:-2]
    pixels = decode_image(content)
    assert not is_cut_off(content, pixels)
    monkeypatch.setattr("hpc_yolo.data.decode._probe", pytest.fail)
    assert not is_cut_off(content, pixels)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_other_formats_lack_no_end_mark(form):
    content = written(form)
    assert not lacks_end_mark(content)
    if decode_image(content) is None:  # OpenCV may be built without it; then its name is in the message
        assert describe_content(content).startswith({"JPEG2000": "JPEG 2000"}.get(form, form))


def test_grey_float_maps_have_three_channels():
    """OpenCV gives them one, in spite of IMREAD_COLOR."""
    content = encoded(".pfm", pixels=PIXELS[:, :, 0].astype(np.float32))
    assert decode_image(content).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "an empty file"),
        (b"\x00" * 4096, "nothing but zeros, 4096 bytes"),
        (b"\n<!DOCTYPE html><html><body>403 Forbidden</body></html>", "an HTML page"),
        (b"<html>", "an HTML page, 6 bytes"),
        (b"\x00\x00\x00\x18ftypheic" + b"\x00" * 20 + b"\x01", "HEIC"),
        (b"\x00\x00\x00\x18ftypmif1" + b"\x00" * 20 + b"\x01", "HEIC"),
        (MP4, "a video"),
        (b"\xff\x0a" + b"\x01" * 9, "JPEG XL"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"PK\x03\x04" + b"\x01" * 30, "a ZIP archive"),
        (b"no image", "text, 8 bytes"),
        (b"\x01\x02\xfe\x80", "an unknown format, 4 bytes"),
        (JPEGS["baseline"][:20], "JPEG, 20 bytes, damaged or cut off"),
        (written("PNG")[:100], "PNG, 100 bytes, damaged or cut off"),
        (written("TIFF", "F"), "or of samples that OpenCV does not read, such as 32-bit ones"),
        (b"GIF89a" + b"\x01" * 9, "GIF, 15 bytes, damaged, cut off or not supported by this build of OpenCV"),
    ],
)
def test_undecodable_file_is_described_by_its_content(tmp_path, content, text):
    assert decode_image(content) is None
    assert text in describe_content(content)
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.jpg: cannot be decoded") as caught:
        read_image(str(tmp_path / "x.jpg"))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("end", "noise"), [(b"\x00", 2), (b"\xff\x00", 20), (b"\xff\x00\x00", 20)], ids=["00", "ff00", "ff0000"]
)
def test_image_data_that_ends_like_padding_is_not_cut_off(end, noise):
    random = np.random.default_rng(0)
    options = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111, cv2.IMWRITE_JPEG_QUALITY, 75
    images = (random.integers(30, 220, 3) + random.normal(0, noise, (16, 16, 3)) for _ in range(2000))
    contents = (encoded(".jpg", *options, pixels=image.clip(0, 255).astype(np.uint8))[:-2] for image in images)
    content = next(one for one in contents if one[len(one.rstrip(b"\x00\xff")) :] == end)
    for cut, is_cut in ((content, False), (content[:-30], True)):
        assert lacks_end_mark(cut) and is_cut_off(cut, decode_image(cut)) == is_cut


WITHOUT_MEMORY = """
import resource, sys
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.data.decode import decode_image

content = sys.stdin.buffer.read()
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (50 << 20),) * 2)
try:
    print(decode_image(content))
except HpcYoloError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_lack_of_memory_is_not_damage_of_the_file(suffix):
    """As damage it would be kept in the cache of the scan for everyone."""
    content = encoded(suffix, pixels=np.zeros((5000, 5000, 3), dtype=np.uint8))
    program = [sys.executable, "-c", WITHOUT_MEMORY]
    result = subprocess.run(program, input=content, capture_output=True, check=True, timeout=60)
    assert result.stdout.startswith(b"HpcYoloError no memory is left to decode an image: Failed to allocate 75000000")


IMAGES_AT_A_TIME = """
import resource, sys
from hpc_yolo.data.decode import decode_image, prepare_decoder

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pixels = [decode_image(content) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

content = sys.stdin.buffer.read()
page_faults()
print(page_faults())
prepare_decoder()
page_faults()
print(page_faults())
"""


def test_memory_of_images_is_used_again():
    """The kernel's work for new pages is a fifth of the time of a large image."""
    content = encoded(".jpg", pixels=cv2.resize(PIXELS, (1000, 1000)))
    program = [sys.executable, "-c", IMAGES_AT_A_TIME]
    result = subprocess.run(program, input=content, capture_output=True, check=True, timeout=60)
    by_default, prepared = map(int, result.stdout.split())
    pages = 8 * 3_000_000 // os.sysconf("SC_PAGESIZE")
    assert by_default > 0.8 * pages  # else the test shows nothing
    assert prepared < 0.1 * pages
