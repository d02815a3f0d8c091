"""Dataset formats: how the files of a split become images with labels. `scan` uses only the interface.

- `split`: the interface.
- `yolo`: directories or lists of images, with a text file of labels for each image.
- `coco`: a JSON file for all images of a split.
- `voc`: an XML file for each image, and lists of them.
- `packed`: the index of a packed set.

A further format needs a module here and a case in `open_split`; what a login node must know of it, such as the names of
classes, is read by a module beside `dataset`, without NumPy.
"""

from __future__ import annotations

from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.dataset_format import COCO, VOC
from hpc_yolo.data.formats.coco import CocoSplit
from hpc_yolo.data.formats.packed import PackedSplit, is_packed
from hpc_yolo.data.formats.split import SplitReader
from hpc_yolo.data.formats.voc import VocSplit
from hpc_yolo.data.formats.yolo import YoloSplit


def open_split(dataset: Dataset, split: str) -> SplitReader:
    """Return the images and labels of a split of `dataset`.

    Raises:
        DataError: there is no such split, or no image in it.
    """
    if is_packed(dataset, split):
        return PackedSplit(dataset, split)
    if dataset.format == COCO:
        return CocoSplit(dataset, split)
    return VocSplit(dataset, split) if dataset.format == VOC else YoloSplit(dataset, split)
