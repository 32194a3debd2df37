"""Run a small MPI program under strace, once per installation: what static analysis cannot see.

A library's constants name every plugin that it may load; which configuration files it reads, which
sockets it connects to and which segments it shares, only a run shows.

Rules:
- As the user, on the host, outside of any container; never as root. Nothing of an image is run.
- strace with ``--seccomp-bpf``, on the ranks alone (the launcher is not traced).
- Everything runs in a pid namespace whose first process is a clock: when the program ends or the
  time is over, even if Fairlead has been killed meanwhile, the kernel ends whatever is left.
  (strace sets PTRACE_O_EXITKILL only with ``--kill-on-exit``, which 6.1 does not have, and a
  launcher's ranks leave its process group.)
- A file that was read travels with the profile as data only if it is regular, if no other user can
  have put it there, and if it is no business of the C library, of the user or of the kernel.

Why strace: measured on MPICH 4.0.2's singleton, user + system time, medians of three interleaved
runs: bare 0.02 s, ``strace --seccomp-bpf`` 0.04, strace 0.09, python-ptrace 0.9.9 0.32 (and that
sets no PTRACE_O_EXITKILL); the same 404 calls of openat in each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fairlead import errors, log
from fairlead.host import elf, family, ldso, mpi, plugins

FORMAT = 1
LIMIT_S = 60
MAX_CALLS = 1 << 20
MAX_NAMED = 2000

# Variables of a launcher that is around us: ours starts its own ranks, on this node.
_LAUNCHERS = ("SLURM_", "PMI_", "PMI2_", "PMIX_", "OMPI_COMM_", "OMPI_UNIVERSE_", "PRTE_", "HYDI_")
_MORE_RANKS_THAN_CORES = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_ess_singleton_isolated": "1",
}
# What MPI_COMM_WORLD is in C. Source: the headers of each family; MPI 5.0, section 20.
_WORLD = {
    "openmpi": ("extern char ompi_mpi_comm_world[];", "ompi_mpi_comm_world"),
    "mpich": ("", "0x44000000"),
    "abi": ("", "(void *)0x101"),
}
_SAMPLE = """
{declared}
int MPI_Init(int *, char ***), MPI_Barrier({kind}), MPI_Finalize(void);
int main(int count, char **words)
{{
	return MPI_Init(&count, &words) || MPI_Barrier({world}) || MPI_Finalize();
}}
"""
_COMPILERS = ("cc", "gcc", "clang")

_OPENED = re.compile(r"^\w+\(.* = \d+<(/[^>]*)>$")
_CONNECTED = re.compile(r'^connect\(.*sun_path=(@?"(?:[^"\\]|\\.)*").* = 0$')
_ESCAPED = re.compile(r"\\([0-7]{1,3})")
_SHARED = ("/dev/shm/", "/dev/hugepages/")  # noqa: S108 - where segments are, not a file of ours
_KERNEL = ("/proc/", "/sys/", "/dev/")
_USERS = ("/home/", "/tmp/", "/var/tmp/", "/run/", "/root/")  # noqa: S108
# What the C library reads for every program: the image's own, or given by the launch already.
_LIBC = (
    *("/etc/ld.so.", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/host"),
    *("/etc/resolv.conf", "/etc/services", "/etc/protocols", "/etc/networks", "/etc/gai.conf"),
    *("/etc/localtime", "/etc/locale.alias", "/usr/share/zoneinfo/", "/usr/share/locale/"),
    *("/usr/lib/locale/", "/etc/mtab", "/etc/fstab"),
)


class Trace(NamedTuple):
    """What the ranks of one run opened, by resolved path; sorted.

    Attributes:
        command: what was run.
        ranks: how many.
        libraries: ELF files. ``files``: other regular files.
        sockets: UNIX sockets that were connected to; ``@`` before an abstract name.
        segments: files opened to be shared between ranks.
        data: of ``files``, those that travel with the profile.
    """

    command: tuple[str, ...]
    ranks: int
    libraries: tuple[str, ...]
    files: tuple[str, ...]
    sockets: tuple[str, ...]
    segments: tuple[str, ...]
    data: tuple[str, ...]


class Difference(NamedTuple):
    """A run against the static analysis.

    Attributes:
        missed: ELF files that the analysis did not find, a defect of it.
        left_out: ELF files that it leaves out on purpose (plugins and what they drag in).
        carried: files that the profile's data directories hold anyway.
        data: files that only the trace found; they travel with the profile from now on.
        ignored: files that are the C library's, the user's or not to be trusted.
    """

    missed: tuple[str, ...]
    left_out: tuple[str, ...]
    carried: tuple[str, ...]
    data: tuple[str, ...]
    ignored: tuple[str, ...]


# -- kept ------------------------------------------------------------------------------------------


def path(cache_dir: str, profile: mpi.Profile) -> str:
    """Return where the trace of this state of an installation is kept."""
    return os.path.join(cache_dir, f"trace-{profile.analysis}.json")


def load(kept: str) -> Trace | None:
    """Return a trace that was kept, None if there is none or it is damaged."""
    try:
        with open(kept, "rb") as file:
            record = json.loads(file.read())
        if record["format"] == FORMAT:
            return Trace(*(mpi.tuples(field) for field in record["trace"]))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.debug(f"{kept}: not used: {error}")
    return None


def data(kept: str, profile: mpi.Profile) -> tuple[str, ...]:
    """Return the files that travel with a profile by its trace alone; those that still may."""
    found = load(kept)
    if not found:
        return ()
    return tuple(item for item in found.data if not _carried(profile, item) and _travels(item))


def _carried(profile: mpi.Profile, item: str) -> bool:
    places = (os.path.realpath(place) for place, _ in profile.data_dirs)
    return any(item.startswith(f"{place}/") for place in places)


def keep(kept: str, trace: Trace) -> None:
    """Keep a trace.

    Raises:
        errors.StoreError: it cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
        mpi.write(kept, {"format": FORMAT, "trace": trace})
        mpi.forget(os.path.dirname(kept), "trace-")
    except OSError as error:
        raise errors.StoreError(f"{kept}: {error.strerror}") from error


# -- making one ------------------------------------------------------------------------------------


def run(
    profile: mpi.Profile, environ: Mapping[str, str], program: str = "", limit_s: int = LIMIT_S
) -> Trace:
    """Run a program of two ranks (one, where the installation has no launcher) and watch it.

    Args:
        profile: the installation.
        environ: the user's environment.
        program: an MPI program; empty: one is compiled.
        limit_s: after so long everything is ended.

    Raises:
        errors.MpiError: a tool is missing, or the program failed.
    """
    tools = {name: _tool(name, environ) for name in ("strace", "unshare", "timeout")}
    with tempfile.TemporaryDirectory(prefix="fairlead-trace-") as place:
        sample = program or _compile(profile, environ, place)
        launcher = _launcher(profile)
        ranks = 2 if launcher else 1
        watched = [
            *(tools["strace"], "-ff", "--seccomp-bpf", "-qq", "-y", "-s", "4096"),
            *("-e", "trace=?open,openat,?openat2,connect", "-e", "signal=none"),
            *("-o", f"{place}/calls", sample),
        ]
        command = [launcher, "-n", str(ranks), *watched] if launcher else watched
        done = subprocess.run(
            [*_guard(tools), tools["timeout"], "-k", "1", str(limit_s), *command],
            env=_environment(profile, environ),
            cwd=place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s + 10,
            check=False,
        )
        if done.returncode:
            raise errors.MpiError(_failure(profile, done, limit_s), hint=_hint(program))
        shown = (*((launcher, "-n", str(ranks)) if launcher else ()), program or "sample program")
        found = _read(place, sample, shown, ranks)
    _check(profile, found)
    return found


def _guard(tools: Mapping[str, str]) -> list[str]:
    """Return what makes the clock PID 1: when it ends, the kernel ends everything in the namespace.

    Where /proc cannot be mounted (something lies over a part of it) there is no such namespace, and
    a launcher's ranks are the launcher's to end.
    """
    guard = [tools["unshare"], "--user", "--map-current-user", "--pid", "--fork"]
    guard += ["--kill-child", "--mount-proc"]
    tried = subprocess.run(
        [*guard, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return guard if tried.returncode == 0 else []


def _check(profile: mpi.Profile, found: Trace) -> None:
    """Raise unless the ranks loaded this installation's library: another's trace misleads.

    Raises:
        errors.MpiError.
    """
    library = next(real for role, _, real in profile.libraries if role == "c")
    if library in found.libraries:
        return
    others = [item for item in found.libraries if family.role(os.path.basename(item)) == "c"]
    loaded = f"loaded {others[0]} instead" if others else "loaded no MPI library"
    raise errors.MpiError(
        f"{profile.label}: the program did not use {library}, it {loaded}",
        hint="name a program of this installation with --program, or unset LD_LIBRARY_PATH",
    )


def _tool(name: str, environ: Mapping[str, str]) -> str:
    found = shutil.which(name, path=environ.get("PATH", os.defpath))
    if not found:
        raise errors.MpiError(
            f"{name}: not found on PATH, and a trace needs it", hint=f"install {name} on this node"
        )
    return found


def _compile(profile: mpi.Profile, environ: Mapping[str, str], place: str) -> str:
    """Compile the sample against the library itself: no header and no wrapper is needed."""
    searched = environ.get("PATH", os.defpath)
    compiler = next((tool for tool in _COMPILERS if shutil.which(tool, path=searched)), "")
    if not compiler:
        raise errors.MpiError(
            f"{profile.label}: no C compiler ({', '.join(_COMPILERS)}) is on PATH",
            hint="name an MPI program with --program",
        )
    declared, world = _WORLD[profile.family]
    kind = "int" if profile.family == "mpich" else "void *"
    library = next(real for role, _, real in profile.libraries if role == "c")
    output = f"{place}/sample"
    done = subprocess.run(
        [
            *(compiler, "-x", "c", "-", "-x", "none", "-o", output, library),
            # DT_RPATH: a loaded module's LD_LIBRARY_PATH must not lead to another MPI.
            f"-Wl,-rpath,{os.path.dirname(library)},--disable-new-dtags,--allow-shlib-undefined",
        ],
        input=_SAMPLE.format(declared=declared, kind=kind, world=world).encode(),
        env={**environ, "LC_ALL": "C"},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise errors.MpiError(
            f"{profile.label}: {compiler} cannot link a program: {(said or ['no reason'])[-1]}",
            hint="name an MPI program with --program",
        )
    return output


def _launcher(profile: mpi.Profile) -> str:
    """Return the installation's own mpiexec; empty if it has none."""
    product = profile.label.partition("-")[0]
    for tool in ("mpiexec", "mpirun"):
        for name in (f"{tool}.{product}", tool):
            place = f"{profile.prefix}/bin/{name}"
            if os.access(place, os.X_OK):
                return place
    return ""


def _environment(profile: mpi.Profile, environ: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(_LAUNCHERS) and name != "LD_PRELOAD"
    }
    return {**_MORE_RANKS_THAN_CORES, **kept, **dict(profile.env)}


def _failure(profile: mpi.Profile, done: subprocess.CompletedProcess[bytes], limit_s: int) -> str:
    if done.returncode in (124, 137):
        return f"{profile.label}: the program did not end within {limit_s} s, and was ended"
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return f"{profile.label}: the program ended with {done.returncode}: {(said or ['silent'])[0]}"


def _hint(program: str) -> str:
    return "run it by hand to see more" if program else "name a program that runs with --program"


# -- reading it ------------------------------------------------------------------------------------


def _read(place: str, sample: str, command: tuple[str, ...], ranks: int) -> Trace:
    opened: dict[str, bool] = {}
    sockets: set[str] = set()
    for name in sorted(os.listdir(place)):
        if name.startswith("calls."):
            with open(f"{place}/{name}", encoding="utf-8", errors="surrogateescape") as file:
                calls(file, opened, sockets)
    libraries, files, segments = set(), set(), set()
    for item, shared in opened.items():
        if item.startswith(_SHARED) or (shared and item.startswith(_USERS)):
            segments.add(item)
        elif not item.startswith((*_KERNEL, f"{place}/")) and item != os.path.realpath(sample):
            kind = _kind(item)
            libraries |= {item} if kind == "elf" else set()
            files |= {item} if kind == "file" else set()
    return Trace(
        command,
        ranks,
        _some(libraries),
        _some(files),
        _some(sockets),
        _some(segments),
        _some(item for item in files if _travels(item)),
    )


def calls(lines: Iterable[str], opened: dict[str, bool], sockets: set[str]) -> None:
    """Add what strace's lines say was opened (path → for reading and writing) and connected to."""
    for line, _ in zip(lines, range(MAX_CALLS), strict=False):
        if found := _OPENED.match(line.rstrip("\n")):
            place = _plain(found[1]).removesuffix(" (deleted)")
            opened[place] = opened.get(place, False) or "O_RDWR" in line
        elif found := _CONNECTED.match(line.rstrip("\n")):
            sockets.add(_plain(found[1].replace('"', "")))


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def _kind(item: str) -> str:
    try:
        elf.read(item)
    except elf.NotElf:
        pass
    except (elf.ElfError, OSError):
        return ""
    else:
        return "elf"
    try:
        return "file" if stat.S_ISREG(os.stat(item).st_mode) else ""
    except OSError:
        return ""


def _travels(item: str) -> bool:
    """Tell whether a file may travel with a profile."""
    if item.startswith((*_KERNEL, *_USERS, *_LIBC)) or not item.startswith("/"):
        return False
    try:
        status = os.lstat(item)
        return stat.S_ISREG(status.st_mode) and plugins.trusted(item, status.st_uid)
    except OSError:
        return False


def _some(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(found)[:MAX_NAMED])


# -- comparing it ----------------------------------------------------------------------------------


def difference(profile: mpi.Profile, trace: Trace) -> Difference:
    """Compare what was opened with what the analysis says."""
    known = {real for _, real in profile.closure} | {real for _, _, real in profile.libraries}
    known |= {
        os.path.realpath(f"{item.path}/{name}")
        for item in profile.plugin_dirs
        for name, _ in item.files
    }
    unknown = [
        item
        for item in trace.libraries
        if item not in known and os.path.basename(item) not in ldso.GLIBC and not _of_libc(item)
    ]
    loader = ldso.Loader("/")
    left = [f"{item.path}/{name}" for item in profile.plugin_dirs for name, _ in item.left_out]
    dragged = {found.real for found in loader.closure(left).libraries.values()}
    carried = [item for item in trace.files if _carried(profile, item)]
    travelling = [item for item in trace.data if item not in carried]
    return Difference(
        tuple(item for item in unknown if item not in dragged),
        tuple(item for item in unknown if item in dragged),
        tuple(carried),
        tuple(travelling),
        tuple(item for item in trace.files if item not in carried and item not in travelling),
    )


def _of_libc(item: str) -> bool:
    """Tell whether a library is one that glibc loads by itself: name services, character sets."""
    name = os.path.basename(item)
    return name.startswith(("libnss_", "ld-")) or "/gconv/" in item
