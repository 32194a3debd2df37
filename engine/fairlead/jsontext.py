"""JSON texts, read without the ``json`` package: importing that costs the launch path 4 ms.

CPython's parser is a C type that the package wraps; what the wrapper adds (errors with line and
column, encodings other than UTF-8) no reader here needs. Another Python's gets the package.
"""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_BLANK = " \t\n\r"


def loads(data: bytes | str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value of a JSON text in UTF-8; ``NaN`` and ``Infinity`` are refused.

    Args:
        data: the text.
        pairs: makes what an object becomes, from its pairs in order; dict if None.

    Raises:
        ValueError: it is no JSON text. RecursionError: it is nested too deep.

    Source: RFC 8259.
    """
    text = data if isinstance(data, str) else data.decode()
    try:
        from _json import make_scanner
    except ImportError:
        import json

        return json.loads(text, object_pairs_hook=pairs, parse_constant=_refuse)
    start = len(text) - len(text.lstrip(_BLANK))
    try:
        value, end = make_scanner(_Context(pairs))(text, start)  # type: ignore[arg-type]
    except StopIteration:
        raise ValueError("no JSON value") from None
    except SystemError:  # CPython 3.11 has no words for it where json.decoder is not loaded
        raise ValueError("no JSON value, or a malformed one") from None
    if text[end:].strip(_BLANK):
        raise ValueError("something follows the JSON value")
    return value


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


class _Context:
    """What the C scanner asks of its maker (``json.decoder.JSONDecoder``'s attributes)."""

    strict = True
    object_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse)

    def __init__(self, pairs: Callable[[list[tuple[str, Any]]], Any] | None) -> None:
        self.object_pairs_hook = pairs
        self.memo: dict[str, str] = {}
