"""What must be the same on all nodes of a step before its ranks run: KEY=VALUE with tabs between.

    engine          its release
    settings.KEY    each that is not its default and that a container can show
    request         what was asked for, where that was read on the node: an environment file, the
                    site's rules
    image           the manifest's digest
    mpi, glibc      whose MPI runs, and how on the image's glibc

Rules:
- The text is kept with a plan (``OP_SAME``), so that a launch without Python has the same.
- Values are shown to the user where nodes differ: words, not hashes, as far as they are short.
- What may well be another on each node is left out: places of stores, what is done while an image
  is fetched, where on the host a mount comes from (an environment file may name the node in it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import fairlead
from fairlead import kernel
from fairlead.keys import SETTINGS

if TYPE_CHECKING:
    from fairlead import config as settings
    from fairlead.plan import request as launch_request
    from fairlead.run import launch

TEXT_MAX = 1900  # bytes; with the rest of a message they fit the channel's 2,048
VALUE_MAX = 100
# Of the node's own, or without a trace in the container.
_OWN = {
    "store", "site_store", "store_quota", "store_min_free", "keep_blobs", "shared_blobs", "pull",
    "resolve", "insecure_registries", "allowed_registries", "containers_config", "plan_cache",
    "gate", "gate_timeout", "spread", "spread_dir", "mpi_cma_check", "mpi_preflight",
}  # fmt: skip


def text(request: launch_request.Request, config: settings.Config, ready: launch.Ready) -> str:
    """Return the facts of a launch."""
    facts = {"engine": fairlead.__version__, "image": ready.image.digest or ready.image.reference}
    facts |= dict(ready.plan.same)
    for key, setting in SETTINGS.items():
        value = getattr(config, key)
        if key not in _OWN and value != setting.default:
            shown = ", ".join(value) if isinstance(value, tuple) else str(value)
            facts[f"settings.{key}"] = _short(shown)
    facts["request"] = _digest(repr(_asked(request)))
    whole = "\t".join(f"{key}={_plain(value)}" for key, value in facts.items())
    if len(whole.encode(errors="surrogateescape")) <= TEXT_MAX:
        return whole
    return f"engine={fairlead.__version__}\tall={_digest(whole)}"


def _asked(request: launch_request.Request) -> tuple[object, ...]:
    """Return what of a request does not differ from node to node by itself."""
    own: dict[str, object] = {"environ": {}, "cwd": "", "step": None, "seen": (), "notes": ()}
    own["volumes"] = tuple(volume._replace(source="") for volume in request.volumes)
    return request._replace(**own)  # type: ignore[arg-type]


def _short(value: str) -> str:
    return value if len(value) <= VALUE_MAX else f"{value[:64]}... {_digest(value)}"


def _digest(value: str) -> str:
    return f"{kernel.plan_hash(value.encode(errors='surrogateescape')):016x}"


def _plain(value: str) -> str:
    return "".join(char if char.isprintable() else " " for char in value)
