"""The scopes of a name in a registry, as the containers' configuration files write them. Pure.

A file says something of ``HOST[:PORT]``, of ``HOST/NAME/SPACE``, of one repository, of one tag or
digest in it, or of ``*.DOMAIN``. The most specific scope decides.

Source: containers-policy.json(5), containers-registries.conf(5), containers-registries.d(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fairlead.image.reference import Reference


def of(ref: Reference) -> Iterator[str]:
    """Yield the scopes that a reference belongs to, the most specific first.

    Wildcards stand for domains and hold no port.
    """
    if ref.digest:
        yield f"{ref.name}@{ref.digest}"
    if ref.tag:
        yield f"{ref.name}:{ref.tag}"
    name = ref.name
    while name:
        yield name
        name = name.rpartition("/")[0]
    host = host_of(ref.registry)
    while "." in host:
        host = host.partition(".")[2]
        yield f"*.{host}"


def matching(ref: Reference, scopes: Iterable[str]) -> str | None:
    """Return the most specific of the given scopes that a reference belongs to.

    One that names a host without a port means all of its ports, as in registries.conf.
    """
    known = set(scopes)
    for scope in of(ref):
        if scope in known:
            return scope
        if scope == ref.registry and host_of(scope) in known:
            return host_of(scope)
    return None


def host_of(registry: str) -> str:
    """Return a registry without its port."""
    host, colon, port = registry.rpartition(":")
    return host if colon and port.isdecimal() else registry
