"""Decide whose MPI runs in a container. Pure.

Rules:
- ``image``: the image's own. ``host``: the host's, or the reason why not. ``auto``: the host's if
  it is proven to fit, else the image's own and one line that says why.
- Interchangeable is only the same ABI class, by content (``host.family``), with every language
  binding that the image has: a Fortran library of one OpenMPI on the C library of another crashes.
- The image's glibc stays. What the host's files ask of it and it lacks is the glibc verdict's
  business (``Glibc``); without one, every version must be defined there, and the reason names the
  library, the version and a symbol.
- Where nothing can stand in for what it lacks, the host's glibc may take its place if that was
  allowed (the setting ``mpi_glibc``), with a warning.
- Every symbol that the image's programs use must be in the host's libraries, and every data object
  that they copy must have the same size; if not, both modes refuse by name, before the launch.
- Not proven, and so for ``host`` only, with a warning: another major release of OpenMPI (``auto``
  takes it where the setting ``mpi_cross_major`` says so), a language binding that the host lacks
  and that no program in the image uses.
- An image may lack the library that its programs are linked to: it was built for the host's.
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


class Verdict(NamedTuple):
    """Whose MPI runs.

    Attributes:
        choice: ``host``, ``image`` or ``none`` (the image has no MPI and none is put there).
        profiles: the host's installations to inject, one per ABI class; empty unless ``host``.
        reasons: lines that explain the choice, the deciding one first; for ``explain`` and the log.
        refused: why ``host`` cannot be done, for errors.MpiError; empty otherwise.
        warnings: what the user should know although it was done.
        swap: the host's glibc takes the place of the image's.
    """

    choice: str
    profiles: tuple[Profile, ...]
    reasons: tuple[str, ...]
    refused: str = ""
    warnings: tuple[str, ...] = ()
    swap: bool = False


class Glibc(NamedTuple):
    """Whether one installation's files run on the image's glibc.

    Attributes:
        action: ``nothing`` is missing, ``down-bind`` (what is missing can be had), ``impossible``.
        reasons: in words, the deciding one first: counts and versions, or the names that are in
            the way.
        swap: what is to be said if the host's glibc takes the image's place; empty: it cannot,
        no_swap: for this reason.
    """

    action: str
    reasons: tuple[str, ...] = ()
    swap: str = ""
    no_swap: str = ""


def decide(
    mode: str,
    index: Index,
    profiles: Iterable[Profile],
    *,
    cross_major: bool = False,
    glibc: Mapping[str, Glibc] | None = None,
    swap: bool = False,
) -> Verdict:
    """Return whose MPI runs.

    Args:
        mode: ``auto``, ``host`` or ``image``.
        index: what the image brings.
        profiles: what the host has, preferred first.
        cross_major: ``auto`` takes an OpenMPI of another major release.
        glibc: identity of a profile → how it runs on the image's glibc, for those that
            ``asks_more`` names. Without it, what the image's glibc lacks is an obstacle.
        swap: the host's glibc may take the place of the image's.
    """
    answers = _swapped(glibc or {}) if swap else glibc or {}
    own = _own(index)
    if mode == "image":
        return Verdict(
            "image" if own else "none",
            (),
            (f"the image's own {own} runs: asked for" if own else "no MPI in the image",),
        )
    if not index.libraries and not index.lacking:
        return _without_library(mode, index)
    by_class: dict[str, Profile] = {}
    for profile in profiles:
        by_class.setdefault(profile.abi_class, profile)
    sheet = _Sheet([], [], [], [])
    for abi_class in classes(index):
        candidate = by_class.get(abi_class)
        obstacle = _obstacle(index, abi_class, by_class, sheet.chosen, answers)
        doubt = "" if obstacle or not candidate else _doubt(index, abi_class, candidate)
        opted = mode == "host" or (cross_major and _crosses(index, abi_class, candidate))
        if obstacle or not candidate or (doubt and not opted):
            sheet.refusals.append(obstacle or doubt)
            sheet.reasons.append(f"{_stays(index, abi_class)}: {obstacle or doubt}")
            continue
        if doubt:
            sheet.warnings.append(f"{doubt}; programs may fail")
        sheet.chosen.append(candidate)
        sheet.reasons.extend(_replaced(index, abi_class, candidate, answers))
    if sheet.chosen:
        sheet.reasons.sort(key=lambda reason: not reason.startswith("the host's"))
        said = {answers[item.identity].swap for item in sheet.chosen if item.identity in answers}
        warnings = (*sorted(said - {""}), *sheet.warnings)
        chosen, reasons = tuple(sheet.chosen), tuple(sheet.reasons)
        return Verdict("host", chosen, reasons, "", warnings, swap=bool(said - {""}))
    refused = "; ".join(dict.fromkeys(sheet.refusals)) or "the image has no C library of MPI"
    choice = "image" if index.libraries else "none"
    reasons = tuple(sheet.reasons or [refused])
    return Verdict(choice, (), reasons, refused if mode == "host" else "")


def _swapped(glibc: Mapping[str, Glibc]) -> dict[str, Glibc]:
    """Return the answers with the swap in place of what is impossible, or why there is none."""
    return {
        identity: answer._replace(action="swap", reasons=answer.reasons[:1])
        if answer.swap
        else answer._replace(reasons=(*answer.reasons[:1], answer.no_swap))
        if answer.no_swap
        else answer
        for identity, answer in glibc.items()
    }


class _Sheet(NamedTuple):
    """What has been decided so far."""

    chosen: list[Profile]
    reasons: list[str]
    refusals: list[str]
    warnings: list[str]


def _replaced(
    index: Index, abi_class: str, profile: Profile, glibc: Mapping[str, Glibc]
) -> list[str]:
    described = _describe(index, abi_class)
    if described:
        lines = [f"the host's {profile.name} replaces the image's {described} ({abi_class})"]
    else:
        names = ", ".join(dict(index.lacking).get(abi_class, ()))
        lines = [f"the host's {profile.name} is {names}, which the image lacks ({abi_class})"]
    verdict = glibc.get(profile.identity)
    if verdict and verdict.action != "nothing":
        lines += [f"the host's {profile.name}: {reason}" for reason in verdict.reasons]
    return lines


def _stays(index: Index, abi_class: str) -> str:
    described = _describe(index, abi_class)
    if described:
        return f"the image's own {described} runs"
    return f"no {', '.join(dict(index.lacking).get(abi_class, ()))} for the image's programs"


def classes(index: Index) -> list[str]:
    """Return the ABI classes that an image brings, and those that its programs want."""
    own = {item.abi_class for item in index.libraries if item.role in ("c", "open_mpi")}
    return sorted(own | {name for name, _ in index.lacking})


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
    reason = _nothing(index)
    return Verdict("none", (), (reason,), reason if mode == "host" else "")


def _nothing(index: Index) -> str:
    """Return why there is nothing to replace."""
    if index.narrow:
        return f"{index.narrow[0]} is for 32-bit machines, the host's MPI is 64-bit"
    if index.unseen:
        return f"the image holds no MPI library that can be read ({index.unseen[0]} cannot)"
    return "the image holds no MPI library to replace"


def _obstacle(
    index: Index,
    abi_class: str,
    host: Mapping[str, Profile],
    chosen: Iterable[Profile],
    glibc: Mapping[str, Glibc],
) -> str:
    """Return why the host's MPI cannot stand in for the image's of one class; empty if it can."""
    profile = host.get(abi_class)
    libraries = [library for library in index.libraries if library.abi_class == abi_class]
    if any(library.libc == "musl" for library in libraries) or (index.libc == "musl"):
        return "the image's programs run on musl, the host's MPI needs glibc"
    if index.unseen:
        return (
            f"the image cannot be looked at in full ({index.unseen[0]}), so a libmpi may hide there"
        )
    if not profile:
        return _no_counterpart(index, abi_class, host)
    return (
        _binding_obstacle(index, abi_class, profile)
        or _missing_symbol(index, abi_class, profile)
        or _glibc_obstacle(index, profile, glibc.get(profile.identity))
        or _clash(profile, chosen)
    )


def _no_counterpart(index: Index, abi_class: str, host: Mapping[str, Profile]) -> str:
    if not host:
        return "no MPI library is found on this host (load its module, or set MPI_HOME)"
    described = _describe(index, abi_class) or ", ".join(dict(index.lacking).get(abi_class, ()))
    others = ", ".join(f"{item.name} ({item.abi_class})" for item in host.values())
    return f"the host has {others}, which cannot stand in for {described} ({abi_class})"


def _absent_bindings(index: Index, abi_class: str, profile: Profile) -> list[tuple[str, str]]:
    """Return (role, name) of the bindings that image or programs have and the host does not."""
    roles = {role for role, _, _ in profile.libraries}
    return [
        (library.role, library.path)
        for library in index.libraries
        if library.abi_class == abi_class and library.role in BINDINGS and library.role not in roles
    ]


def asks_more(index: Index, profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """Return the installations that an image has use for and whose glibc is newer than its own."""
    wanted = set(classes(index))
    return tuple(
        profile
        for profile in profiles
        if profile.abi_class in wanted and _glibc_obstacle(index, profile, None)
    )


def _binding_obstacle(index: Index, abi_class: str, profile: Profile) -> str:
    """Return which binding is missing that a program uses, or may: where none in the image is."""
    for role, path in _absent_bindings(index, abi_class, profile):
        names = {path.rpartition("/")[2]} | {
            item.soname for item in index.libraries if item.path == path
        }
        user = next((item.path for item in index.programs if names & set(item.needed)), "")
        if user or not index.programs:
            by = f", which {user} uses" if user else ""
            gone = profile.family == "openmpi" and role == "cxx" and _major(profile.version) >= 5
            why = " (OpenMPI 5 removed them)" if gone else ""
            return f"host {profile.name} has no {BINDINGS[role]} library for {path}{by}{why}"
    return ""


def _major(text: str) -> int:
    number = text.partition(".")[0]
    return int(number) if number.isdecimal() else 0


def _missing_symbol(index: Index, abi_class: str, profile: Profile) -> str:
    """Return what the image's programs use and the host lacks, or has in another size."""
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


def _glibc_obstacle(index: Index, profile: Profile, verdict: Glibc | None) -> str:
    if verdict:
        if verdict.action != "impossible":
            return ""
        return f"host {profile.name}: {'; '.join(verdict.reasons[:3])}"
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


def _doubt(index: Index, abi_class: str, profile: Profile) -> str:
    """Return why an installation that can stand in is not proven to fit; empty if it is."""
    if _crosses(index, abi_class, profile):
        theirs = _describe(index, abi_class)
        return f"host {profile.name} is another major release than the image's {theirs}"
    absent = _absent_bindings(index, abi_class, profile)
    if absent:
        role, path = absent[0]
        return f"host {profile.name} has no {BINDINGS[role]} library for {path}"
    return ""


def _crosses(index: Index, abi_class: str, profile: Profile | None) -> bool:
    """Tell whether an OpenMPI would stand in for one of another major release."""
    return bool(profile and profile.family == "openmpi") and any(
        _major(item.version) != _major(profile.version)
        for item in index.libraries
        if profile and item.abi_class == abi_class and item.role in ("c", "open_mpi")
    )
