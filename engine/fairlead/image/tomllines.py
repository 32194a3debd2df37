"""On which line of a TOML document each key stands: what ``tomllib`` does not tell. Pure.

Rules:
- The document was accepted by ``tomllib`` before: here nothing is checked, only counted.
- A place is the path of keys that ``tomllib`` would give, with numbers for the elements of arrays.

Source: TOML 1.0.0, sections Keys, String, Array, Inline Table, Table, Array of Tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

Place = tuple[str | int, ...]

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r]+ | \#[^\n]*)
    | (?P<newline>\n)
    | (?P<text>\"{3} (?: [^\\\"] | \\. | \"(?!\"\") )* \"{3,5} | '{3} (?: [^'] | '(?!'') )* '{3,5}
             | \" (?: [^\\\"\n] | \\. )* \" | ' [^'\n]* ')
    | (?P<mark>[\[\]{}=,.])
    | (?P<word>[^\s\[\]{}=,.\"'\#]+)
    """,
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def lines(document: str) -> dict[Place, int]:
    """Return the line, from 1, on which each key and each element of an array begins."""
    tokens = [*_tokens(document), _Token("newline", "\n", 0)]
    found: dict[Place, int] = {}
    table: Place = ()
    counts: dict[Place, int] = {}
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.kind == "newline":
            at += 1
        elif token.text == "[":
            several = tokens[at + 1].text == "["
            key, at = _key(tokens, at + 1 + several)
            table = _table(key, token.line, several, counts, found)
            at += 1 + several
        else:
            at = _pair(tokens, at, table, found)
    return found


def _tokens(document: str) -> Iterator[_Token]:
    line, at = 1, 0
    while found := _TOKEN.match(document, at):
        kind = found.lastgroup or ""
        if kind != "space":
            yield _Token(kind, found[0], line)
        line += found[0].count("\n")
        at = found.end()


def _table(
    key: Place, line: int, several: bool, counts: dict[Place, int], found: dict[Place, int]
) -> Place:
    """Note ``[key]`` or ``[[key]]``; a name that is an array of tables means its last one."""
    place: Place = ()
    for number, part in enumerate(key):
        place = (*place, part)
        found.setdefault(place, line)
        if several and number == len(key) - 1:
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place = (*place, counts[place])
            found.setdefault(place, line)
    return place


def _key(tokens: list[_Token], at: int) -> tuple[Place, int]:
    """Return a dotted key and where it ends."""
    parts: list[str] = []
    while tokens[at].kind in {"word", "text"} or tokens[at].text == ".":
        if tokens[at].text != ".":
            parts.append(_plain(tokens[at]))
        at += 1
    return tuple(parts), at


def _plain(token: _Token) -> str:
    if token.kind == "word" or token.text[0] == "'":
        return token.text.strip("'")
    try:
        return str(json.loads(token.text))
    except ValueError:  # \U12345678 and \e, which JSON does not have
        return token.text.strip('"')


def _pair(tokens: list[_Token], at: int, table: Place, found: dict[Place, int]) -> int:
    """Note one ``key = value``; return where it ends."""
    key, after = _key(tokens, at)
    for size in range(1, len(key) + 1):
        found.setdefault((*table, *key[:size]), tokens[at].line)
    return _value(tokens, after + 1, (*table, *key), found)


def _value(tokens: list[_Token], at: int, place: Place, found: dict[Place, int]) -> int:
    if tokens[at].text == "[":
        return _array(tokens, at + 1, place, found)
    if tokens[at].text == "{":
        at += 1
        while tokens[at].text != "}":
            at = at + 1 if tokens[at].text == "," else _pair(tokens, at, place, found)
        return at + 1
    while tokens[at].kind != "newline" and tokens[at].text not in {",", "]", "}"}:
        at += 1
    return at


def _array(tokens: list[_Token], at: int, place: Place, found: dict[Place, int]) -> int:
    number = 0
    while tokens[at].text != "]":
        if tokens[at].kind == "newline" or tokens[at].text == ",":
            at += 1
            continue
        found[(*place, number)] = tokens[at].line
        at = _value(tokens, at, (*place, number), found)
        number += 1
    return at + 1
