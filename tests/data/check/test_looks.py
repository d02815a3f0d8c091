"""Looks: the same image in another form is near, another image is not."""

import cv2
import numpy as np
import pytest

from hpc_yolo.data.check.duplicates import MIN_CORRELATION
from hpc_yolo.data.check.looks import correlations, look_of
from hpc_yolo.data.check.near import MAX_DISTANCE
from hpc_yolo.data.drawn_shapes import draw_image

IMAGES = [draw_image(np.random.default_rng([0, number]), (320, 240))[0] for number in range(60)]


def reencoded(pixels, quality):
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def is_near(first, second):
    looks = [look_of(b"", pixels) for pixels in (first, second)]
    thumbnails = [np.frombuffer(look.thumbnail, dtype=np.uint8).reshape(1, -1) for look in looks]
    apart = (looks[0].code ^ looks[1].code).bit_count()
    return apart <= MAX_DISTANCE and correlations(*thumbnails)[0] >= MIN_CORRELATION


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: reencoded(pixels, 60),
        lambda pixels: reencoded(pixels, 30),
        lambda pixels: reencoded(cv2.resize(pixels, (160, 120)), 90),
        lambda pixels: cv2.resize(pixels, (640, 480)),
        lambda pixels: cv2.add(pixels, np.full_like(pixels, 10)),
        lambda pixels: (pixels * 0.8 + 20).astype(np.uint8),
        lambda pixels: np.roll(pixels, 1, axis=1),
    ],
    ids=["quality 60", "quality 30", "half", "double", "brighter", "contrast", "moved"],
)
def test_changed_image_is_near(change):
    assert all(is_near(pixels, change(pixels)) for pixels in IMAGES)


def test_other_images_are_not_near():
    assert not any(is_near(IMAGES[first], IMAGES[second]) for first in range(60) for second in range(first))


def test_mirrored_image_is_another_one():
    assert not any(is_near(pixels, pixels[:, ::-1].copy()) for pixels in IMAGES)


def test_image_of_one_colour_is_near_to_none():
    plain = np.full((240, 320, 3), 80, dtype=np.uint8)
    assert not is_near(plain, plain + 1) and not is_near(plain, IMAGES[0])
