"""Names of devices in specs and on the command line, and errors for those that are not supported."""

import pytest

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import SpecError
from hpc_yolo.inference.device import choose_device
from hpc_yolo.launch.yolov5_flags import guide_spec
from hpc_yolo.spec.device import read_device
from hpc_yolo.spec.load import Override, check_spec

NAMES = [
    ("auto", "auto"),
    ("", "auto"),
    ("ALL", "auto"),
    ("CPU", "cpu"),
    ("3", "3"),
    ("cuda", "0"),
    ("gpu", "0"),
    ("cuda:0", "0"),
    ("cuda:2", "2"),
    ("cuda:0,1", "0,1"),
    ("cuda:0,cuda:1", "0,1"),
    ("cuda:0, cuda:1", "0,1"),
    ("GPU:1", "1"),
    ("cuda0", "0"),
    ("0, 1", "0,1"),
    ("0 1", "0,1"),
    ("[0, 1]", "0,1"),
    ("(2,)", "2"),
    ("00,01", "0,1"),
    ("0,1,", "0,1"),
]
REFUSED = [
    ("GPU-8f6e1f5c-0000-1111-2222-333344445555", "unique id of a GPU: set CUDA_VISIBLE_DEVICES"),
    ("MIG-8f6e1f5c-0000-1111-2222-333344445555", "unique id of a GPU"),
    ("mps", "is not supported"),
    ("xpu:0", "is not supported"),
    ("-1", "an idle GPU is not searched for"),
    ("0-3", "write 0,1,2,3"),
    ("0,0", "names GPU 0 twice"),
    ("cuda:1,1", "names GPU 1 twice"),
    ("0,cpu", "mixes the CPU with GPUs"),
    ("cuda:x", "is not a device"),
    ("nvidia", "is not a device"),
]


@pytest.mark.parametrize(("written", "device"), NAMES)
def test_device_name_is_normalised(written, device):
    assert read_device(written) == device


@pytest.mark.parametrize(("written", "message"), REFUSED)
def test_unsupported_device_is_refused(written, message):
    with pytest.raises(ValueError, match=message):
        read_device(written)
    _, problems = check_spec(None, [Override("train.device", f"'{written}'", f"--device {written}")])
    (problem,) = (problem for problem in problems if problem.path == "train.device")
    assert message in str(problem)
    assert "allowed: auto, cpu, or numbers of GPUs such as 0,1" in str(problem)
    with pytest.raises(SpecError, match=message):
        choose_device(written)


@pytest.mark.parametrize(
    ("written", "device"), [("cuda:0", "0"), ("[0, 1]", "0,1"), ("['cuda:0', 1]", "0,1"), ("0", "0"), ("", "auto")]
)
def test_device_in_spec_may_be_list(tmp_path, written, device):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: a\nmodel: yolov5n\ndata: d.yaml\ntrain: {device: " + (written or "''") + "}\n"
        f"cluster: {{gpus_per_node: {device.count(',') + 1}}}\n"
    )
    spec, problems = check_spec(path)
    assert problems == []
    assert spec.train.device == device


@pytest.mark.parametrize(("written", "tasks"), [("cuda:0", 1), ("cuda:0,1", 2), ("0, 1", 2), ("0 1 2 3", 4)])
def test_device_flag_sets_one_task_per_gpu(tmp_path, written, tasks):
    overrides = [
        Override("data", str(tmp_path / "d.yaml"), "--data"),
        Override("weights", "''", "--weights"),
        Override("model", "yolov5n", "--cfg"),
        Override("output", str(tmp_path), "--project"),
        Override("train.device", f'"{written}"', f"--device {written}"),
    ]
    spec = guide_spec(overrides, ProcessInfo.from_env({}), exist_ok=False, environ={})
    assert (spec.cluster.gpus_per_node, spec.cluster.num_tasks_per_node) == (tasks, tasks)
