"""What Slurm keeps in its configuration and nowhere in a step's environment.

PMIx servers in slurmstepd use two directories. ``PMIX_SERVER_TMPDIR`` names the first. The second,
``spmix_appdir_UID_JOB.STEP``, holds PMIx 5's shared segments; without it MPI_Init fails there. It
lies in ``PMIxCliTmpDirBase`` of mpi.conf, else in ``TmpFS`` of slurm.conf, else in /tmp.

Source: slurm.md section 4; Slurm's pmixp_info.c and mpi.conf(5).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_LIMIT = 4 << 20


def pmix_client_directory(environ: Mapping[str, str]) -> str:
    """Return the step's second PMIx directory, or an empty string where there is none."""
    if "PMIX_SERVER_TMPDIR" not in environ:
        return ""
    job, step = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_STEP_ID", "")
    conf = environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf"
    bases = (
        environ.get("SLURM_PMIX_TMPDIR", ""),
        setting(os.path.join(os.path.dirname(conf), "mpi.conf"), "PMIxCliTmpDirBase"),
        setting(conf, "TmpFS"),
        "/tmp",  # noqa: S108 - Slurm's default
    )
    for base in bases:
        expanded = base.replace("%n", environ.get("SLURMD_NODENAME", "")).replace(
            "%h", os.uname().nodename
        )
        path = f"{expanded}/spmix_appdir_{os.getuid()}_{job}.{step}"
        if expanded.startswith("/") and os.path.isdir(path):
            return path
    return ""


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
