"""What a registry's answers say of manifests: their digests, and signatures that it keeps itself.

Source: distribution-spec 1.1 "Pulling manifests"; containers/image ``docs/signature-protocols.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import urllib3

from fairlead import errors
from fairlead.image import headers, reference
from fairlead.image.reference import Reference
from fairlead.image.source import digest_like

if TYPE_CHECKING:
    from fairlead.image.registry import Client


def told_digest(response: urllib3.BaseHTTPResponse) -> str | None:
    """Return the digest that a registry says its answer has, None if it says none."""
    try:
        return reference.parse_digest(response.headers.get("Docker-Content-Digest") or "")
    except errors.ReferenceError:
        return None


def document_digest(
    ref: Reference, target: str, response: urllib3.BaseHTTPResponse, data: bytes
) -> str:
    """Return the digest of a document.

    Raises:
        errors.DigestError: it is not the one that was asked for, or told.
    """
    asked = target if reference.is_digest(target) else told_digest(response)
    found = digest_like(asked or "sha256:", data)
    if asked is not None and found != asked:
        raise errors.DigestError(f"{ref}: the manifest should be {asked} but is {found}")
    return found


def signatures(client: Client, ref: Reference, digest: str) -> tuple[bytes, ...]:
    """Return the OpenPGP messages that the registry itself keeps for a manifest (OpenShift's).

    Raises:
        errors.AuthError, errors.RegistryError, errors.RegistryUnreachableError
    """

    def once() -> tuple[bytes, ...]:
        response = client.send(ref, "GET", "/v2/", {})
        client.answer(response)
        if response.headers.get("X-Registry-Supports-Signatures") != "1":
            return ()
        path = f"/extensions/v2/{ref.repository}/signatures/{digest}"
        response = client.send(ref, "GET", path, {})
        if response.status == 404:
            client.answer(response)
            return ()
        if response.status != 200:
            raise client.refusal(ref, response, f"{ref}: signatures")
        return headers.messages(client.answer(response))

    return client.patiently(ref, once)
