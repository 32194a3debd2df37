"""Find libraries as ld.so would, inside any root: the host's own, or an image's tree.

Rules (man 8 ld.so; glibc elf/dl-load.c):
- The order: DT_RPATH of the requester and of everything that loaded it (only if the requester has
  no DT_RUNPATH), LD_LIBRARY_PATH, the requester's own DT_RUNPATH (not inherited), ld.so.cache, the
  default directories.
- ``$ORIGIN`` is the directory of the path as it was found, before symlinks are resolved.
- Symlinks inside a root are resolved against that root, as chroot would; loops end after 40, as in
  the kernel.
- A library of another machine is passed over, as ld.so does.
- The cache is hostile input when it comes from an image: both formats, every offset checked, sizes
  limited.

Refused: glibc-hwcaps variants. They are optimised twins of a library that also exists in its plain
form; taking the plain one is always right, and copying both would tie the result to one processor.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from fairlead.host import elf

MAX_SYMLINKS = 40
MAX_PATH = 4096
MAX_CACHE = 32 << 20
MAX_CACHE_ENTRIES = 1 << 17
MAX_CLOSURE = 2048
MAX_SEARCH = 1024  # directories of all DT_RPATHs together

CACHE = "/etc/ld.so.cache"
_OLD_MAGIC, _NEW_MAGIC = b"ld.so-1.7.0\0", b"glibc-ld.so.cache1.1"
_OLD_ENTRY, _NEW_ENTRY = struct.Struct("<iII"), struct.Struct("<iIIIQ")

# Source: glibc sysdeps/*/ldconfig.h (FLAG_*); the low byte 3 is FLAG_ELF_LIBC6.
_CACHE_FLAGS = {"x86_64": 0x0303, "aarch64": 0x0A03, "ppc64le": 0x0503, "riscv64": 0x1003}
_TRIPLETS = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "ppc64le": "powerpc64le-linux-gnu",
    "riscv64": "riscv64-linux-gnu",
}

# The files of glibc itself: they belong to the loader that the program starts with and are never
# mixed.
GLIBC = frozenset(
    (
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
        "ld64.so.2",
        "ld-linux-riscv64-lp64d.so.1",
        "libc.so.6",
        "libm.so.6",
        "libpthread.so.0",
        "libdl.so.2",
        "librt.so.1",
        "libutil.so.1",
        "libresolv.so.2",
        "libanl.so.1",
        "libmvec.so.1",
        "libnsl.so.1",
        "libthread_db.so.1",
        "libBrokenLocale.so.1",
    )
)


class Found(NamedTuple):
    """A library of a closure: where the search found it, the file that is, and who asked first."""

    path: str
    real: str
    by: str


class Closure(NamedTuple):
    """All that a set of files loads, by the name asked for; ``missing`` maps name → who asked."""

    libraries: dict[str, Found]
    missing: dict[str, str]


def machine() -> str:
    """Return this machine's name, e.g. ``x86_64``."""
    return os.uname().machine


def default_directories(arch: str) -> tuple[str, ...]:
    """Return the loader's built-in directories, of Debian's multiarch and of everybody else."""
    triplet = _TRIPLETS.get(arch, "")
    multiarch = (f"/lib/{triplet}", f"/usr/lib/{triplet}") if triplet else ()
    return (*multiarch, "/lib64", "/usr/lib64", "/lib", "/usr/lib")


def parse_cache(data: bytes, arch: str) -> dict[str, str]:
    """Return soname → path of an ld.so.cache, without what is damaged or for other machines."""
    new = 0
    if data.startswith(_OLD_MAGIC) and len(data) >= 16:
        (count,) = struct.unpack_from("<I", data, 12)
        new = 16 + count * _OLD_ENTRY.size
        if not data.startswith(_NEW_MAGIC, new + 7 & ~7):
            return _cache_entries(data, _OLD_ENTRY, 16, count, new, arch)
        new = new + 7 & ~7
    if data.startswith(_NEW_MAGIC, new) and len(data) >= new + 48:
        (count,) = struct.unpack_from("<I", data, new + 20)
        return _cache_entries(data, _NEW_ENTRY, new + 48, count, new, arch)
    return {}


def _cache_entries(
    data: bytes, form: struct.Struct, start: int, count: int, strings: int, arch: str
) -> dict[str, str]:
    found: dict[str, str] = {}
    count = min(count, MAX_CACHE_ENTRIES, max(0, len(data) - start) // form.size)
    wanted = _CACHE_FLAGS.get(arch)
    for flags, key, value, *rest in form.iter_unpack(data[start : start + count * form.size]):
        hwcap = rest[1] if rest else 0
        if flags != wanted or hwcap:
            continue
        name, path = _text(data, strings + key), _text(data, strings + value)
        if name and path.startswith("/"):
            found.setdefault(name, path)
    return found


def _text(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset, offset + MAX_PATH)
    return data[offset:end].decode("utf-8", "surrogateescape") if end > offset else ""


class Loader:
    """The loader's view of one root; remembers what it saw, so one instance serves one analysis.

    Args:
        root: directory that is ``/`` for every path here; ``"/"`` for the host.
        library_path: LD_LIBRARY_PATH, split.
    """

    def __init__(self, root: str = "/", library_path: Iterable[str] = ()) -> None:
        self.root = root.rstrip("/")
        self.arch = machine()
        self.library_path = tuple(path for path in library_path if path.startswith("/"))
        self.default = tuple(
            path for path in default_directories(self.arch) if self.is_directory(path)
        )
        self.cache = parse_cache(self._read_cache(), self.arch)
        self._headers: dict[str, elf.Elf | None] = {}
        self._usable: dict[str, str | None] = {}
        self._damaged: set[str] = set()

    # -- paths ------------------------------------------------------------------------------

    def host(self, path: str) -> str:
        """Return the path as this process names it; path must be resolved already."""
        return self.root + path

    def place(self, path: str) -> str:
        """Resolve a path as chroot would; what does not exist is kept as it is written.

        Raises:
            elf.ElfError: a symlink loop or a path beyond the limits (this is hostile input, like
            the ELF files).
        """
        todo = [part for part in reversed(path.split("/")) if part and part != "."]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            done.append(part)
            if len(done) + len(todo) > MAX_PATH // 2:
                raise elf.Damaged(f"{path}: path too long")
            try:
                target = os.readlink(self.root + "/" + "/".join(done))
            except OSError:  # no symlink, or nothing there
                continue
            links += 1
            if links > MAX_SYMLINKS:
                raise elf.Damaged(f"{path}: too many levels of symbolic links")
            if target.startswith("/"):
                done.clear()
            else:
                done.pop()
            todo.extend(part for part in reversed(target.split("/")) if part and part != ".")
        return "/" + "/".join(done)

    def is_directory(self, path: str) -> bool:
        """Tell whether a path is a directory inside the root."""
        try:
            return os.path.isdir(self.host(self.place(path)))
        except (elf.ElfError, ValueError):
            return False

    def _read_cache(self) -> bytes:
        try:
            path = self.host(self.place(CACHE))
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                return file.read(MAX_CACHE)
        except (OSError, elf.ElfError):
            return b""

    # -- files ------------------------------------------------------------------------------

    def headers(self, real: str) -> elf.Elf | None:
        """Return the headers of a resolved path, None if it is no ELF file that can be read."""
        if real not in self._headers:
            try:
                self._headers[real] = elf.read(self.host(real))
            except (elf.ElfError, OSError, ValueError) as error:
                self._headers[real] = None
                if isinstance(error, elf.Damaged):
                    self._damaged.add(real)
        return self._headers[real]

    def usable(self, path: str) -> str | None:
        """Return the resolved path of a library for this machine, None if there is none."""
        if path not in self._usable:
            try:
                real = self.place(path)
                found = self.headers(real)
            except elf.ElfError:
                real, found = "", None
            wanted = elf.MACHINES.get(self.arch)
            self._usable[path] = real if found and found.machine == wanted else None
        return self._usable[path]

    def _expand(self, paths: str, requester: str) -> list[str]:
        library = "lib64" if "/lib64" in self.default else f"lib/{_TRIPLETS.get(self.arch, '')}"
        values = {"ORIGIN": os.path.dirname(requester), "LIB": library}
        found = []
        for path in paths.split(":"):
            for name, value in values.items():
                path = path.replace(f"${{{name}}}", value).replace(f"${name}", value)  # noqa: PLW2901
            if (
                path.startswith("/") and "$" not in path
            ):  # relative ones depend on the working directory
                found.append(path)
        return found

    def find(self, name: str, chain: list[tuple[str, elf.Elf]]) -> str | None:
        """Return where ld.so finds a library, unresolved; None if nowhere.

        Args:
            name: as in DT_NEEDED.
            chain: (path as found, headers) of the requester, of what loaded it, and so on up.
        """
        if "/" in name:
            return name if name.startswith("/") and self.usable(name) else None
        directories: list[str] = []
        requester = chain[0] if chain else None
        if not (requester and requester[1].runpath):
            for path, headers in chain:
                if not headers.runpath:
                    directories += self._expand(headers.rpath, path)
        directories = directories[:MAX_SEARCH] + list(self.library_path)
        if requester:
            directories += self._expand(requester[1].runpath, requester[0])
        cached = [self.cache[name]] if name in self.cache else []
        places = [f"{directory}/{name}" for directory in directories]
        places += cached + [f"{directory}/{name}" for directory in self.default]
        for path in places:
            if self.usable(path):
                return path
            if self._damaged and self.place(path) in self._damaged:
                return None  # ld.so gives up there; going on would mix two installations
        return None

    def closure(self, roots: Iterable[str]) -> Closure:
        """Return everything that the files load by DT_NEEDED, breadth first, as ld.so does.

        A name that is loaded already satisfies later requests for it, whatever their search paths
        say.
        """
        libraries: dict[str, Found] = {}
        missing: dict[str, str] = {}
        queue: list[list[tuple[str, elf.Elf]]] = []
        for path in roots:
            real = self.usable(path)
            headers = self.headers(real) if real else None
            if not real or not headers:
                missing[path] = ""
                continue
            libraries.setdefault(headers.soname or os.path.basename(path), Found(path, real, ""))
            queue.append([(path, headers)])
        for chain in queue:
            requester = chain[0][0]
            for name in chain[0][1].needed:
                if name in libraries or len(libraries) >= MAX_CLOSURE:
                    continue
                path = self.find(name, chain) or ""
                real = self.usable(path) if path else None
                headers = self.headers(real) if real else None
                if not real or not headers:
                    missing.setdefault(name, requester)
                    continue
                libraries[name] = Found(path, real, requester)
                queue.append([(path, headers), *chain[:64]])
        return Closure(libraries, missing)
