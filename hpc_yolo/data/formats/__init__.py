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

from collections.abc import Callable

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.archives.archive import archive_on
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.dataset_format import COCO, VOC, YOLO
from hpc_yolo.data.files import plain_directory
from hpc_yolo.data.formats.coco import CocoSplit
from hpc_yolo.data.formats.packed import PackedSplit, is_packed
from hpc_yolo.data.formats.split import SplitReader
from hpc_yolo.data.formats.voc import VocSplit
from hpc_yolo.data.formats.yolo import YoloSplit

READERS: dict[str, Callable[[Dataset, str], SplitReader]] = {YOLO: YoloSplit, COCO: CocoSplit, VOC: VocSplit}


def open_split(dataset: Dataset, split: str) -> SplitReader:
    """Return the images and labels of a split of `dataset`.

    Raises:
        DataError: there is no such split, or no image in it; or one is outside of the archive that has the dataset.
    """
    if is_packed(dataset, split):
        return PackedSplit(dataset, split)
    reader = READERS[dataset.format](dataset, split)
    if (archive := archive_on(dataset.root)) is not None:
        names = {name for one in (archive, archive.absolute()) for name in (one, plain_directory(one))}
        inside = tuple(f"{name}/" for name in names)  # as images of directories, lists and COCO files are named
        outside = next((image for image in reader.images if not str(image).startswith(inside)), None)
        if outside is not None:
            raise DataError(f"{dataset.source}: {split}: {outside} is not in {archive}; nothing outside of it is read")
    return reader
