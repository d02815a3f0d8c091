"""Labels with polygons: read line by line, kept through mosaic and warp, and copied with their pixels."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_yolo.data import augment
from hpc_yolo.data import scan as scan_module
from hpc_yolo.data.augment import Warp
from hpc_yolo.data.copy_paste import covered_shares, draw_copied, paste_mirrored
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats.yolo_labels import read_labels
from hpc_yolo.data.polygons import Outlines, visible_hulls
from hpc_yolo.data.samples import TrainingSamples
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.source import ImageFiles
from hpc_yolo.spec.schema import Hyperparameters

QUICK = settings(deadline=None, database=None, derandomize=True, max_examples=60)
S = 128
STILL = {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "flipud": 0, "fliplr": 0, "translate": 0, "scale": 0}
TRIANGLE = np.array([[0.2, 0.2], [0.8, 0.3], [0.4, 0.9]], dtype=np.float32)
BOX_LINE, TRIANGLE_LINE = "1 0.5 0.5 0.2 0.2", "0 0.2 0.2 0.8 0.3 0.4 0.9"


@pytest.fixture
def directory(tmp_path):
    """Two images with a white triangle on black, of which one also has a box; and one with boxes only."""
    root = tmp_path / "set"
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    pixels = np.zeros((S, S, 3), dtype=np.uint8)
    cv2.fillPoly(pixels, [(TRIANGLE * S).astype(np.int32)], (255, 255, 255))
    texts = {"a": BOX_LINE, "b": f"{BOX_LINE}\n{TRIANGLE_LINE}\n{BOX_LINE}\n", "c": TRIANGLE_LINE}
    for name, text in texts.items():
        cv2.imwrite(str(root / "images" / "train" / f"{name}.png"), pixels)
        (root / "labels" / "train" / f"{name}.txt").write_text(text)
    (root / "d.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
    return root


def outlines_of(*polygons) -> Outlines:
    return Outlines.of([np.array(polygon, dtype=np.float32).reshape(-1, 2) for polygon in polygons])


def test_each_line_of_a_mixed_file_is_what_it_looks_like(tmp_path):
    """The original takes all lines for polygons where one is, and a box for two points."""
    (tmp_path / "x.txt").write_text(f"{BOX_LINE}\n{TRIANGLE_LINE}\n")
    rows, polygons = read_labels(tmp_path / "x.txt", 2)
    assert rows == pytest.approx(np.array([[1, 0.5, 0.5, 0.2, 0.2], [0, 0.5, 0.55, 0.6, 0.7]]))
    assert [len(polygon) for polygon in polygons] == [0, 3]
    assert (polygons[1] == TRIANGLE).all()


def test_outlines_belong_to_their_objects_and_come_out_of_the_cache_as_they_went_in(directory, monkeypatch):
    dataset = load_dataset(directory / "d.yaml")
    first = scan_split(dataset, "train")
    monkeypatch.setattr(scan_module, "_scan", lambda *_: pytest.fail("scanned in spite of the cache"))
    for index in (first, scan_split(dataset, "train")):
        assert [index.outlines_of(image).counts.tolist() for image in range(3)] == [[0], [0, 3], [3]]
        assert (index.outlines_of(1).polygon(1) == TRIANGLE).all()
        assert (index.outlines_of(2).points == TRIANGLE).all()
        assert (index.outlines.points.dtype, index.outlines.counts.dtype) == (np.float32, np.int64)


def test_a_set_of_boxes_has_no_outlines(directory):
    for name in ("b", "c"):
        (directory / "labels" / "train" / f"{name}.txt").write_text(f"{BOX_LINE}\n0 0.1 0.1 0.1 0.1\n")
    index = scan_split(load_dataset(directory / "d.yaml"), "train")
    assert index.outlines.is_empty
    assert [index.outlines_of(image).counts.tolist() for image in range(3)] == [[0], [0, 0], [0, 0]]


@QUICK
@given(
    seed=st.integers(0, 10**6),
    angle=st.floats(-180, 180),
    scale=st.floats(0.3, 1.9),
    shear=st.floats(-10, 10),
    perspective=st.sampled_from([0.0, 0.001, -0.001]),
    shift=st.floats(0, 1),
)
def test_an_outline_is_cut_as_many_points_of_it_would_be(seed, angle, scale, shear, perspective, shift):
    """The published way: many points along the closed outline, those inside the output, their hull."""
    random = np.random.default_rng(seed)
    polygons = [random.uniform(0, 2 * S, size=(random.integers(3, 9), 2)) for _ in range(3)]
    warp = Warp(perspective, perspective / 2, angle, scale, shear, -shear, shift, 1 - shift)
    matrix = augment.warp_matrix(warp, (2 * S, 2 * S), (S, S))
    hulls = visible_hulls(outlines_of(polygons[0], [], *polygons[1:]), matrix, (S, S))
    assert hulls[1].tolist() == [0, 0, 0, 0], "an object that has only a box"
    for polygon, hull in zip(polygons, hulls[[0, 2, 3]], strict=True):
        many = 4000
        closed = np.concatenate([polygon, polygon[:1]])
        at = np.linspace(0, len(polygon), many)
        points = np.stack([np.interp(at, np.arange(len(closed)), closed[:, axis]) for axis in (0, 1)], axis=1)
        moved = np.concatenate([points, np.ones((many, 1))], axis=1) @ matrix.T
        moved = moved[:, :2] / moved[:, 2:]
        inside = moved[((moved >= 0) & (moved <= S)).all(axis=1)]
        if len(inside) == 0:
            assert (hull[2:] - hull[:2]).min() < 2, "between two points less can be seen than a box needs"
        else:
            assert (hull[:2] <= inside.min(axis=0) + 1e-3).all() and (hull[2:] >= inside.max(axis=0) - 1e-3).all()
            expected = [*inside.min(axis=0), *inside.max(axis=0)]
            assert hull == pytest.approx(expected, abs=2.0), "two points are at most half a pixel apart, scaled"


def test_what_lies_behind_the_viewer_is_not_seen():
    """A strong perspective turns the far side of a large canvas over; dividing by w alone would bring it back."""
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]])  # w = 0 at x = 100
    ahead, behind = [[10, 10], [20, 10], [20, 20]], [[150, -60], [160, -60], [160, -70]]
    hulls = visible_hulls(outlines_of(ahead, behind), matrix, (S, S))
    assert hulls[0] == pytest.approx([10 / 0.9, 10 / 0.9, 20 / 0.8, 20 / 0.8])
    assert hulls[1].tolist() == [0, 0, 0, 0]


def test_an_outline_round_the_whole_image_is_not_in_it():
    """Only the line counts, as published: of a sky behind everything no box is left."""
    hulls = visible_hulls(outlines_of([[-9, -9], [S + 9, -9], [S + 9, S + 9], [-9, S + 9]]), np.eye(3), (S, S))
    assert hulls.tolist() == [[0, 0, 0, 0]]


def triangle_rows() -> np.ndarray:
    (left, top), (right, bottom) = TRIANGLE.min(axis=0) * S, TRIANGLE.max(axis=0) * S
    return np.array([[0, left, top, right, bottom]], dtype=np.float32)


@pytest.mark.parametrize("angle", [20, 45, -70, 180])
def test_a_turned_polygon_has_a_tighter_box_than_its_box_turned(angle):
    pixels = np.zeros((S, S, 3), dtype=np.uint8)
    cv2.fillPoly(pixels, [(TRIANGLE * S).astype(np.int32)], (255, 255, 255))
    matrix = augment.warp_matrix(Warp(angle=angle), (S, S), (S, S))
    warped = augment.warp_image(pixels, matrix, (S, S), has_perspective=False)
    outlines = outlines_of(TRIANGLE * S)
    (row,) = augment.warp_boxes(triangle_rows(), matrix, 1.0, (S, S), outlines)
    ys, xs = np.nonzero(warped[..., 0] > 180)
    assert row[1:] == pytest.approx([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], abs=2)
    (loose,) = augment.warp_boxes(triangle_rows(), matrix, 1.0, (S, S))
    assert (row[3:] - row[1:3]).prod() <= (loose[3:] - loose[1:3]).prod()


def test_more_of_a_polygon_may_be_lost_than_of_a_box_each_by_its_own_rule():
    """A strip of a twentieth is left of both objects: enough for an outline (1 %), too little for a box (10 %)."""
    square = [[100, 0], [200, 0], [200, 100], [100, 100]]
    rows = np.array([[0, 100, 0, 200, 100], [1, 100, 0, 200, 100]], dtype=np.float32)
    kept = augment.warp_boxes(rows, np.eye(3), 1.0, (105, 105), outlines_of(square, []))
    assert kept.tolist() == [[0, 100, 0, 105, 100]]


@pytest.mark.parametrize("centre", [(128, 128), (70, 180), (185, 66)])
def test_outlines_of_a_mosaic_lie_on_their_objects_and_end_at_the_canvas(centre):
    pixels = np.zeros((S, S, 3), dtype=np.uint8)
    cv2.fillPoly(pixels, [(TRIANGLE * S).astype(np.int32)], (255, 255, 255))
    (left, top), (right, bottom) = TRIANGLE.min(axis=0), TRIANGLE.max(axis=0)
    shares = np.array([[0, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top]], dtype=np.float32)
    tile = pixels, shares, outlines_of(TRIANGLE)
    canvas, rows, outlines = augment.mosaic([tile] * 4, centre, S)
    assert outlines.counts.tolist() == [3] * 4
    drawn = np.zeros((2 * S, 2 * S), dtype=np.uint8)
    for index, row in enumerate(rows):
        polygon = outlines.polygon(index)
        assert [*polygon.min(axis=0), *polygon.max(axis=0)] == pytest.approx(row[1:], abs=1e-3)
        if (polygon > 0).all() and (polygon < 2 * S).all():
            cv2.fillPoly(drawn, [polygon.astype(np.int32)], 255)
    assert (canvas[..., 0][drawn > 0] == 255).mean() > 0.98, "the edge may differ by a pixel"


def test_a_copy_is_the_mirror_image_and_lies_in_its_box():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 100, size=(S, S, 3), dtype=np.uint8)
    square = np.array([[10, 20], [30, 20], [30, 50], [10, 50]], dtype=np.float32)
    pixels[20:50, 10:30] += 100
    before = pixels.copy()
    rows = np.array([[3, 10, 20, 30, 50]], dtype=np.float32)
    pasted, more, outlines = paste_mirrored(pixels, rows, outlines_of(square), np.array([0]))
    assert more.tolist() == [[3, 10, 20, 30, 50], [3, S - 30, 20, S - 10, 50]]
    assert outlines.counts.tolist() == [4, 4]
    assert outlines.polygon(1).tolist() == [[S - x, y] for x, y in square.tolist()]
    assert (pasted[20:50, S - 30 : S - 10] == before[20:50, 10:30][:, ::-1]).all()
    changed = (pasted != before).any(axis=2)
    changed[19:52, S - 32 : S - 9] = False
    assert not changed.any(), "pixels off the object"


def square_at(left: float, top: float, side: float = 20) -> tuple[list[float], list[list[float]]]:
    right, bottom = left + side, top + side
    return [0, left, top, right, bottom], [[left, top], [right, top], [right, bottom], [left, bottom]]


@pytest.mark.parametrize(
    ("left", "is_pasted"),
    [(S / 2 - 10, False), (S / 2 - 20, True), (S / 2 - 16.9, False), (S / 2 - 17.1, True)],
    ids=["in the middle, on itself", "beside itself", "over 31 %", "over 29 %"],
)
def test_a_copy_may_not_hide_an_object(left, is_pasted):
    row, square = square_at(left, 20)
    rows = np.array([row], dtype=np.float32)
    _, more, _ = paste_mirrored(np.zeros((S, S, 3), np.uint8), rows, outlines_of(square), np.array([0]))
    assert (len(more) == 2) is is_pasted


def test_a_copy_may_not_hide_an_earlier_copy():
    (first, one), (second, other) = square_at(10, 20), square_at(12, 20)
    rows = np.array([first, second], dtype=np.float32)
    arguments = np.zeros((S, S, 3), np.uint8), rows, outlines_of(one, other)
    assert len(paste_mirrored(*arguments, np.array([0, 1]))[1]) == 3


def test_what_is_covered_is_a_share_of_the_object_and_not_of_the_cover():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 100, 100], [50, 50, 60, 60], [3, 3, 3, 9]], dtype=np.float32)
    cover = np.array([5, 0, 15, 10], dtype=np.float32)
    assert covered_shares(boxes, cover) == pytest.approx([0.5, 0.01, 0, 0])


@pytest.mark.parametrize(("share", "num_copied"), [(0.0, 0), (0.1, 0), (0.3, 2), (0.5, 2), (1.0, 5)])
def test_so_many_of_the_outlined_objects_are_copied_each_once(share, num_copied):
    """round(share x n), to the even number where two are near; an object that has only a box cannot be cut out."""
    outlines = outlines_of(*(TRIANGLE if number % 2 else [] for number in range(10)))
    seen = set()
    for seed in range(60):
        chosen = draw_copied(np.random.default_rng(seed), outlines, share).tolist()
        assert len(chosen) == len(set(chosen)) == num_copied
        seen |= set(chosen)
    assert seen == (set(range(1, 10, 2)) if num_copied else set())


def images(index, **hyp):
    source = ImageFiles(index.paths, S, augment=True)
    return TrainingSamples(index, source, imgsz=S, hyp=Hyperparameters(**{**STILL, **hyp}), seed=0)


def test_copies_reach_the_batch(directory):
    index = scan_split(load_dataset(directory / "d.yaml"), "train")
    plain, copied = (images(index, copy_paste=share) for share in (0, 1))
    num_rows = [sum(len(one.sample(epoch, 2)[1]) for epoch in range(60)) for one in (plain, copied)]
    assert num_rows[1] > num_rows[0]
    assert any((plain.sample(epoch, 2)[0] != copied.sample(epoch, 2)[0]).any() for epoch in range(5))


def test_without_polygons_copy_paste_changes_nothing(directory):
    """Runs on boxes that a version before this one began go on as they were."""
    index = scan_split(load_dataset(directory / "d.yaml"), "train")
    boxes = replace(index, outlines=Outlines.none(0))
    plain, copied = (images(boxes, copy_paste=share) for share in (0, 1))
    for epoch in range(5):
        for one, other in zip(plain.sample(epoch, 0), copied.sample(epoch, 0), strict=True):
            assert (one == other).all()


@pytest.mark.parametrize("mosaic", [0, 1])
def test_boxes_of_samples_follow_the_outlines(directory, mosaic):
    """Turned by 45 degrees the box of the triangle is smaller than that of its box."""
    index = scan_split(load_dataset(directory / "d.yaml"), "train")
    outlined, boxes = (
        images(one, mosaic=mosaic, degrees=180) for one in (index, replace(index, outlines=Outlines.none(0)))
    )
    areas = [
        np.mean([rows[:, 3:].prod(axis=1).sum() for rows in (one.sample(epoch, 2)[1] for epoch in range(40))])
        for one in (outlined, boxes)
    ]
    assert areas[0] < 0.95 * areas[1]
