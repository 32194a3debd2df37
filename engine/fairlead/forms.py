"""What the values of some settings must look like, and what a value that has parts says. Pure."""

from __future__ import annotations

_NAMES = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def _is_scope(text: str) -> bool:
    host, _, rest = text.partition("/")
    plain = host.removeprefix("*.")
    fine = text.isascii() and text.isprintable() and not set(" *@") & set(plain + rest)
    return fine and bool(plain) and "//" not in text and not text.endswith("/")


def split_change(text: str) -> tuple[str, str, str]:
    """Split ``NAME=VALUE``, ``NAME+=VALUE``, ``NAME^=VALUE`` or ``-NAME`` of ``site_env``.

    Returns:
        Name, what is done (``=``, ``+``, ``^`` or ``-``) and value; the name is empty where text is
        none of them.
    """
    if text.startswith("-"):
        name, how, value = text[1:], "-", ""
    else:
        name, equals, value = text.partition("=")
        how = name[-1:] if name[-1:] in {"+", "^"} else "="
        name = name.removesuffix(how) if equals else ""
    fine = name and _NAMES.issuperset(name) and not name[0].isdecimal() and text.isprintable()
    return (name if fine else "", how, value)


def _is_change(text: str) -> bool:
    return bool(split_change(text)[0])


def _is_mount(text: str) -> bool:
    return text.startswith(("/", "tmpfs:/")) and text.isprintable()


SCOPE = ("HOST[:PORT][/NAME...] or *.DOMAIN", _is_scope)
CHANGE = ("NAME=VALUE, NAME+=VALUE, NAME^=VALUE or -NAME", _is_change)
MOUNT = ("SRC[:DST[:FLAG+FLAG]] or tmpfs:DST, from /", _is_mount)
ABSOLUTE = ("an absolute path", lambda text: text.startswith("/"))
