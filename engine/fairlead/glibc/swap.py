"""The last resort: the host's glibc in place of an image's, where its own cannot be bound to.

Rules:
- All of it or nothing: every file of glibc that the image has is replaced, the loader at each name
  that programs of the image ask the kernel for included. Files of two releases are one crash.
- Only an older glibc by a newer one: programs of the image find every version that they ask for.
- With it go what glibc loads by itself: the modules of gconv, from where the host's looks for them,
  and glibc's own of the name service. Other modules, locales and ld.so.cache stay the image's.
- The image's loader and the host's must look in the same places, or the image's cache must know its
  libraries: the host's loader has only its own default directories.

What breaks is told with each launch (``Swap.warning``): what the image has of glibc's own programs
and what it links statically to, or by names that are glibc's private business.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from fairlead.glibc import versions
from fairlead.host import elf, ldso

# What the kernel starts: PT_INTERP, as the psABIs name it.
INTERPRETERS = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}
# Loaded by glibc by name, and tied to its release by GLIBC_PRIVATE.
NSS = tuple(f"libnss_{name}.so.2" for name in ("compat", "db", "dns", "files", "hesiod"))
MAX_MODULES = 1024


class Swap(NamedTuple):
    """What takes the place of an image's glibc.

    Attributes:
        files: (path in the image, file of the host).
        modules: directory where the host's glibc looks for gconv modules; empty: it has none.
        host, image: releases, e.g. ``GLIBC_2.36``.
    """

    files: tuple[tuple[str, str], ...]
    modules: str
    host: str
    image: str

    @property
    def warning(self) -> str:
        """What the user should know at each launch."""
        return (
            f"the host's {self.host} stands over the image's {self.image} (mpi_glibc = \"swap\"): "
            "in the container ldd and linking programs fail, locales and modules of iconv and NSS "
            "that are the image's may"
        )


def plan(image: ldso.Loader, host: ldso.Loader, interpreters: Iterable[str] = ()) -> Swap:
    """Return how the host's glibc can take the place of an image's.

    Args:
        image: its tree.
        host: this node.
        interpreters: of the image's programs that will meet the host's libraries.

    Raises:
        elf.ElfError: it cannot, and why.
        OSError: a file of the host cannot be read.
    """
    theirs, ours = versions.read(image), versions.read(host)
    if not theirs.release or not ours.release or theirs.machine != ours.machine:
        raise elf.ElfError("the image has no glibc that the host's could stand for")
    if theirs.release >= ours.release:
        raise elf.ElfError(f"the host's {ours.name} is no newer than the image's {theirs.name}")
    files: dict[str, str] = {}
    for name in sorted(theirs.libraries):
        if name not in ours.libraries:
            raise elf.ElfError(f"the host's glibc has no {name}, the image's has")
        files[_place(image, name)] = _place(host, name)
    for name in NSS:
        if image.find(name, []) and host.find(name, []):
            files[_place(image, name)] = _place(host, name)
    interpreter = INTERPRETERS.get(image.arch, "")
    if not interpreter or not host.usable(interpreter) or not image.usable(interpreter):
        raise elf.ElfError(f"image or host has no loader {interpreter}")
    files[image.place(interpreter)] = host.place(interpreter)
    other = next((path for path in interpreters if image.place(path) not in files), "")
    if other:  # of a distribution in the image with a glibc of its own, as nix has
        raise elf.ElfError(f"programs of the image are started by {other}, which would stay")
    _check_places(image, host)
    return Swap(tuple(sorted(files.items())), _modules(host), ours.name, theirs.name)


def module_files(directory: str) -> tuple[str, ...]:
    """Return the names of the files of a directory of gconv modules, and of those below it.

    Raises:
        OSError.
    """
    found = []
    for place, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(place, name)
            if stat.S_ISREG(os.stat(path).st_mode):
                found.append(os.path.relpath(path, directory))
    return tuple(sorted(found)[:MAX_MODULES])


def _place(loader: ldso.Loader, name: str) -> str:
    return loader.place(loader.find(name, []) or name)


def _check_places(image: ldso.Loader, host: ldso.Loader) -> None:
    """See that the host's loader finds the image's libraries.

    Raises:
        elf.ElfError: it would not.
    """
    directory = os.path.dirname(image.find("libc.so.6", []) or "")
    known = {host.place(place) for place in host.default if "lib64" not in place}
    if "libc.so.6" not in image.cache and image.place(directory) not in known:
        raise elf.ElfError(
            f"the image's libraries lie in {directory}, where the host's loader does not look, and "
            "the image has no ld.so.cache"
        )


def _modules(host: ldso.Loader) -> str:
    """Return the directory of gconv modules that is compiled into the host's libc."""
    with elf.Reader(host.host(_place(host, "libc.so.6"))) as reader:
        named = sorted(path for path in reader.paths() if path.endswith("/gconv"))
    return next((path for path in named if host.is_directory(path)), "")
