"""registries.conf: which places a name in a registry stands for, and what a short name means.

Read as podman, buildah and skopeo read it::

    $CONTAINERS_REGISTRIES_CONF, else ~/.config/containers/registries.conf, else the site's
    the site's registries.conf.d/*.conf, then ~/.config/containers/registries.conf.d/*.conf

The site's files lie in the setting ``containers_config`` (/etc/containers).

Rules:
- A drop-in's ``[[registry]]`` takes the place of an earlier one of the same prefix; its search list
  and mode, where it has them, and its aliases take the place of earlier ones.
- The longest prefix decides. What the site blocks stays blocked, whatever the user's files say.
- A short name is asked of nobody who is not named by these files: an alias, else the search list,
  else ``default_registry``. A ``default_registry`` that somebody set beats alias and list.
- Where an entry leads a name elsewhere, the user's login there is that of the other place.
- Version 1 of the format, which was retired in 2019, is refused by name.

Source: containers-registries.conf(5), ``shortnames.conf``; containers/image
``sysregistriesv2`` for the order of files and what a wildcard prefix rewrites.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from fairlead import errors
from fairlead.config import Config
from fairlead.image import configfile, reference, scopes
from fairlead.image.reference import Reference

AUTH_FILES = "containers-auth.json"
ENFORCING, PERMISSIVE, DISABLED = "enforcing", "permissive", "disabled"
PULLS = ("all", "digest-only", "tag-only")
_UNKNOWN = "x.invalid"  # RFC 2606: no registry
_KEYS: dict[str, type] = {
    "unqualified-search-registries": list,
    "registry": list,
    "aliases": dict,
    "short-name-mode": str,
    "credential-helpers": list,
    "additional-layer-store-auth-helper": str,
}
_REGISTRY_KEYS: dict[str, type] = {
    "prefix": str,
    "location": str,
    "insecure": bool,
    "blocked": bool,
    "mirror-by-digest-only": bool,
    "mirror": list,
}
_MIRROR_KEYS: dict[str, type] = {"location": str, "insecure": bool, "pull-from-mirror": str}


class Mirror(NamedTuple):
    """Another place for the same images; ``pull`` says for which references."""

    location: str
    insecure: bool
    pull: str


class Registry(NamedTuple):
    """What a file says of the names that begin with a prefix."""

    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[Mirror, ...]
    file: str


class Endpoint(NamedTuple):
    """A place to ask for an image: its name there, and whether it need not prove who it is."""

    reference: Reference
    insecure: bool


class Registries(NamedTuple):
    """All that the files say.

    Attributes:
        table: by prefix.
        search: registries for short names, None if no file says so.
        aliases: short name → full name and file.
        mode: what to do about a short name that may mean several.
        helpers: who knows logins, in order; ``AUTH_FILES`` among them means the files of
            ``auth``. Empty: those alone.
        file: that the search list or the mode comes from.
    """

    table: Mapping[str, Registry]
    search: tuple[str, ...] | None
    aliases: Mapping[str, tuple[str, str]]
    mode: str
    file: str
    helpers: tuple[str, ...] = ()


def files(config: Config, environ: Mapping[str, str], *, site: bool = False) -> tuple[str, ...]:
    """Return the paths that are looked at, in order; they need not exist.

    With site the user's are left out.
    """
    own = "" if site else configfile.user_directory(environ)
    base = config.containers_config
    named = "" if site else environ.get("CONTAINERS_REGISTRIES_CONF") or ""
    user_main = f"{own}/registries.conf" if own and not named else ""
    paths = (
        named,
        user_main,
        f"{base}/registries.conf",
        *configfile.drop_ins(f"{base}/registries.conf.d", ".conf"),
        *(configfile.drop_ins(f"{own}/registries.conf.d", ".conf", own=True) if own else ()),
    )
    return tuple(path for path in paths if path)


def folders(config: Config, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the directories of the drop-ins, which change when one comes or goes."""
    own = configfile.user_directory(environ)
    bases = (config.containers_config, own) if own else (config.containers_config,)
    return tuple(f"{base}/registries.conf.d" for base in bases)


def load(config: Config, environ: Mapping[str, str], *, site: bool = False) -> Registries:
    """Read the files; with site the site's alone.

    Raises:
        errors.ConfigError: one cannot be read, or is malformed.
    """
    table: dict[str, Registry] = {}
    aliases: dict[str, tuple[str, str]] = {}
    search, mode, file = None, PERMISSIVE, f"{config.containers_config}/registries.conf"
    helpers: tuple[str, ...] = ()
    main_read = False
    named = "" if site else environ.get("CONTAINERS_REGISTRIES_CONF") or ""
    own = configfile.user_directory(environ)
    for path in files(config, environ, site=site):
        is_main = path == named or path.endswith("/registries.conf")
        if is_main and main_read:
            continue
        is_own = bool(own) and path.startswith(f"{own}/")
        text = configfile.read(path, needed=path == named, own=is_own)
        if text is None:
            continue
        main_read = main_read or is_main
        found = _parse(configfile.toml(text, path), path)
        table.update((entry.prefix, entry) for entry in found.table.values())
        for name, meaning in found.aliases.items():
            aliases.pop(name, None)
            if meaning[0]:
                aliases[name] = meaning
        if found.search is not None:
            search, file = found.search, path
        if found.mode:
            mode, file = found.mode, path
        helpers = found.helpers or helpers
    return Registries(table, search, aliases, mode, file, helpers)


def endpoints(found: Registries, ref: Reference) -> tuple[Endpoint, ...]:
    """Return where an image is asked for: mirrors in their order, then the place itself.

    Raises:
        errors.PolicyError: the registry is blocked.
        errors.ConfigError: an entry leads to something that is no name in a registry.
    """
    entry = _entry(found, ref)
    if entry is None:
        return (Endpoint(ref, insecure=False),)
    if entry.blocked:
        raise errors.PolicyError(f"{ref}: the registry {entry.prefix} is blocked by {entry.file}")
    kinds = {"all", "digest-only"} if ref.digest else {"all", "tag-only"}
    mirrors = tuple(
        Endpoint(_moved(ref, entry, mirror.location)._replace(user=None), mirror.insecure)
        for mirror in entry.mirrors
        if mirror.pull in kinds
    )
    own = _moved(ref, entry, entry.location) if entry.location else ref
    return (*mirrors, Endpoint(own, entry.insecure))


def _entry(found: Registries, ref: Reference) -> Registry | None:
    scope = scopes.matching(ref, found.table)
    return None if scope is None else found.table[scope]


def _moved(ref: Reference, entry: Registry, location: str) -> Reference:
    """Return a reference with the part that an entry's prefix stands for replaced."""
    prefix, name = entry.prefix, ref.name
    if prefix.startswith("*."):
        rest = name[len(scopes.host_of(ref.registry)) :]
    else:
        rest = name[len(prefix) :] if name.startswith(prefix) else ""
    # A prefix may be one tag or digest; then the location is of the repository.
    try:
        moved = reference.parse(f"{location}{rest}")
        if moved.digest or moved.transport:
            raise errors.ReferenceError("is no name")
    except errors.ReferenceError as error:
        raise errors.ConfigError(
            f"{entry.file}: {prefix}: leads {ref.name} to {location}{rest}, which is no name"
        ) from error
    return ref._replace(registry=moved.registry, repository=moved.repository)


# -- short names -----------------------------------------------------------------------------------


def meanings(
    short: Reference, text: str, config: Config, environ: Mapping[str, str]
) -> tuple[Reference, ...]:
    """Return what a short name may mean, in order.

    Args:
        short: the name; its registry says nothing.
        text: as the user typed it.
        config: names the site's files, and the default registry.
        environ: where the user's are.

    Raises:
        errors.ReferenceError: it may mean several, and the files forbid to try.
        errors.ConfigError: a file is malformed.
    """
    found = load(config, environ)
    alias = found.aliases.get(short.repository)
    if alias is not None:
        return (_full(short, alias[0], alias[1]),)
    if not found.search:
        return (reference.parse(text, default_registry=config.default_registry),)
    names = tuple(
        _full(short, f"{registry}/{short.repository}", found.file) for registry in found.search
    )
    if len(names) > 1 and found.mode == ENFORCING:
        shown = ", ".join(name.name for name in names)
        raise errors.ReferenceError(
            f"{text}: is short for any of {shown}, and {found.file} lets none be chosen",
            hint="write one of them",
        )
    return names


def _full(short: Reference, name: str, file: str) -> Reference:
    try:
        full = reference.parse(name, default_registry=_UNKNOWN)
    except errors.ReferenceError as error:
        raise errors.ConfigError(f"{file}: {short.repository}: {error.message}") from error
    if full.registry in {"", _UNKNOWN} or full.digest:
        raise errors.ConfigError(f"{file}: {short.repository}: {name} names no registry")
    return full._replace(tag=short.tag, digest=short.digest, user=short.user)


# -- the files -------------------------------------------------------------------------------------


def _parse(table: dict[str, Any], path: str) -> Registries:
    """Return what one file says; mode empty where it says none."""
    if table.get("registries") is not None:
        raise errors.ConfigError(
            f"{path}: is in version 1 of its format, which is not supported",
            hint="write [[registry]] and unqualified-search-registries instead",
        )
    _check(table, _KEYS, path, "")
    search = table.get("unqualified-search-registries")
    for item in search or ():
        if not isinstance(item, str) or not item:
            _refuse(path, "unqualified-search-registries holds something that is no registry")
    mode = table.get("short-name-mode") or ""
    if mode not in {"", ENFORCING, PERMISSIVE, DISABLED}:
        _refuse(path, f"short-name-mode = {mode!r} is not enforcing, permissive or disabled")
    helpers = table.get("credential-helpers") or ()
    if not all(isinstance(item, str) and item for item in helpers):
        _refuse(path, "credential-helpers holds something that is no name")
    entries = [_registry(item, path) for item in table.get("registry", ())]
    aliases = {}
    for name, value in table.get("aliases", {}).items():
        if not isinstance(value, str):
            _refuse(path, f"aliases: {name} is no string")
        aliases[name] = (value, path)
    return Registries(
        {entry.prefix: entry for entry in entries},
        None if search is None else tuple(search),
        aliases,
        mode,
        path,
        tuple(helpers),
    )


def _registry(item: Any, path: str) -> Registry:
    if not isinstance(item, dict):
        _refuse(path, "a registry is no table")
    prefix = item.get("prefix") or item.get("location") or ""
    where = f"registry {prefix}: "
    _check(item, _REGISTRY_KEYS, path, where)
    location = item.get("location", "")
    for text in filter(None, (prefix, location)):
        if "://" in text or text.endswith("/") or " " in text:
            _refuse(path, f"{where}{text!r} is no HOST[:PORT][/NAME...]")
    if not prefix:
        _refuse(path, "a registry has neither prefix nor location")
    if not location and not prefix.startswith("*."):
        location = prefix
    by_digest = item.get("mirror-by-digest-only", False)
    mirrors = tuple(
        _mirror(mirror, path, where, by_digest=by_digest) for mirror in item.get("mirror", ())
    )
    return Registry(
        prefix.lower() if "/" not in prefix else prefix,
        location,
        item.get("insecure", False),
        item.get("blocked", False),
        mirrors,
        path,
    )


def _mirror(item: Any, path: str, where: str, *, by_digest: bool) -> Mirror:
    if not isinstance(item, dict):
        _refuse(path, f"{where}a mirror is no table")
    _check(item, _MIRROR_KEYS, path, f"{where}mirror: ")
    location = item.get("location", "")
    if not location or "://" in location or location.endswith("/"):
        _refuse(path, f"{where}mirror: {location!r} is no HOST[:PORT][/NAME...]")
    pull = item.get("pull-from-mirror", "")
    if pull not in {"", *PULLS}:
        _refuse(path, f"{where}mirror: pull-from-mirror = {pull!r} is not {', '.join(PULLS)}")
    if pull and by_digest:
        _refuse(path, f"{where}pull-from-mirror and mirror-by-digest-only exclude each other")
    pull = pull or ("digest-only" if by_digest else "all")
    return Mirror(location, item.get("insecure", False), pull)


def _check(table: dict[str, Any], kinds: Mapping[str, type], path: str, where: str) -> None:
    # Unknown keys are let be: the tools whose file this is may know more than we do.
    for key, value in table.items():
        kind = kinds.get(key)
        if kind is not None and not isinstance(value, kind):
            names = {list: "a list", dict: "a table", str: "a string", bool: "true or false"}
            _refuse(path, f"{where}{key} is not {names[kind]}")


def _refuse(path: str, why: str) -> NoReturn:
    raise errors.ConfigError(f"{path}: {why}")
