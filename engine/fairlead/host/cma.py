"""Whether ranks of this node can copy from each other's memory: tried once per boot, remembered.

MPI sends large messages within a node by process_vm_readv (cross-memory attach). Two processes in
one container may do that unless Yama or a security module forbids it.
"""

from __future__ import annotations

import os

from fairlead import kernel, log
from fairlead.host import witness

MAX_KEPT = 16  # boots, of this node or of those that share the directory
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_BOOT = "/proc/sys/kernel/random/boot_id"
_MEANS = (
    "MPI copies large messages between the ranks of a node twice, and OpenMPI 4 may hang at 4 MiB: "
    "set OMPI_MCA_btl_vader_single_copy_mechanism=none"
)


def path(cache_dir: str) -> str:
    """Return the file that holds the result: of this boot, since nodes may share a directory."""
    return f"{cache_dir}/cma-{_read(_BOOT)}"


def basis(cache_dir: str) -> witness.Seen:
    """Look at what ``warning`` read."""
    return witness.file(path(cache_dir))


def warning(cache_dir: str) -> str:
    """Return a line for the user where copying does not work, else nothing; tries it if need be."""
    result = _read(path(cache_dir))
    if not result.lstrip("-").isdecimal():
        result = str(kernel.cma_test())
        _keep(cache_dir, f"{result}\n")
    return explain(int(result), _read(_YAMA))


def explain(result: int, yama: str) -> str:
    """Return the line for a result of ``cma_test``; nothing where all is well or nothing is known.

    Args:
        result: 0, CMA_WITH_CONSENT or -errno.
        yama: kernel.yama.ptrace_scope, empty without Yama.
    """
    import errno

    if result in (0, -errno.ENOTSUP):
        return ""
    if result == kernel.lib.CMA_WITH_CONSENT:
        return (
            f"ranks of this node read each other's memory only if they allow it "
            f"(kernel.yama.ptrace_scope is {yama or 'unknown'}); {_MEANS}"
        )
    why = f"kernel.yama.ptrace_scope is {yama}" if yama not in ("", "0") else os.strerror(-result)
    return f"ranks of this node cannot read each other's memory ({why}); {_MEANS}"


def _read(name: str) -> str:
    try:
        with open(name, encoding="ascii", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""


def _keep(cache_dir: str, text: str) -> None:
    name = path(cache_dir)
    new = f"{name}.{os.getpid()}"
    try:
        os.makedirs(cache_dir, mode=0o700, exist_ok=True)
        with open(new, "w", encoding="ascii") as file:
            file.write(text)
        os.rename(new, name)
        kept = [f"{cache_dir}/{item}" for item in os.listdir(cache_dir) if item[:4] == "cma-"]
        for old in sorted(kept, key=os.path.getmtime)[:-MAX_KEPT]:
            os.unlink(old)
    except OSError as error:
        log.debug(f"{name}: not kept: {error}")
