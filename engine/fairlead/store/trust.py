"""Whether an image may be used: what policy demands of it, and what of that it has shown.

Before any layer is fetched the manifest's signatures are looked at; what they satisfied is noted in
the image's record, by a name of the demands and of their keys. A launch of an image from the store
compares the names: where the demands have changed, the image shows its signatures anew, or is not
used.

Rules:
- A signature counts for the manifest of this machine, or for the index that led to it.
- Without demands, which is the rule, nothing here costs more than looking at two files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from fairlead import errors
from fairlead.config import Config
from fairlead.image import policy, reference
from fairlead.image.policy import Requirement
from fairlead.image.reference import Reference
from fairlead.store import blobs

if TYPE_CHECKING:
    from fairlead.image.mirrors import Client

DOCKER = "docker"


class Demands(NamedTuple):
    """What policy demands of an image; ``name`` is empty where that is nothing."""

    requirements: tuple[Requirement, ...]
    name: str


def demands(
    ref: Reference, config: Config, environ: Mapping[str, str], *, site: bool = False
) -> Demands:
    """Return what is demanded of an image; with site by the site alone.

    Raises:
        errors.PolicyError: it may not be used, whatever it shows.
        errors.SignatureError: what is demanded cannot be verified.
        errors.ConfigError: a policy, or a key that it names, cannot be read.
    """
    policy.check_registry(ref, config)
    found = policy.required(ref, lambda: kind_of(ref), config, environ, site=site)
    policy.refuse(ref, found)
    return Demands(found, _name(found, ref.tag) if found else "")


def kind_of(ref: Reference) -> str:
    """Return the transport of a reference in the words of policy.json."""
    if not ref.transport:
        return DOCKER
    if ref.transport != reference.PATH:
        return ref.transport
    from fairlead.image import source

    try:
        found = source.kind(ref)
    except (errors.ImageNotFoundError, errors.ArchiveError):
        return "dir"  # gone, or nothing known: what the store has of it is a root's tree
    kinds = {source.SQUASHFS: "squashfs", source.SIF: "sif", source.DIRECTORY: "dir"}
    if found in kinds:
        return kinds[found]
    return "oci" if os.path.isdir(ref.repository) else "docker-archive"


def verify(
    client: Client,
    ref: Reference,
    digests: tuple[str, ...],
    wanted: Demands,
    config: Config,
    environ: Mapping[str, str],
    *,
    site: bool = False,
) -> None:
    """Raise unless signatures satisfy every demand.

    Args:
        client: speaks to the image's registry.
        ref: the image.
        digests: of its manifest, and of what led to it.
        wanted: from ``demands``.
        config: names the site's files.
        environ: where the user's are.
        site: what the user's files say does not count.

    Raises:
        errors.SignatureError: one is not satisfied.
        errors.Error: the signatures cannot be had.
    """
    for demand in wanted.requirements:
        _verify_one(client, ref, digests, demand, config, environ, site=site)


def _verify_one(
    client: Client,
    ref: Reference,
    digests: tuple[str, ...],
    demand: Requirement,
    config: Config,
    environ: Mapping[str, str],
    *,
    site: bool,
) -> None:
    from fairlead.image import lookaside, signature

    faults = []
    if demand.kind == policy.SIGNED_BY:
        found = lookaside.messages(client, ref, digests, config, environ, site=site)
        judged = (signature.fault_of_message(item, demand, ref, digests) for item in found)
    else:
        sealed = lookaside.sealed(client, ref, digests)
        judged = (signature.fault_of_sigstore(*item, demand, ref, digests) for item in sealed)
    for fault in judged:
        if not fault:
            return
        faults.append(fault)
    what = f"{ref}: {demand.origin} requires a signature ({demand.kind})"
    if not faults:
        raise errors.SignatureError(f"{what}, and {digests[0]} has none")
    shown = "; ".join(dict.fromkeys(faults))
    raise errors.SignatureError(f"{what}, and none of {len(faults)} is one: {shown}")


def _name(found: tuple[Requirement, ...], tag: str | None) -> str:
    """Return a name of demands that changes whenever what satisfies them may.

    With the tag: a signature for one tag is none for another that leads to the same image.

    Raises:
        errors.ConfigError: a key cannot be read.
    """
    from fairlead.image import configfile

    parts = [repr(tag)]
    for demand in found:
        held = [configfile.read(path, needed=True) or b"" for path in demand.key_paths]
        digests = [blobs.digest_of("sha256:", data) for data in held]
        parts.append(repr((demand.kind, demand.identity, digests, demand.key_data)))
    return blobs.digest_of("sha256:", "\n".join(parts).encode())


def key_files(ref: Reference, config: Config, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the key files that an image's policy names, for a plan's basis."""
    found = policy.required(ref, lambda: kind_of(ref), config, environ)
    return tuple(path for demand in found for path in demand.key_paths)
