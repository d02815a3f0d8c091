"""A page taken apart, for tests of reports."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page taken apart: every element is closed, and nothing is loaded from anywhere.

    Attributes:
        sections: text of each section by its id.
        sources: values of src and href.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: dict[str, str] = {}
        self.sources: list[str] = []
        self._section = ""
        self.feed(text)
        assert self.open == []
        assert all(source.startswith(("#", "data:")) for source in self.sources)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note an element that begins."""
        named = dict(attributes)
        assert tag not in ("script", "link", "iframe")
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag == "section":
            self._section = named["id"] or ""
            self.sections[self._section] = ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that the element that ends is the last one that began."""
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Add text to its section."""
        if self._section:
            self.sections[self._section] += f"{data} "
