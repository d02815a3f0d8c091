"""Patterns in the name of a run, such as {model}-{n}: filled in once, at submission.

There is none for the job: the run directory exists before Slurm gives a job its number, and one run has many jobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from hpc_yolo.spec.problems import Finding

PATTERNS = {
    "model": "name of the model or its weights",
    "date": "of the submission, such as 2026-01-31",
    "time": "of the submission, such as 235959",
    "user": "name of the user",
    "n": "next number that is free in output",
}
NUMBER = "{n}"
ALLOWED = ", ".join(f"{{{pattern}}} ({meaning})" for pattern, meaning in PATTERNS.items())
_PATTERN = re.compile(r"\{([^{}]*)\}")
_OF_JOB = re.compile(r"(slurm_?)?(job|array)\w*|j", re.IGNORECASE)


def has_patterns(name: str) -> bool:
    """Return True if `name` has patterns that are still to be filled in."""
    return "{" in name or "}" in name


def name_findings(name: str) -> Iterator[Finding]:
    """Yield the problem of the first pattern in `name` that is unknown, or not closed."""
    for pattern in _PATTERN.findall(name):
        if _OF_JOB.fullmatch(pattern):
            message = f"{{{pattern}}}: the run directory exists before the job, and every job of the run uses it"
            yield Finding("name", message, "{n} or {date}-{time}: each submission is then a new run")
            return
        if pattern not in PATTERNS:
            yield Finding("name", f"there is no pattern {{{pattern}}}", ALLOWED)
            return
    if has_patterns(_PATTERN.sub("", name)):
        yield Finding("name", "a brace without its partner", ALLOWED)


def filled(name: str, values: Mapping[str, str]) -> str:
    """Return `name` with the patterns in `values`; characters that a name may not have become hyphens."""
    for pattern, value in values.items():
        name = name.replace(f"{{{pattern}}}", re.sub(r"[^A-Za-z0-9_.-]+", "-", value))
    return name
