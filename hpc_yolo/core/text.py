"""Text that comes from data: names of classes and files, for printing and as names of files."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

MAX_NAME_BYTES = 180  # of the 255 that file systems allow; the rest is for numbers and suffixes
DIGEST_LETTERS = 10
# Reserved by Windows, with any suffix: directories of results are copied there.
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?=\.|$)")
# All control characters but tabs and newlines; an escape that begins a sequence for colours is not among them.
_STEERING = re.compile(r"(?!\x1b\[[0-9;]*m)[\x00-\x08\x0b-\x1f\x7f-\x9f]")
UNSAFE = frozenset('%/\\<>:"|?*')


def printable(text: str) -> str:
    """Return `text` with control characters and bytes that are not text as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def harmless(text: str) -> str:
    """Return `text` for a terminal: lines, tabs and colours as they are, other control characters as escapes."""
    return text if text.isprintable() else _STEERING.sub(lambda found: printable(found[0]), text)


def file_name(text: str) -> str:
    """Return a name for a file or directory that stands for `text`: different texts have different names.

    Letters that a file system may refuse or treat as a path are percent-encoded, as in addresses. A name that would be
    too long is cut and ends in a digest of the whole.
    """
    name = "".join(_percent(letter) if _is_unsafe(letter) else letter for letter in text)
    if name[:1] in (".", " ") or RESERVED.match(name):
        name = _percent(name[0]) + name[1:]
    if name[-1:] in (".", " "):
        name = name[:-1] + _percent(name[-1])
    return shortened_name(name) or "%"


def shortened_name(name: str) -> str:
    """Return `name` if it is short enough for added suffixes, else its beginning with a digest of it."""
    if len(content := name.encode(errors="surrogateescape")) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(content).hexdigest()[:DIGEST_LETTERS]
    return f"{content[: MAX_NAME_BYTES - DIGEST_LETTERS - 1].decode(errors='ignore')}~{digest}"


def distinct(names: Iterable[str], *, mark: str = "_", ignore_case: bool = False) -> list[str]:
    """Return `names`, the later ones of equal names with `mark` and a number at their ends.

    Args:
        ignore_case: treat names as equal that some file systems treat as equal: they ignore case and the composition
            of accents.
    """
    taken: set[str] = set()
    found = []
    for name in names:
        candidate, number = name, 1
        while (key := _folded(candidate) if ignore_case else candidate) in taken:
            number += 1
            candidate = f"{name}{mark}{number}"
        taken.add(key)
        found.append(candidate)
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_unsafe(letter: str) -> bool:
    return letter in UNSAFE or not letter.isprintable()


def _percent(letter: str) -> str:
    is_byte = "\udc80" <= letter <= "\udcff"  # of a file's name that is not UTF-8
    content = letter.encode(errors="surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in content)
