"""From a registry's challenge to an Authorization header: Basic, or a token from its token server.

Rules (security.md section 2 rows 19, 20, 43):
- A token server is reached by https, by plain http only if the registry itself is; its URL holds no
  user and no fragment. Link-local addresses are refused below, by the transport.
- The scope that is asked for is ours: to pull this one repository, or to push to it; none where
  only a login is to be verified.
- The token server's redirects are not followed, its answer is bounded, a token that could break a
  header line is refused.

Source: distribution ``docs/spec/auth/token.md`` and ``oauth.md``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlencode, urlsplit

from fairlead import errors
from fairlead.image import auth, headers
from fairlead.image.auth import Credentials
from fairlead.image.headers import Challenge
from fairlead.image.reference import Reference
from fairlead.image.transport import Transport

MAX_TOKEN = 256 << 10


class Login(NamedTuple):
    """A header to send, and where its credentials came from (empty: an anonymous token)."""

    header: str
    origin: str


def log_in(
    ref: Reference,
    offered: tuple[Challenge, ...],
    environ: Mapping[str, str],
    transport: Transport,
    *,
    plain: bool,
    scopes: tuple[str, ...] = (),
    helpers: tuple[str, ...] = (),
) -> Login | None:
    """Answer a registry's challenges with what this user has; None if there is nothing to answer.

    Args:
        ref: the repository.
        offered: the challenges of its 401.
        environ: where the user's files are.
        transport: to reach the token server.
        plain: the registry is spoken to in plain HTTP, so its token server may be too.
        scopes: what to ask the token server for; empty: to pull this repository.
        helpers: as for ``auth.credentials``.

    Raises:
        errors.AuthError: the token server refuses the login, or wants one.
        errors.RegistryError: its URL or its answer is refused.
        Broken: it is out of reach.
    """
    found = auth.credentials(ref.registry, ref.repository, environ, user=ref.user, helpers=helpers)
    scopes = scopes or (f"repository:{ref.repository}:pull",)
    return answer(ref, offered, found, transport, plain=plain, scopes=scopes)


def answer(
    ref: Reference,
    offered: tuple[Challenge, ...],
    found: Credentials | None,
    transport: Transport,
    *,
    plain: bool,
    scopes: tuple[str, ...],
) -> Login | None:
    """Answer a registry's challenges with given credentials; otherwise as ``log_in``."""
    origin = found.origin if found else ""
    for challenge in offered:
        if challenge.scheme == "bearer":
            return Login(
                f"Bearer {_token(ref, challenge, found, transport, plain, scopes)}", origin
            )
        if challenge.scheme == "basic" and found is not None and found.username:
            return Login(_basic(found), origin)
    return None


def _token(
    ref: Reference,
    challenge: Challenge,
    found: Credentials | None,
    transport: Transport,
    plain: bool,
    scopes: tuple[str, ...],
) -> str:
    realm = _checked_realm(ref, challenge.realm, plain=plain)
    query = [("service", challenge.service)] if challenge.service else []
    query += [("scope", scope) for scope in scopes]
    url, body = realm.geturl(), None
    sent = {"Accept": "application/json"}
    if found is not None and found.identity_token:
        # One parameter of several words, unlike in the URL. Source: oauth.md "scope".
        form = {"grant_type": "refresh_token", "client_id": "fairlead", **dict(query)}
        form |= {"scope": " ".join(scopes)} if scopes else {}
        body = urlencode({**form, "refresh_token": found.identity_token}).encode()
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    else:
        url = f"{url}{'&' if realm.query else '?'}{urlencode(query)}"
        if found is not None:
            sent["Authorization"] = _basic(found)
    response = transport.request("POST" if body else "GET", url, sent, body)
    where = f"{ref.name}: token server {realm.hostname}"
    if response.status == 200:
        return _token_in(where, transport.document(response, MAX_TOKEN, where))
    said = transport.refusal(response)
    what = f"refused the login of {found.origin}" if found else "gives no token without a login"
    raise errors.AuthError(f"{where} {what}: {said}")


def _checked_realm(ref: Reference, text: str, *, plain: bool) -> SplitResult:
    try:
        realm = urlsplit(text)
        _ = realm.port  # an absurd one raises
        fine = (
            realm.scheme in ({"https", "http"} if plain else {"https"})
            and bool(realm.hostname)
            and realm.username is None
            and not realm.fragment
        )
    except ValueError:
        fine = False
    if not fine:
        raise errors.RegistryError(
            f"{ref.name}: the registry names {text[:200]!r} as token server, which is refused",
            hint="a token server is reached by https; tell the registry's administrator",
        )
    return realm


def _basic(found: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{found.username}:{found.password}".encode()).decode()


def _token_in(where: str, data: bytes) -> str:
    try:
        table = json.loads(data)
        token = table.get("token") or table.get("access_token")
    except (ValueError, RecursionError, AttributeError):
        token = None
    if not isinstance(token, str) or not headers.is_word(token):
        raise errors.RegistryError(f"{where}: its answer holds no token")
    return token
