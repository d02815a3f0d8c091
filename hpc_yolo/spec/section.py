"""The base of all sections of a spec, what their fields share, and the marks of fields that may change."""

from typing import Annotated

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]

# Marks of fields that may differ between the attempts of a run; all others decide what it learns and are fixed.
CHANGES = "changes"
WHERE_IT_RUNS = Meta(extra={CHANGES: "where it runs"})  # nothing that is learned depends on it
MAY_CHANGE = Meta(extra={CHANGES: "may change"})  # how long and how often: the run continues with the new value


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, named fields only."""


def split_list(written: str | list[str]) -> list[str]:
    """Return the parts of a list that is written as YAML's or with commas."""
    text = written if isinstance(written, str) else ",".join(written)
    return [part.strip() for part in text.split(",") if part.strip()]
