"""Draws of augmentation have the published distributions.

Sequences differ from the original's, by design decision 1; means and variances over thousands of draws are those of
the closed forms, to five standard errors. Seeds are fixed.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from image_sets import index_of, members_of

from hpc_yolo.data import augment, colours
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.sampler import SAMPLE_STREAM, generator
from hpc_yolo.data.samples import TrainingSamples
from hpc_yolo.spec.recipe import Hyperparameters

pytestmark = pytest.mark.no_cover  # thousands of draws of the same lines

NUM_DRAWS = 5000
NUM_SAMPLES = 2000  # each takes as long as hundreds of draws
SIGMAS = 5
HYP = Hyperparameters(
    scale=0.5, translate=0.1, degrees=10, shear=2, perspective=0.001, hsv_h=0.015, hsv_s=0.7, hsv_v=0.4
)
COLOURS = {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0}


def drawn(draw: Callable[[np.random.Generator], object]) -> np.ndarray:
    """Return one draw for each of many images, each from the generator that belongs to it."""
    return np.array([draw(generator(0, 3, image, SAMPLE_STREAM)) for image in range(NUM_DRAWS)])


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Check the moments of U(low, high).

    With d = high - low: mean (low + high) / 2, variance d^2 / 12, fourth central moment d^4 / 80.
    """
    width, count = high - low, len(values)
    assert values.min() >= low and values.max() <= high
    assert values.mean() == pytest.approx((low + high) / 2, abs=SIGMAS * width / math.sqrt(12 * count))
    error_of_variance = width**2 * math.sqrt((1 / 80 - 1 / 144) / count)
    assert values.var() == pytest.approx(width**2 / 12, abs=SIGMAS * error_of_variance)


def assert_fraction(count: int, num_trials: int, fraction: float) -> None:
    """Check that `count` is of a binomial distribution."""
    assert abs(count - num_trials * fraction) <= SIGMAS * math.sqrt(num_trials * fraction * (1 - fraction))


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("scale", 0.5, 1.5),
        ("angle", -10, 10),
        ("shear_x", -2, 2),
        ("shear_y", -2, 2),
        ("perspective_x", -0.001, 0.001),
        ("perspective_y", -0.001, 0.001),
        ("translate_x", 0.4, 0.6),
        ("translate_y", 0.4, 0.6),
    ],
)
def test_warp_values_are_uniform_within_their_limits(field, low, high):
    assert_uniform(drawn(lambda random: getattr(augment.draw_warp(random, HYP), field)), low, high)


def test_warp_values_are_independent():
    """Correlations of independent draws have a standard error of 1 / sqrt(n)."""
    warps = drawn(lambda random: list(vars(augment.draw_warp(random, HYP)).values()))
    correlations = np.corrcoef(warps.T) - np.eye(warps.shape[1])
    assert abs(correlations).max() < SIGMAS / math.sqrt(NUM_DRAWS)


def test_colour_gains_are_uniform_within_their_limits():
    gains = drawn(lambda random: augment.draw_hsv_gains(random, HYP))
    for values, limit in zip(gains.T, (0.015, 0.7, 0.4), strict=True):
        assert_uniform(values, 1 - limit, 1 + limit)


def test_mosaic_centres_are_uniform_over_the_middle_half():
    """Whole pixels of U(S/2, 3S/2); cutting off moves the mean by half a pixel."""
    imgsz = 640
    for values in drawn(lambda random: augment.draw_mosaic_centre(random, imgsz)).T:
        assert_uniform(values + 0.5, imgsz / 2, imgsz * 3 / 2)


def flat_index(num_images: int, imgsz: int, boxes: list[list[float]]) -> ImageIndex:
    """Return an index of images of one size, each with `boxes` (class, cxcywh)."""
    return index_of([""] * num_images, [(imgsz, imgsz)] * num_images, [boxes] * num_images)


class GreyImages:
    """An image source without files."""

    def __init__(self, imgsz: int) -> None:
        self._grey = np.full((imgsz, imgsz, 3), 114, dtype=np.uint8)

    def read(self, index: int) -> np.ndarray:
        return self._grey


@pytest.fixture
def make_samples(monkeypatch):
    """A function that makes training samples without files, with the list of images that these consist of."""

    def make(index: ImageIndex, imgsz: int, **hyp: float) -> tuple[TrainingSamples, list[int]]:
        hyperparameters = Hyperparameters(**{**COLOURS, **hyp})
        samples = TrainingSamples(index, GreyImages(imgsz), imgsz=imgsz, hyp=hyperparameters, seed=0)
        return samples, members_of(samples, monkeypatch)

    return make


def test_mosaic_partners_are_uniform_over_the_set_with_reslotment(make_samples):
    """Three of four members: each image 1 / n of them; the image itself in each of the four slots equally often."""
    num_images, num_mosaics, own = 12, NUM_SAMPLES, 5
    samples, asked = make_samples(flat_index(num_images, 16, []), 16)
    for epoch in range(num_mosaics):
        samples.sample(epoch, own)
    members = np.array(asked).reshape(num_mosaics, 4)
    counts = np.bincount(members.ravel(), minlength=num_images)
    for image in range(num_images):
        partners = counts[image] - (num_mosaics if image == own else 0)
        assert_fraction(partners, 3 * num_mosaics, 1 / num_images)
    for slot in range(4):
        # The image is here (1/4), or one of its partners is (3/4), which may be the image as well (1/n).
        assert_fraction(int((members[:, slot] == own).sum()), num_mosaics, 1 / 4 + 3 / 4 / num_images)


def test_blends_have_the_published_ratio_and_partners_from_the_whole_set(make_samples, monkeypatch):
    """Beta(32, 32): mean 1/2, variance 1 / (4 x 65); its fourth central moment is 3 / (16 x 65 x 67)."""
    num_images, num_samples, fraction = 8, NUM_SAMPLES, 0.6
    samples, asked = make_samples(flat_index(num_images, 16, []), 16, mixup=fraction)
    ratios: list[float] = []
    monkeypatch.setattr(colours, "blend_into", lambda _first, _second, ratio: ratios.append(ratio))
    for epoch in range(num_samples):
        samples.sample(epoch, 0)
    assert_fraction(len(ratios), num_samples, fraction)
    variance = 1 / 260
    assert np.mean(ratios) == pytest.approx(0.5, abs=SIGMAS * math.sqrt(variance / len(ratios)))
    error_of_variance = math.sqrt((3 / (16 * 65 * 67) - variance**2) / len(ratios))
    assert np.var(ratios) == pytest.approx(variance, abs=SIGMAS * error_of_variance)
    num_members = len(asked)
    assert num_members == 4 * (num_samples + len(ratios))
    # All but the image itself, once in each first mosaic, is even over the set: partners, and the second's own.
    assert_fraction(asked.count(3), num_members - num_samples, 1 / num_images)


@pytest.mark.parametrize(("field", "watched"), [("flipud", "up_down"), ("fliplr", "left_right"), ("mosaic", "mosaic")])
def test_changes_are_as_frequent_as_their_probability(make_samples, monkeypatch, field, watched):
    probability = 0.3
    samples, asked = make_samples(flat_index(8, 16, []), 16, **{"mosaic": 0, field: probability})
    flips: list[dict[str, bool]] = []
    monkeypatch.setattr(augment, "flip_labels", lambda labels, **options: flips.append(options) or labels)
    for epoch in range(NUM_SAMPLES):
        samples.sample(epoch, 0)
    count = (len(asked) - NUM_SAMPLES) // 3 if watched == "mosaic" else sum(options[watched] for options in flips)
    assert_fraction(count, NUM_SAMPLES, probability)


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_mosaic_has_the_expected_number_of_small_objects(make_samples, limit):
    """A square box of side b in the middle of each image of side S, scale s ~ U(1 - a, 1 + a), no shift.

    Along one axis the left and the right tile's box lie, with the centre of the mosaic, evenly over the whole canvas
    [0, 2S], one in S pixels. The output shows S / s pixels of it, and a box that reaches into them by the least side of
    2 pixels, 2 / s on the canvas, so that its middle may lie b / 2 - 2 / s outside: on average
    (S/s + b - 4/s) / S = A / s + B, with A = 1 - 4/S and B = b/S. Squared for two axes and averaged over s:
    A^2 / (1 - a^2) + 2 A B ln((1 + a) / (1 - a)) / (2 a) + B^2.
    """
    imgsz, side = 160, 12
    box = [0, 0.5, 0.5, side / imgsz, side / imgsz]
    samples, _ = make_samples(flat_index(1, imgsz, [box]), imgsz, scale=limit, translate=0)
    counts = np.array([len(samples.sample(epoch, 0)[1]) for epoch in range(NUM_SAMPLES)])
    a, big_a, b = limit, 1 - 4 / imgsz, side / imgsz
    mean_inverse = math.log((1 + a) / (1 - a)) / (2 * a) if a else 1.0
    expected = big_a**2 / (1 - a**2) + 2 * big_a * b * mean_inverse + b**2
    corners = 4 * b**2  # boxes seen by a corner only may be less than a tenth
    assert counts.mean() == pytest.approx(expected, abs=SIGMAS * counts.std() / math.sqrt(NUM_SAMPLES) + corners)


def test_objects_move_uniformly_within_the_translation_limit(make_samples):
    """Without a mosaic an object in the middle comes to lie at 0.5 + U(-t, t) of each side, in whole pixels."""
    limit, imgsz = 0.2, 320
    samples, _ = make_samples(
        flat_index(1, imgsz, [[0, 0.5, 0.5, 0.1, 0.1]]), imgsz, mosaic=0, translate=limit, scale=0, fliplr=0
    )
    labels = np.concatenate([samples.sample(epoch, 0)[1] for epoch in range(NUM_SAMPLES)])
    assert len(labels) == NUM_SAMPLES
    for values in labels[:, 1:3].T:
        to_a_pixel = 0.5 / imgsz + 1e-6
        assert_uniform(values.astype(np.float64), 0.5 - limit - to_a_pixel, 0.5 + limit + to_a_pixel)
