"""Box conversions, IoU and CIoU, from which the loss and mAP are computed."""

import pytest
import torch
import torchvision
from golden import GOLDEN

from hpc_yolo.models.boxes import ciou_cxcywh, cxcywh_to_xyxy, iou_matrix_xyxy, xyxy_to_cxcywh


def random_boxes_cxcywh(num, seed):
    values = torch.rand(num, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values * torch.tensor([100.0, 100.0, 60.0, 60.0]) + torch.tensor([0.0, 0.0, 1.0, 1.0])


def test_conversion_of_known_box_is_exact():
    corners, centre = torch.tensor([[10.0, 20.0, 14.0, 28.0]]), torch.tensor([[12.0, 24.0, 4.0, 8.0]])
    assert torch.equal(cxcywh_to_xyxy(centre), corners)
    assert torch.equal(xyxy_to_cxcywh(corners), centre)


def test_conversions_are_inverse_for_any_shape():
    boxes = random_boxes_cxcywh(24, seed=0).view(2, 3, 4, 4)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)


def test_iou_matrix_equals_torchvision():
    first, second = (cxcywh_to_xyxy(random_boxes_cxcywh(num, seed=num)) for num in (31, 17))
    torch.testing.assert_close(
        iou_matrix_xyxy(first, second), torchvision.ops.box_iou(first, second), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize(("num_first", "num_second"), [(0, 3), (3, 0), (0, 0)])
def test_iou_matrix_without_boxes_is_empty(num_first, num_second):
    assert iou_matrix_xyxy(torch.zeros(num_first, 4), torch.zeros(num_second, 4)).shape == (num_first, num_second)


@pytest.mark.parametrize("row", GOLDEN["ciou_golden"])
def test_ciou_equals_published_values(row):
    predicted, target = (torch.tensor(row[key], dtype=torch.float64) for key in ("pred_xywh", "true_xywh"))
    assert ciou_cxcywh(predicted, target).item() == pytest.approx(row["ciou"], rel=1e-9, abs=1e-9)
    overlap = iou_matrix_xyxy(cxcywh_to_xyxy(predicted)[None], cxcywh_to_xyxy(target)[None])
    assert overlap.item() == pytest.approx(row["iou"], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-24, 1e-12, 1e-6, 1e6])
def test_ciou_of_a_tiny_box_has_a_finite_gradient(size):
    """A network that has not learned yet predicts them; one gradient that is not finite ends a run."""
    predicted = torch.tensor(
        [[0.5, 0.5, *sides] for sides in ((size, size), (size, 2.0), (2.0, size))], requires_grad=True
    )
    ciou = ciou_cxcywh(predicted, torch.tensor([[0.4, 0.6, 1.0, 3.0]]).expand(3, 4))
    ciou.sum().backward()
    assert ciou.isfinite().all() and predicted.grad.isfinite().all()


def test_ciou_gradient_treats_aspect_penalty_weight_as_constant():
    """A gradient through that weight changes the gradient of the box sides, unlike in the paper."""
    predicted = torch.tensor([0.4, 0.6, 1.3, 2.2], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.5, 0.5, 1.1, 3.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(ciou_cxcywh(predicted, target), predicted)

    def with_frozen_weight(box):
        iou = iou_matrix_xyxy(cxcywh_to_xyxy(box)[None], cxcywh_to_xyxy(target)[None])[0, 0]
        corners = torch.stack((cxcywh_to_xyxy(box), cxcywh_to_xyxy(target)))
        diagonal = corners[:, 2:].amax(dim=0) - corners[:, :2].amin(dim=0)
        distance = ((box[:2] - target[:2]) ** 2).sum() / ((diagonal**2).sum() + 1e-7)
        aspect = 4 / torch.pi**2 * (torch.atan(target[2] / target[3]) - torch.atan(box[2] / box[3])) ** 2
        weight = (aspect / (aspect - iou + 1 + 1e-7)).detach()
        return iou - distance - aspect * weight

    (expected,) = torch.autograd.grad(with_frozen_weight(predicted), predicted)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
