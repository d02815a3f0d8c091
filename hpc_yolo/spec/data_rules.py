"""Rules of the section `data`: a dataset YAML, or the dataset itself."""

from __future__ import annotations

from collections.abc import Iterator

from hpc_yolo.spec.data import YOLO, DataSpec
from hpc_yolo.spec.problems import Finding

PATH_ALLOWED = "path: d.yaml, or the dataset itself: format, train, val, images"
FORMATS_OF_FIELD = {"images": ("coco", "voc"), "annotations": ("voc",), "difficult": ("voc",)}


def data_findings(data: DataSpec) -> Iterator[Finding]:
    """Yield the problems of the fields of `data` together."""
    written = [name for name in data.INLINE if getattr(data, name) != getattr(DataSpec(), name)]
    if data.path:
        for name in written:
            message = f"is a key of the dataset YAML, and path names one: {data.path}"
            yield Finding(f"data.{name}", message, "in that file; or without path, the dataset itself", ("data.path",))
        return
    if not data.is_inline:
        others = f", although {written[0]} is there" if written else ""
        yield Finding("data.path", f"is missing, and so is train{others}", PATH_ALLOWED, ("data.train",))
        return
    if not data.val:
        yield Finding("data.val", "is missing", "the validation set, as train", ("data.train",))
    if data.format == YOLO and not data.names:
        yield Finding("data.names", "is missing: labels of yolo have none", "names: [first, second, …]")
    for name, formats in FORMATS_OF_FIELD.items():
        if name in written and data.format not in formats:
            message = f"is for format: {' and '.join(formats)}, and the format is {data.format}"
            yield Finding(f"data.{name}", message, f"format: {formats[0]}, or leave it out", ("data.format",))
