"""How an MPI installation of the host fits into an image: whose libraries, and on which glibc.

Reads both sides; writes only what it is told to keep.

A launch needs of this one word and one line (``inject.Glibc``), and only where the image's glibc
lacks something; they are kept beside the image's index, one file per installation. The layer's
builder needs all of it and works it out again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import NamedTuple

from fairlead import glibc, log
from fairlead.glibc import binding, swap, versions
from fairlead.host import elf, ldso, mpi
from fairlead.host.index import Index
from fairlead.host.mpi import Profile
from fairlead.plan import inject, libraries

FORMAT = 2  # of the kept file, and of what down-binding can do: raise it when either changes
IMPLEMENTATIONS = os.path.join(os.path.dirname(glibc.__file__), "libfairlead-glibc.so")


class Fit(NamedTuple):
    """Whose copy of every library of the closure is taken, and the decision about glibc."""

    kept: tuple[libraries.Kept, ...]
    decision: binding.Decision

    @property
    def ours(self) -> dict[str, str]:
        """SONAMEs of the libraries that come from the host → the name under which they come."""
        return {item.soname: item.name for item in self.kept if item.source != "image"}


def work_out(
    image: ldso.Loader, profiles: Sequence[Profile], index: Index, glibc: ldso.Loader | None = None
) -> tuple[Fit, ...]:
    """Return how the installations that go into a container fit into an image's tree.

    One decision about glibc for all of them: the library that stands in for a newer glibc has one
    SONAME, and a process loads the first that it meets.

    Args:
        image: its tree.
        profiles: the installations.
        index: of the image.
        glibc: the root whose glibc they will run on, if it is not the image's.

    Raises:
        elf.ElfError, OSError: a file of the host, or the image's glibc, cannot be read.
    """
    kept = [libraries.choose(profile, *_symbols(image, profile, index)) for profile in profiles]
    files: dict[str, str] = {}
    for profile, items in zip(profiles, kept, strict=True):
        taken = {item.soname for item in items if item.source != "image"}
        files.update((path, soname) for soname, path in profile.closure if soname in taken)
        for place in profile.plugin_dirs:
            if place.owner in taken:
                files.update((path, name) for name, path in place.files if path.startswith("/"))
    with elf.Reader(IMPLEMENTATIONS) as reader:
        offers = binding.offers(reader)
    needs = versions.read_needs((name, path) for path, name in files.items())
    decision = binding.plan(needs, versions.read(glibc or image), offers)
    return tuple(Fit(items, decision) for items in kept)


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


# -- kept for launches ------------------------------------------------------------------------


def path(place: str, profile: Profile) -> str:
    """Return the file in an image's place that holds what a launch must know."""
    return f"{place}/mpi-glibc-{FORMAT}-{profile.identity}.json"


def cached(path: str) -> inject.Glibc | None:
    """Return what ``keep`` kept, None if there is nothing or it is damaged."""
    try:
        with open(path, "rb") as file:
            action, reasons, *swapping = json.loads(file.read())
        words = tuple(str(reason) for reason in reasons)
        return inject.Glibc(str(action), words, *map(str, swapping))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.debug(f"{path}: not used: {error}")
        return None


def keep(rootfs: str, profile: Profile, index: Index, path: str) -> None:
    """Work out whether an installation runs on an image's glibc, and keep the answer.

    Raises:
        OSError: it cannot be written.
    """
    image = ldso.Loader(rootfs)
    try:
        (found,) = work_out(image, (profile,), index)
        answer = inject.Glibc(found.decision.action, found.decision.reasons)
    except elf.ElfError as error:
        answer = inject.Glibc("impossible", (str(error),))
    if answer.action == "impossible":
        try:
            starts = sorted({item.interpreter for item in index.programs} - {""})
            answer = answer._replace(swap=swap.plan(image, ldso.Loader(), starts).warning)
        except elf.ElfError as error:
            answer = answer._replace(no_swap=str(error))
    mpi.write_first(path, answer)
    if cached(path) is None:  # what stands there is damaged
        mpi.write(path, answer)
