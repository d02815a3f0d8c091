"""Keys, tokens and passwords in a text: found by the form of the value, or by the name that it stands under.

`find_credentials` is a pure function of a name and a text. Which values of a spec it sees, and what a message shows of
them, is in `credential_rules`. Patterns are compiled when a text has one of their marks, which most specs never do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

WHERE_SUBMITTED = "export it where you submit, and sbatch passes it on"
MIN_SECRET = 4  # characters; shorter values are switches and numbers
MAX_SHOWN = 11  # characters of the fixed beginning of a key that a message may show
MIN_RANDOM = 16  # characters of a part that nobody writes by hand

SECRET_ENDS = ("password", "passwd", "passphrase", "apikey", "secret", "token", "credentials", "sshpass")
SECRET_PAIRS = frozenset({("api", "key"), ("access", "key"), ("secret", "key"), ("private", "key"), ("account", "key")})
UNCLEAR_ENDS = frozenset({"key", "auth", "authorization", "bearer", "cookie", "signature", "webhook", "jwt", "dsn"})
HARMLESS_TOKENS = frozenset({"bos", "cls", "eos", "mask", "max", "min", "num", "pad", "sep", "unk"})  # of texts
WORDS = frozenset(
    {"auto", "default", "disabled", "enabled", "false", "keyring", "netrc", "none", "null", "offline", "online"}
    | {"optional", "prompt", "required", "true"}
)
HASH_WORDS = ("checkout", "checksum", "commit", "digest", "hash", "md5", "ref", "rev", "sha", "tag", "version")
KEY_WORDS = ("api_key", "apikey", "auth", "key", "login", "password", "secret", "token", "wandb")


class Credential(NamedTuple):
    """A secret in a text.

    Attributes:
        text: the secret itself.
        what: noun phrase.
        shown: what a message may show of it.
        remedy: where it belongs.
    """

    text: str
    what: str
    shown: str
    remedy: str


class _Form(NamedTuple):
    """A kind of key that has its own form. `marks`: every match has one of them, and begins with it."""

    what: str
    marks: tuple[str, ...]
    pattern: str
    remedy: str


_FORMS = (
    _Form("a token of Hugging Face", ("hf_",), r"hf_[A-Za-z0-9]{30,}", "hf auth login keeps it"),
    _Form(
        "a token of GitHub",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}",
        "git's credential helper or ~/.netrc keeps it",
    ),
    _Form("a token of GitLab", ("glpat-", "gldt-"), r"gl(?:pat|dt)-[A-Za-z0-9_-]{20,}", "~/.netrc keeps it"),
    _Form("a key of AWS", ("AKIA", "ASIA"), r"A[KS]IA[A-Z0-9]{16}", "aws configure keeps it in ~/.aws/credentials"),
    _Form(
        "a token of Slack",
        ("xoxa-", "xoxb-", "xoxe-", "xoxo-", "xoxp-", "xoxr-", "xoxs-", "xapp-"),
        r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}",
        WHERE_SUBMITTED,
    ),
    _Form("a key of Google", ("AIza",), r"AIza[A-Za-z0-9_-]{35}", WHERE_SUBMITTED),
    _Form(
        "an API key",
        ("sk-", "nvapi-", "SG."),
        r"sk-(?:proj-|ant-[a-z0-9]+-|svcacct-)?[A-Za-z0-9_]{20,}|nvapi-[A-Za-z0-9_-]{30,}"
        r"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
        WHERE_SUBMITTED,
    ),
    _Form(
        "a token of a registry",
        ("dckr_pat_", "pypi-AgE", "npm_"),
        r"dckr_pat_[A-Za-z0-9_-]{20,}|pypi-AgE[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{36}",
        "the login command of docker, apptainer, pip or npm keeps it",
    ),
    _Form(
        "a key of Weights & Biases",
        ("wandb_v1_", "local-"),
        r"wandb_v1_[A-Za-z0-9_-]{20,}|local-[0-9a-f]{40}",
        "wandb login keeps it in ~/.netrc",
    ),
    _Form(
        "a webhook with its secret",
        ("https://hooks.slack.com/", "https://discord", "https://canary.discord", "https://ptb.discord"),
        r"https://hooks\.slack\.com/[a-z]+/[A-Za-z0-9/_-]{20,}"
        r"|https://(?:canary\.|ptb\.)?discord(?:app)?\.com/api/webhooks/[0-9]+/[A-Za-z0-9_-]{20,}",
        "write ${SLACK_WEBHOOK} instead and export that variable where you submit, or name a file with mode 600, "
        "file:~/.config/hpc-yolo/webhook",
    ),
    _Form("a signed token", ("eyJ",), r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+", WHERE_SUBMITTED),
    _Form(
        "a private key",
        ("-----BEGIN ",),
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[^-]+(?:-----END [A-Z0-9 ]+-----)?)?",
        "keep it in a file with mode 600, and write its path",
    ),
)
_WANDB = _FORMS[8]
_ADDRESS = "write the address without it; ~/.netrc keeps user and password"


def find_credentials(name: str, text: str) -> Iterator[Credential]:
    """Yield what looks like a key, a token or a password in `text`.

    Args:
        name: under which the text stands, such as a variable; "" where there is none.
        text: one value of a spec, of one or several lines.
    """
    found = [*find_formed(text), *_in_addresses(text), *_hexadecimal(name, text), *_in_shell(text)]
    if not found and _is_secret(name, text):
        found = [_named(name, text)]
    seen: set[str] = set()
    for credential in found:
        if not any(credential.text in other for other in seen):
            seen.add(credential.text)
            yield credential


def without_credentials(text: str) -> str:
    """Return `text`, such as the output of a program, with "…" in place of each credential."""
    for credential in find_credentials("", text):
        text = text.replace(credential.text, "…")
    return text


def find_formed(text: str) -> Iterator[Credential]:
    """Yield the keys in `text` that have a form of their own, whatever stands around them."""
    for form in _FORMS:
        if not any(mark in text for mark in form.marks):
            continue
        for match in _compiled(rf"(?<![A-Za-z0-9])(?:{form.pattern})").finditer(text):
            mark = next(mark for mark in form.marks if match[0].startswith(mark))
            shown = f"{mark}…" if len(mark) < MAX_SHOWN else "…"
            yield Credential(match[0], form.what, shown, form.remedy)


def is_random(text: str) -> bool:
    """Return True if `text` has a part that nobody writes by hand: long, of letters and digits in turn."""
    for part in _compiled(r"[-_./:=,\s]+").split(text):
        turns = sum(before.isdigit() != after.isdigit() for before, after in pairwise(part))
        if len(part) >= MIN_RANDOM and turns >= 3 and part.isascii():
            return True
    return bool(_compiled(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").search(text))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _in_addresses(text: str) -> Iterator[Credential]:
    """Yield passwords before the host of an address, and secrets among its parameters."""
    if "://" not in text:
        return
    for match in _compiled(r"://[^/\s:@'\"]*:([^/\s@'\"]+)@").finditer(text):
        if _is_literal(match[1]):
            yield Credential(match[1], "a password in an address", "…", _ADDRESS)
    for match in _compiled(r"[?&]([A-Za-z0-9_-]+)=([^&\s'\"#]+)").finditer(text):
        name = match[1].lower()
        is_named = name in ("key", "sig") or name.endswith("signature") or is_secret_name(name)
        if is_named and _is_literal(match[2]):
            yield Credential(match[2], f"a secret in an address, {match[1]}=…", "…", WHERE_SUBMITTED)


def _hexadecimal(name: str, text: str) -> Iterator[Credential]:
    """Yield keys of 40 hexadecimal digits: commits and checksums have the same form, so the word before decides."""
    if len(text) < 40:
        return
    for match in _compiled(r"(?<![0-9a-zA-Z])[0-9a-f]{40}(?![0-9a-zA-Z])").finditer(text):
        line = text[: match.start()].rpartition("\n")[2]
        before = f"{name} {line}".lower()
        last_key, last_hash = (max(map(before.rfind, words)) for words in (KEY_WORDS, HASH_WORDS))
        if last_key > last_hash:
            yield Credential(match[0], "a key of Weights & Biases", "…", _WANDB.remedy)


def _in_shell(text: str) -> Iterator[Credential]:
    """Yield secrets in assignments, options and headers of a command."""
    small = text.lower()
    if not any(mark in small for mark in ("pass", "token", "secret", "key", "auth", "credential", "curl")):
        return
    patterns = (
        r"(?<![\w-])([A-Za-z_]\w*)=(\"[^\"]*\"|'[^']*'|[^\s;&|,\"']+)",
        r"(?<![\w-])--?([A-Za-z][\w-]*)[= ]\s*(\"[^\"]*\"|'[^']*'|[^\s;&|\"'-][^\s;&|\"']*)",
    )
    for pattern in patterns:
        for match in _compiled(pattern).finditer(text):
            value = match[2].strip("\"'")
            if _is_secret(match[1], value):
                yield _named(match[1], value)
    others = (
        r"(?i:authorization)['\"]?[:=]\s*(?:[A-Za-z]+ +)?([^\s'\"]+)|sshpass +-p *([^\s]+)"
        r"|curl .*?-u *[^\s:]+:([^\s'\"]+)"
    )
    for match in _compiled(others).finditer(text):
        value = next(filter(None, match.groups())).strip("\"'")
        if _is_literal(value):
            yield _named("", value)


def _named(name: str, value: str) -> Credential:
    remedy = "the login of the tool keeps it, or " + WHERE_SUBMITTED
    if name.isupper():
        remedy = f"write ${{{name}}} instead and {WHERE_SUBMITTED}, or use the login of the tool"
    return Credential(value, "a key or a password", f"{len(value)} characters", remedy)


def _is_secret(name: str, value: str) -> bool:
    if is_secret_name(name):
        return _is_literal(value)
    is_unclear = bool(name) and _parts(name)[-1] in UNCLEAR_ENDS
    return is_unclear and _is_literal(value) and "://" not in value and is_random(value)


def is_secret_name(name: str) -> bool:
    """Return True for the name of a field, variable or option that holds a secret."""
    if not name:
        return False
    parts = _parts(name)
    if parts[-1] == "token" and len(parts) > 1 and parts[-2] in HARMLESS_TOKENS:
        return False
    if parts[-1].endswith(SECRET_ENDS) or tuple(parts[-2:]) in SECRET_PAIRS:
        return True
    return name.isupper() and len(parts) > 1 and parts[-1] in ("pass", "pwd")


def _parts(name: str) -> list[str]:
    return name.lower().replace("-", "_").strip("_").split("_")


def _is_literal(value: str) -> bool:
    """Return True for a value that is the secret itself: no variable, path, switch, number of a few digits or blank."""
    value = value.strip()
    if len(value) < MIN_SECRET or value.lower() in WORDS or (value.isdigit() and len(value) < 6):
        return False
    if value.startswith(("/", "~", "./", "../", "file:")) or "$" in value or "`" in value:
        return False
    if value.startswith("<") or set(value.lower()) <= set("x*.…-"):
        return False
    return not _compiled(r"[\w.-]+(/[\w.-]+)*\.[A-Za-z]{1,5}").fullmatch(value) or "/" not in value
