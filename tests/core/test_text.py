"""Names from data as names of files: safe, short and distinct, whatever they are."""

import itertools
import os
import unicodedata

import pytest

from hpc_yolo.core.text import MAX_NAME_BYTES, distinct, file_name, printable, shortened_name

HARMLESS = ["cat", "traffic light", "猫", "Café", "a-b_c.d", "x" * MAX_NAME_BYTES, "console", "com10"]
HOSTILE = [
    "",
    ".",
    "..",
    "../../etc",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a%2Fb",
    "a:b",
    "nul\0byte",
    "line\nbreak",
    "\x1b[2J",
    " space",
    "space ",
    "dot.",
    ".hidden",
    "CON",
    "con.txt",
    "aux",
    "LPT1.log",
    "\u202eevil",
    "lone \ud800",
    "x" * 300,
    "x" * 301,
    "猫" * 100,
    "*?|<>\"'",
]


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_name_stays_as_it_is(name):
    assert file_name(name) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_makes_one_file_below_its_directory_and_none_beside_it(name, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    safe = file_name(name)
    (inside / f"{safe}_123456.jpg").touch()
    (inside / safe).mkdir()
    assert len(list(inside.iterdir())) == 2 and list(tmp_path.iterdir()) == [inside]
    assert safe.strip(" .") == safe and "\\" not in safe and safe.isprintable()


def test_different_names_stay_different():
    names = HARMLESS + HOSTILE
    assert len({file_name(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a", "a_2", "a"], ["a", "a_2", "a_3"]),
        (["Cat", "cat"], ["Cat", "cat_2"]),
        (["é", "e\u0301"], ["é", "e\u0301_2"]),
    ],
)
def test_names_that_a_file_system_takes_for_one_get_numbers(names, expected):
    assert distinct(names, ignore_case=True) == expected
    folded = [unicodedata.normalize("NFC", name).casefold() for name in expected]
    assert all(one != other for one, other in itertools.combinations(folded, 2))


def test_names_that_differ_in_case_stay_as_they_are_unless_asked_otherwise():
    assert distinct(["Cat", "cat", "Cat", "Cat-2"], mark="-") == ["Cat", "cat", "Cat-2", "Cat-2-2"]


def test_a_name_of_a_file_that_is_no_text_is_shortened_too():
    name = os.fsdecode(b"\xff" * 250)
    assert len(os.fsencode(shortened_name(name))) <= MAX_NAME_BYTES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat 猫 é", "cat 猫 é"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202e", "\\u202e"),
        (os.fsdecode(b"a\xff"), "a\\udcff"),
    ],
)
def test_what_a_terminal_would_act_on_is_printed_as_an_escape(text, expected):
    assert printable(text) == expected
    printable(text).encode()
