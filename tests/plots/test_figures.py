"""Charts as SVG and PNG: lines, restarts, names and counts, whatever names contain."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.backend_bases import RendererBase
from matplotlib.text import Text

from hpc_yolo.plots.chart import COLOURS, MAX_POINTS, Chart, Line, thinned
from hpc_yolo.plots.figures import chart_svg, confusion_svg, heat_map_svg, write_charts, write_confusion_chart
from hpc_yolo.plots.sweep_figures import parallel_svg, scale_of, scatter_svg

UNSAFE = '"><script>alert(1)</script> $\\frac{x}$ _&'
WAVE = tuple(number / 10 for number in range(50))


def chart(*lines: Line, **options) -> Chart:
    return Chart("Box loss", "epoch", lines, **options)


def line(name: str = "run", colour: int = 0, ys: tuple[float, ...] = WAVE) -> Line:
    return Line(name, WAVE[: len(ys)], ys, colour)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (chart(line(UNSAFE)), ["&lt;script", COLOURS[0], ">epoch</text>"]),
        (chart(line(f"it's {UNSAFE}")), ["<title>it", "&lt;script"]),
        (chart(line(colour=11)), [COLOURS[1]]),
        (chart(line(), restarts=(2.0,)), ["<title>another attempt</title>", "stroke-dasharray"]),
        (chart(line(ys=(0.5,))), ["<use "]),
        (chart(line(ys=(0.0,) * 50), y_bounds=(0.0, None)), [">0.00</text>"]),
        (chart(line(), x_bounds=(0.0, 1.0), y_bounds=(0.0, 1.0)), [">1.0</text>"]),
        (chart(), [">epoch</text>"]),
        (chart(line(UNSAFE, ys=()), line()), ["<title>run</title>"]),
    ],
    ids=[
        "unsafe name",
        "both quotes",
        "colours repeat",
        "restart",
        "one point",
        "level at zero",
        "bounds",
        "no line",
        "empty line",
    ],
)
def test_svg_of_chart_has_its_lines_and_no_scripts(drawn, expected):
    svg = chart_svg(drawn)
    assert all(text in svg for text in expected), svg
    assert svg.startswith('<svg role="img" aria-label="Box loss"')
    assert not any(text in svg for text in ("<script", "<style", "<g id=", "font-family", "<metadata"))
    ElementTree.fromstring(svg)
    assert svg == chart_svg(drawn), "equal charts have equal text"


def test_svg_of_confusion_matrix_has_names_and_counts_as_text():
    names = ["猫", "سيارة", UNSAFE, "a" * 40]
    svg = confusion_svg(np.diag([3, 1, 4, 1, 5]), names)
    assert all(text in svg for text in (">猫<", ">سيارة<", ">background<", "… [3]<", "<title>4</title>", ">1.00<"))
    assert "<script" not in svg


def test_svg_of_heat_map_has_image():
    assert "data:image/png;base64," in heat_map_svg("centres", [[0, 1], [2, 3]])
    assert "data:image/png;base64," in heat_map_svg("centres", [[0, 0], [0, 0]])


SMALL = tuple(y / 1e6 for y in WAVE)
SCALES = [
    scale_of("warmup_bias_lr", [1e-4, 2e-4]),
    scale_of("shape", ["configs/models/v5n-wide.yaml"]),
    *[scale_of("mAP50-95", [0.1, 0.2])] * 3,
]
DRAWN: dict[str, Callable[[Path], object]] = {
    "PNG with a power of ten": lambda path: write_charts(path, [chart(line(ys=SMALL))] * 4),
    "SVG with a power of ten": lambda _: chart_svg(chart(line(ys=SMALL))),
    "confusion matrix of one class as PNG": lambda path: write_confusion_chart(path, [[1, 2], [3, 4]], ["cat"]),
    "confusion matrix of one class as SVG": lambda _: confusion_svg([[1, 2], [3, 4]], ["cat"]),
    "values of trials": lambda _: parallel_svg(SCALES[:2], [(1e-4, "configs/models/v5n-wide.yaml")]),
    "metric over a field": lambda _: scatter_svg(SCALES[0], [1e-4, 2e-4], [1e-5, 2e-5]),
    "metric over names": lambda _: scatter_svg(SCALES[1], ["configs/models/v5n-wide.yaml"], [0.1]),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_no_text_is_cut_off(draw, monkeypatch, tmp_path):
    """The power of ten above an axis and the caption of a small confusion matrix were."""
    outside: dict[str, bool] = {}
    draw_text = Text.draw

    def observed(text: Text, renderer: RendererBase) -> None:
        draw_text(text, renderer)
        if text.get_text():
            box, canvas = text.get_window_extent(renderer), text.get_figure().bbox.padded(1)
            outside[text.get_text()] = not (canvas.contains(*box.min) and canvas.contains(*box.max))

    monkeypatch.setattr(Text, "draw", observed)
    draw(tmp_path / "drawn.png")
    assert outside and not any(outside.values()), outside


def test_matplotlib_settings_of_user_do_not_change_chart():
    before = chart_svg(chart(line()))
    with matplotlib.rc_context({"text.usetex": True, "svg.fonttype": "path", "axes.facecolor": "black"}):
        assert chart_svg(chart(line())) == before
        assert matplotlib.rcParams["text.usetex"]


@pytest.mark.parametrize("num_charts", [1, 4, 5])
def test_charts_are_arranged_in_one_png(tmp_path, num_charts):
    write_charts(tmp_path / "c.png", [chart(line("first"), line("second", 1))] * num_charts)
    height, width = cv2.imread(str(tmp_path / "c.png")).shape[:2]
    columns, rows = {1: (1, 1), 4: (2, 2), 5: (3, 2)}[num_charts]
    assert width / columns == pytest.approx(504, abs=2) and height / rows == pytest.approx(336, abs=2)


def test_legend_has_name_and_colour_of_each_line(tmp_path):
    lines = [line("down", 1, WAVE[::-1]), line("up", 2)]
    write_charts(tmp_path / "two.png", [chart(*lines)])
    write_charts(tmp_path / "renamed.png", [chart(lines[0], line("猫", 2))])
    write_charts(tmp_path / "one.png", [chart(lines[0])])
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in ("two", "renamed", "one")}) == 3


def test_many_points_become_means_of_neighbours():
    xs, ys = thinned(range(1000), [1.0] * 999 + [4.0])
    assert len(xs) == len(ys) <= MAX_POINTS
    assert (xs[0], ys[0], ys[-1]) == (1.0, 1.0, 4.0)
    assert thinned([1.0], [2.0]) == ((1.0,), (2.0,))
