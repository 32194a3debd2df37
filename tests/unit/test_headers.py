"""Hostile headers: what is read out of them, and that nothing raises."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.image import headers
from fairlead.image.headers import Challenge, ContentRange

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, ()),
        ("", ()),
        ('Basic realm="x"', (Challenge("basic", "x", ""),)),
        (
            'Bearer realm="https://a/token",service="s",scope="repository:a:pull,push"',
            (Challenge("bearer", "https://a/token", "s"),),
        ),
        (
            'Bearer realm="https://a",service="s", Basic realm="b"',
            (Challenge("bearer", "https://a", "s"), Challenge("basic", "b", "")),
        ),
        ("bearer realm=https://a , service = s", (Challenge("bearer", "https://a", "s"),)),
        (r'Basic realm="a\"b"', (Challenge("basic", 'a"b', ""),)),
        ('Basic realm="first", realm="second"', (Challenge("basic", "first", ""),)),
        ("Negotiate", (Challenge("negotiate", "", ""),)),
        ("=,=,=", ()),
    ],
)
def test_challenges_are_read(text, found):
    assert headers.challenges(text) == found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7),
        ("-7", None),
        ("soon", None),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60),
        ("Thu, 01 Jan 2026 00:01:00", 60),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0),
        ("Thu, 99 Foo 2026", None),
        ("9" * 60, float("9" * 60)),
    ],
)
def test_retry_after_is_read(text, seconds):
    assert headers.retry_after_s(text, NOW) == seconds


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes 5-9/10", ContentRange(5, 9, 10)),
        ("bytes 5-9/*", ContentRange(5, 9, None)),
        ("bytes 9-5/10", None),
        ("bytes */10", None),
        ("5-9/10", None),
        ("bytes 5-9/10, bytes 1-2/10", None),
        (None, None),
    ],
)
def test_content_range_is_read(text, found):
    assert headers.content_range(text) == found


@pytest.mark.parametrize(
    ("text", "size"),
    [("7", 7), ("", None), (None, None), ("-1", None), ("1e3", None), ("\u0663", None)],
)
def test_content_length_is_read(text, size):
    assert headers.content_length(text) == size


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (
            b'{"errors":[{"code":"X","message":"manifest unknown"}]}',
            "application/json",
            "manifest unknown",
        ),
        (b'{"errors":[{"code":"DENIED","message":""}]}', None, "DENIED"),
        (b'{"errors":[{"message":"a"},{"message":"b"}]}', None, "a; b"),
        (b'{"error":"invalid_grant","error_description":"expired"}', None, "expired"),
        (b'{"details":"incorrect username"}', None, "incorrect username"),
        (b"<html>go away</html>", "text/html", ""),
        (b"<html>go away</html>", None, ""),
        (b"plain\n words", "text/plain", "plain words"),
        (b"[1]", None, ""),
        (b"", None, ""),
        (b"[" * 100000, "application/json", "[" * 300 + "..."),
    ],
)
def test_the_servers_words_are_found(body, kind, words):
    assert headers.words(body, kind) == words


@given(st.text(max_size=300))
def test_no_header_raises(text):
    headers.challenges(text)
    headers.retry_after_s(text)
    headers.content_range(text)
    headers.content_length(text)
    assert len(headers.words(text.encode(), text)) <= headers.MAX_WORDS + 3
