"""Lay out the injection layer: which host file goes where in an image, and why. Writes nothing.

The cold half of ``run.stage``: gathers what ``plan.inject.choose`` wants to know about libraries
that both sides have, then turns the choice into a list of entries whose paths are resolved within
the image.
"""

from __future__ import annotations

import os

from fairlead.host import elf, ldso, plugins
from fairlead.host.index import Index
from fairlead.host.mpi import Plugins, Profile
from fairlead.plan import inject
from fairlead.run.stage import ROOT, Entry

# The two names of the MPICH ABI's libraries: upstream's (the ABI initiative) and Debian's, older
# one.
ALIASES = {"c": ("libmpi.so.12", "libmpich.so.12"), "cxx": ("libmpicxx.so.12", "libmpichcxx.so.12"),
           "fortran": ("libmpifort.so.12", "libmpichfort.so.12")}  # fmt: skip


class _Sheet:
    """The entries so far: one per path, one copy per host file."""

    def __init__(self, image: ldso.Loader) -> None:
        self.image = image
        ours = "nothing of the image's under this name"
        self.entries: dict[str, Entry] = {"/.fairlead": Entry("opaque", "/.fairlead", "", ours)}
        self.copies: dict[str, str] = {}
        self.report: list[str] = []

    def file(self, path: str, source: str, reason: str) -> None:
        """Put a host file at a path: the first time as a copy, then as a symlink to that."""
        if path in self.entries:
            return
        if source in self.copies:
            self.link(path, self.copies[source], reason)
        else:
            self.copies[source] = path
            self.entries[path] = Entry("copy", path, source, reason)

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


def plan(
    verdict: inject.Verdict, index: Index, rootfs: str
) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Return the layer's entries and report lines.

    Raises:
        elf.ElfError: a symlink loop in the image where something must go.
        OSError: a host file cannot be read.
    """
    sheet = _Sheet(ldso.Loader(rootfs))
    for profile in verdict.profiles:
        kept = inject.choose(profile, *_symbols(sheet.image, profile, index))
        ours = {item.soname for item in kept if item.source == "host"}
        sheet.report += [
            f"{item.soname}: the image's is kept: {item.reason}"
            for item in kept
            if item.source == "image"
        ]
        sheet.report += [
            f"{item.soname}: the host's: {item.reason}"
            for item in kept
            if "; the image's offers" in item.reason
        ]
        _libraries(
            sheet, profile, {item.soname: item.reason for item in kept if item.source == "host"}
        )
        _directories(sheet, profile, ours)
        _replace_mpi(sheet, profile, index)
        _replace_others(sheet, profile, index, ours)
    return tuple(sheet.entries.values()), tuple(sheet.report)


def _symbols(
    image: ldso.Loader, profile: Profile, index: Index
) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """Return what the libraries that both sides have define, host's and image's, by SONAME."""
    found = dict(index.libraries_found)
    host: dict[str, frozenset[str]] = {}
    theirs: dict[str, frozenset[str]] = {}
    own = {soname for _, soname, _ in profile.libraries}
    for soname, path in profile.closure:
        if soname in found and soname not in own and image.usable(found[soname]):
            host[soname] = _defined(path)
            theirs[soname] = _defined(image.host(found[soname]))
    return host, theirs


def _defined(path: str) -> frozenset[str]:
    try:
        with elf.Reader(path) as reader:
            return frozenset(
                f"{symbol.name}@{symbol.version}" for symbol in reader.symbols() if symbol.defined
            )
    except elf.ElfError:  # a damaged library of the image offers nothing
        return frozenset()


def _libraries(sheet: _Sheet, profile: Profile, reasons: dict[str, str]) -> None:
    """Fill the directory that LD_LIBRARY_PATH names."""
    base = f"{ROOT}/{profile.abi_class}/lib"
    for soname, path in profile.closure:
        if soname in reasons:
            sheet.file(f"{base}/{soname}", path, reasons[soname])
    if profile.abi_class == "mpich-abi":
        for role, soname, _ in profile.libraries:
            for alias in ALIASES.get(role, ()):
                sheet.link(f"{base}/{alias}", f"{base}/{soname}", f"the other name of {soname}")


def _directories(sheet: _Sheet, profile: Profile, ours: set[str]) -> None:
    """Put plugin and data directories at the paths that are compiled into the host's libraries."""
    places = {soname: os.path.dirname(path) for soname, path in profile.closure}
    for item in profile.plugin_dirs:
        if item.owner not in ours:
            continue
        path = sheet.image.place(item.path)
        if not item.files and not os.path.isdir(sheet.image.host(path)):
            continue
        reason = f"plugins of {item.owner}"
        sheet.opaque(path, f"{reason}: none of the image's")
        _plugins(sheet, path, item, reason)
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


def _plugins(sheet: _Sheet, path: str, item: Plugins, reason: str) -> None:
    for name, target in item.files:
        if target.startswith("/"):
            sheet.file(f"{path}/{name}", target, reason)
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


def _replace_others(sheet: _Sheet, profile: Profile, index: Index, ours: set[str]) -> None:
    """Lead what must not be split from the host's MPI to it, whatever LD_LIBRARY_PATH says."""
    base = f"{ROOT}/{profile.abi_class}/lib"
    found = dict(index.libraries_found)
    wanted = [(path, soname, "internal to OpenMPI") for path, soname in index.private]
    wanted += [
        (found[soname], soname, "goes with the host's MPI")
        for soname in inject.pinned(profile)
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
        for soname in sorted(ours - found.keys()):
            sheet.link(f"{directory}/{soname}", f"{base}/{soname}", "the image has none")
