"""Samples: images with their labels after all changes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import STILL, TRIANGLE, add, encoded, index_of, make_samples, make_set, members_of, scan

from hpc_yolo.data import colours
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.samples import ValidationSamples
from hpc_yolo.data.source import ImageFiles
from hpc_yolo.evaluation.evaluator import to_original_pixels

QUICK = settings(deadline=None, database=None, derandomize=True, max_examples=40)
S = 128
BOX_LINE, TRIANGLE_LINE = "1 0.5 0.5 0.2 0.2", "0 0.2 0.2 0.8 0.3 0.4 0.9"


@pytest.mark.parametrize(("field", "axis"), [("flipud", 1), ("fliplr", 2)])
def test_certain_flip_mirrors_every_image_and_changes_nothing_else(train_index, field, axis):
    plain, flipped = (make_samples(train_index, 64, **{**STILL, "mosaic": 0, **more}) for more in ({}, {field: 1}))
    for image in range(train_index.num_images):
        assert (np.flip(plain.sample(0, image)[0], axis) == flipped.sample(0, image)[0]).all()


@pytest.mark.parametrize("field", ["hsv_h", "hsv_s", "hsv_v"])
def test_one_colour_limit_changes_colours(train_index, field):
    plain, changed = (make_samples(train_index, 32, **{**STILL, **more}) for more in ({}, {field: 0.5}))
    assert any((plain.sample(0, image)[0] != changed.sample(0, image)[0]).any() for image in range(4))


def test_mosaic_has_the_image_in_any_slot_and_partners_from_the_whole_set(train_index, monkeypatch):
    samples = make_samples(train_index, 32)
    read = members_of(samples, monkeypatch)
    for epoch in range(40):
        samples.sample(epoch, 7)
    members = np.array(read).reshape(-1, 4)
    assert (members == 7).any(axis=1).all()
    assert {int(slot) for row in members for slot in np.nonzero(row == 7)[0]} == {0, 1, 2, 3}
    assert set(members.ravel()) == set(range(10))


def test_blended_sample_has_the_objects_of_both_images(train_index, monkeypatch):
    """Ratios are Beta(32, 32): mean 1/2, variance 1 / (4 x 65)."""
    alone, blended = (make_samples(train_index, 32, mosaic=1, mixup=mixup, **STILL) for mixup in (0, 1))
    ratios, real = [], colours.blend_into
    monkeypatch.setattr(colours, "blend_into", lambda *arguments: ratios.append(arguments[2]) or real(*arguments))
    num_more = 0
    for epoch in range(300):
        first, both = alone.sample(epoch, 0)[1], blended.sample(epoch, 0)[1]
        assert (both[: len(first)] == first).all()
        num_more += len(both) - len(first)
    assert num_more > 300
    sigma = np.sqrt(1 / (4 * 65))
    assert np.mean(ratios) == pytest.approx(0.5, abs=4 * sigma / np.sqrt(300))
    assert np.std(ratios) == pytest.approx(sigma, rel=0.2)


@pytest.fixture
def outlined(tmp_path):
    """The index of three images with a white triangle on black: a box, a box with an outline and a box, an outline."""
    root = make_set(tmp_path / "set")
    pixels = np.zeros((S, S, 3), dtype=np.uint8)
    cv2.fillPoly(pixels, [(TRIANGLE * S).astype(np.int32)], (255, 255, 255))
    for name, label in {"a": BOX_LINE, "b": f"{BOX_LINE}\n{TRIANGLE_LINE}\n{BOX_LINE}\n", "c": TRIANGLE_LINE}.items():
        add(root, f"{name}.png", encoded(".png", pixels), label)
    return scan(root)


def still_samples(index, **hyp):
    return make_samples(index, S, **{**STILL, **hyp})


def test_copies_are_in_samples_of_outlined_objects(outlined):
    plain, copied = (still_samples(outlined, copy_paste=fraction) for fraction in (0, 1))
    num_rows = [sum(len(one.sample(epoch, 2)[1]) for epoch in range(60)) for one in (plain, copied)]
    assert num_rows[1] > num_rows[0]
    assert any((plain.sample(epoch, 2)[0] != copied.sample(epoch, 2)[0]).any() for epoch in range(5))


def test_copy_paste_changes_nothing_without_polygons(outlined):
    """Runs on boxes that an earlier version began continue unchanged."""
    boxes = replace(outlined, outlines=Outlines.none(0))
    plain, copied = (still_samples(boxes, copy_paste=fraction) for fraction in (0, 1))
    for epoch in range(5):
        for one, other in zip(plain.sample(epoch, 0), copied.sample(epoch, 0), strict=True):
            assert (one == other).all()


@pytest.mark.parametrize("mosaic", [0, 1])
def test_boxes_of_samples_follow_the_outlines(outlined, mosaic):
    """Turned by 45 degrees the box of the triangle is smaller than that of its box."""
    by_outline, by_box = (
        still_samples(one, mosaic=mosaic, degrees=180)
        for one in (outlined, replace(outlined, outlines=Outlines.none(0)))
    )
    areas = [
        np.mean([rows[:, 3:].prod(axis=1).sum() for rows in (one.sample(epoch, 2)[1] for epoch in range(40))])
        for one in (by_outline, by_box)
    ]
    assert areas[0] < 0.95 * areas[1]


@QUICK
@given(
    sizes=st.lists(st.tuples(st.integers(10, 300), st.integers(10, 300)), min_size=1, max_size=3),
    box=st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0.1, 0.4), st.floats(0.1, 0.4)),
    imgsz=st.sampled_from([64, 96]),
)
def test_validation_boxes_of_any_image_lead_back_to_its_own_pixels(tmp_path_factory, sizes, box, imgsz):
    """Wide, tall, smaller and larger than the batch: sizes are cut to whole pixels twice on the way."""
    directory = tmp_path_factory.mktemp("odd")
    paths = [str(directory / f"{number}.png") for number in range(len(sizes))]
    for path, (height, width) in zip(paths, sizes, strict=True):
        cv2.imwrite(path, np.zeros((height, width, 3), dtype=np.uint8))
    index = index_of(paths, sizes, [[[0, *box]]] * len(sizes))
    samples = ValidationSamples(index, ImageFiles(index, imgsz, augment=False))
    for image, (height, width) in enumerate(sizes):
        pixels, labels, shape = samples.sample(image, (imgsz, imgsz + 32))
        batch_h, batch_w = pixels.shape[1:]
        own = torch.from_numpy(labels[:, 1:])
        corners = torch.cat((own[:, :2] - own[:, 2:] / 2, own[:, :2] + own[:, 2:] / 2), dim=1)
        back = to_original_pixels(corners * torch.tensor([batch_w, batch_h] * 2), shape)
        cx, cy, w, h = box
        expected = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
        assert back[0].tolist() == pytest.approx(expected, abs=1)


def test_validation_image_is_shrunk_by_area_and_never_enlarged_to_its_frame(tmp_path):
    """The frame of a square image at 64 has 96 pixels; filling it would change every published value."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(200, 200, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), pixels)
    index = index_of([str(tmp_path / "x.png")], [(200, 200)], [[]])
    found, _, _ = ValidationSamples(index, ImageFiles(index, 64, augment=False)).sample(0, (96, 96))
    framed = np.full((96, 96, 3), 114, dtype=np.uint8)
    framed[16:80, 16:80] = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)
    assert (found == framed.transpose(2, 0, 1)[::-1]).all()
