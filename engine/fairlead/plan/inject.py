"""Decide whose MPI runs in a container, and library by library whose copy is taken (pure).

Rules:
- ``image``: the image's own. ``host``: the host's, or the reason why not. ``auto``: the host's if
  it is proven to fit, else the image's own and one line that says why.
- Interchangeable is only the same ABI class, by content (``host.family``), with every language
  binding that the image has: a Fortran library of one OpenMPI on the C library of another crashes.
- The image's glibc stays. Every version that the host's files ask of it must be defined there; the
  reason names the library, the version and a symbol.
- Proven means: no symbol that the image's programs use is missing in the host's libraries, and
  every data object that they copy has the same size. ``host`` accepts missing ones with a warning:
  the program may never call them.
- A library that both have and that is not MPI: the image's, if it offers all that the host's does,
  else the host's. Libraries that work with each other's internals are never split, and one with
  plugins goes with its plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fairlead.host.index import Index, Library
from fairlead.host.mpi import NAMES, Profile

# Language bindings that a program may be linked to; a missing one cannot be replaced by the
# image's.
BINDINGS = {
    "mpifh": "Fortran",
    "usempi": "Fortran",
    "usempi_ignore_tkr": "Fortran",
    "usempif08": "Fortran 2008",
    "fortran": "Fortran",
    "fortran90": "Fortran",
    "cxx": "C++",
}

# Libraries that reach into each other: one decision for all of a group. Prefixes of SONAMEs.
GROUPS = (
    ("libopen-", "libmca_common_", "liboshmem.", "libompitrace.", "libprrte."),
    ("libucp.", "libucs.", "libuct", "libucm", "libucs_signal."),
    ("libfabric.", "libpsm", "libinfinipath.", "libcxi.", "libopx"),
    (
        "libibverbs.",
        "librdmacm.",
        "libibumad.",
        "libmlx4.",
        "libmlx5.",
        "libefa.",
        "libhns.",
        "libmana.",
    ),
    ("libpmix.", "libpmi.", "libpmi2."),
    ("libxpmem.", "libknem."),
    ("libevent",),
    ("libnl-",),
)
# The messages' way to the wire is the site's: an image's libfabric may define every symbol and lack
# the provider.
WIRE = frozenset(GROUPS[:6])
# Run-time libraries of compilers: one per process, and each release offers all that older ones did.
TOOLCHAIN = ("libstdc++.", "libgcc_s.", "libgfortran.", "libquadmath.", "libgomp.")


class Verdict(NamedTuple):
    """Whose MPI runs.

    Attributes:
        choice: ``host``, ``image`` or ``none`` (the image has no MPI and none is put there).
        profiles: the host's installations to inject, one per ABI class; empty unless ``host``.
        reasons: lines that explain the choice, the deciding one first; for ``explain`` and the log.
        refused: why ``host`` cannot be done, for errors.MpiError; empty otherwise.
        warnings: what the user should know although it was done.
    """

    choice: str
    profiles: tuple[Profile, ...]
    reasons: tuple[str, ...]
    refused: str = ""
    warnings: tuple[str, ...] = ()


class Glibc(NamedTuple):
    """How an installation of the host runs on an image's glibc, which lacks what it asks for.

    Attributes:
        action: ``nothing``, ``down-bind`` or ``impossible`` (``glibc.binding``).
        reason: in words.
    """

    action: str
    reason: str


class Kept(NamedTuple):
    """Whose copy of one library is taken, and why.

    ``source`` is ``host``, ``image`` or ``private``: both, the host's under a name of its own.
    """

    soname: str
    source: str
    reason: str

    @property
    def name(self) -> str:
        """The SONAME under which the host's copy comes."""
        return f"fairlead-{self.soname}" if self.source == "private" else self.soname


def decide(
    mode: str,
    index: Index,
    profiles: Iterable[Profile],
    glibc: Mapping[str, Glibc] | None = None,
) -> Verdict:
    """Return whose MPI runs.

    Args:
        mode: ``auto``, ``host`` or ``image``.
        index: what the image brings.
        profiles: what the host has, preferred first.
        glibc: identity of a profile → how it runs on the image's glibc, for those that
            ``asks_more`` names. Without it, what the image's glibc lacks is an obstacle.
    """
    own = _own(index)
    if mode == "image":
        return Verdict(
            "image" if own else "none",
            (),
            (f"the image's own {own} runs: asked for" if own else "no MPI in the image",),
        )
    if not index.libraries:
        return _without_library(mode, index)
    glibc = glibc or {}
    by_class: dict[str, Profile] = {}
    for profile in profiles:
        by_class.setdefault(profile.abi_class, profile)
    chosen: list[Profile] = []
    reasons: list[str] = []
    refusals: list[str] = []
    warnings: list[str] = []
    for abi_class in _classes(index):
        described = _describe(index, abi_class)
        candidate = by_class.get(abi_class)
        obstacle = _obstacle(index, abi_class, candidate, by_class, chosen, glibc)
        unproven = "" if obstacle or not candidate else _unproven(index, abi_class, candidate)
        if obstacle or not candidate or (unproven and mode == "auto"):
            refusals.append(obstacle or unproven)
            reasons.append(f"the image's own {described} runs: {obstacle or unproven}")
            continue
        if unproven:
            warnings.append(f"{unproven}; programs may fail")
        chosen.append(candidate)
        reasons.append(
            f"the host's {candidate.name} replaces the image's {described} ({abi_class})"
        )
        if candidate.identity in glibc:
            reasons.append(f"the host's {candidate.name}: {glibc[candidate.identity].reason}")
    if chosen:
        reasons.sort(key=lambda reason: not reason.startswith("the host's"))
        return Verdict("host", tuple(chosen), tuple(reasons), "", tuple(warnings))
    refused = "; ".join(dict.fromkeys(refusals)) or "the image has no C library of MPI"
    return Verdict("image", (), tuple(reasons or [refused]), refused if mode == "host" else "")


def _classes(index: Index) -> list[str]:
    return sorted({item.abi_class for item in index.libraries if item.role in ("c", "open_mpi")})


def _own(index: Index) -> str:
    names = [library for library in index.libraries if library.role == "c"]
    return ", ".join(dict.fromkeys(_name(library) for library in names)) or (
        ", ".join(index.static[:1])
    )


def _name(library: Library) -> str:
    return f"{NAMES.get(library.family, library.family)} {library.version}".rstrip()


def _describe(index: Index, abi_class: str) -> str:
    names = [
        _name(item)
        for item in index.libraries
        if item.abi_class == abi_class and item.role in ("c", "open_mpi")
    ]
    return ", ".join(dict.fromkeys(names))


def _without_library(mode: str, index: Index) -> Verdict:
    if index.static:
        reason = f"{index.static[0]} has its MPI linked in statically, which cannot be replaced"
        return Verdict(
            "image", (), (f"the image's own MPI runs: {reason}",), reason if mode == "host" else ""
        )
    reason = "the image holds no MPI library to replace"
    return Verdict("none", (), (reason,), reason if mode == "host" else "")


def _obstacle(
    index: Index,
    abi_class: str,
    profile: Profile | None,
    host: Mapping[str, Profile],
    chosen: Iterable[Profile],
    glibc: Mapping[str, Glibc],
) -> str:
    """Return why the host's MPI cannot stand in for the image's of one class; empty if it can."""
    libraries = [library for library in index.libraries if library.abi_class == abi_class]
    if any(library.libc == "musl" for library in libraries) or (index.libc == "musl"):
        return "the image's programs run on musl, the host's MPI needs glibc"
    if index.unseen:
        return (
            f"the image cannot be looked at in full ({index.unseen[0]}), so a libmpi may hide there"
        )
    if not profile:
        described = _describe(index, abi_class)
        if not host:
            return "no MPI library is found on this host (load its module, or set MPI_HOME)"
        others = ", ".join(f"{item.name} ({item.abi_class})" for item in host.values())
        return f"the host has {others}, which cannot stand in for {described} ({abi_class})"
    roles = {role for role, _, _ in profile.libraries}
    lacking = [
        library for library in libraries if library.role in BINDINGS and library.role not in roles
    ]
    if lacking:
        binding = lacking[0]
        return f"host {profile.name} has no {BINDINGS[binding.role]} library for {binding.path}"
    bound = glibc.get(profile.identity)
    if bound is None or bound.action == "impossible":
        short = _glibc_obstacle(index, profile)
        if short:
            return f"host {profile.name}: {bound.reason}" if bound else short
    return _clash(profile, chosen)


def asks_more(index: Index, profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """Return the installations that an image has use for and whose glibc is newer than its own."""
    classes = set(_classes(index))
    return tuple(
        profile
        for profile in profiles
        if profile.abi_class in classes and _glibc_obstacle(index, profile)
    )


def _glibc_obstacle(index: Index, profile: Profile) -> str:
    defined = {name: frozenset(versions) for name, versions in index.glibc}
    if not defined:
        return "no glibc is found in the image"
    absent = [need for need in profile.glibc if need.library not in defined]
    if absent:
        return (
            f"host {profile.name} needs {absent[0].library} ({absent[0].by}), which the image lacks"
        )
    missing = [need for need in profile.glibc if need.version not in defined[need.library]]
    if not missing:
        return ""
    own = {soname for _, soname, _ in profile.libraries}
    newest = max(missing, key=lambda need: (need.by in own, *version(need.version)))
    others = len({need.version for need in missing}) - 1
    also = f" and {others} more" if others else ""
    has = max(
        (name for names in defined.values() for name in names if version(name)),
        key=version,
        default="none",
    )
    what = f"{newest.by}: {newest.symbol}" if newest.symbol else newest.by
    needs = f"host {profile.name} needs {newest.version} ({what}){also}"
    return f"{needs}, the image's {newest.library} has up to {has}"


def version(name: str) -> tuple[int, ...]:
    """Return the numbers of a glibc version name, e.g. (2, 34); none for GLIBC_PRIVATE."""
    if not name.startswith("GLIBC_"):
        return ()
    parts = name[6:].split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


def _clash(profile: Profile, chosen: Iterable[Profile]) -> str:
    """Return why two installations cannot go together: the loader takes one library per name."""
    mine = dict(profile.closure)
    for other in chosen:
        for soname, path in other.closure:
            if mine.get(soname, path) != path:
                both = f"host {profile.name} and {other.name}"
                return f"{both} bring different {soname} ({mine[soname]}, {path})"
    return ""


def _unproven(index: Index, abi_class: str, profile: Profile) -> str:
    """Return what the image's programs use and the host lacks, or has in another size."""
    theirs = next(
        item
        for item in index.libraries
        if item.abi_class == abi_class and item.role in ("c", "open_mpi")
    )
    if (
        profile.family == "openmpi"
        and profile.version.split(".")[0] != theirs.version.split(".")[0]
    ):
        return f"host {profile.name} is another major release than the image's {_name(theirs)}"
    used = dict(index.needs).get(abi_class, "")
    if not used:
        return ""
    offered = frozenset(profile.exports.split("\n"))
    missing = [line for line in used.split("\n") if line not in offered]
    if not missing:
        return ""
    name, _, size = missing[0].partition(" ")
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    if size and any(line.startswith(f"{name} ") for line in offered):
        return f"{name} has {size} bytes in the image and another size in host {profile.name}{more}"
    return f"host {profile.name} lacks {name}, which programs in the image use{more}"


# -- libraries ------------------------------------------------------------------------------


def group(soname: str) -> tuple[str, ...]:
    """Return the prefixes of the group that a library belongs to; of itself alone if to none."""
    return next((names for names in GROUPS if soname.startswith(names)), (soname,))


def pinned(profile: Profile) -> frozenset[str]:
    """Return the libraries that must be the host's: MPI's own, the wire's, those with plugins."""
    own = {soname for _, soname, _ in profile.libraries} | {
        item.owner for item in profile.plugin_dirs if item.files
    }
    groups = {group(soname) for soname in own} | WIRE
    return frozenset(
        soname for soname, _ in profile.closure if soname in own or group(soname) in groups
    )


def choose(
    profile: Profile, host: Mapping[str, frozenset[str]], image: Mapping[str, frozenset[str]]
) -> tuple[Kept, ...]:
    """Return for every library of a host's closure whose copy is taken.

    Args:
        profile: the installation to inject.
        host: soname → what the host's copy defines (``symbol@version``).
        image: soname → what the image's copy defines, for those that the image has.
    """
    fixed = pinned(profile)
    groups: dict[tuple[str, ...], list[str]] = {}
    for soname, _ in profile.closure:
        groups.setdefault(group(soname), []).append(soname)
    kept: list[Kept] = []
    for members in groups.values():
        source, reason = _whose(members, fixed, host, image)
        for name in members:
            extra = image.get(name, frozenset()) - host.get(name, frozenset())
            odd = (
                f"; the image's offers {len(extra)} that the host's lacks, e.g. {min(extra)}"
                if extra and source == "host"
                else ""
            )
            kept.append(Kept(name, source, reason + odd))
    return tuple(sorted(kept))


def _whose(
    members: Iterable[str],
    fixed: frozenset[str],
    host: Mapping[str, frozenset[str]],
    image: Mapping[str, frozenset[str]],
) -> tuple[str, str]:
    """Return whose copy of a group's libraries is taken, and why."""
    if any(name in fixed for name in members):
        return "host", "part of the host's MPI or of its way to the wire, or goes with its plugins"
    both = [name for name in members if name in image]
    if not both:
        return "host", "the image has none"
    lacking = {name: host.get(name, frozenset()) - image[name] for name in both}
    lacks = next((name for name, symbols in lacking.items() if symbols), "")
    absent = next((name for name in members if name not in image), "")
    if not lacks and not absent:
        return "image", "offers all that the host's does"
    why = f"the image's {lacks} lacks {min(lacking[lacks])}" if lacks else f"goes with {absent}"
    extra = next((name for name in both if image[name] - host.get(name, frozenset())), "")
    if extra and not extra.startswith(TOOLCHAIN):
        more = min(image[extra] - host.get(extra, frozenset()))
        return "private", f"{why}, the host's {extra} lacks {more}: each keeps its own"
    return "host", why
