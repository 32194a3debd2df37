"""What the text of a reference means: one image, also where a short name may mean several.

A name that says its registry, and a path, mean themselves. What a short name may mean is said by
registries.conf (``image.registries``); where that leaves several, the first is taken that the store
has, if the policy lets that do, else the first that a registry has.

Rules:
- On the launch path: registries.conf is read for a short name only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from fairlead import errors
from fairlead.config import Config
from fairlead.image import reference
from fairlead.image.reference import Reference
from fairlead.store import fetch, layout

_UNKNOWN = "x.invalid"  # RFC 2606: no registry


def of(
    text: str,
    config: Config,
    cwd: str | None,
    environ: Mapping[str, str] = os.environ,
) -> Reference:
    """Return the reference that text means.

    Raises:
        errors.ReferenceError: text breaks the grammar, or is short for several and none may be
            chosen.
        errors.ConfigError: registries.conf is malformed.
        errors.ImageNotFoundError: no registry that it may mean has such an image.
    """
    found = reference.parse(text, default_registry=_UNKNOWN, cwd=cwd)
    if found.registry != _UNKNOWN:
        return found
    if config.origins["default_registry"] != "default":
        return reference.parse(text, default_registry=config.default_registry, cwd=cwd)
    from fairlead.image import registries

    names = registries.meanings(found, text, config, environ)
    return names[0] if len(names) == 1 else _chosen(text, names, config, environ)


def _chosen(
    text: str,
    names: tuple[Reference, ...],
    config: Config,
    environ: Mapping[str, str],
) -> Reference:
    store = layout.open_store(config)
    there = [name for name in names if fetch.local(store, name, tree=False) is not None]
    if there and config.pull in {"missing", "never"}:
        return there[0]
    if config.pull == "never":
        return names[0]
    from fairlead.image import mirrors

    said = []
    with mirrors.Client(config, environ) as client:
        for name in names:
            try:
                client.manifest(name, name.target)
            except (
                errors.ImageNotFoundError,
                errors.AuthError,
                errors.RegistryError,
                errors.RegistryUnreachableError,
                errors.PolicyError,
            ) as error:
                said.append(error.message)
            else:
                return name
    if there and config.pull == "newer":
        return there[0]
    raise errors.ImageNotFoundError(f"{text}: {'; '.join(said)}", hint="write the registry, too")
