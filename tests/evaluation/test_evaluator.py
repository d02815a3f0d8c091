"""Evaluation over ranks: metrics are independent of the rank and of the order of images."""

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
    """Return (m, 5) class, cxcywh in [0, 1] of an image; every fifth has none."""
    draw = torch.rand(image % 5, 5, generator=torch.Generator().manual_seed(image))
    return draw * torch.tensor([NUM_CLASSES, 0.5, 0.5, 0.3, 0.3]) + torch.tensor([0, 0.25, 0.25, 0.1, 0.1])


class NoisyOracle(nn.Module):
    """Detector that reads an image's number from its pixels and returns its labels with noise; scores often tie."""

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


def evaluate_over(shards):
    """Return the result of each rank; a shard is the list of batches of image numbers of one rank."""
    model, recorded = NoisyOracle().eval(), []

    def run(batches, gather_arrays):
        return evaluate(
            model, [batch_of(batch) for batch in batches], device=torch.device("cpu"), gather_arrays=gather_arrays
        )

    def record(arrays):
        recorded.append(arrays)
        return [arrays]

    for shard in shards:
        run(shard, record)
    return [run(shard, lambda _: list(recorded)) for shard in shards]


ONE_RANK = [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]]


def test_noisy_detector_has_metrics_between_0_and_1():
    (result,) = evaluate_over(ONE_RANK)
    assert result.num_images == NUM_IMAGES
    assert 0.1 < result.metrics.mean.map50_95 < result.metrics.mean.map50 < 0.995
    assert sum(row.num_labels for row in result.metrics.per_class) == sum(len(labels_of(i)) for i in range(10))


@pytest.mark.parametrize(
    "shards",
    [
        [[[0, 4, 8], [2, 6]], [[1, 5, 9], [3, 7]]],
        [[[9, 8, 7]], [[6, 5, 4]], [[3, 2], [1, 0]]],
        [[[i]] for i in range(NUM_IMAGES)],
        [[[3, 1, 0, 2, 9, 8, 5, 4, 7, 6]], []],
    ],
    ids=["2 ranks", "3 ranks", "rank per image", "rank without images"],
)
def test_metrics_are_independent_of_sharding(shards):
    """Bit for bit: a run that resumes on other nodes must choose the same best checkpoint."""
    (expected,) = evaluate_over(ONE_RANK)
    for result in evaluate_over(shards):
        assert result == expected


def test_boxes_are_mapped_to_original_pixels():
    """A file of 200x100 (h x w) at half size, centred in 64x112 with 7 and 6 pixels of padding."""
    shape = ((200, 100), ((0.5, 0.5), (7.0, 6.0)))
    boxes = torch.tensor([[17.0, 16.0, 27.0, 36.0], [0.0, 0.0, 64.0, 112.0]])
    assert to_original_pixels(boxes, shape).tolist() == [[20, 20, 40, 60], [0, 0, 100, 200]]


def test_boxes_are_mapped_with_separate_ratios_of_height_and_width():
    """Resized sides are whole pixels, so that the two ratios of a narrow image differ."""
    shape = ((100, 50), ((0.5, 0.4), (0.0, 0.0)))
    assert to_original_pixels(torch.tensor([[4.0, 5.0, 8.0, 10.0]]), shape).tolist() == [[10, 10, 20, 20]]


class ConstantDetector(nn.Module):
    """Detector that returns one given box (cxcywh in the padded image) for every image."""

    def __init__(self, box_cxcywh):
        super().__init__()
        self.type_of_images = nn.Parameter(torch.zeros(()))
        self.row = torch.tensor([[*box_cxcywh, 1.0, 1.0, 0.0]])

    def forward(self, images):
        return self.row.expand(len(images), 1, 7), []


def test_detections_and_labels_match_in_original_pixels():
    """Both are mapped with the image's own ratio and padding; an error in one lowers every IoU."""
    box_xyxy = torch.tensor([[20.0, 16.0, 40.0, 36.0]])
    target = torch.tensor([[0, 0, *(xyxy_to_cxcywh(box_xyxy)[0] / SIZE).tolist()]])
    shape = ((100, 80), ((0.5, 0.5), (12.0, 7.0)))
    batch = ValidationBatch(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8), target, torch.tensor([0]), [shape])
    gathered = []

    def keep(arrays):
        gathered.append(arrays)
        return [arrays]

    evaluate(
        ConstantDetector(xyxy_to_cxcywh(box_xyxy)[0].tolist()), [batch], device=torch.device("cpu"), gather_arrays=keep
    )
    assert gathered[0]["correct"].all()
    np.testing.assert_array_equal(gathered[0]["images"], [0])
    assert cxcywh_to_xyxy(target[:, 2:] * SIZE).tolist() == box_xyxy.tolist()
