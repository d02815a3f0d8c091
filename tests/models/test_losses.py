"""The loss: published values, an independent assignment of targets to cells, and its guarantees for many GPUs.

Guarantees: the shards of a global batch sum to the whole, no operation synchronises with the device, and padding
has no effect.
"""

import functools
import math

import golden
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_yolo.models.boxes import ciou_cxcywh
from hpc_yolo.models.losses.task_aligned import NUM_BINS, TaskAlignedLoss
from hpc_yolo.models.losses.yolov5 import Candidates, DetectionLoss, scaled_gains
from hpc_yolo.spec.recipe import Hyperparameters

GOLDEN = golden.GOLDEN["loss_golden"]
TARGETS = torch.tensor(GOLDEN["targets"], dtype=torch.float64)
ANCHORS_PIXELS = {
    3: [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]],
    4: [
        [19, 27, 44, 40, 38, 94],
        [96, 68, 86, 152, 180, 137],
        [140, 301, 303, 264, 238, 542],
        [436, 615, 739, 380, 925, 792],
    ],
}


def grid_anchors(num_levels, dtype=torch.float64):
    strides = 8 * 2 ** torch.arange(num_levels, dtype=dtype)
    return torch.tensor(ANCHORS_PIXELS[num_levels], dtype=dtype).view(num_levels, 3, 2) / strides.view(-1, 1, 1)


def loss_of(num_classes=3, num_levels=3, smoothing=0.0, dtype=torch.float64, **changes):
    """Return a loss with unscaled gains, as used for the golden values."""
    base = {name: value for name, value in GOLDEN["hyp_base"].items() if name not in ("label_smoothing", "iou_t")}
    hyp = Hyperparameters(**{**base, **changes})
    return DetectionLoss(grid_anchors(num_levels, dtype), num_classes, hyp, plain_gains(hyp), smoothing)


def plain_gains(hyp):
    return {"box": hyp.box, "obj": hyp.obj, "cls": hyp.cls}


def anchor_free_loss(num_classes=3, num_levels=3, smoothing=0.0, dtype=torch.float64, **changes):
    strides = 8 * 2 ** torch.arange(num_levels, dtype=dtype)
    return TaskAlignedLoss(strides, num_classes, Hyperparameters(**changes), smoothing)


def stacked(terms):
    """Return the terms as (3,)."""
    return torch.stack(list(terms.values()))


def total(terms, batch=2):
    """Return the value that training minimises, for `batch` images over all ranks."""
    return stacked(terms).sum() * batch


def waves(num_classes=3, num_levels=3, height=64, width=96, batch=2, a_cell=(3, 5)):
    """Return raw predictions by the formula of the golden values; `a_cell`: predictions, and outputs beside classes."""
    levels = []
    for index in range(num_levels):
        stride = 8 * 2**index
        shape = (batch, a_cell[0], height // stride, width // stride, a_cell[1] + num_classes)
        flat = torch.arange(math.prod(shape), dtype=torch.float64)
        levels.append((2 * torch.sin(0.71 * flat + index)).view(shape).requires_grad_())
    return levels


def random_targets(num, batch, num_classes, seed=0):
    """Return many targets, of which some are in one cell and some at the edge of the image or of a cell."""
    draw = torch.rand(num, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    targets = draw * torch.tensor([batch, num_classes, 1, 1, 0.5, 0.5]) + torch.tensor([0, 0, 0, 0, 0.01, 0.01])
    targets[:, :2] = targets[:, :2].floor()
    targets[:4, 2:4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.25], [0.999, 0.001]])
    return targets


@pytest.fixture(params=["anchors", "anchor-free"])
def head(request):
    """Return (function that makes a loss, function that makes raw predictions) of each head."""
    if request.param == "anchors":
        return loss_of, waves
    return anchor_free_loss, functools.partial(waves, a_cell=(1, 4 * NUM_BINS))


def flatten_boxes(row):
    """Make the boxes in raw predictions (..., outputs) of either head have no size."""
    if row.shape[-1] > 4 * NUM_BINS:
        row[..., : 4 * NUM_BINS] = -200
        row[..., : 4 * NUM_BINS : NUM_BINS] = 0
    else:
        row[..., 2:4] = -200


def golden_case(name):
    """Return (loss, predictions, targets, golden values) of a case."""
    case = GOLDEN["cases"][name]
    changes = dict(case["hyp_changes"])
    smoothing = changes.pop("label_smoothing", 0.0)
    is_p6 = name == "p6"
    size = {"num_levels": 4, "height": 128, "width": 192} if is_p6 else {}
    loss = loss_of(case["nc"], 4 if is_p6 else 3, smoothing, **changes)
    targets = TARGETS[:0] if name == "empty" else TARGETS.clone()
    if case["nc"] == 1:
        targets[:, 1] = 0
    return loss, waves(case["nc"], **size), targets, case


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_loss_items_and_gradients_equal_published_values(name):
    loss, predictions, targets, case = golden_case(name)
    terms = loss(predictions, targets)
    assert total(terms).item() == pytest.approx(case["loss"], rel=1e-6)
    assert stacked(terms).tolist() == pytest.approx(case["items_box_obj_cls"], rel=1e-6, abs=1e-12)
    total(terms).backward()
    sums = [level.grad.abs().sum().item() for level in predictions]
    assert sums == pytest.approx(case["grad_abs_sum_per_level"], rel=1e-6)


def place_of(cells, level):
    """Return image, anchor, y, x of cells."""
    batch, anchors, height, width, _ = level.shape
    image, y, x, anchor = torch.unravel_index(cells, (batch, height, width, anchors))
    return image, anchor, y, x


def assignments(loss, predictions, targets, index):
    """Return rows of image, anchor, y, x, class, box of the positives of one level."""
    found = Candidates(*(values[index] for values in loss.candidates(predictions, targets)))
    indices = torch.stack(place_of(found.cells[found.mask], predictions[index]), dim=1)
    columns = (indices.double(), found.classes[found.mask, None].double(), found.boxes[found.mask])
    return torch.cat(columns, dim=1).tolist()


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_targets_are_assigned_to_published_cells(name):
    loss, predictions, targets, case = golden_case(name)
    for index, num_positives in enumerate(case["positives_per_level"]):
        rows = assignments(loss, predictions, targets, index)
        assert len(rows) == num_positives
        if "assignments" in case:
            expected = sorted(tuple(row) for row in case["assignments"][index])
            for row, golden in zip(sorted([round(v, 6) for v in row] for row in rows), expected, strict=True):
                assert row == pytest.approx(golden, abs=1e-5)


def neighbours(x, y, width, height):
    """Yield the cells of a centre: its own, then left, top, right, bottom where near enough and on the grid."""
    yield x, y
    if x % 1 < 0.5 and x > 1:
        yield x - 0.5, y
    if y % 1 < 0.5 and y > 1:
        yield x, y - 0.5
    if (width - x) % 1 < 0.5 and width - x > 1:
        yield x + 0.5, y
    if (height - y) % 1 < 0.5 and height - y > 1:
        yield x, y + 0.5


def loss_by_loops(predictions, targets, anchors, num_classes, hyp):
    """Return (box, obj, cls) by loops over targets, anchors and cells; the last of several positives is used."""
    terms = torch.zeros(3, dtype=torch.float64)
    for index, level in enumerate(predictions):
        _, _, height, width, _ = level.shape
        positives = []
        for number, (image, kind, cx, cy, w, h) in enumerate(targets.tolist()):
            for anchor, (aw, ah) in enumerate(anchors[index].tolist()):
                rw, rh = w * width / aw, h * height / ah
                if max(rw, 1 / rw, rh, 1 / rh) >= hyp.anchor_t:
                    continue
                cells = list(neighbours(cx * width, cy * height, width, height))
                own = (cx * width, cy * height)
                names = [(0, 0), (-0.5, 0), (0, -0.5), (0.5, 0), (0, 0.5)]
                for x, y in cells:
                    offset = names.index((round(x - own[0], 3), round(y - own[1], 3)))
                    column, row = min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)
                    box = [own[0] - column, own[1] - row, w * width, h * height]
                    positives.append((offset, anchor, number, int(image), row, column, int(kind), box))
        positives.sort(key=lambda positive: positive[:3])
        objectness = torch.zeros(level.shape[:4], dtype=torch.float64)
        for _, anchor, _, image, row, column, kind, box in positives:
            logits = level[image, anchor, row, column]
            size = (2 * logits[2:4].sigmoid()) ** 2 * anchors[index, anchor]
            centre = 2 * logits[:2].sigmoid() - 0.5
            overlap = ciou_cxcywh(torch.cat((centre, size)), torch.tensor(box, dtype=torch.float64))
            objectness[image, anchor, row, column] = overlap.detach().clamp(min=0)
            one_hot = functional.one_hot(torch.tensor(kind), num_classes).double()
            terms[0] += ((1 - overlap) / len(positives)).detach()
            terms[2] += (functional.binary_cross_entropy_with_logits(logits[5:], one_hot) / len(positives)).detach()
        weight = (4.0, 1.0, 0.4)[index]
        terms[1] += weight * functional.binary_cross_entropy_with_logits(level[..., 4], objectness).detach()
    return terms * terms.new_tensor([hyp.box, hyp.obj, hyp.cls])


@pytest.mark.parametrize("seed", range(3))
def test_crowded_batches_equal_loss_by_loops(seed):
    """Of several targets in one cell, on borders and on edges, the last is used, as in YOLOv5."""
    loss, predictions = loss_of(), waves()
    targets = random_targets(80, 2, 3, seed)
    expected = loss_by_loops(predictions, targets, loss.anchors, 3, loss.hyp)
    torch.testing.assert_close(stacked(loss(predictions, targets)), expected, rtol=1e-9, atol=1e-12)


def split(loss, predictions, targets, shards):
    """Return the terms of each rank, which holds the images of its shard; counts are summed as by a process group."""
    counts = []

    def terms_of(images, sum_over_ranks):
        images = torch.tensor(images)
        rows = targets[torch.isin(targets[:, 0], images.double())].clone()
        rows[:, 0] = torch.searchsorted(images, rows[:, 0].long()).double()
        return loss([level[images] for level in predictions], rows, sum_over_ranks, len(shards))

    def record(tensor):
        counts.append(tensor.clone())
        return tensor

    for images in shards:
        terms_of(images, record)
    summed = torch.stack(counts).sum(dim=0)
    return [terms_of(images, lambda _: summed) for images in shards]


@pytest.mark.parametrize("shards", [[[0, 1], [2, 3]], [[1, 3], [0, 2]], [[0], [1], [2], [3]]])
def test_shards_of_global_batch_sum_to_whole(shards, head):
    """The number of GPUs must not change the gradients, even if one rank has all targets."""
    make_loss, make_predictions = head
    loss, targets = make_loss(), random_targets(30, 4, 3)
    targets = targets[targets[:, 0] != 2]  # one rank, or an image, without any target
    whole, split_predictions = make_predictions(batch=4), make_predictions(batch=4)
    expected = loss(whole, targets)
    total(expected, 4).backward()
    terms = split(loss, split_predictions, targets, shards)
    torch.stack([total(part, 4) for part in terms]).sum().backward()
    torch.testing.assert_close(torch.stack([stacked(part) for part in terms]).sum(dim=0), stacked(expected))
    torch.testing.assert_close(sum(total(part, 4) for part in terms), total(expected, 4))
    for level, other in zip(split_predictions, whole, strict=True):
        torch.testing.assert_close(level.grad, other.grad, rtol=1e-6, atol=1e-12)


def test_padding_rows_keep_loss_and_gradients(head):
    """Targets are padded to a fixed number of rows, so that shapes stay the same from step to step."""
    make_loss, make_predictions = head
    loss, plain, padded = make_loss(), make_predictions(), make_predictions()
    padding = torch.zeros(9, 6, dtype=torch.float64)
    padding[:, 0] = -1
    padding[5:, 1:] = torch.tensor([1, 0.3, 0.4, 0.2, 0.35])  # with the values of a valid target
    first, second = loss(plain, TARGETS), loss(padded, torch.cat((padding[:4], TARGETS, padding[4:])))
    total(first).backward()
    total(second).backward()
    torch.testing.assert_close(stacked(second), stacked(first))
    for level, other in zip(padded, plain, strict=True):
        torch.testing.assert_close(level.grad, other.grad)


@pytest.mark.parametrize("num_padding", [0, 3])
def test_batch_without_targets_has_finite_loss_and_gradient(num_padding):
    loss, predictions = loss_of(), waves()
    terms = loss(predictions, torch.full((num_padding, 6), -1.0, dtype=torch.float64))
    total(terms).backward()
    assert stacked(terms).tolist() == pytest.approx(GOLDEN["cases"]["empty"]["items_box_obj_cls"], rel=1e-6)
    assert all(torch.isfinite(level.grad).all() for level in predictions)


def test_masked_candidates_keep_gradient_finite(head):
    """Masked rows read the first cells; 0/0 from a box of no size there must not reach the others."""
    make_loss, make_predictions = head
    loss = make_loss(dtype=torch.float32)
    predictions = [level.detach().float() for level in make_predictions()]
    flatten_boxes(predictions[0][0, 0, 0])
    for level in predictions:
        level.requires_grad_()
    total(loss(predictions, TARGETS[4:].float())).backward()
    assert all(torch.isfinite(level.grad).all() for level in predictions)


def test_cell_indices_beyond_float32_precision_are_exact():
    """256 images at 1280 px have 19.7 million cells on the first level; float32 counts to 16.7 million."""
    loss = loss_of(dtype=torch.float32)
    levels = [torch.zeros(1).expand(256, 3, side, side, 8) for side in (160, 80, 40)]  # takes no memory
    target = torch.tensor([[255, 0, 157.6 / 160, 157.6 / 160, 0.02, 0.02]])
    found = loss.candidates(levels, target)
    own = place_of(found.cells[0, :3], levels[0])
    assert found.mask[0, :3].all()
    assert [indices.tolist() for indices in own] == [[255] * 3, [0, 1, 2], [157] * 3, [157] * 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_of_mixed_precision_are_calculated_with_in_fp32(dtype):
    """The 8 bits of bf16 would place targets at every fourth pixel."""
    loss, exact = loss_of(dtype=torch.float32), loss_of(dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 3, side, side, 8, generator=generator).to(dtype) for side in (80, 40, 20)]
    targets = TARGETS.float()
    terms = loss(levels, targets)
    assert stacked(terms).dtype == torch.float32
    assert torch.equal(stacked(terms), stacked(exact([level.float() for level in levels], targets)))


class RecordSynchronisations(TorchDispatchMode):
    """Record operations that synchronise the host with the device, or whose output shape depends on values.

    `lift_fresh` is emitted by `torch.tensor` and `new_tensor` of Python numbers: a copy that waits for the device.
    """

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "lift_fresh")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        by_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        if name.lstrip("_") in {forbidden.lstrip("_") for forbidden in self.FORBIDDEN} or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


VARIANTS = {"base": {}, "weighted": {"cls_pw": 2.0, "fl_gamma": 1.5, "smoothing": 0.1}, "one class": {"num_classes": 1}}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_targets", [len(TARGETS), 0])
def test_loss_does_not_synchronise_with_device(variant, num_targets, head):
    """One hidden .item() per step takes longer than the whole loss on a GPU."""
    make_loss, make_predictions = head
    loss = make_loss(**VARIANTS[variant])
    predictions, targets = make_predictions(loss.num_classes), TARGETS[:num_targets].clone()
    targets[:, 1].clamp_(max=loss.num_classes - 1)
    with RecordSynchronisations() as mode:
        total(loss(predictions, targets)).backward()
    assert mode.found == []


def test_synchronisations_are_recorded():
    values = torch.arange(3.0)
    with RecordSynchronisations() as mode:
        values[values > 1].sum().item()
        values.new_tensor([1.0])
    assert {"_local_scalar_dense", "lift_fresh"} < set(mode.found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_compiles_to_one_graph(variant, head):
    """A graph break would break a compiled or captured step too; the eager backend detects it without a compiler."""
    make_loss, make_predictions = head
    loss = make_loss(**VARIANTS[variant])
    predictions, targets = make_predictions(loss.num_classes), TARGETS.clone()
    targets[:, 1].clamp_(max=loss.num_classes - 1)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    expected = total(loss(predictions, targets)).item()
    assert total(compiled(predictions, targets)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("variant", ["base", "weighted"])
def test_loss_is_independent_of_target_order(variant, head):
    make_loss, make_predictions = head
    loss, predictions = make_loss(**VARIANTS[variant]), make_predictions()
    expected = total(loss(predictions, TARGETS)).item()
    assert total(loss(predictions, TARGETS.flip(0))).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("levels", "num_classes", "imgsz", "hyp", "expected"),
    [
        (3, 80, 640, (0.05, 1.0, 0.5), (0.05, 1.0, 0.5)),
        (4, 80, 1280, (0.05, 0.7, 0.3), (0.0375, 2.1, 0.225)),
        (3, 20, 320, (0.05, 1.0, 0.5), (0.05, 0.25, 0.125)),
    ],
)
def test_gains_scale_with_levels_classes_and_image_size(levels, num_classes, imgsz, hyp, expected):
    box, obj, cls = hyp
    gains = scaled_gains(
        Hyperparameters(box=box, obj=obj, cls=cls), num_levels=levels, num_classes=num_classes, imgsz=imgsz
    )
    assert (gains["box"], gains["obj"], gains["cls"]) == pytest.approx(expected)


@pytest.mark.parametrize("num_levels", [1, 2, 5])
def test_level_weights_cover_any_number_of_levels(num_levels):
    """A model config may have two levels or five: the weights cover P3 to P7."""
    hyp = Hyperparameters()
    loss = DetectionLoss(torch.ones(num_levels, 3, 2), 3, hyp, plain_gains(hyp))
    assert tuple(loss.level_weights) == (4.0, 1.0, 0.25, 0.06, 0.02)[:num_levels]
