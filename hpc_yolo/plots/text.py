"""Text on images in many scripts, and class labels that always look different.

OpenCV 5 draws with any TrueType font and falls back on one of its own for Chinese, Japanese and Korean. The font here
is DejaVu Sans, as matplotlib ships it: Latin, Cyrillic, Greek, Arabic, Hebrew, Armenian, Georgian and many signs.
Arabic letters are joined, and text that runs from right to left is reordered, before drawing. A letter that neither
font has becomes a box, and the number of the class is added, as for names that look alike. OpenCV 4 draws only ASCII.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.core.text import printable
from hpc_yolo.data.images import Pixels

FONT_FILE = Path("mpl-data", "fonts", "ttf", "DejaVuSans.ttf")  # in matplotlib, which is not imported
LINE_HEIGHT = 1.25  # over the size of the text, and the part of it below the baseline
BELOW = 0.27
CAP_HEIGHT = 0.73
NO_WRAP = 1 << 20
MISSING, CUT = "□", "…"
RIGHT_TO_LEFT = {"R", "AL", "AN"}  # classes of the bidirectional algorithm
JOINERS = "\u200c\u200d"  # invisible; they control how neighbours are joined
LOOK_SIZE = 24
# Of OpenCV 4: its capitals are 22 pixels high at scale 1.
HERSHEY = cv2.FONT_HERSHEY_SIMPLEX
HERSHEY_SCALE = CAP_HEIGHT / 22
PLAIN_MISSING, PLAIN_CUT = "_", ".."


def has_fonts() -> bool:
    """Return whether this OpenCV draws with fonts, as version 5 does."""
    return hasattr(cv2, "FontFace")


def text_width(text: str, size: int) -> int:
    """Return the width in pixels of `text`, which is in visual order, at a size in pixels."""
    if not has_fonts():
        return int(cv2.getTextSize(text, HERSHEY, size * HERSHEY_SCALE, 1)[0][0])
    return int(cv2.getTextSize((0, 0), text, (0, 0), _face(), size, 0)[2])


def line_height(size: int) -> int:
    """Return the height in pixels of a line of text, with its part below the baseline."""
    return round(size * LINE_HEIGHT)


def write_text(
    pixels: Pixels, text: str, left: int, baseline: int, colour: tuple[int, int, int], size: int, *, bold: bool = False
) -> None:
    """Draw `text`, which is in visual order, from `left` on `baseline`."""
    if not has_fonts():
        scale, weight = size * HERSHEY_SCALE, 2 if bold else 1
        cv2.putText(pixels, text, (left, baseline), HERSHEY, scale, colour, weight, cv2.LINE_AA)
        return
    wrap = (left, left + NO_WRAP)
    for x in (left, left + 1) if bold else (left,):
        cv2.putText(pixels, text, (x, baseline), colour, _face(), size, 0, 0, wrap)


def text_ink(text: str, size: int) -> npt.NDArray[np.uint8]:
    """Return the coverage of each pixel by `text`, (height, width) of 0 to 255; its capitals are in the middle."""
    height, width = 2 * line_height(size), max(text_width(text, size), 1)
    canvas: Pixels = np.zeros((height, width, 3), dtype=np.uint8)
    write_text(canvas, text, 0, round((height + CAP_HEIGHT * size) / 2), (255, 255, 255), size)
    return canvas[:, :, 0]


@lru_cache(maxsize=16)
def class_labels(names: tuple[str, ...], max_letters: int | None = None) -> tuple[str, ...]:
    """Return the label under which each class is drawn; no two look the same.

    Args:
        max_letters: longer names are cut.
    """
    shown = [_visible(_cut(name, max_letters)) for name in names]
    numbered = {number for number, (_, is_whole) in enumerate(shown) if not is_whole}
    while True:
        labels = [f"{text} [{number}]" if number in numbered else text for number, (text, _) in enumerate(shown)]
        alike: defaultdict[bytes, set[int]] = defaultdict(set)
        for number, label in enumerate(labels):
            alike[_look(label)].add(number)
        more = {number for group in alike.values() if len(group) > 1 for number in group} - numbered
        if not more:
            return tuple(labels)
        numbered |= more


def fitting_label(names: tuple[str, ...], kind: int, room: int, size: int, suffix: str = "") -> str:
    """Return a label of class `kind` that fits into `room` pixels: with `suffix`, shortened, or its number alone."""
    label = class_labels(names)[kind] + suffix
    if text_width(label, size) <= room:
        return label
    for letters in range(min(len(names[kind]), room), 0, -1):
        shortened = f"{_visible(_cut(names[kind], letters))[0]} [{kind}]"
        if text_width(shortened, size) <= room:
            return shortened
    return str(kind)


def _cut(name: str, max_letters: int | None) -> str:
    cut = CUT if has_fonts() else PLAIN_CUT
    return name if max_letters is None or len(name) <= max_letters else name[: max_letters - len(cut)].rstrip() + cut


def _visible(text: str) -> tuple[str, bool]:
    """Return (drawable text in visual order, whether it is complete); adjacent missing letters become one box."""
    if not has_fonts():
        return _in_ascii(text)
    text = unicodedata.normalize("NFC", text)
    text = "".join(letter if letter in JOINERS or _may_be_drawn(letter) else printable(letter) for letter in text)
    if any(unicodedata.bidirectional(letter) in RIGHT_TO_LEFT for letter in text):
        text = _from_left_to_right(text)
    letters: list[str] = []
    is_whole = True
    for letter in text:
        if letter in JOINERS:
            continue
        if _is_drawn(letter):
            letters.append(letter)
        else:
            is_whole = False
            letters += [MISSING] if letters[-1:] != [MISSING] else []
    return "".join(letters), is_whole


def _may_be_drawn(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def _from_left_to_right(text: str) -> str:
    """Return `text` in visual order, from left to right, with Arabic letters in their joined forms."""
    import arabic_reshaper
    from bidi import get_display

    ordered: str = get_display(arabic_reshaper.reshape(text))
    return ordered


def _in_ascii(text: str) -> tuple[str, bool]:
    decomposed = unicodedata.normalize("NFKD", text)
    letters: list[str] = []
    for letter in decomposed:
        if unicodedata.combining(letter):
            continue
        plain = letter if letter.isascii() and letter.isprintable() else PLAIN_MISSING
        letters += [plain] if plain != PLAIN_MISSING or letters[-1:] != [PLAIN_MISSING] else []
    return "".join(letters), text.isascii() and text.isprintable()


@lru_cache(maxsize=1)
def _face() -> Any:
    package = importlib.util.find_spec("matplotlib")
    directories = package.submodule_search_locations if package is not None else None
    for directory in directories or ():
        if (file := Path(directory) / FONT_FILE).is_file():
            return cv2.FontFace(str(file))
    return cv2.FontFace("sans")


@lru_cache(maxsize=65536)
def _is_drawn(letter: str) -> bool:
    """Return whether a font has `letter`: OpenCV draws a question mark for missing ones."""
    return letter == "?" or _ink(letter) != _ink("?")


def _look(text: str) -> bytes:
    """Return a key that is equal for texts that look the same."""
    return _ink(text) if has_fonts() else text.strip().encode()


def _ink(text: str) -> bytes:
    """Return the pixels of `text`, without the empty ones around it."""
    width = text_width(text, LOOK_SIZE)
    canvas: Pixels = np.zeros((3 * LOOK_SIZE, width + 2 * LOOK_SIZE, 3), dtype=np.uint8)
    write_text(canvas, text, LOOK_SIZE, 2 * LOOK_SIZE, (255, 255, 255), LOOK_SIZE)
    rows, columns = canvas[:, :, 0].any(axis=1).nonzero()[0], canvas[:, :, 0].any(axis=0).nonzero()[0]
    if not len(rows):
        return b""
    ink = np.ascontiguousarray(canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, 0])
    return bytes(str(ink.shape), "ascii") + ink.tobytes()
