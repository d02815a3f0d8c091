"""The page of `hpc-yolo data check`: totals, every kind of finding with images of the worst, objects by class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from hpc_yolo.data.check.result import SPLIT_HEADINGS, CheckResult, Finding, Illustration
from hpc_yolo.report.page import render

MAX_EXAMPLES = 20


def data_page(result: CheckResult, illustrations: Sequence[Illustration], made: str) -> str:
    """Return the whole page. `made`: when and by which version."""
    return render(
        "data.html",
        title=result.dataset,
        made=made,
        tiles=_tiles(result),
        split_heads=SPLIT_HEADINGS,
        split_rows=[[name, *split.cells()] for name, split in result.splits.items()],
        kinds=_kinds(result, illustrations),
        split_names=list(result.splits),
        class_rows=_class_rows(result),
        imgsz=result.imgsz,
    )


def _tiles(result: CheckResult) -> list[tuple[str, int, bool]]:
    """Return (name, value, whether it is bad) of the main numbers."""
    splits = result.splits.values()
    return [
        ("images", sum(split.num_images for split in splits), False),
        ("left out", result.num_left_out, result.num_left_out > 0),
        ("objects", sum(split.num_objects for split in splits), False),
        ("errors", result.count("error"), result.count("error") > 0),
        ("warnings", result.count("warning"), False),
        ("notes", result.count("note"), False),
    ]


def _kinds(result: CheckResult, illustrations: Sequence[Illustration]) -> list[dict[str, Any]]:
    """Return each kind of finding with its lines and images, of all splits."""
    kinds = []
    for _, group in groupby(result.findings, key=lambda finding: finding.kind.name):
        findings = list(group)
        kind = findings[0].kind
        kinds.append(
            {
                "kind": kind,
                "heads": [finding.sentence for finding in findings],
                "examples": [line for finding in findings for line in _examples(finding)],
                "shown": [shown for shown in illustrations if shown.kind == kind.name],
            }
        )
    return kinds


def _examples(finding: Finding) -> list[tuple[str, str]]:
    """Return (location, text) of the first findings, and how many more there are."""
    lines = [(item.where, item.text) for item in finding.items[:MAX_EXAMPLES]]
    more = finding.count - len(lines)
    return [*lines, ("", f"and {more} more")] if more else lines


def _class_rows(result: CheckResult) -> list[tuple[str, list[int], float]]:
    """Return (name, objects in each split, percentage of the most frequent class in the first split) of each class."""
    counts = [split.class_counts for split in result.splits.values()]
    most = max((max(column, default=0) for column in counts[:1]), default=0) or 1
    return [
        (name, list(numbers), 100 * numbers[0] / most) for name, *numbers in zip(result.names, *counts, strict=True)
    ]
