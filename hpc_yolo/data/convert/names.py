"""Names of classes and of images that a format can have, so that they are read as they were written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.text import printable
from hpc_yolo.data.dataset_format import COCO, VOC
from hpc_yolo.data.voc_files import ANNOTATIONS, XML, listed_files

NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML allows \r, and reads it as \n
HINT = "write other names: into the dataset YAML, or convert to yolo, which has the numbers of classes"
IMAGE_HINT = "rename the file, or convert to yolo, which has no names of images"


def require_class_names(source: object, names: Sequence[str], kind: str) -> None:
    """Refuse names of classes that the format `kind` could not give back; YOLO has numbers of classes instead.

    Raises:
        DataError: naming the first.
    """
    if kind not in (COCO, VOC):
        return
    name, number = Counter(names).most_common(1)[0]
    if number > 1:
        positions = " and ".join(str(index) for index, other in enumerate(names) if other == name)
        raise DataError(
            f"{source}: names: the classes {positions} have one name, {_shown(name)}; {kind} has classes by name",
            hint=HINT,
        )
    for index, name in enumerate(names):
        if problem := _problem_of_class(name, kind):
            raise DataError(f"{source}: names: class {index}, {_shown(name)}, {problem}", hint=HINT)


def require_image_name(image: Path, name: PurePosixPath, kind: str) -> None:
    """Refuse an image whose `name` in the new dataset the format `kind` cannot have.

    Raises:
        DataError: naming it.
    """
    if kind not in (COCO, VOC):
        return
    problem = _problem(str(name), kind)
    if kind == COCO and "\\" in str(name):
        problem = "has a backslash, which coco has between directories"
    if problem:
        raise DataError(f"{printable(str(image))}: its name {problem}", hint=IMAGE_HINT)


def require_listed(path: Path, names: Sequence[str], root: Path) -> None:
    """Refuse a list of VOC's format from which other names are read than were written.

    Raises:
        DataError: naming the first, such as one with a line break.
    """
    annotations = root / ANNOTATIONS
    wanted = [annotations / f"{name}{XML}" for name in names]
    read = listed_files(path, root, annotations)
    for one, found in zip_longest(wanted, read):
        if one != found:
            name = names[wanted.index(one)] if one is not None else names[-1]
            raise DataError(f"the image {_shown(name)}: its name cannot be a line of a list of voc", hint=IMAGE_HINT)


def _problem_of_class(name: str, kind: str) -> str:
    if kind == VOC and not name.strip():
        return "is empty, which voc cannot have"
    if kind == VOC and name != name.strip():
        return "begins or ends with a space, which readers of voc remove"
    return _problem(name, kind)


def _problem(name: str, kind: str) -> str:
    """Return why the format cannot have `name`; "" if it can."""
    if kind == VOC and (found := NOT_XML.search(name)):
        return f"has the character {found[0]!a}, which XML cannot have"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "is not UTF-8, which JSON needs"
    return ""


def _shown(name: str) -> str:
    return f"'{printable(name)}'"
