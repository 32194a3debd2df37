"""Tell what an MPI library is: which implementation, binary interface and language binding.

Rules:
- The family comes from symbols, never from the SONAME: OpenMPI 1.10 calls itself ``libmpi.so.12``,
  the very name of the MPICH ABI, and mixing the two crashes.
- The ABI class is what makes two libraries interchangeable:
  ``openmpi-4``  Open MPI with 512-byte communicator objects and SONAME generation 40 (4.0 and
  later; from 6 on the objects lie in ``libopen_mpi.so.40``), ``mpich-abi``  the MPICH ABI
  initiative's generation 12 (MPICH ≥ 3.1, MVAPICH2, Intel MPI, Cray MPICH), ``mpi-abi``  the
  standard's own ABI (MPI 5.0, libmpi_abi.so.1). Everything else gets a class of its own name that
  matches nothing but itself.
- The role is the language binding, which must come from the same family and release as the C
  library.

Source: measured sizes of ``ompi_mpi_comm_world``: 1024 in 1.10, 1536 in 2.1, 512 from 4.0;
wiki.mpich.org ABI.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from fairlead.host import elf
from fairlead.host.mpi import NAMES

# File name stem → role. Bindings of one language share a role name only if one can replace the
# other.
_ROLES = {
    "libmpi": "c",
    "libmpich": "c",
    "libmpi_mt": "c",
    "libmpi_abi": "c",
    "libopen_mpi": "open_mpi",  # OpenMPI 6 keeps its own ABI in this one
    "libmpi_mpifh": "mpifh",
    "libmpi_usempi": "usempi",
    "libmpi_usempi_ignore_tkr": "usempi_ignore_tkr",
    "libmpi_usempif08": "usempif08",
    "libmpi_cxx": "cxx",
    "libmpicxx": "cxx",
    "libmpichcxx": "cxx",
    "libmpifort": "fortran",
    "libmpichfort": "fortran",
    "libmpichf90": "fortran90",
    "libmpi_java": "java",
}
_FORTRAN_COMPILER = re.compile(
    r"-(?:gfortran|flang|ifort|nvfortran)[\w.]*$"
)  # Debian: one module library per compiler
_FILE = re.compile(r"(lib[\w+-]+?)\.so(?:\.[\d.]+)?$")

# Libraries and plugins that belong to one build of OpenMPI and use its internals.
_PRIVATE = re.compile(
    r"(?:libopen-(?:rte|pal)|libmca_common_\w+|libprrte|liboshmem|libompitrace)\.so(?:\.[\d.]+)?$"
)
_INTERNAL = re.compile(r"(?:lib)?(?:mca_|pmix_mca_|ompi_|open-|opal|orte|prte|oshmem|ompitrace)")

# What programs may use of an MPI library; everything else that it exports is its own business.
_PUBLIC = re.compile(
    r"P?MPI(?:X|_T|IO)?_|p?mpi(?:x|_t)?_|ompi_mpi_|ompi_f|_ZNK?3MPI|_ZT[VIS]N3MPI|__p?mpi_"
)

_VERSION_OBJECTS = ("ompi_version_string", "MPII_Version_string", "MPIR_Version_string")
_VERSION = re.compile(rb"(?<=\0)([1-9]\d{0,3}\.\d+\.\d+(?:(?:rc|a|b|p)\d+)?)(?=\0)")
_INTEL = re.compile(rb"Intel\(R\) MPI Library ([\d.]+)")
_PATH = re.compile(rb"(?<=\0)(/[\x21-\x7e]{0,240}/libmpi[\x21-\x7e]{0,64}\.so[.\d]{0,16})(?=\0)")


class Library(NamedTuple):
    """One MPI library file. ``path`` is resolved (no symlinks) within its root.

    ``product`` is whose code it is, which for a library of the standard's ABI is not its family.
    """

    path: str
    soname: str
    role: str
    family: str
    abi_class: str
    version: str
    libc: str
    needed: tuple[str, ...]
    product: str = ""

    def describe(self) -> str:
        """Return e.g. ``OpenMPI 4.1.4``."""
        abi = " (MPI ABI)" if self.family == "abi" and self.product != "abi" else ""
        return f"{NAMES.get(self.product, self.product)} {self.version}".rstrip() + abi


def role(name: str) -> str:
    """Return the role that a file of this name would have, "" if it is no MPI library's name."""
    match = _FILE.fullmatch(name)
    if not match:
        return ""
    stem = match.group(1)
    base = _FORTRAN_COMPILER.sub("", stem)
    if base != stem:
        return f"{_ROLES[base]}-modules" if base in _ROLES else ""
    if stem.startswith(("libmpi_abi_", "libmpich_", "libmpi_gnu", "libmpi_intel", "libmpi_cray")):
        return "c"
    return _ROLES.get(stem, "")


def wanted_class(name: str, symbols: Iterable[str]) -> str:
    """Return the ABI class that a program wants, by what it is linked to and by what it uses.

    Args:
        name: an MPI library's name in DT_NEEDED.
        symbols: what the program asks of it.
    """
    if name.startswith("libmpi_abi.so"):
        family = "abi"
    elif any(symbol.startswith("ompi_") for symbol in symbols) or name.endswith(".so.40"):
        family = "openmpi"
    else:
        family = "mpich"
    return _abi_class(role(name), family, name, 512)


def is_private(name: str) -> bool:
    """Tell whether a file of this name is an internal library of one build of OpenMPI."""
    return bool(_PRIVATE.fullmatch(name))


def is_internal(name: str) -> bool:
    """Tell whether a file is part of an MPI installation: its needs say nothing about programs."""
    return bool(_INTERNAL.match(name))


def is_public(symbol: str) -> bool:
    """Tell whether a symbol is part of an MPI library's interface for programs."""
    return bool(_PUBLIC.match(symbol))


def public_exports(reader: elf.Reader) -> set[str]:
    """Return the interface that a library offers to programs, data with its size after a space.

    The size of a data object is part of the interface: a program copies the object into its own
    memory.
    """
    return {
        f"{symbol.name} {symbol.size}" if symbol.is_object else symbol.name
        for symbol in reader.symbols()
        if symbol.defined and is_public(symbol.name)
    }


def named_by_path(reader: elf.Reader) -> list[str]:
    """Return the absolute paths of MPI libraries among a file's constants, a few at most."""
    if not reader.contains(b"/libmpi"):  # far faster than the pattern
        return []
    return [path.decode("ascii") for path in reader.search(_PATH, 4)]


def libc(headers: elf.Elf) -> str:
    """Return which C library a file was built for: ``glibc``, ``musl`` or "" if it does not say."""
    if any(name.startswith("libc.musl-") or name == "libc.so" for name in headers.needed):
        return "musl"
    if headers.interp:
        return "musl" if "/ld-musl-" in headers.interp else "glibc"
    return "glibc" if "libc.so.6" in headers.needed else ""


def examine(real: str, reader: elf.Reader) -> Library | None:
    """Return what an MPI library file is, None if its symbols say that it is none.

    Args:
        real: resolved path within its root; the role comes from its name.
        reader: the open file.

    Raises:
        elf.ElfError: the file is damaged.
    """
    name = real.rpartition("/")[2]
    headers = reader.elf
    kind, family, world, version = role(name), "", 0, ""
    for symbol in reader.symbols():
        if symbol.name == "ompi_mpi_comm_world":
            family, world = "openmpi", symbol.size or world
        elif symbol.name.startswith("ompi_"):
            family = "openmpi"
        elif not family and symbol.name in (
            "MPI_Init",
            "PMPI_Init",
            "MPIR_F_NeedInit",
            "MPIR_Err_create_code",
        ):
            family = "mpich"
        if symbol.name in _VERSION_OBJECTS and symbol.defined:
            version = reader.text(symbol)
    product, family = family, _refine(family, kind, headers)
    if not family:
        return None
    if kind == "c" and not version:
        intel = reader.search(_INTEL, 1)
        found = [text.decode() for text in intel + reader.search(_VERSION) if text[:4] != b"127."]
        version = found[0] if found else ""
        product = "intelmpi" if intel else product
    return Library(
        path=real,
        soname=headers.soname or name,
        role=kind,
        family=family,
        abi_class=_abi_class(
            kind, family, headers.soname, world, beside=_keeps_objects_beside(headers)
        ),
        version=version,
        libc=libc(headers),
        needed=headers.needed,
        product=product or family,
    )


def _refine(family: str, kind: str, headers: elf.Elf) -> str:
    names = (headers.soname, *headers.needed)
    if any(name.startswith("libmpi_abi.so.") for name in names):
        return "abi"
    if family:
        return family
    if any(
        role(name) for name in headers.needed
    ):  # a C++ or Fortran binding: the C library that it needs decides
        openmpi = any(role(name) and name.endswith(".so.40") for name in headers.needed)
        return "openmpi" if openmpi else "mpich"
    # Fortran module files without code: only the name is left.
    return "openmpi" if kind.startswith(("mpifh", "usempi")) else ""


def _keeps_objects_beside(headers: elf.Elf) -> bool:
    return any(role(name) == "open_mpi" for name in headers.needed)


def _abi_class(kind: str, family: str, soname: str, world: int, *, beside: bool = False) -> str:
    """Return the class of a library; a binding shares its SONAME generation with its C library.

    Args:
        kind: the library's role.
        family: whose interface it has.
        soname: its name.
        world: the size of ``ompi_mpi_comm_world``, 0 if it does not define it.
        beside: another library that it needs defines it.
    """
    generation = soname.rpartition(".so.")[2].partition(".")[0]
    # OpenMPI 6: the objects lie in libopen_mpi, whose own class tells of their size.
    world = 512 if kind == "c" and beside else world
    if family == "abi":
        return "mpi-abi" if generation == "1" else f"mpi-abi-{generation}"
    if family == "openmpi":
        if kind in ("c", "open_mpi") and world != 512:
            return f"openmpi-world{world}"
        return "openmpi-4" if generation == "40" else f"openmpi-so{generation}"
    return "mpich-abi" if generation == "12" else f"mpich-so{generation}"
