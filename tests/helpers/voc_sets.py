"""Small datasets in Pascal VOC's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from image_sets import HEIGHT, JPEG, WIDTH

MIDDLE_SIDES = (16, 11, 45, 30)  # the box 0.5 0.5 0.5 0.5 of an image of 60 x 40 pixels


def xml_object(name: str = "cat", sides: Sequence[float | str] = MIDDLE_SIDES, more: str = "") -> str:
    """Return the element of an object."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{side}</{key}>" for key, side in zip(keys, sides, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def xml_file(*objects: str, width: int | str = WIDTH, height: int | str = HEIGHT, file_name: str = "1.jpg") -> str:
    """Return the text of an annotation of an image; of width 0 one without its size."""
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>" if width else ""
    return f"<annotation><filename>{file_name}</filename>{size}{''.join(objects)}</annotation>"


def write_voc(root: Path, files: dict[str, str | None], *, yaml: str = "names: [cat, dog]\n") -> Path:
    """Write Annotations, JPEGImages and ImageSets/Main/train.txt, and d.yaml with both splits; return d.yaml.

    Args:
        files: text of the XML by the name of the image without suffix; None for an image without XML.
        yaml: further lines of d.yaml.
    """
    for directory in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(JPEG)
        if text is not None:
            (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{name}\n" for name in files))
    (root / "d.yaml").write_text(f"format: voc\ntrain: ImageSets/Main/train.txt\nval: ImageSets/Main/train.txt\n{yaml}")
    return root / "d.yaml"
