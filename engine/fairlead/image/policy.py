"""What the site and the user demand of an image: where it comes from, and whose signature it has.

``policy.json``, as podman, buildah and skopeo read it: the most specific scope of the image's
transport decides, else the transport's ``""``, else ``default``; what stands there must all hold.
The site's file is the setting ``signature_policy``, else policy.json in ``containers_config``; the
user's is ~/.config/containers/policy.json. The user's does not replace the site's: an image must
satisfy both. No file at all: every image is accepted.

Rules:
- On the launch path: no module is loaded here that costs anything.
- A file that is there and cannot be read, or is malformed anywhere, is an error. So is a
  requirement that is not understood, for the images that it concerns: nothing is accepted by
  mistake.
- What lies on this machine has no signatures: a requirement of one refuses it.

Source: containers-policy.json(5); containers/image ``signature/policy_config.go``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from fairlead import errors, jsontext
from fairlead.config import Config
from fairlead.image import configfile, reference, scopes
from fairlead.image.reference import Reference

ACCEPT, REJECT = "insecureAcceptAnything", "reject"
SIGNED_BY, SIGSTORE = "signedBy", "sigstoreSigned"
EXACT_OR_DIGEST = "matchRepoDigestOrExact"
_KEYS = {
    ACCEPT: {"type"},
    REJECT: {"type"},
    SIGNED_BY: {"type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"},
    SIGSTORE: {
        *("type", "keyPath", "keyPaths", "keyData", "keyDatas", "signedIdentity"),
        *("fulcio", "pki", "rekorPublicKeyPath", "rekorPublicKeyPaths"),
        *("rekorPublicKeyData", "rekorPublicKeyDatas"),
    },
}
_IDENTITIES = {
    EXACT_OR_DIGEST: set(),
    "matchExact": set(),
    "matchRepository": set(),
    "exactReference": {"dockerReference"},
    "exactRepository": {"dockerRepository"},
    "remapIdentity": {"prefix", "signedPrefix"},
}
_BY_PATH = {"oci", "oci-archive", "dir", "sif", "squashfs"}  # their scopes are paths


class Requirement(NamedTuple):
    """One demand.

    Attributes:
        kind: signedBy or sigstoreSigned, reject, or the name of something that is not supported.
        key_paths: files with public keys, any of which may have signed.
        key_data: the keys themselves, in base64.
        identity: how the signed name is compared, and with what.
        origin: file and scope.
    """

    kind: str
    key_paths: tuple[str, ...]
    key_data: tuple[str, ...]
    identity: tuple[str, ...]
    origin: str


def check_registry(ref: Reference, config: Config) -> None:
    """Raise unless images may come from the registry of a reference.

    Raises:
        errors.PolicyError: the site's list does not hold it.
    """
    allowed = config.allowed_registries
    if not allowed or ref.transport or scopes.matching(ref, allowed) is not None:
        return
    raise errors.PolicyError(
        f"{ref}: {config.origins['allowed_registries']} allows images from "
        f"{', '.join(allowed)} only",
        hint="use an image from there, or ask the administrator",
    )


def files(config: Config, environ: Mapping[str, str], *, site: bool = False) -> tuple[str, ...]:
    """Return the policies that count, the site's first; they need not exist."""
    of_site = config.signature_policy or f"{config.containers_config}/policy.json"
    own = "" if site else configfile.user_directory(environ)
    return (of_site, f"{own}/policy.json") if own else (of_site,)


def required(
    ref: Reference,
    kind: Callable[[], str],
    config: Config,
    environ: Mapping[str, str],
    *,
    site: bool = False,
) -> tuple[Requirement, ...]:
    """Return what is demanded of an image; nothing where it is accepted as it is.

    Args:
        ref: the image.
        kind: tells what transport it comes by, in the words of policy.json (``docker`` is a
            registry); asked only if that matters, since it may have to open the image.
        config: names the site's file.
        environ: where the user's is.
        site: by the site's file alone.

    Raises:
        errors.ConfigError: a file cannot be read, or is malformed.
    """
    found: list[Requirement] = []
    for number, path in enumerate(files(config, environ, site=site)):
        named = number == 0 and bool(config.signature_policy)
        data = configfile.read(path, needed=named, own=number == 1)
        if data is not None:
            found += _demands(data, path, ref, kind)
    return tuple(dict.fromkeys(found))


def every(config: Config, environ: Mapping[str, str]) -> tuple[Requirement, ...]:
    """Return all demands of both files, for any image.

    Raises:
        errors.ConfigError: a file cannot be read, or is malformed.
    """
    found: list[Requirement] = []
    for number, path in enumerate(files(config, environ)):
        data = configfile.read(path, needed=not number and bool(config.signature_policy))
        for demands in _checked(data, path).values() if data is not None else ():
            found += demands
    return tuple(found)


def refuse(ref: Reference, demands: tuple[Requirement, ...]) -> None:
    """Raise for what can be refused without asking anybody.

    Raises:
        errors.PolicyError: the image is rejected, whatever its signatures.
        errors.SignatureError: something is demanded that Fairlead cannot verify.
    """
    for demand in demands:
        if demand.kind == REJECT:
            raise errors.PolicyError(f"{ref}: is rejected by {demand.origin}")
        if demand.kind not in {SIGNED_BY, SIGSTORE}:
            raise errors.SignatureError(
                f"{ref}: {demand.origin} requires {demand.kind}, which is not supported",
                hint="ask the administrator for a requirement by key",
            )
        if ref.transport:
            raise errors.SignatureError(
                f"{ref}: {demand.origin} requires {demand.kind}, "
                "and what lies on this machine has no signatures",
                hint="use the image from its registry",
            )


# -- policy.json -----------------------------------------------------------------------------------


def _demands(
    data: bytes, path: str, ref: Reference, kind_of: Callable[[], str]
) -> Iterator[Requirement]:
    """Yield what one file demands, having checked all of it."""
    checked = _checked(data, path)
    if all(demand.kind == ACCEPT for demands in checked.values() for demand in demands):
        return
    kind = kind_of()
    for key in (*((kind, scope) for scope in _scopes(ref, kind)), (kind, ""), ("", "default")):
        if key in checked:
            yield from (demand for demand in checked[key] if demand.kind != ACCEPT)
            return


def _checked(data: bytes, path: str) -> dict[tuple[str, str], tuple[Requirement, ...]]:
    """Return a file's requirements by transport and scope."""
    table = _object(data, path)
    if table.keys() - {"default", "transports"} or "default" not in table:
        _refuse(path, "must hold default, may hold transports, and nothing else")
    checked = {("", "default"): _requirements(table["default"], f"{path}: default", path)}
    for transport, group in _table(table.get("transports", {}), path, "transports").items():
        where = f"{path}: transports: {transport}"
        for scope, items in _table(group, path, f"transports: {transport}").items():
            checked[transport, scope] = _requirements(items, f"{where}: {scope!r}", path)
    return checked


def _scopes(ref: Reference, kind: str) -> Iterator[str]:
    if not ref.transport:
        yield from scopes.of(ref)
    elif kind in _BY_PATH:
        path = ref.repository
        if ref.tag:
            yield f"{path}:{ref.tag}"
        while path:
            yield path
            path = path.rpartition("/")[0]


def _requirements(items: object, where: str, path: str) -> tuple[Requirement, ...]:
    if not isinstance(items, list) or not items:
        _refuse(path, f"{where.removeprefix(f'{path}: ')} is no list of requirements")
    return tuple(_requirement(item, where, path) for item in items)


def _requirement(item: object, where: str, path: str) -> Requirement:
    place = where.removeprefix(f"{path}: ")
    table = _table(item, path, place)
    kind = table.get("type")
    if not isinstance(kind, str):
        _refuse(path, f"{place} holds a requirement without a type")
    if kind not in _KEYS:
        return Requirement(f"the unknown {kind!r}", (), (), (), where)
    if unknown := table.keys() - _KEYS[kind]:
        _refuse(path, f"{place}: {kind} holds the unknown {min(unknown)!r}")
    if kind in {ACCEPT, REJECT}:
        return Requirement(kind, (), (), (), where)
    identity = _identity(table.get("signedIdentity", {"type": EXACT_OR_DIGEST}), path, place)
    for other in ("fulcio", "pki"):
        if other in table:
            return Requirement(f"{kind} by {other}", (), (), identity, where)
    if any(name.startswith("rekor") for name in table):
        return Requirement(f"{kind} with rekor", (), (), identity, where)
    if kind == SIGNED_BY and table.get("keyType") != "GPGKeys":
        return Requirement(f"{kind} with {table.get('keyType')!r}", (), (), identity, where)
    paths = _texts(table, "keyPath", "keyPaths", path, place)
    datas = _texts(table, "keyData", "keyDatas", path, place)
    if bool(paths) == bool(datas):
        _refuse(path, f"{place}: {kind} needs either keyPath, keyPaths or keyData")
    return Requirement(kind, paths, datas, identity, where)


def _texts(table: dict[str, Any], one: str, many: str, path: str, place: str) -> tuple[str, ...]:
    if one in table and many in table:
        _refuse(path, f"{place}: {one} and {many} exclude each other")
    found = [table[one]] if one in table else table.get(many, [])
    if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
        _refuse(path, f"{place}: {one if one in table else many} holds something that is no text")
    if one == "keyPath" and not all(item.startswith("/") for item in found):
        _refuse(path, f"{place}: {one if one in table else many} is no absolute path")
    return tuple(found)


def _identity(item: object, path: str, place: str) -> tuple[str, ...]:
    table = _table(item, path, f"{place}: signedIdentity")
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in _IDENTITIES:
        _refuse(path, f"{place}: signedIdentity is of the unknown type {kind!r}")
    names = sorted(_IDENTITIES[kind])
    values = [table.get(name) for name in names]
    if table.keys() - {"type", *names} or not all(isinstance(v, str) and v for v in values):
        _refuse(
            path, f"{place}: signedIdentity {kind} must hold {' and '.join(names) or 'nothing'}"
        )
    return (kind, *(_canonical(str(value), kind, path, place) for value in values))


def _canonical(text: str, kind: str, path: str, place: str) -> str:
    if kind == "remapIdentity":
        return text
    try:
        found = reference.parse(text)
    except errors.ReferenceError as error:
        raise errors.ConfigError(f"{path}: {place}: signedIdentity: {error.message}") from error
    return str(found) if kind == "exactReference" else found.name


def _object(data: bytes, path: str) -> dict[str, Any]:
    try:
        found = jsontext.loads(data, _unique)
    except (ValueError, RecursionError) as error:
        raise errors.ConfigError(f"{path}: is not valid JSON: {error}") from error
    return _table(found, path, "the file")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return table


def _table(value: object, path: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(path, f"{what} is no object")
    return value


def _refuse(path: str, why: str) -> NoReturn:
    raise errors.ConfigError(f"{path}: {why}")
