"""Lay out the injection layer: which host file goes where in an image, and why. Writes nothing.

The cold half of ``run.stage``: gathers what ``plan.inject.choose`` wants to know about libraries
that both sides have, then turns the choice into a list of entries whose paths are resolved within
the image.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from fairlead.glibc import polyfill
from fairlead.glibc.binding import Decision
from fairlead.host import elf, ldso, plugins
from fairlead.host.index import Index
from fairlead.host.mpi import Plugins, Profile
from fairlead.plan import inject
from fairlead.run import fit
from fairlead.run.stage import ROOT, Entry

# The two names of the MPICH ABI's libraries: upstream's (the ABI initiative) and Debian's, older
# one.
ALIASES = {"c": ("libmpi.so.12", "libmpich.so.12"), "cxx": ("libmpicxx.so.12", "libmpichcxx.so.12"),
           "fortran": ("libmpifort.so.12", "libmpichfort.so.12")}  # fmt: skip


_WHOSE = {"image": "the image's is kept", "host": "the host's", "private": "both, under two names"}


class Rewriting(NamedTuple):
    """What is changed in the copies of one installation's libraries (``glibc.patch``).

    Attributes:
        decision: how they run on the image's glibc.
        search: the directory where they look for each other, whatever the environment says.
        names: SONAMEs that become others.
        hidden: compiled-in directories in which they must not look: the image's plugins lie there.
    """

    decision: Decision
    search: str
    names: dict[str, str]
    hidden: tuple[str, ...] = ()


class Layout(NamedTuple):
    """What a layer will hold.

    Attributes:
        entries: each path with its source and reason.
        rewriting: ABI class → what is changed in its libraries.
        made: path → content, of files that no host file is the source of.
        report: what was decided about libraries, in words.
    """

    entries: tuple[Entry, ...]
    rewriting: dict[str, Rewriting]
    made: dict[str, bytes]
    report: tuple[str, ...]


class _Sheet:
    """The entries so far: one per path, one copy per host file."""

    def __init__(self, image: ldso.Loader) -> None:
        self.image = image
        self.rewriting: dict[str, Rewriting] = {}
        self.made: dict[str, bytes] = {}
        ours = "nothing of the image's under this name"
        self.entries: dict[str, Entry] = {"/.fairlead": Entry("opaque", "/.fairlead", "", ours)}
        self.copies: dict[str, str] = {}
        self.report: list[str] = []

    def file(self, path: str, source: str, reason: str, abi_class: str = "") -> None:
        """Put a host file at a path: the first time as a copy, then as a symlink to that.

        With an ABI class it is a library, rewritten as the others of that class.
        """
        if path in self.entries:
            return
        if source in self.copies:
            self.link(path, self.copies[source], reason)
        else:
            self.copies[source] = path
            kind = "library" if abi_class else "copy"
            self.entries[path] = Entry(kind, path, source, reason, abi_class)

    def content(self, path: str, content: bytes, reason: str) -> None:
        """Put a file that is made here at a path."""
        self.entries[path] = Entry("made", path, "", reason)
        self.made[path] = content

    def link(self, path: str, target: str, reason: str) -> None:
        """Put a symlink at a path unless something of ours is there already."""
        if path not in self.entries and path != target:
            self.entries[path] = Entry("link", path, target, reason)

    def opaque(self, path: str, reason: str) -> None:
        """Replace a directory of the image by an empty one.

        Raises:
            elf.Damaged: the image leads the path to a directory that it cannot do without.
        """
        if path.count("/") < 2:
            raise elf.Damaged(f"its symlinks lead {reason} to {path}")
        self.entries.setdefault(path, Entry("opaque", path, "", reason))

    def covered(self, path: str) -> bool:
        """Tell whether a path lies in a directory that we replace."""
        return any(
            entry.kind == "opaque" and path.startswith(f"{entry.path}/")
            for entry in self.entries.values()
        )


def plan(verdict: inject.Verdict, index: Index, rootfs: str) -> Layout:
    """Return what the layer will hold.

    Raises:
        elf.ElfError: a symlink loop in the image where something must go; a library that cannot run
            on the image's glibc.
        OSError: a host file cannot be read.
    """
    sheet = _Sheet(ldso.Loader(rootfs))
    fits = fit.work_out(sheet.image, verdict.profiles, index)
    for profile, found in zip(verdict.profiles, fits, strict=True):
        sheet.report += [
            f"{item.soname}: {_WHOSE[item.source]}: {item.reason}"
            for item in found.kept
            if item.source != "host" or "; the image's offers" in item.reason
        ]
        _libraries(sheet, profile, found)
        _glibc(sheet, profile, found.decision)
        _directories(sheet, profile, found)
        _traced(sheet, profile)
        _replace_mpi(sheet, profile, index)
        _replace_others(sheet, profile, index, found)
    return Layout(tuple(sheet.entries.values()), sheet.rewriting, sheet.made, tuple(sheet.report))


def _libraries(sheet: _Sheet, profile: Profile, found: fit.Fit) -> None:
    """Fill the directory in which the host's libraries find each other."""
    base = f"{ROOT}/{profile.abi_class}/lib"
    names = {old: new for old, new in found.ours.items() if old != new}
    sheet.rewriting[profile.abi_class] = Rewriting(found.decision, base, names)
    reasons = {item.soname: item.reason for item in found.kept}
    for soname, path in profile.closure:
        if soname in found.ours:
            name = found.ours[soname]
            sheet.file(f"{base}/{name}", path, reasons[soname], profile.abi_class)
    for alias, soname in _aliases(profile):
        sheet.link(f"{base}/{alias}", f"{base}/{soname}", f"the other name of {soname}")


def _aliases(profile: Profile) -> list[tuple[str, str]]:
    """Return (other name, SONAME) of the libraries that have two."""
    if profile.abi_class != "mpich-abi":
        return []
    return [
        (alias, soname)
        for role, soname, _ in profile.libraries
        for alias in ALIASES.get(role, ())
        if alias != soname
    ]


def _glibc(sheet: _Sheet, profile: Profile, decision: Decision) -> None:
    """Put what stands in for a newer glibc beside the libraries that ask for one.

    Raises:
        elf.ElfError: nothing can.
    """
    if decision.action == "impossible":
        raise elf.ElfError(f"{profile.name}: {'; '.join(decision.reasons)}")
    if decision.action == "nothing":
        return
    base = f"{ROOT}/{profile.abi_class}/lib"
    text = "; ".join(decision.reasons)
    sheet.report.append(text)
    sheet.content(f"{base}/{polyfill.SONAME}", polyfill.write(decision, base), text)
    with open(fit.IMPLEMENTATIONS, "rb") as file:
        name = os.path.basename(fit.IMPLEMENTATIONS)
        sheet.content(f"{base}/{name}", file.read(), "functions that the image's glibc lacks")


def _directories(sheet: _Sheet, profile: Profile, found: fit.Fit) -> None:
    """Put plugin and data directories at the paths that are compiled into the host's libraries.

    Those of a library that comes under a name of its own lie beside it: at the path that both
    releases look at, the image's stay.
    """
    ours = found.ours
    closure = dict(profile.closure)
    places = {soname: os.path.dirname(path) for soname, path in closure.items()}
    for item in profile.plugin_dirs:
        if item.owner not in ours:
            continue
        reason = f"plugins of {item.owner}"
        theirs = _image_plugins(sheet.image, item, closure[item.owner])
        if ours[item.owner] != item.owner:
            _hide(sheet, profile, theirs)
            beside = f"{ROOT}/{profile.abi_class}/lib/{os.path.basename(item.path)}"
            _plugins(sheet, beside, item, reason, profile.abi_class)
            continue
        for path in theirs:
            sheet.opaque(sheet.image.place(path), f"{reason}: none of the image's")
        path = sheet.image.place(item.path)
        if not item.files and not os.path.isdir(sheet.image.host(path)):
            continue
        sheet.opaque(path, f"{reason}: none of the image's")
        _plugins(sheet, path, item, reason, profile.abi_class)
        if os.path.realpath(os.path.dirname(item.path)) == places.get(item.owner):
            # UCX and libfabric look beside the file that was loaded before they look at the
            # compiled-in path.
            sheet.link(
                f"{ROOT}/{profile.abi_class}/lib/{os.path.basename(item.path)}", item.path, reason
            )
    for directory, owner in profile.data_dirs:
        if owner in ours:
            path = sheet.image.place(directory)
            sheet.opaque(path, f"data of {owner}: none of the image's")
            for name in plugins.data_files(directory):
                sheet.file(
                    f"{path}/{name}", os.path.realpath(f"{directory}/{name}"), f"data of {owner}"
                )


def _image_plugins(image: ldso.Loader, item: Plugins, library: str) -> tuple[str, ...]:
    """Return the directories of the image in which a library of the host would look, too.

    Source: UCX, ucs/sys/module.c: what is not beside the library is looked for at the path that is
    compiled in; libfabric likewise.
    """
    paths = plugins.compiled_in(item.path, library)
    return tuple(path for path in paths if plugins.holds_some(image.host(image.place(path))))


def _hide(sheet: _Sheet, profile: Profile, paths: tuple[str, ...]) -> None:
    """Keep plugins of the image, which stay for its own library, from the host's."""
    old = sheet.rewriting[profile.abi_class]
    hidden = tuple(dict.fromkeys((*old.hidden, *paths)))
    sheet.rewriting[profile.abi_class] = old._replace(hidden=hidden)


def _traced(sheet: _Sheet, profile: Profile) -> None:
    """Put the files that a trace of the installation saw it read (``host.trace``)."""
    for path in profile.data:
        place = sheet.image.place(path)
        if not sheet.covered(place):
            sheet.file(place, os.path.realpath(path), "the host's MPI reads it at its start")


def _plugins(sheet: _Sheet, path: str, item: Plugins, reason: str, abi_class: str) -> None:
    for name, target in item.files:
        if target.startswith("/"):
            sheet.file(f"{path}/{name}", target, reason, abi_class)
        else:
            sheet.link(f"{path}/{name}", target, reason)


def _replace_mpi(sheet: _Sheet, profile: Profile, index: Index) -> None:
    """Lead every MPI library of this class in the image to the host's of the same role."""
    base = f"{ROOT}/{profile.abi_class}/lib"
    roles = {role: soname for role, soname, _ in profile.libraries}
    roles.setdefault(
        "open_mpi", roles.get("c", "")
    )  # OpenMPI 6's own-ABI library: before 6 that is libmpi itself
    for library in index.libraries:
        if library.abi_class != profile.abi_class:
            continue
        soname = roles.get(library.role, "")
        if not soname:
            if not library.role.endswith("-modules"):  # those hold no code
                sheet.report.append(
                    f"{library.path}: stays: {profile.name} has no {library.role} library"
                )
            continue
        reason = f"the host's {soname} in place of the image's {library.role} library"
        sheet.link(library.path, f"{base}/{soname}", reason)
        sheet.link(f"{base}/{library.soname}", f"{base}/{soname}", f"the image's name of {soname}")


def _replace_others(sheet: _Sheet, profile: Profile, index: Index, fitted: fit.Fit) -> None:
    """Lead what belongs to the host's MPI to it, and MPI's names to where programs look."""
    ours = {item.soname for item in fitted.kept if item.source == "host"}
    base = f"{ROOT}/{profile.abi_class}/lib"
    found = dict(index.libraries_found)
    wanted = [(path, soname, "internal to OpenMPI") for path, soname in index.private]
    wanted += [
        (found[soname], soname, "goes with the host's MPI")
        for soname in sorted(ours)
        if soname in found
    ]
    for directory, names in index.neighbours:
        if any(
            item.path.startswith(f"{directory}/") and item.abi_class == profile.abi_class
            for item in index.libraries
        ):
            wanted += [
                (f"{directory}/{name}", name, "lies with a private copy of MPI") for name in names
            ]
    for path, soname, reason in wanted:
        if soname in ours and not sheet.covered(path):
            sheet.link(path, f"{base}/{soname}", f"the host's: {reason}")
    libc = sheet.image.find("libc.so.6", [])
    if libc:
        directory = os.path.dirname(sheet.image.place(libc))
        own = [soname for _, soname, _ in profile.libraries]
        for soname in (*own, *(alias for alias, _ in _aliases(profile))):
            if soname not in found:
                sheet.link(f"{directory}/{soname}", f"{base}/{soname}", "the image has none")
