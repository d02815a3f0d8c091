"""Evaluation over ranks: the figures belong to the images, whoever looked at them and in whatever order."""

import numpy as np
import pytest
import torch
from torch import nn

from hpc_yolo.data.batch import ValidationBatch
from hpc_yolo.evaluation.evaluator import evaluate, to_original_pixels
from hpc_yolo.models.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

SIZE = 64
NUM_CLASSES = 3
NUM_IMAGES = 10


def labels_of(image):
    """(m, 5) class, cxcywh in [0, 1] of an image; every fifth has none."""
    draw = torch.rand(image % 5, 5, generator=torch.Generator().manual_seed(image))
    return draw * torch.tensor([NUM_CLASSES, 0.5, 0.5, 0.3, 0.3]) + torch.tensor([0, 0.25, 0.25, 0.1, 0.1])


class NoisyOracle(nn.Module):
    """A detector that reads an image's number from its pixels and knows its labels, but roughly; scores often tie."""

    def __init__(self):
        super().__init__()
        self.type_of_images = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        numbers = (images[:, 0, 0, 0] * 255).round().long().tolist()
        return torch.stack([self.rows(number) for number in numbers]), []

    def rows(self, image):
        generator = torch.Generator().manual_seed(1000 + image)
        rows = torch.zeros(8, 5 + NUM_CLASSES)
        labels = labels_of(image)
        rows[:, :4] = torch.rand(8, 4, generator=generator) * 40 + 10
        rows[: len(labels), :4] = labels[:, 1:] * SIZE + torch.randn(len(labels), 4, generator=generator)
        rows[:, 4] = (torch.rand(8, generator=generator) * 4).ceil() / 4
        kinds = torch.randint(NUM_CLASSES, (8,), generator=generator)
        kinds[: len(labels)] = labels[:, 0].long()
        rows[torch.arange(8), 5 + kinds] = 1.0
        return rows


def batch_of(numbers):
    images = torch.zeros(len(numbers), 3, SIZE, SIZE, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(numbers)
    rows = []
    for position, image in enumerate(numbers):
        labels = labels_of(image)
        labels[:, 0] = labels[:, 0].floor()
        rows.append(torch.cat((torch.full((len(labels), 1), float(position)), labels), dim=1))
    shape = ((SIZE, SIZE), ((1.0, 1.0), (0.0, 0.0)))
    return ValidationBatch(images, torch.cat(rows), torch.tensor(numbers), [shape] * len(numbers))


def evaluate_over(shares):
    """The result on each of as many ranks as there are shares; a share is a list of batches of image numbers."""
    model, noted = NoisyOracle().eval(), []

    def run(batches, gather_arrays):
        return evaluate(
            model, [batch_of(batch) for batch in batches], device=torch.device("cpu"), gather_arrays=gather_arrays
        )

    def note(arrays):
        noted.append(arrays)
        return [arrays]

    for share in shares:
        run(share, note)
    return [run(share, lambda _: list(noted)) for share in shares]


ONE_RANK = [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]]


def test_a_good_detector_gets_metrics_between_nothing_and_all():
    (result,) = evaluate_over(ONE_RANK)
    assert result.num_images == NUM_IMAGES
    assert 0.1 < result.metrics.mean.map50_95 < result.metrics.mean.map50 < 0.995
    assert sum(row.num_labels for row in result.metrics.per_class) == sum(len(labels_of(i)) for i in range(10))


@pytest.mark.parametrize(
    "shares",
    [
        [[[0, 4, 8], [2, 6]], [[1, 5, 9], [3, 7]]],
        [[[9, 8, 7]], [[6, 5, 4]], [[3, 2], [1, 0]]],
        [[[i]] for i in range(NUM_IMAGES)],
        [[[3, 1, 0, 2, 9, 8, 5, 4, 7, 6]], []],
    ],
    ids=["2 ranks", "3 ranks", "a rank for each image", "a rank without images"],
)
def test_metrics_do_not_depend_on_how_images_are_distributed(shares):
    """Bit for bit: a run that comes back on other nodes must choose the same best checkpoint."""
    (expected,) = evaluate_over(ONE_RANK)
    for result in evaluate_over(shares):
        assert result == expected


def test_boxes_come_back_to_the_pixels_of_the_file():
    """A file of 200x100 (h x w), halved, in the middle of an image of 64x112 with 7 and 6 pixels of padding."""
    shape = ((200, 100), ((0.5, 0.5), (7.0, 6.0)))
    boxes = torch.tensor([[17.0, 16.0, 27.0, 36.0], [0.0, 0.0, 64.0, 112.0]])
    assert to_original_pixels(boxes, shape).tolist() == [[20, 20, 40, 60], [0, 0, 100, 200]]


def test_ratios_of_height_and_width_may_differ():
    """Resized sides are whole pixels, so the two ratios of a narrow image are not the same."""
    shape = ((100, 50), ((0.5, 0.4), (0.0, 0.0)))
    assert to_original_pixels(torch.tensor([[4.0, 5.0, 8.0, 10.0]]), shape).tolist() == [[10, 10, 20, 20]]


class Echo(nn.Module):
    """A detector that finds one given box (cxcywh in the padded image), whatever it sees."""

    def __init__(self, box_cxcywh):
        super().__init__()
        self.type_of_images = nn.Parameter(torch.zeros(()))
        self.row = torch.tensor([[*box_cxcywh, 1.0, 1.0, 0.0]])

    def forward(self, images):
        return self.row.expand(len(images), 1, 7), []


def test_detections_and_labels_meet_in_the_files_pixels():
    """Both are mapped back with the image's own ratio and padding; a slip in one lowers every IoU."""
    box_xyxy = torch.tensor([[20.0, 16.0, 40.0, 36.0]])
    target = torch.tensor([[0, 0, *(xyxy_to_cxcywh(box_xyxy)[0] / SIZE).tolist()]])
    shape = ((100, 80), ((0.5, 0.5), (12.0, 7.0)))
    batch = ValidationBatch(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8), target, torch.tensor([0]), [shape])
    gathered = []

    def keep(arrays):
        gathered.append(arrays)
        return [arrays]

    evaluate(Echo(xyxy_to_cxcywh(box_xyxy)[0].tolist()), [batch], device=torch.device("cpu"), gather_arrays=keep)
    assert gathered[0]["correct"].all()
    np.testing.assert_array_equal(gathered[0]["images"], [0])
    assert cxcywh_to_xyxy(target[:, 2:] * SIZE).tolist() == box_xyxy.tolist()
