"""Names of files made from any names in data: safe, short and distinct."""

import itertools
import os
import unicodedata

import pytest

from hpc_yolo.core.text import MAX_NAME_BYTES, distinct, file_name, printable, shortened_name

SAFE = ["cat", "traffic light", "猫", "Café", "a-b_c.d", "x" * MAX_NAME_BYTES, "console", "com10"]
UNSAFE = [
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


@pytest.mark.parametrize("name", SAFE)
def test_safe_name_is_unchanged(name):
    assert file_name(name) == name


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_name_makes_file_inside_directory(name, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    safe = file_name(name)
    (inside / f"{safe}_123456.jpg").touch()
    (inside / safe).mkdir()
    assert len(list(inside.iterdir())) == 2 and list(tmp_path.iterdir()) == [inside]
    assert safe.strip(" .") == safe and "\\" not in safe and safe.isprintable()


def test_different_names_have_different_file_names():
    names = SAFE + UNSAFE
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
def test_names_equal_for_file_system_are_numbered(names, expected):
    assert distinct(names, ignore_case=True) == expected
    folded = [unicodedata.normalize("NFC", name).casefold() for name in expected]
    assert all(one != other for one, other in itertools.combinations(folded, 2))


def test_names_that_differ_in_case_are_distinct_by_default():
    assert distinct(["Cat", "cat", "Cat", "Cat-2"], mark="-") == ["Cat", "cat", "Cat-2", "Cat-2-2"]


def test_undecodable_file_name_is_shortened():
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
def test_control_characters_are_printed_as_escapes(text, expected):
    assert printable(text) == expected
    printable(text).encode()
