"""Say in words what an image brings of MPI, and what will become of it. Pure.

Rules:
- Every case of the index has its own line; nothing that was found is left unsaid.
- Which PMI an MPI speaks is a rule that was measured: OpenMPI from 4 on speaks PMIx, MPICH and its
  kin Slurm's PMI-2; older OpenMPI finds no common one with Slurm.

Source: mpi.md, section 2 (the table of who starts under which ``--mpi``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fairlead.host import program
from fairlead.host.index import Index, Library
from fairlead.host.mpi import NAMES, Profile
from fairlead.plan import bootstrap, inject

SHOWN = 8  # paths named in one line
PMI = ("pmix", "pmi2")

# Labels and annotations by which images say what they hold, or what an engine shall do.
# Source: the supercontainers' annotations; Sarus' hooks (com.hooks.*); E4S.
LABELS = ("org.supercontainers.", "com.hooks.", "org.e4s.", "io.e4s.")
_LABEL_MPI = "org.supercontainers.mpi"
_LABEL_GLIBC = "org.supercontainers.glibc"
# Variables of an image that change what the loader finds.
LOADER = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT")


class Line(NamedTuple):
    """One line: what it is about, and what there is to say."""

    subject: str
    text: str


# -- the image -------------------------------------------------------------------------------------


def image(
    index: Index, labels: Iterable[tuple[str, str]], environ: Mapping[str, str]
) -> tuple[Line, ...]:
    """Return what an image brings.

    Args:
        index: of its tree.
        labels: of its configuration, and annotations of its manifest.
        environ: the variables of its configuration.
    """
    lines = [Line("mpi", _library(item)) for item in index.libraries if item.role in _C]
    others = [item for item in index.libraries if item.role not in _C]
    lines += [Line("binding", _library(item)) for item in others]
    if not index.libraries:
        lines.append(Line("mpi", "the image holds no MPI library"))
    lines += [
        Line(
            "lacking", f"{', '.join(names)} ({abi_class}): programs are linked to it, no file is it"
        )
        for abi_class, names in index.lacking
    ]
    lines += _libc(index)
    lines += [Line("runtime", f"{name}: {', '.join(found)}") for name, found in index.runtimes]
    lines += _programs(index)
    lines += _odd(index)
    lines += labelled(index, labels)
    return tuple(lines + _variables(index, environ))


_C = ("c", "open_mpi")


def _library(item: Library) -> str:
    name = f"{NAMES.get(item.family, item.family)} {item.version}".rstrip()
    role = {"c": "C", "open_mpi": "C"}.get(item.role) or inject.BINDINGS.get(item.role, item.role)
    libc = ", for musl" if item.libc == "musl" else ""
    return f"{item.path}: {name}, {role}, {item.abi_class}{libc}"


def _libc(index: Index) -> list[Line]:
    if index.libc == "musl":
        return [Line("libc", "musl: the host's MPI needs glibc and cannot be injected")]
    newest = newest_glibc(index)
    if newest:
        return [Line("libc", f"glibc, up to {newest}")]
    text = "no C library is found" if not index.libc else "glibc's libc.so.6 is not found"
    return [Line("libc", f"{text}: nothing can be injected")]


def newest_glibc(index: Index) -> str:
    """Return the newest version that the image's glibc defines, of all of its libraries.

    glibc 2.31's libc.so.6 alone has nothing above 2.30.
    """
    names = (name for _, versions in index.glibc for name in versions if inject.version(name))
    return max(names, key=inject.version, default="")


def _programs(index: Index) -> list[Line]:
    if not index.programs:
        return [Line("programs", "none in the image is linked to MPI")]
    paths = [item.path for item in index.programs]
    lines = [Line("programs", f"{len(paths)} linked to MPI: {_some(paths)}")]
    kinds = (
        ("have DT_RPATH, which LD_LIBRARY_PATH does not override", lambda item: item.rpath),
        ("name an MPI library by its path", lambda item: "/" in "".join(item.needed)),
        ("are set-id, and the loader ignores LD_LIBRARY_PATH for them", lambda item: item.setid),
    )
    for what, is_so in kinds:
        picked = [item.path for item in index.programs if is_so(item)]
        if picked:
            lines.append(Line("programs", f"{len(picked)} {what}: {_some(picked)}"))
    return lines


def _odd(index: Index) -> list[Line]:
    lines = [
        Line("static", f"{path} has an MPI linked in, which nothing can replace")
        for path in index.static[:SHOWN]
    ]
    lines += [
        Line("dlopen", f"{path} is linked to no MPI and names {library}: it may load that itself")
        for path, library in index.dlopens[:SHOWN]
    ]
    if index.narrow:
        lines.append(
            Line("32-bit", f"{_some(index.narrow)}: not replaced, the host's MPI is 64-bit")
        )
    lines += [
        Line("preload", f"/etc/ld.so.preload makes every program load {name}")
        for name in index.preloaded
    ]
    lines += [
        Line("loader", f"{path} is missing: programs that name it cannot start")
        for path in index.loaderless
    ]
    lines += [
        Line("unseen", f"{path} cannot be looked at, so a libmpi may hide there")
        for path in index.unseen
    ]
    return lines + [Line("note", note) for note in index.notes]


def labelled(index: Index, labels: Iterable[tuple[str, str]]) -> list[Line]:
    """Return what the image says of itself, with a word where it is not so."""
    lines = []
    for name, value in labels:
        if not name.startswith(LABELS):
            continue
        doubt = ""
        families = {item.family for item in index.libraries}
        if name == _LABEL_MPI and value.lower() in ("openmpi", "mpich") and families:
            doubt = (
                "" if value.lower() in families else f", but it holds {', '.join(sorted(families))}"
            )
        newest = newest_glibc(index)
        if name == _LABEL_GLIBC and newest and newest != f"GLIBC_{value}":
            doubt = f", but it has {newest}"
        lines.append(Line("label", f"{name}={value}{doubt}"))
    return lines


def _variables(index: Index, environ: Mapping[str, str]) -> list[Line]:
    lines = []
    places = {item.path.rpartition("/")[0] for item in index.libraries}
    for name in LOADER:
        parts = [part for part in environ.get(name, "").replace(" ", ":").split(":") if part]
        named = [part for part in parts if part in places or "libmpi" in part.rpartition("/")[2]]
        if named:
            lines.append(
                Line("variable", f"the image sets {name}, which names an MPI: {_some(named)}")
            )
        elif parts and name != "LD_LIBRARY_PATH":
            lines.append(Line("variable", f"the image sets {name}: {_some(parts)}"))
    return lines


# -- a program -------------------------------------------------------------------------------------


def application(found: program.Program, index: Index) -> tuple[Line, ...]:
    """Return how one program is linked, and to which MPI."""
    lines = [Line("program", f"{found.path}: {program.KINDS[found.kind]}{_by(found)}")]
    if found.rpath:
        lines.append(Line("program", f"DT_RPATH {found.rpath}"))
    if found.runpath:
        lines.append(Line("program", f"DT_RUNPATH {found.runpath}"))
    if found.needed:
        lines.append(Line("program", f"needs {', '.join(found.needed)}"))
    known = {item.path: item for item in index.libraries}
    for item in found.mpi:
        library = known.get(item.path) or next(
            (one for one in index.libraries if one.soname == item.name), None
        )
        what = f" ({_library(library).partition(': ')[2]})" if library and item.path else ""
        where = item.path or "found nowhere in the image"
        through = f", by {item.by}" if item.by != found.path else ""
        lines.append(Line("program", f"loads {item.name}: {where}{what}{through}"))
    lines += [
        Line("program", f"is linked to no MPI and names {path}: it may load that itself")
        for path in found.dlopens
    ]
    missing = [name for name in found.missing if name not in {item.name for item in found.mpi}]
    if missing:
        lines.append(Line("program", f"the image lacks {_some(missing)}, which it needs"))
    if found.path in index.static:
        lines.append(Line("program", "has an MPI linked in, which nothing can replace"))
    if found.setid:
        lines.append(Line("program", "is set-id: the loader ignores LD_LIBRARY_PATH for it"))
    if found.kind == "dynamic" and not found.mpi and not found.dlopens:
        lines.append(Line("program", "uses no MPI, as far as its linkage says"))
    return tuple(lines)


def _by(found: program.Program) -> str:
    libc = f", {found.libc}" if found.libc else ""
    return f"{libc}, by {found.interpreter}" if found.interpreter else libc


# -- the verdict -----------------------------------------------------------------------------------


def wanted(found: program.Program | None, index: Index) -> frozenset[str]:
    """Return the ABI classes that a program uses; empty: not known, so all count."""
    names = {item.name for item in found.mpi} if found else set()
    paths = {item.path for item in found.mpi} if found else set()
    classes = {
        item.abi_class for item in index.libraries if item.soname in names or item.path in paths
    }
    return frozenset(classes | {name for name, lacked in index.lacking if names & set(lacked)})


def verdicts(
    index: Index,
    profiles: Iterable[Profile],
    classes: frozenset[str] = frozenset(),
    *,
    cross_major: bool = False,
    glibc: Mapping[str, inject.Glibc] | None = None,
) -> tuple[tuple[Line, ...], inject.Verdict]:
    """Return what each mode decides for a rank and why, and the verdict of ``auto``.

    Args:
        index: of the image.
        profiles: what the host has, preferred first.
        classes: from ``wanted``.
        cross_major: as for ``inject.decide``.
        glibc: as for ``inject.decide``.
    """
    have = tuple(profiles)
    auto = inject.decide("auto", index, have, cross_major=cross_major, glibc=glibc)
    lines = [Line("auto", reason) for reason in (*auto.reasons, *auto.warnings)]
    asked = inject.decide("host", index, have, cross_major=cross_major, glibc=glibc)
    if asked.refused:
        lines.append(Line("host", f"refused: {asked.refused}"))
    elif asked.profiles != auto.profiles:
        lines += [Line("host", text) for text in (*asked.reasons, *asked.warnings)]
    for pmi in PMI:
        lines += [Line(f"--mpi={pmi}", text) for text in started(index, auto, pmi, classes)]
    best = start_with(index, auto, classes)
    if best:
        lines.append(Line("start it", f"with srun --mpi={best}"))
    return tuple(dict.fromkeys(lines)), auto


def speaks(family: str, version: str) -> str:
    """Return which PMI an MPI meets Slurm with, ``pmix`` or ``pmi2``; "" if none is known."""
    for pmi in PMI:
        if bootstrap.verdict(family, version, (), pmi).outcome == bootstrap.GOOD:
            return pmi
    return "pmi2" if family in ("mpich", "intelmpi") else ""  # of no known release, or not run here


def _running(
    index: Index, verdict: inject.Verdict, classes: frozenset[str]
) -> list[tuple[str, str, str]]:
    """Return (words, family, version) of the MPIs that run."""
    taken = {profile.abi_class for profile in verdict.profiles}
    found = [
        (f"the host's {item.name}", item.label.partition("-")[0] or item.family, item.version)
        for item in verdict.profiles
        if not classes or item.abi_class in classes
    ]
    found += [
        (
            f"the image's {_library(item).partition(': ')[2].partition(',')[0]}",
            item.product or item.family,
            item.version,
        )
        for item in index.libraries
        if item.role == "c"
        and item.abi_class not in taken
        and (not classes or item.abi_class in classes)
    ]
    return list(dict.fromkeys(found))


def started(
    index: Index, verdict: inject.Verdict, pmi: str, classes: frozenset[str] = frozenset()
) -> list[str]:
    """Return what becomes of the ranks of a step that was started with one kind of PMI."""
    lines = []
    for words, family, version in _running(index, verdict, classes):
        spoken = speaks(family, version)
        if spoken == pmi:
            lines.append(f"{words} runs")
        elif spoken:
            lines.append(f"{words} speaks {spoken}: every rank would be alone, or fail")
        elif family == "openmpi":
            lines.append(
                f"{words} finds no PMI that Slurm offers: every rank would be alone, or fail"
            )
        else:
            lines.append(f"{words}: which PMI it speaks is not known")
    return lines


def start_with(index: Index, verdict: inject.Verdict, classes: frozenset[str] = frozenset()) -> str:
    """Return the ``--mpi`` under which what runs will start; empty if there is no single one."""
    found = _running(index, verdict, classes)
    spoken = {speaks(family, version) for _, family, version in found} - {""}
    return spoken.pop() if len(spoken) == 1 else ""


def _some(found: Iterable[str]) -> str:
    names = list(found)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
