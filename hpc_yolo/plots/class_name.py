"""Class names in charts: on a raster drawn by `plots/text.py`, in an SVG as text, for which a browser has the fonts."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from hpc_yolo.core.text import printable

HALF_CAPITAL = 0.36  # the height over the size of the text
WIDE_LETTERS = frozenset("mwMW%@…□")
NARROW_EM, WIDE_EM = 0.62, 1.0


class ClassName(Text):
    """The name of a class, centred vertically on its position; `rotation` is 0 or 90.

    matplotlib's own font lacks Chinese, Japanese and Korean, so a raster gets the pixels of `class_labels`, which
    differ for any two classes.
    """

    def __init__(self, x: float, y: float, names: tuple[str, ...], kind: int, max_letters: int, **style: Any) -> None:
        """Initialize the class name.

        Args:
            names: of all classes in the chart.
            kind: index of this class in `names`.
            max_letters: longer names are cut.
        """
        super().__init__(x, y, "", rotation_mode="anchor", parse_math=False, **style)
        self._names, self._kind, self._max_letters = names, kind, max_letters

    def draw(self, renderer: RendererBase) -> None:
        """Draw the name as text where the renderer writes text, else as pixels."""
        position: Any = self.get_transform().transform(self.get_position())
        x, y = map(float, position)
        context = renderer.new_gc()
        context.set_foreground(self.get_color())
        if hasattr(renderer, "buffer_rgba"):  # a raster
            self._draw_pixels(renderer, context, x, y)
        else:
            self._draw_text(renderer, context, x, y)
        context.restore()

    def _draw_text(self, renderer: RendererBase, context: Any, x: float, y: float) -> None:
        drop = HALF_CAPITAL * self._pixels(renderer)
        height = renderer.get_canvas_width_height()[1]
        is_upright = self.get_rotation() == 0
        left, baseline = (x, height - y + drop) if is_upright else (x + drop, height - y)
        label = shortened(self._names[self._kind], self._kind, self._max_letters)
        renderer.draw_text(
            context, left, baseline, label, self.get_fontproperties(), self.get_rotation(), ismath=False, mtext=self
        )

    def _draw_pixels(self, renderer: RendererBase, context: Any, x: float, y: float) -> None:
        from hpc_yolo.plots.text import class_labels, text_ink  # pulls in cv2, which an SVG does not need

        label = class_labels(self._names, self._max_letters)[self._kind]
        ink = text_ink(label, round(self._pixels(renderer)))
        image = np.zeros((*ink.shape, 4), dtype=np.uint8)
        image[..., :3] = np.round(255 * np.array(to_rgb(self.get_color())))
        image[..., 3] = ink
        length = {"left": 0.0, "center": 0.5, "right": 1.0}[self.get_horizontalalignment()] * ink.shape[1]
        left, bottom = x - length, y - ink.shape[0] / 2
        if self.get_rotation() != 0:
            image = np.rot90(image)
            left, bottom = x - ink.shape[0] / 2, y - length
        renderer.draw_image(context, round(left), round(bottom), np.ascontiguousarray(image[::-1]))

    def _pixels(self, renderer: RendererBase) -> float:
        pixels: Any = renderer.points_to_pixels(self.get_fontsize())
        return float(pixels)


def shortened(name: str, kind: int, max_letters: int) -> str:
    """Return `name` as text for an SVG; one that is cut gets the number of its class."""
    text = printable(name)
    return text if len(text) <= max_letters else f"{text[: max_letters - 1]}… [{kind}]"


def room_for_names(names: tuple[str, ...], max_letters: int, size: float) -> float:
    """Return the width that the longest of `names` may take, in the unit of `size`."""
    labels = (shortened(name, kind, max_letters) for kind, name in enumerate(names))
    return max((sum(map(_em, label)) for label in labels), default=0.0) * size


def _em(letter: str) -> float:
    is_wide = letter in WIDE_LETTERS or unicodedata.east_asian_width(letter) in ("W", "F")
    return WIDE_EM if is_wide else NARROW_EM
