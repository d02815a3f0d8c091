import subprocess
import sys

import pytest
import torch
import torchvision

from hpc_yolo.evaluation import nms_operator


def test_start_of_a_prediction_imports_neither_torchvision_nor_the_compiler_of_torch():
    """They are half of the time of the start, and 1,500 files of a shared file system."""
    program = (
        "import sys, hpc_yolo.cli.run_predict, hpc_yolo.cli.run_val\n"
        "print([name for name in ('torchvision', 'torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("pattern", [nms_operator.LIBRARY_PATTERN, "of-another-version*.so"])
def test_operator_is_that_of_torchvision_whatever_its_library_is_called(pattern, monkeypatch):
    monkeypatch.setattr(nms_operator, "LIBRARY_PATTERN", pattern)
    corners = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) * 50
    boxes, scores = torch.cat((corners, corners + 20), dim=1), torch.linspace(0, 1, 200)
    kept = nms_operator.load_nms()(boxes, scores, 0.5)
    assert kept.tolist() == torchvision.ops.nms(boxes, scores, 0.5).tolist()
    assert 1 < len(kept) < 200
