"""Variables that relocate an MPI installation at run time.

The host's own values go with its libraries; in a container that runs the image's they lead it
astray. (A module of its own: every launch asks about them, ``host.mpi`` is loaded only for ranks.)
"""

from __future__ import annotations

RELOCATIONS = (
    "OPAL_PREFIX",
    "PMIX_INSTALL_PREFIX",
    "PMIX_PREFIX",
    "I_MPI_ROOT",
    "FI_PROVIDER_PATH",
    "UCX_MODULE_DIR",
)
