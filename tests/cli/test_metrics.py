"""The metrics that hpc-yolo val prints."""

from pathlib import Path

from hpc_yolo.cli.metrics import print_report
from hpc_yolo.inference.validate import ValidationReport
from hpc_yolo.runs.metrics import ClassMetrics, Metrics

ODD_NAMES = ("car [rear]", "[red]x", "[/foo]", ":car:")


def test_names_of_classes_and_files_are_printed_as_they_are(capsys):
    report = ValidationReport(
        **{"weights": "[old]/best.safetensors", "data": "data.yaml", "split": "val", "device": "cpu", "imgsz": 64},
        **{"batch": 1, "conf_threshold": 0.1, "iou_threshold": 0.6, "max_detections": 9, "num_images": 1},
        **{"num_labels": 3, "metrics": Metrics(), "fitness": 0.0, "speed_ms": {"forward": 1.0}},
        classes=[ClassMetrics(name=name, num_labels=1, metrics=Metrics()) for name in ODD_NAMES],
    )
    print_report(report, Path("[new]"), verbose=False, as_json=False)
    printed = capsys.readouterr().out
    assert [text for text in (*ODD_NAMES, "[old]/best", "results in [new]") if text not in printed] == []
