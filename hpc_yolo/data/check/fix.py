"""A corrected copy of a dataset: new labels, lists of the images that are kept, and links to the images.

    DIR/dataset.yaml           names the lists
    DIR/train.txt              images that are kept
    DIR/images/train           a link to the directory of the images
    DIR/labels/train/x.txt     copied, or corrected

No image is copied, and no file of the dataset is changed. Where the images of a split are in several directories, each
has a link and a directory of labels with a number of its own, below those of the split.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.archives.archive import archive_on
from hpc_yolo.data.check.corrections import Corrections, is_listable
from hpc_yolo.data.dataset import SPLITS, Dataset, InlineDataset, dataset_content
from hpc_yolo.data.formats.split import SplitReader
from hpc_yolo.data.formats.yolo import YoloSplit
from hpc_yolo.data.formats.yolo_files import IMAGES, LABELS, label_path
from hpc_yolo.data.formats.yolo_labels import clipped_line, label_lines
from hpc_yolo.data.new_directory import publish, written_aside

DATASET = "dataset.yaml"


@dataclass
class SplitFix:
    """The copy of one split.

    Attributes:
        kept: images, each with the corrections of its label lines.
        left_out, lines: number of images and lines by reason, a kind of finding; clipped lines as "clipped".
    """

    kept: list[tuple[Path, Mapping[int, str]]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)


def plan_fix(dataset: Dataset, readers: Mapping[str, SplitReader], corrections: Corrections) -> dict[str, SplitFix]:
    """Return what `write_fix` would write, by split. Nothing is written."""
    return {
        split: _plan_split(dataset, reader, corrections.images[split], corrections.lines[split])
        for split, reader in readers.items()
    }


def write_fix(
    dataset: Dataset,
    source: Path | InlineDataset,
    fixes: Mapping[str, SplitFix],
    directory: Path,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Path:
    """Write the corrected copy into the new directory `directory`, all or nothing, and return its dataset YAML.

    Args:
        source: what `dataset` was loaded from.
        on_progress: called with (label files written, all of them).

    Raises:
        DataError: the directory cannot be written.
    """
    with written_aside(directory) as aside:
        done, total = 0, sum(len(fix.kept) for fix in fixes.values())
        for split, fix in fixes.items():
            for _ in _write_split(dataset, split, fix, aside):
                done += 1
                on_progress(done, total)
        content = _yaml_content(dataset, source, fixes)
        (aside / DATASET).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
        publish(aside, directory)
    return directory / DATASET


def require_fixable(
    dataset: Dataset, source: Path | InlineDataset, readers: Mapping[str, SplitReader], directory: Path
) -> None:
    """Check that the labels are files that can be corrected, and that `directory` does not exist or is empty.

    Raises:
        DataError: the labels have another format, or the directory is a file or has content.
    """
    if (archive := archive_on(dataset.root)) is not None:
        raise DataError(f"{archive}: --fix links to directories of images, which an archive has not", hint="unpack it")
    for split, reader in readers.items():
        if not isinstance(reader, YoloSplit) or not reader.images[0].parent.is_dir():
            raise DataError(
                f"{dataset.source}: --fix corrects label files in the YOLO layout, and {split} has other labels",
                hint=_conversion_hint(source),
            )
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise DataError(f"--fix {directory}: is not a directory", hint="give a new directory")
    if directory.exists() and any(directory.iterdir()):
        raise DataError(f"--fix {directory}: has content, which is never replaced", hint="give a new directory")


def _conversion_hint(source: Path | InlineDataset) -> str:
    if isinstance(source, InlineDataset):
        return f"write {source.name}: into a dataset YAML, and convert it: hpc-yolo data convert YAML DIR --to yolo"
    return f"convert the dataset first: hpc-yolo data convert {source} DIR --to yolo"


def _plan_split(
    dataset: Dataset, reader: SplitReader, excluded: Mapping[str, str], lines: Mapping[str, Mapping[int, str]]
) -> SplitFix:
    if all(str(image) in excluded for image in reader.images):  # a split that is also another one, such as val as train
        excluded = {image: reason for image, reason in excluded.items() if reason != "leak"}
    fix = SplitFix()
    for image in reader.images:
        reason = excluded.get(str(image)) if is_listable(str(image)) else "line-break-in-name"
        if reason is not None:
            fix.left_out[reason] += 1
            continue
        changes = lines.get(str(image), {})
        fix.kept.append((image, changes))
        if changes:
            fix.lines += _corrected(label_path(image), changes, dataset)[1]
    return fix


def _corrected(label: Path, changes: Mapping[int, str], dataset: Dataset) -> tuple[str, Counter[str]]:
    """Return (the corrected text of a label file, the number of changed lines by reason)."""
    kept, changed = [], Counter[str]()
    for number, line in label_lines(label):
        reason = changes.get(number)
        if reason is None:
            kept.append(line)
            continue
        can_be_clipped = reason in ("invalid-label", "beyond-frame")
        clipped = clipped_line(line, dataset.num_file_classes, dataset.kpt_shape) if can_be_clipped else None
        changed[reason if clipped is None else "clipped"] += 1
        kept += [] if clipped is None else [clipped]
    return "".join(f"{line}\n" for line in kept), changed


def _write_split(dataset: Dataset, split: str, fix: SplitFix, root: Path) -> Iterator[None]:
    """Write the labels, links and list of one split, and yield after each image."""
    places = _places(split, sorted({image.parent for image, _ in fix.kept}))
    for parent, place in places.items():
        (root / LABELS / place).mkdir(parents=True)
        (root / IMAGES / place).parent.mkdir(parents=True, exist_ok=True)
        (root / IMAGES / place).symlink_to(parent.absolute(), target_is_directory=True)
    entries = []
    for image, changes in fix.kept:
        place = places[image.parent]
        label = label_path(image)
        target = root / LABELS / place / label.name
        if changes:
            target.write_text(_corrected(label, changes, dataset)[0], encoding="utf-8")
        elif label.is_file():
            shutil.copyfile(label, target)
        entries.append(f"./{IMAGES}/{place}/{image.name}\n")
        yield
    (root / f"{split}.txt").write_text("".join(entries), encoding="utf-8", errors="surrogateescape")


def _places(split: str, parents: list[Path]) -> dict[Path, str]:
    """Return the directory below images and labels of the copy for each directory of images."""
    if len(parents) == 1:
        return {parents[0]: split}
    return {parent: f"{split}/{number:04}" for number, parent in enumerate(parents)}


def _yaml_content(dataset: Dataset, source: Path | InlineDataset, fixes: Mapping[str, SplitFix]) -> dict[str, object]:
    """Return the content of the dataset YAML of the copy. Splits that were not checked are named where they are."""
    content = {key: value for key, value in dataset_content(source).items() if key not in ("path", *SPLITS)}
    for split in SPLITS:
        if split in fixes:
            content[split] = f"{split}.txt"
        elif sources := [str(one.absolute()) for one in dataset.split(split)]:
            content[split] = sources
    return content
