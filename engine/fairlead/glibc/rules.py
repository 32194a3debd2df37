"""What the history of glibc says about symbols: renamed, changed in meaning, data, out of reach.

Every symbol of glibc 2.18 to 2.43 falls under one of these rules, is a plain new label for an old
function, or is implemented in ``libfairlead-glibc.so``; tests/kernel/test_downbind_abi.py holds it
against the symbol tables of real releases.

Source: the ``Versions`` files and NEWS of glibc 2.18 … 2.43.
"""

from __future__ import annotations

import re
from typing import NamedTuple

OLDEST = (2, 17)


class Data(NamedTuple):
    """A data object that the polyfill holds itself."""

    size: int
    why: str


# All zero. The programs that ask for them take zero for "not known": the safe answer.
DATA = {
    "__libc_single_threaded": Data(1, "0: there may be threads, so atomics are used"),
    "__rseq_offset": Data(8, "no area, see __rseq_size"),
    "__rseq_size": Data(4, "0: glibc has not registered restartable sequences"),
    "__rseq_flags": Data(4, "none"),
    "__signgam": Data(4, "set by the lgamma of 2.23, which is ours where this is"),
}

# The same function under a name that older releases have. What differs is said; none of it is the
# interface's promise.
RENAMED = {
    "fcntl64": "fcntl",  # one function where off_t has 64 bits
    "preadv64v2": "preadv2",
    "pwritev64v2": "pwritev2",
    "fts64_open": "fts_open",
    "fts64_read": "fts_read",
    "fts64_children": "fts_children",
    "fts64_set": "fts_set",
    "fts64_close": "fts_close",
    "__memcmpeq": "memcmp",  # promises less than memcmp does
    "logp1": "log1p",
    "logp1f": "log1pf",
    "logp1l": "log1pl",
    # %b and the prefix 0b under %i are the only difference, and no older scanf reads them.
    **{
        f"__isoc23_{name}": f"__isoc99_{name}"
        for name in (
            "scanf", "fscanf", "sscanf", "vscanf", "vfscanf", "vsscanf",
            "wscanf", "fwscanf", "swscanf", "vwscanf", "vfwscanf", "vswscanf",
        )
    },
    **{
        f"dn_{name}": f"__dn_{name}" for name in ("comp", "expand", "skipname")
    },
    **{
        f"res_{name}": f"__res_{name}"
        for name in (
            "dnok", "hnok", "mailok", "ownok", "mkquery", "nmkquery", "query", "nquery",
            "querydomain", "nquerydomain", "search", "nsearch", "send", "nsend",
        )
    },
}  # fmt: skip

# C23's names for types: what a type of N bits is called in older names.
_FLOATN = re.compile(
    r"(?P<stem>(?:str(?:to|from)|wcsto|[a-z][a-z0-9_]*?))f(?P<kind>32x|64x|32|64)(?P<tail>_r|_l)?$"
)
_SUFFIX = {"32": "f", "64": "", "32x": "", "64x": "l"}
_STRINGS = {
    "strto": {"32": "f", "64": "d", "32x": "d", "64x": "ld"},
    "wcsto": {"32": "f", "64": "d", "32x": "d", "64x": "ld"},
    "strfrom": {"32": "f", "64": "d", "32x": "d", "64x": "l"},
}

# Where the label changed because the meaning did: an older definition is no stand-in from then on.
CHANGED = {
    **{
        name + suffix: ((2, 31), "takes pointers since 2.31, values before")
        for name in ("totalorder", "totalordermag")
        for suffix in ("", "f", "l", "f32", "f64", "f32x", "f64x", "f128")
    },
    **{
        name + suffix: ((2, 43), "returns a floating-point number since 2.43, an integer before")
        for name in ("fromfp", "fromfpx", "ufromfp", "ufromfpx")
        for suffix in ("", "f", "l", "f32", "f64", "f32x", "f64x", "f128")
    },
    **dict.fromkeys(
        ("cfgetispeed", "cfgetospeed", "cfsetispeed", "cfsetospeed", "cfsetspeed"),
        ((2, 42), "means bits per second since 2.42, a code before"),
    ),
    **dict.fromkeys(
        ("lgamma", "lgammaf", "lgammal"), ((2, 23), "sets another variable since 2.23, __signgam")
    ),
    "__libc_start_main": ((2, 34), "runs the program's own constructors since 2.34"),
    "fmemopen": ((2, 22), "has no binary mode since 2.22, and other rules for the end"),
}

# What only the linker asks for: a property of the loader, not a symbol.
MARKERS = {
    "GLIBC_ABI_DT_RELR": "expanded",  # patch writes the relocations out
    # PLT entries are rewritten by loaders that know how; the others bind them as always.
    "GLIBC_ABI_DT_X86_64_PLT": "dropped",
}

# Why there is no polyfill, by pattern; the first that matches speaks.
_REASONS = (
    (r"_ZGV", "vector function of libmvec, made for the compiler"),
    (r".*f128", "128-bit floating point, which nothing here computes"),
    (r"(?:d|f|f32x?|f64)(?:sqrt|fma|add|sub|mul|div)(?:l|f32x?|f64x?)?$",
     "rounds once to a narrower type"),
    (r"(?:compoundn|pown|powr|rootn|roundeven|canonicalize|llogb|u?fromfp|[gs]etpayload)",
     "C23 function of libm with no older counterpart"),
    (r"(?:nextup|nextdown|f(?:max|min)mag|totalorder|fe[gst]|__is)",
     "C23 function of libm with no older counterpart"),
    (r"(?:exp|log|a?(?:cos|sin|tan|tan2)|r)\w*(?:l|64x)$",
     "over long double, with nothing wider to round from"),
    (r"(?:mbrtoc8|c8rtomb)$", "needs the conversion state of a newer glibc's locale code"),
    (r"pthread_attr_[gs]etsigmask_np$|pthread_setattr_default_np$",
     "an older pthread_create does not read it"),
    (r"posix_spawn", "an older posix_spawn does not carry it out"),
    (r"pthread_gettid_np$", "reads a newer glibc's thread descriptor"),
    (r"GLIBC_|__\w+_version_placeholder$", "a mark for linkers and loaders, no function"),
)  # fmt: skip


def older_names(symbol: str) -> tuple[str, ...]:
    """Return the names under which the same function may be found, its own first."""
    names = [symbol]
    if symbol in RENAMED:
        names.append(RENAMED[symbol])
    match = _FLOATN.match(symbol)
    if match:
        stem, kind, tail = match.group("stem", "kind", "tail")
        name = stem + _STRINGS.get(stem, _SUFFIX)[kind] + (tail or "")
        names += [name, RENAMED[name]] if name in RENAMED else [name]
    return tuple(names)


def changed(symbol: str, version: tuple[int, ...], older: tuple[int, ...]) -> str:
    """Return how the meaning changed between two versions of a symbol; empty if it did not."""
    since, how = CHANGED.get(symbol, ((), ""))
    return how if since and older < since <= version else ""


def meaning_suffix(symbol: str, version: tuple[int, ...]) -> str:
    """Return what the implementation's name has behind it for what a version means."""
    since, _ = CHANGED.get(symbol, ((), ""))
    return "__" + "_".join(map(str, since)) if since and version >= since else ""


def reason(symbol: str) -> str:
    """Return why a symbol that is new has no implementation here."""
    for pattern, why in _REASONS:
        if re.match(pattern, symbol):
            return why
    return "new, and not implemented here"
