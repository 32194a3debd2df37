"""What a PMIx client is: its release, and under which names it looks for its server.

A server tells each of its clients its address in several variables, one for each way of speaking
that it knows: PMIX_SERVER_URI4, PMIX_SERVER_URI21. A client looks for those that it knows; where
they have none in common, the rank never finds its server.

Rules:
- Read from the library's constants, nothing is executed.
- What is found stands among an MPI's abilities: the variables' names, and ``OpenPMIx 4.2.2``.

Source: PMIx, src/mca/ptl/base/ptl_base_fns.c and the environment of steps of Slurm 22.05 with PMIx
4.2.2; in the libraries 4.0.0, 4.2.2, 5.0.7 and 7.0.0rc1 of Debian.
"""

from __future__ import annotations

import re

from fairlead.host import elf

_ADDRESS = re.compile(rb"(?<=\0)(PMIX_SERVER_URI(?:\d+(?:USOCK)?|%s|))(?=\0)")
_RELEASE = re.compile(rb"(OpenPMIx \d+\.\d+\.\d+\w*)")


def is_client(name: str) -> bool:
    """Tell whether a file of this name may hold a PMIx client (OpenMPI's plugins may)."""
    return name.startswith(("libpmix.so", "mca_pmix_", "libmca_pmix"))


def abilities(path: str) -> tuple[str, ...]:
    """Return what a file says of its client, nothing if it holds none or is damaged."""
    try:
        with elf.Reader(path) as reader:
            found = (*reader.search(_ADDRESS, 16), *reader.search(_RELEASE, 1))
    except (elf.ElfError, OSError):
        return ()
    return tuple(sorted({text.decode("ascii") for text in found}))
