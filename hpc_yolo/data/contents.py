"""The bytes of images, by their address in an `ImageIndex`: the one function that opens them."""

from __future__ import annotations


def read_content(path: str) -> bytes:
    """Return the bytes of the image with the address `path`.

    Raises:
        OSError: they cannot be read; its `filename` is `path`.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        error.filename = path  # a failed read has none
        raise
