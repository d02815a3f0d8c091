"""Names in any script, drawn so that each is seen and none looks like another."""

import importlib.util

import cv2
import numpy as np
import pytest

from hpc_yolo.plots import text
from hpc_yolo.plots.draw import Style, draw_boxes
from hpc_yolo.plots.figures import write_confusion_chart, write_label_charts
from hpc_yolo.plots.labels import LabelStatistics, SplitStatistics
from hpc_yolo.plots.text import class_labels, fitting_label, line_height, text_width, write_text

DRAWN = {
    "Chinese": "汽车",
    "Japanese": "日本語の看板",
    "Korean": "자동차",
    "Cyrillic": "кошка Ёж",
    "Greek": "Ελληνικά",
    "Arabic": "حافلة مدرسية",
    "Persian": "پیچ گوشتی",
    "Hebrew": "כלב",
    "Armenian": "Հայ",
    "Georgian": "ქართ",
    "Vietnamese": "Tiếng Việt",
    "accents": "Café Žluťoučký",
    "mixed": "bus 公交车 автобус",
    "signs": "a/b → 50 %?",
}
NOT_DRAWN = {"Hindi": "हिन्दी", "Thai": "ไทย", "Bengali": "বাংলা", "emoji": "🚗"}
ALIKE = [
    ("Café", "Cafe\u0301"),
    ("cat", "c\u0430t"),  # with a Cyrillic letter
    ("ab", "a\u200cb"),
    ("cat", "cat ", " cat"),
    ("हिन्दी", "मराठी", "ไทย"),
    ("a b", "a\u00a0b"),
    ("", " ", "\u200d"),
    ("cat", "cat [0]", "cat"),
    ("I", "\u0406", "\u0399"),
]


@pytest.fixture
def fresh_caches():
    caches = (text._face, text._is_drawn, text.class_labels)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(params=["OpenCV 5", "OpenCV 4", "no matplotlib"])
def environment(request, monkeypatch, fresh_caches):
    if request.param != "OpenCV 4" and not text.has_fonts():
        pytest.skip("OpenCV 4 is installed")
    if request.param == "OpenCV 4":
        monkeypatch.delattr(cv2, "FontFace", raising=False)
    if request.param == "no matplotlib":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return request.param


def image(label, *, width=400):
    pixels = np.zeros((60, width, 3), dtype=np.uint8)
    write_text(pixels, label, 5, 40, (255, 255, 255), 24)
    return pixels


def ink(label):
    found = np.argwhere(image(label, width=2000)[:, :, 0])
    return "" if not len(found) else str((found - found.min(axis=0)).tolist())


needs_fonts = pytest.mark.skipif(not text.has_fonts(), reason="OpenCV 4 draws ASCII alone")


@needs_fonts
@pytest.mark.parametrize("name", DRAWN.values(), ids=DRAWN)
def test_name_in_a_known_script_is_drawn_completely(name):
    (label,) = class_labels((name,))
    assert text.MISSING not in label and "[" not in label and label.count("?") == name.count("?")
    assert image(label).any()
    for letter in set(label) - set("? "):
        assert ink(letter) != ink("?"), letter


@needs_fonts
@pytest.mark.parametrize("name", NOT_DRAWN.values(), ids=NOT_DRAWN)
def test_name_without_a_font_is_a_box_with_its_number(name):
    assert class_labels(("x", f"old {name}")) == ("x", f"old {text.MISSING} [1]")


@needs_fonts
def test_arabic_is_joined_and_runs_from_right_to_left():
    (label,) = class_labels(("سيارة",))
    assert [f"{ord(letter):04X}" for letter in label] == ["FE93", "FEAD", "FE8E", "FEF4", "FEB3"]
    assert class_labels(("כלב",)) == ("בלכ",)


@pytest.mark.parametrize("names", ALIKE, ids=ascii)
def test_names_that_look_alike_get_their_number(names, environment):
    labels = class_labels(names)
    assert len({ink(label) for label in labels}) == len(names), labels


def test_cut_names_never_look_alike(environment):
    names = (*DRAWN.values(), *NOT_DRAWN.values(), *(f"a very long name of a class, number {n}" for n in range(9)))
    for letters in (None, 20, 5, 3):
        labels = class_labels(names, letters)
        assert len({ink(label) for label in labels}) == len(names)
        assert not any("??" in label for label in labels)


def test_control_characters_in_a_name_are_drawn_as_escapes(environment):
    assert class_labels(("a\x1b[2J\nb",))[0].startswith("a\\x1b[2J\\nb" if environment != "OpenCV 4" else "a_[2J_b")


@pytest.mark.parametrize("room", [20, 60, 120, 400])
def test_label_fits_its_room_and_stays_unique(room, environment):
    names = (*DRAWN.values(), "traffic_light_red_left", "traffic_light_red_right")
    labels = [fitting_label(names, kind, room, 14, " 0.85") for kind in range(len(names))]
    assert all(text_width(label, 14) <= room for label in labels)
    assert len({ink(label) for label in labels}) == len(names)


@pytest.mark.parametrize("name", [*DRAWN.values(), "gjpqÅŞ|"])
def test_text_stays_within_its_line(name):
    (label,) = class_labels((name,))
    size = 40
    pixels = np.zeros((4 * size, 1200, 3), dtype=np.uint8)
    baseline = 2 * size
    write_text(pixels, label, 10, baseline, (255, 255, 255), size)
    rows, columns = pixels[:, :, 0].nonzero()
    assert rows.max() <= baseline + text.BELOW * size + 2 and rows.min() >= baseline - line_height(size)
    assert columns.min() >= 8 and columns.max() <= 12 + text_width(label, size)


def test_text_is_cut_at_the_edge_and_not_wrapped():
    pixels = np.zeros((200, 50, 3), dtype=np.uint8)
    write_text(pixels, "a long line of text", 5, 30, (255, 255, 255), 20)
    assert pixels[:30].any() and not pixels[40:].any()


def drawn(name, style=None):
    pixels = np.full((120, 200, 3), 90, dtype=np.uint8)
    return draw_boxes(pixels, [[20, 60, 150, 110, 0.9, 0.0]], [name, "other"], style or Style())


def test_names_on_images_differ(environment):
    names = [*DRAWN.values(), *NOT_DRAWN.values()]
    if environment == "OpenCV 5":
        assert len({drawn(name).tobytes() for name in DRAWN.values()}) == len(DRAWN)
    assert all((drawn(name) != drawn(name, Style(labels=False))).any() for name in names)


def test_charts_show_class_names_in_any_script(environment, tmp_path):
    names = ["猫", "سيارة", "кошка", "ไทย", "cat"]
    written = set()
    for order in (names, names[::-1]):
        write_confusion_chart(tmp_path / "confusion.png", np.eye(6, dtype=np.int64), order)
        counts = SplitStatistics(
            num_images=1,
            num_backgrounds=0,
            num_corrupt=0,
            class_counts=[1] * 5,
            num_small=1,
            num_medium=1,
            num_large=1,
            objects_per_image=[1],
            centres=[[1]],
            sides=[[1]],
        )
        write_label_charts(tmp_path / "labels.png", LabelStatistics(imgsz=64, names=order, train=counts, val=counts))
        written |= {(tmp_path / name).read_bytes() for name in ("confusion.png", "labels.png")}
    assert len(written) == 4
