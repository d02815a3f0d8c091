"""The number of images of a split, as its format lists them, without a look at them. Needs no NumPy."""

from __future__ import annotations

from hpc_yolo.data.coco_json import CocoImages, annotation_file, read_coco
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.dataset_format import COCO, VOC
from hpc_yolo.data.image_files import find_images
from hpc_yolo.data.voc_files import listed_files


def count_images(dataset: Dataset, split: str) -> int:
    """Return the number of images of `split`; those that are missing or damaged count too, where files name them.

    Raises:
        DataError: the files of the split cannot be used, or it has no image.
    """
    sources = dataset.split(split)
    if dataset.format == COCO:
        return sum(len(read_coco(annotation_file(source), CocoImages).images) for source in sources)
    if dataset.format == VOC:
        images = dataset.images.get(split)
        return sum(len(listed_files(source, dataset.root, dataset.annotations, images)) for source in sources)
    return len(find_images(sources, dataset.root).paths)
