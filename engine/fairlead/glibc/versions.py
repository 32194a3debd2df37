"""Read what an image's glibc defines, and what a host's libraries ask of glibc.

Rules:
- The whole family counts, file by file: glibc 2.31's libc.so.6 has no version 2.31, its libpthread
  has; until 2.34 threads, dlopen and timers were libraries of their own.
- A symbol is what a name and a version say together. The default definition (``name@@version``) is
  the one that a new program would get; hidden ones (``name@version``) are kept for old programs.
- Files are hostile input: ``host.elf`` checks and limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fairlead.host import elf, ldso

PREFIX = "GLIBC_"
PRIVATE = "GLIBC_PRIVATE"


class Definition(NamedTuple):
    """One definition of a symbol in an image's glibc."""

    library: str
    version: str
    default: bool
    function: bool


class Family(NamedTuple):
    """The glibc of one image.

    Attributes:
        release: its newest version, e.g. (2, 31).
        machine: e_machine of its files.
        libraries: file name → versions that the file defines.
        symbols: name → definitions.
    """

    release: tuple[int, ...]
    machine: int
    libraries: Mapping[str, frozenset[str]]
    symbols: Mapping[str, tuple[Definition, ...]]

    @property
    def name(self) -> str:
        """Return e.g. ``GLIBC_2.31``."""
        return PREFIX + ".".join(map(str, self.release))


class Needs(NamedTuple):
    """What one file asks of glibc.

    Attributes:
        file: what to call it in a reason.
        machine: its e_machine.
        versions: (library, version) of its Verneed; some name no symbol (markers of the linker).
        wants: its undefined versioned symbols.
        libraries: names of glibc's files among its DT_NEEDED.
        relative: whether it has DT_RELR.
    """

    file: str
    machine: int
    versions: frozenset[tuple[str, str]]
    wants: tuple[elf.Want, ...]
    libraries: frozenset[str]
    relative: bool


def number(version: str) -> tuple[int, ...]:
    """Return the numbers of a version's name, e.g. (2, 34); none for a marker or GLIBC_PRIVATE."""
    parts = version.removeprefix(PREFIX).split(".")
    if not version.startswith(PREFIX) or not all(part.isdecimal() for part in parts):
        return ()
    return tuple(map(int, parts))


def family(readers: Mapping[str, elf.Reader]) -> Family:
    """Return the family that open files form.

    Args:
        readers: file name (as in DT_NEEDED, e.g. ``libc.so.6``) → file.

    Raises:
        elf.ElfError.
    """
    libraries: dict[str, frozenset[str]] = {}
    symbols: dict[str, list[Definition]] = {}
    machine = 0
    for library, reader in sorted(readers.items()):
        libraries[library] = frozenset(reader.definitions().values())
        machine = reader.elf.machine
        for symbol in reader.symbols():
            if symbol.defined and symbol.version.startswith(PREFIX):
                symbols.setdefault(symbol.name, []).append(
                    Definition(
                        library,
                        symbol.version,
                        not symbol.hidden,
                        not (symbol.is_object or symbol.thread_local),
                    )
                )
    release = max((number(name) for names in libraries.values() for name in names), default=())
    return Family(
        release, machine, libraries, {name: tuple(found) for name, found in symbols.items()}
    )


def read(loader: ldso.Loader) -> Family:
    """Return the glibc of a root, by the loader's own search rules.

    Raises:
        elf.ElfError, OSError: a file of it cannot be read.
    """
    readers: dict[str, elf.Reader] = {}
    try:
        for name in sorted(ldso.GLIBC):
            path = loader.find(name, [])
            real = loader.usable(path) if path else None
            if real:
                readers[name] = elf.Reader(loader.host(real))
        return family(readers)
    finally:
        for reader in readers.values():
            reader.__exit__(None, None, None)


def needs(file: str, reader: elf.Reader) -> Needs:
    """Return what an open file asks of glibc.

    Raises:
        elf.ElfError.
    """
    return Needs(
        file,
        reader.elf.machine,
        frozenset(
            (need.library, need.version) for need in reader.needs() if need.library in ldso.GLIBC
        ),
        tuple(want for _, want in reader.wants(ldso.GLIBC)),
        frozenset(ldso.GLIBC.intersection(reader.elf.needed)),
        reader.relative,
    )


def read_needs(files: Iterable[tuple[str, str]]) -> tuple[Needs, ...]:
    """Return what files ask of glibc: (what to call it, path) each.

    Raises:
        elf.ElfError, OSError.
    """
    found = []
    for name, path in files:
        with elf.Reader(path) as reader:
            found.append(needs(name, reader))
    return tuple(found)
