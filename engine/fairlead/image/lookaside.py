"""Where the signatures of an image lie: beside its registry, in it, or in what cosign pushed.

    simple signing   registries.d names a place by scope, ``lookaside`` (once ``sigstore``), http,
                     https or file; there REPOSITORY@sha256=HEX/signature-1 and so on. Also what a
                     registry with the X-Registry-Supports-Signatures extension keeps.
    sigstore         the tag sha256-HEX.sig in the image's own repository

Rules:
- Everything here is a stranger's claim, bounded in size and number; ``signature`` judges it.
- None is no error; a place that cannot be asked is one.
- Each place of the image's name counts, those of its mirrors too.

Source: containers-registries.d(5); containers/image ``docs/signature-protocols.md``; cosign
``SIGNATURE_SPEC.md``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fairlead import errors
from fairlead.config import Config
from fairlead.image import configfile, mirrors, reference, scopes, transport
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference

MAX_SIGNATURES = 64
MAX_BYTES = 1 << 20
USER_PLACE = ".local/share/containers/sigstore"
_COSIGN = "application/vnd.dev.cosign.simplesigning.v1+json"
_ANNOTATION = "dev.cosignproject.cosign/signature"


class Sealed(NamedTuple):
    """A payload and the signature beside it."""

    payload: bytes
    signed: bytes


def messages(
    client: mirrors.Client,
    ref: Reference,
    digests: tuple[str, ...],
    config: Config,
    environ: Mapping[str, str],
    *,
    site: bool = False,
) -> Iterator[bytes]:
    """Yield the OpenPGP messages for any of the digests; with site by the site's registries.d.

    Raises:
        errors.ConfigError: registries.d is malformed.
        errors.SignatureError: a place cannot be asked.
    """
    table = directory(config, environ, site=site)
    names = dict.fromkeys((ref, *(endpoint.reference for endpoint in client.endpoints(ref))))
    for digest in digests:
        for name in names:
            base = _base(table, name._replace(digest=None, tag=ref.tag), environ)
            if base:
                yield from _at(f"{base}/{name.repository}@{digest.replace(':', '=')}", environ)
        yield from client.signatures(ref, digest)


def sealed(client: mirrors.Client, ref: Reference, digests: tuple[str, ...]) -> Iterator[Sealed]:
    """Yield what cosign pushed for any of the digests.

    Raises:
        errors.Error: the registry cannot be asked, or gives something malformed.
    """
    for digest in digests:
        try:
            found = client.manifest(ref, f"{digest.replace(':', '-')}.sig")
        except errors.ImageNotFoundError:
            continue
        for descriptor, signed in _layers(found.data):
            yield Sealed(client.document(ref, descriptor), signed)


def _layers(data: bytes) -> Iterator[tuple[Descriptor, bytes]]:
    """Yield the signatures in a manifest of cosign's; what is malformed is none."""
    try:
        layers = json.loads(data)["layers"][:MAX_SIGNATURES]
    except (ValueError, RecursionError, KeyError, TypeError):
        return
    for layer in layers:
        try:
            if layer["mediaType"] != _COSIGN or not 0 <= int(layer["size"]) <= MAX_BYTES:
                continue
            digest = reference.parse_digest(layer["digest"])
            signed = base64.b64decode(layer["annotations"][_ANNOTATION], validate=True)
            yield Descriptor(_COSIGN, digest, int(layer["size"])), signed
        except (ValueError, KeyError, TypeError, AttributeError, errors.ReferenceError):
            continue


# -- beside the registry ---------------------------------------------------------------------------


def _at(base: str, environ: Mapping[str, str]) -> Iterator[bytes]:
    for number in range(1, MAX_SIGNATURES + 1):
        data = _get(f"{base}/signature-{number}", environ)
        if data is None:
            return
        yield data


def _get(url: str, environ: Mapping[str, str]) -> bytes | None:
    """Return what stands at an address, None if nothing does."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return configfile.read(parts.path)
    lines = transport.Transport(environ, transport.TIMING)
    try:
        response = lines.request("GET", url, {})
        if response.status == 200:
            return lines.document(response, MAX_BYTES, url)
        said = lines.refusal(response)
        if response.status in {404, 410}:
            return None
    except transport.Broken as broken:
        raise errors.SignatureError(f"{url}: {broken.reason}", hint="try again later") from broken
    finally:
        lines.close()
    raise errors.SignatureError(f"{url}: {said}", hint="tell the administrator")


def _base(table: dict[str, Any], ref: Reference, environ: Mapping[str, str]) -> str:
    """Return the address below which an image's signatures lie; empty: there is none."""
    docker = table.get("docker") or {}
    for group in (*(docker.get(scope) for scope in scopes.of(ref)), table.get("default-docker")):
        found = group and (group.get("lookaside") or group.get("sigstore"))
        if found:
            return str(found).rstrip("/")
    home = environ.get("HOME")
    return f"file://{home}/{USER_PLACE}" if home else ""


def files(config: Config, environ: Mapping[str, str], *, site: bool = False) -> tuple[str, ...]:
    """Return the files of registries.d, the user's last; with site without them."""
    own = "" if site else configfile.user_directory(environ)
    return (
        *configfile.drop_ins(f"{config.containers_config}/registries.d", ".yaml"),
        *(configfile.drop_ins(f"{own}/registries.d", ".yaml", own=True) if own else ()),
    )


def directory(config: Config, environ: Mapping[str, str], *, site: bool) -> dict[str, Any]:
    """Return what all files of registries.d say, the user's last.

    Raises:
        errors.ConfigError: one cannot be read, or is malformed.
    """
    own = configfile.user_directory(environ)
    merged: dict[str, Any] = {"docker": {}}
    for path in files(config, environ, site=site):
        data = configfile.read(path, own=bool(own) and path.startswith(f"{own}/"))
        table = _yaml(data or b"", path)
        merged["docker"].update(table.get("docker") or {})
        if table.get("default-docker"):
            merged["default-docker"] = table["default-docker"]
    return merged


def _yaml(data: bytes, path: str) -> dict[str, Any]:
    import yaml

    try:
        table = yaml.safe_load(data) or {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        words = " ".join(str(error).split())
        raise errors.ConfigError(f"{path}: {words}") from error
    groups = [table.get("default-docker") or {}] if isinstance(table, dict) else [None]
    scoped = table.get("docker") or {} if isinstance(table, dict) else None
    groups += [value or {} for value in scoped.values()] if isinstance(scoped, dict) else [None]
    for group in groups:
        if not isinstance(group, dict):
            raise errors.ConfigError(f"{path}: docker and default-docker hold tables by scope")
        for key in ("lookaside", "sigstore"):
            address = group.get(key)
            if address is not None and (
                not isinstance(address, str)
                or urlsplit(address).scheme not in {"http", "https", "file"}
            ):
                raise errors.ConfigError(
                    f"{path}: {key}: {address!r} is no http, https or file URL"
                )
    return table
