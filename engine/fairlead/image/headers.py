"""What servers say in headers and error bodies: hostile text in, checked values out. Pure.

Rules:
- Nothing here raises: what cannot be read is ``None`` or empty, and the caller decides what that
  means.
- Everything is bounded before it is scanned, and the patterns are linear.

Source: RFC 9110 section 11.6.1 (challenges), 10.2.3 (Retry-After), 14.4 (Content-Range);
distribution-spec 1.1 "Error Codes".
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

MAX_HEADER = 8192
MAX_WORDS = 300
MAX_MESSAGES = 64

_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9-]*)(?:\s+|$)")
_PARAM = re.compile(r'[\s,]*([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Challenge(NamedTuple):
    """One way to log in that a 401 offers; the scheme in lower case."""

    scheme: str
    realm: str
    service: str


class ContentRange(NamedTuple):
    """The part that a 206 holds: first and last byte (inclusive), and the whole's size if told."""

    first: int
    last: int
    total: int | None


def challenges(text: str | None) -> tuple[Challenge, ...]:
    """Return the challenges of a WWW-Authenticate header, in its order."""
    text = (text or "")[:MAX_HEADER]
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(text):
        if found and (match := _PARAM.match(text, position)):
            quoted, plain = match.group(2), match.group(3)
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            found[-1][1].setdefault(match.group(1).lower(), value)
        elif match := _SCHEME.match(text, position):
            found.append((match.group(1).lower(), {}))
        else:
            break
        position = match.end()
    return tuple(
        Challenge(scheme, params.get("realm", ""), params.get("service", ""))
        for scheme, params in found
    )


def retry_after_s(text: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, 0 for a date gone by."""
    text = (text or "").strip()[:64]
    if not text:
        return None
    if text.isdecimal():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def content_range(text: str | None) -> ContentRange | None:
    """Return the range of a Content-Range header."""
    match = _RANGE.fullmatch((text or "").strip()[:128])
    if not match or int(match.group(2)) < int(match.group(1)):
        return None
    total = None if match.group(3) == "*" else int(match.group(3))
    return ContentRange(int(match.group(1)), int(match.group(2)), total)


def content_length(text: str | None) -> int | None:
    """Return the size of a Content-Length header."""
    text = (text or "").strip()
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 18 else None


def strong_etag(etag: str | None) -> str:
    """Return an ETag that If-Range may hold; empty if it is none."""
    # RFC 9110 13.1.5: a weak validator must not stand in If-Range
    return (
        etag
        if etag and not etag.startswith("W/") and etag.isprintable() and len(etag) < 512
        else ""
    )


def is_word(text: str) -> bool:
    """Tell whether text can stand in a header as one word."""
    return text.isascii() and text.isprintable() and " " not in text


def words(body: bytes, content_type: str | None) -> str:
    """Return the server's own words from an error's body; a page for browsers says nothing."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    try:
        table = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode(errors="replace").strip()
        return "" if kind == "text/html" or text.startswith("<") else _shortened(text)
    if not isinstance(table, dict):
        return ""
    listed = table.get("errors")
    parts = [_error_words(item) for item in (listed if isinstance(listed, list) else [table])[:3]]
    return _shortened("; ".join(part for part in parts if part))


def messages(body: bytes) -> tuple[bytes, ...]:
    """Return the signed messages in the answer of a registry that keeps signatures."""
    try:
        listed = json.loads(body)["signatures"]
        kept = [item["content"] for item in listed[:MAX_MESSAGES] if item.get("type") == "atomic"]
        return tuple(base64.b64decode(item, validate=True) for item in kept)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return ()


def _error_words(item: object) -> str:
    if not isinstance(item, dict):
        return ""
    # distribution: message; token servers (OAuth 2): error_description, error; others: details
    for key in ("message", "error_description", "error", "details", "code"):
        if isinstance(item.get(key), str) and item[key]:
            return str(item[key])
    return ""


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_WORDS else f"{text[:MAX_WORDS]}..."
