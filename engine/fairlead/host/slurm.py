"""What Slurm's configuration says and a step's environment does not.

PMIx servers in slurmstepd use two directories. ``PMIX_SERVER_TMPDIR`` names the first. The second,
``spmix_appdir_UID_JOB.STEP``, holds PMIx 5's shared segments; without it MPI_Init fails there. It
lies in ``PMIxCliTmpDirBase`` of mpi.conf, else in ``TmpFS`` of slurm.conf, else in /tmp.

Source: slurm.md section 4; Slurm's pmixp_info.c and mpi.conf(5).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_LIMIT = 4 << 20


def configuration(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the paths of slurm.conf and mpi.conf."""
    conf = environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf"
    return conf, os.path.join(os.path.dirname(conf), "mpi.conf")


def pmix_client_templates(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return where the step's second PMIx directory may be, likeliest first.

    The step's own numbers stand as ``${NAME}``, so that the next step looks in the same places.
    """
    if "PMIX_SERVER_TMPDIR" not in environ:
        return ()
    slurm_conf, mpi_conf = configuration(environ)
    bases = (
        environ.get("SLURM_PMIX_TMPDIR", ""),
        setting(mpi_conf, "PMIxCliTmpDirBase"),
        setting(slurm_conf, "TmpFS"),
        "/tmp",  # noqa: S108 - Slurm's default
    )
    host, node = os.uname().nodename, environ.get("SLURMD_NODENAME", "")
    expanded = (base.replace("%n", node).replace("%h", host) for base in bases)
    name = f"spmix_appdir_{os.getuid()}_${{SLURM_JOB_ID}}.${{SLURM_STEP_ID}}"
    return tuple(f"{base}/{name}" for base in dict.fromkeys(expanded) if base.startswith("/"))


def setting(path: str, name: str) -> str:
    """Return the last value of a key in a Slurm configuration file; empty when there is none.

    Keys are case-insensitive; several may stand on a line. Include files are not followed.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_LIMIT)
    except OSError:
        return ""
    value = ""
    for line in text.splitlines():
        for word in line.split("#", 1)[0].split():
            key, separator, found = word.partition("=")
            if separator and key.lower() == name.lower():
                value = found.strip('"')
    return value
