"""What is proven of a launch in its container, before the command runs, and how. Pure.

The loader of the image itself says what it would do with the command (``ld.so`` with
LD_TRACE_LOADED_OBJECTS, as ldd): which file it takes for each library, what it does not find.

Rules:
- A missing library or version ends every launch; so does a missing symbol that the command itself
  needs or, with an MPI loaded, one of MPI's. A symbol that only some library lacks is a warning:
  the loader binds late, and the command may never call it.
- Where the host's MPI was put in, exactly its files may be loaded as MPI.
- A command that needs an MPI which cannot meet the step's PMI server is refused.
"""

from __future__ import annotations

from typing import NamedTuple

from fairlead import errors
from fairlead.plan import bootstrap, world

LIBRARIES = ("libmpi.so.", "libmpich.so.", "libmpi_abi.so.", "libopen_mpi.so.", "libmpi_mt.so.")
_SHARED = "libopen_mpi.so."
_SYMBOLS = ("MPI_", "PMPI_", "mpi_", "pmpi_", "ompi_", "MPIR_")


class Proof(NamedTuple):
    """What is to be proven.

    Attributes:
        trace: ask the loader.
        injected: where every MPI library must come from the host's.
        refusals: (SONAMEs, verdict): a command that loads one of them is not started.
    """

    trace: bool = False
    injected: bool = False
    refusals: tuple[tuple[tuple[str, ...], bootstrap.Verdict], ...] = ()


class Trace(NamedTuple):
    """What a loader said.

    Attributes:
        libraries: (name that is asked for, path taken; empty: not found).
        missing: names of libraries and versions that are missing, in its own words.
        symbols: (symbol, object that lacks it).
        troubles: other complaints, e.g. of a damaged file.
    """

    libraries: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    symbols: tuple[tuple[str, str], ...]
    troubles: tuple[str, ...]


def parse(text: str) -> Trace:
    """Read what glibc's or musl's loader prints.

    Source: glibc's rtld.c (LD_TRACE_LOADED_OBJECTS, LD_WARN); musl's dynlink.c.
    """
    libraries: list[tuple[str, str]] = []
    missing: list[str] = []
    symbols: list[tuple[str, str]] = []
    troubles: list[str] = []
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("undefined symbol: "):
            symbol, _, where = words.removeprefix("undefined symbol: ").partition("\t")
            symbols.append((symbol.partition(",")[0].strip(), where.strip(" ()")))
        elif words.startswith("Error relocating ") and words.endswith(": symbol not found"):
            where, _, symbol = words[17:-18].rpartition(": ")
            symbols.append((symbol, where))
        elif words.startswith("Error loading shared library "):
            missing.append(words.removeprefix("Error loading shared library "))
        elif words.endswith("=> not found") and "/" not in words.split(" ")[0]:
            libraries.append((words.partition(" ")[0], ""))
            missing.append(f"{words.partition(' ')[0]}: not found")
        elif "' not found (required by " in words:
            missing.append(words)
        elif "error while loading shared libraries:" in words:
            missing.append(words.partition("error while loading shared libraries:")[2].strip())
        elif " (0x" in words:
            name, arrow, path = words.rpartition(" (0x")[0].partition(" => ")
            libraries.append((name, path if arrow else name))
        elif words and not words.endswith("=> not found") and words != "statically linked":
            troubles.append(words)
    return Trace(tuple(libraries), tuple(dict.fromkeys(missing)), tuple(symbols), tuple(troubles))


def mpi_of(trace: Trace) -> tuple[tuple[str, str], ...]:
    """Return (name, path) of the C libraries of MPI that were taken."""
    return tuple(
        (name, path)
        for name, path in trace.libraries
        if name.rpartition("/")[2].startswith(LIBRARIES)
    )


def check(command: str, trace: Trace) -> tuple[str, ...]:
    """Return warnings.

    Raises:
        errors.LibraryError: a library, version or symbol is missing (status 127, as the
        loader's own).
    """
    if trace.missing:
        more = f" and {len(trace.missing) - 1} more" if len(trace.missing) > 1 else ""
        of_mpi = any("libmpi" in text or "/.fairlead/mpi/" in text for text in trace.missing)
        raise errors.LibraryError(
            f"{command}: the loader of the image misses {trace.missing[0]}{more}",
            hint="put an MPI of this kind into the image, or run the image's own with "
            "--container-mpi=image"
            if of_mpi
            else "",
        )
    # Without an MPI, what refers to one was made to do without it.
    names = _SYMBOLS if mpi_of(trace) else ()
    fatal = [item for item in trace.symbols if item[1] == command or item[0].startswith(names)]
    if fatal:
        symbol, where = fatal[0]
        more = f" and {len(fatal) - 1} more" if len(fatal) > 1 else ""
        raise errors.LibraryError(
            f"{command}: undefined symbol {symbol} ({where}){more}",
            hint="build the command against the MPI of the image, or use --container-mpi=image"
            if symbol.startswith(_SYMBOLS)
            else "",
        )
    return tuple(
        f"{where} lacks {symbol}: the command would end where it calls it"
        for symbol, where in trace.symbols[:1]
    )


def check_injected(command: str, files: tuple[str, ...]) -> None:
    """Refuse a command whose MPI is not the host's, where that was put in.

    Args:
        command: for the message.
        files: the MPI libraries that it loads, symbolic links resolved.

    Raises:
        errors.MpiError.
    """
    foreign = [path for path in files if not path.startswith(world.INJECTED)]
    if foreign:
        raise errors.MpiError(
            f"{command}: the host's MPI was injected, and {foreign[0]} would be loaded"
        )
    # OpenMPI 6 is two files, of which the second serves both its own ABI and the standard's.
    mains = [path for path in files if not path.rpartition("/")[2].startswith(_SHARED)]
    if len({path.rpartition("/")[0] for path in mains or files}) > 1:
        both = " and ".join(sorted(set(files))[:2])
        raise errors.MpiError(f"{command}: two MPI libraries would be loaded, {both}")


def refusal(proof: Proof, names: tuple[str, ...]) -> bootstrap.Verdict | None:
    """Return why a command that loads libraries of these names would not make one world."""
    for sonames, verdict in proof.refusals:
        if set(sonames) & set(names):
            return verdict
    return None
