"""Image references: text in, a ``Reference`` out. Pure.

Accepted: ``[docker://][REGISTRY/]NAME[:TAG][@DIGEST]``, enroot's ``[USER@]REGISTRY#NAME[:TAG]``
and its URI form ``docker://USER@NAME``; and what lies on this machine:

    oci:PATH[:TAG]                an OCI image layout
    oci-archive:PATH[:TAG]        the same in a tar archive
    docker-archive:PATH[:NAME]    what ``docker save`` wrote; NAME may be @N, the Nth image in it
    containers-storage:NAME       the store of podman, buildah and skopeo
    PATH, dir:PATH                a squashfs or SIF file, or the directory of a root file system

``edf:NAME`` and a path that ends in .toml name an environment file (``image.edf``), and that the
image: ``environment`` tells them apart.

Rules:
- A PATH alone begins with ``/`` or ``.``, as for pyxis, or ends in .sqsh, .squashfs or .sif. What
  stands behind it is for ``image.source`` to see. It becomes absolute here; its ``..`` stay, since
  a component before one may be a symbolic link.
- The first path component names a registry when it holds ``.`` or ``:`` or is ``localhost``;
  otherwise the default registry is meant. ``docker.io`` gets its ``library/`` prefix here, so
  that the canonical text is unique.
- Everything is checked before any path or URL is made of it: a ``Reference`` holds no control
  character, no ``..``, no upper-case repository, and a digest of a known algorithm with exactly
  its length.
- An error names the part that is wrong, in one line.

Source: distribution ``reference/regexp.go`` (grammar, 255-character name), distribution-spec 1.1
"Pulling manifests"; containers-transports(5).
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from fairlead import errors

MAX_PATH = 4000
MAX_TEXT = 1024  # a name of 255, a tag of 128, a sha512 digest of 135, a user and a scheme fit well
MAX_NAME = 255
DOCKER_HUB = "docker.io"
_HUB_ALIASES = {"index.docker.io", "registry-1.docker.io"}
# Transports of what lies on this machine; "" is a registry.
PATH, OCI, OCI_ARCHIVE = "path", "oci", "oci-archive"
DOCKER_ARCHIVE, STORAGE, DAEMON = "docker-archive", "containers-storage", "docker-daemon"
_HEX_LENGTH = {"sha256": 64, "sha512": 128}

# By hand, not by re: the launch path, which has to parse one reference, would pay 4 ms for it.
_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_WORD = _ALNUM | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_HEX_DIGITS = frozenset("0123456789abcdef")
_SEPARATORS = {"", ".", "_", "__"}  # between the parts of a name's component, or any number of "-"
_LOCAL = {OCI, OCI_ARCHIVE, DOCKER_ARCHIVE, STORAGE, DAEMON, "dir"}
_DAEMON = "dockerd://"  # enroot's word for it
_FILE_NAMES = (".sqsh", ".squashfs", ".sif")
_IPV6 = r"\[[0-9a-f:.]{2,45}\]"
# The grammar of org.opencontainers.image.ref.name. Source: image-spec 1.1 ``annotations.md``.
_REF_NAME = r"[A-Za-z0-9]+(?:(?:[-._:@+/]|--)[A-Za-z0-9]+)*"


class Reference(NamedTuple):
    """A checked reference.

    Attributes:
        registry: HOST[:PORT], empty for what lies on this machine.
        repository: name in the registry; of what lies here, the absolute path or the name there.
        tag: or, in an archive or layout, the name of one of its images; None if none was given.
        digest: of the manifest, or of the file that holds the whole image.
        user: selects among several logins and names no other image.
        transport: how it is reached; empty for a registry.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None
    user: str | None = None
    transport: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and repository, or transport and path, without tag and digest."""
        if self.transport in {"", PATH}:
            return f"{self.registry}/{self.repository}" if self.registry else self.repository
        return f"{self.transport}:{self.repository}"

    @property
    def target(self) -> str:
        """What the registry is asked for: the digest where there is one, else the tag."""
        return self.digest or self.tag or ("" if self.transport else "latest")

    @property
    def identity(self) -> str:
        """The text that names this image in the store: beside a digest a tag says nothing."""
        tag = self.tag or ("" if self.transport else "latest")
        if self.digest:
            return f"{self.name}@{self.digest}"
        return f"{self.name}:{tag}" if tag else self.name


def parse(text: str, *, default_registry: str = DOCKER_HUB, cwd: str | None = None) -> Reference:
    """Return the reference that text names; the tag defaults to ``latest`` without a digest.

    Args:
        text: as the user typed it.
        default_registry: of a reference that names none.
        cwd: absolute directory that a relative path starts from.

    Raises:
        errors.ReferenceError: text breaks the grammar; the line names the wrong part.
        errors.ConfigError: default_registry is used and is itself malformed.
    """
    if not text:
        raise errors.ReferenceError("an image reference is empty")
    if found := _local(text, cwd):
        return found
    if len(text) > MAX_TEXT:
        _refuse(text, f"has {len(text)} characters, more than {MAX_TEXT}")
    for char in text:
        if not char.isascii() or not char.isprintable() or char == " ":
            _refuse(text, f"holds the character {char!a}, which no reference may hold")
    rest, scheme = text, text.startswith("docker://")
    if scheme:
        rest = text.removeprefix("docker://")
    elif "://" in text:
        _refuse(text, f"has the scheme {text.partition('://')[0]!r}; only docker:// is known")
    user, registry, rest = _split_enroot(text, rest, scheme=scheme)
    rest, digest = _split_digest(text, rest)
    rest, tag = _split_tag(text, rest)
    if registry is None:
        registry, rest = _split_registry(rest, default_registry)
    registry = _checked_registry(text, registry)
    repository = f"library/{rest}" if registry == DOCKER_HUB and "/" not in rest else rest
    _check_repository(text, registry, repository)
    if tag is None and digest is None:
        tag = "latest"
    return Reference(registry, repository, tag, digest, user)


def environment(text: str) -> str | None:
    """Return the environment file (EDF) that a text names, None if it names an image.

    ``edf:NAME`` as for --environment, or a path that ends in .toml.
    """
    if text.startswith("edf:"):
        return text.removeprefix("edf:")
    if not text.endswith(".toml") or ":" in text or "#" in text:
        return None
    return text if "/" in text else f"./{text}"


def parse_digest(text: str) -> str:
    """Return text if it is a digest: sha256 or sha512, lower-case hex, exact length.

    Raises:
        errors.ReferenceError: it is none. No path or URL may be made of a digest that did not
            pass here.
    """
    algorithm, colon, encoded = text.partition(":")
    if not colon:
        raise errors.ReferenceError(
            f"{_shown(text)}: not a digest; one is written sha256: and 64 hex digits"
        )
    if algorithm not in _HEX_LENGTH:
        raise errors.ReferenceError(
            f"{_shown(text)}: unknown digest algorithm {_shown(algorithm)!r}, not sha256 or sha512"
        )
    if not _HEX_DIGITS.issuperset(encoded):
        raise errors.ReferenceError(
            f"{_shown(text)}: a digest is written in lower-case hex digits only"
        )
    wanted = _HEX_LENGTH[algorithm]
    if len(encoded) != wanted:
        raise errors.ReferenceError(
            f"{_shown(text)}: a {algorithm} digest has {wanted} hex digits, not {len(encoded)}"
        )
    return text


def is_digest(text: str) -> bool:
    """Tell whether text looks meant as a bare digest (``rm`` and ``inspect`` take either)."""
    return text.startswith(("sha256:", "sha512:"))


def split_host(registry: str) -> tuple[str, int | None]:
    """Return a checked registry's host (IPv6 without brackets) and port, None where it has none."""
    host, colon, port = registry.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = registry, ""
    return host.strip("[]"), int(port) if port else None


# -- on this machine -------------------------------------------------------------------------------


def _local(text: str, cwd: str | None) -> Reference | None:
    """Return the reference to something on this machine, None if text means a registry."""
    if text.startswith(_DAEMON):
        text = f"{DAEMON}:{text.removeprefix(_DAEMON)}"
    scheme, colon, _ = text.partition(":")
    named = (
        colon and scheme in _LOCAL and not text.startswith("//", len(scheme) + 1)
    )  # Helm's oci://
    rest, digest = _split_pin(text)
    if not named and not _is_path(rest):
        return None
    if len(text) > MAX_PATH:
        _refuse(text, f"has {len(text)} characters, more than {MAX_PATH}")
    for char in text:
        if not char.isprintable():
            _refuse(text, f"holds the character {char!a}, which no reference may hold")
    if digest is not None:
        _split_digest(text, f"@{digest}")
    transport = scheme if named else PATH
    rest = rest.removeprefix(f"{transport}:") if named else rest
    if not rest:
        _refuse(text, f"names nothing after {transport}:", hint=f"write {transport}:NAME")
    if transport == STORAGE:
        return _in_storage(text, rest, digest)
    if transport == DAEMON:
        return _named_inside(text, rest, digest, DAEMON)
    path, tag = (rest, "") if transport in {PATH, "dir"} else _split_name(text, rest)
    if transport == DOCKER_ARCHIVE and tag and not tag.startswith("@"):
        tag = str(parse(tag))
    return Reference(
        registry="",
        repository=_absolute(text, path, cwd),
        tag=tag or None,
        digest=digest,
        transport=PATH if transport == "dir" else transport,
    )


def _is_path(text: str) -> bool:
    named = text.endswith(_FILE_NAMES) and "://" not in text and "#" not in text
    return named or text.startswith(("/", "."))


def _split_name(text: str, rest: str) -> tuple[str, str]:
    # At the first colon, as skopeo does: a path that holds one cannot be written.
    import re

    path, colon, name = rest.partition(":")
    number = name.removeprefix("@")
    if colon and not re.fullmatch(_REF_NAME, name) and not (number != name and number.isdecimal()):
        _refuse(text, f"after the path stands {_shown(name)!r}, which is no name of an image")
    return path, name


def _in_storage(text: str, rest: str, digest: str | None) -> Reference:
    if rest.startswith("["):
        _refuse(
            text,
            "a store is not chosen in the reference",
            hint="set CONTAINERS_STORAGE_CONF to that store's storage.conf",
        )
    image = rest.removeprefix("@")
    if len(image) == 64 and _HEX_DIGITS.issuperset(image):
        return Reference("", f"@{image}", None, digest, transport=STORAGE)
    return _named_inside(text, rest, digest, STORAGE)


def _named_inside(text: str, rest: str, digest: str | None, transport: str) -> Reference:
    inner = parse(rest)
    if inner.transport:
        _refuse(text, "names a path where an image's name belongs")
    tag = None if digest else inner.tag
    return Reference("", inner.name, tag, digest, transport=transport)


def _absolute(text: str, path: str, cwd: str | None) -> str:
    if not path:
        _refuse(text, "names no path")
    if not path.startswith("/"):
        if not cwd:
            _refuse(text, "is a relative path, and there is no working directory to start from")
        path = f"{cwd}/{path}"
    return "/" + "/".join(part for part in path.split("/") if part not in {"", "."})


# -- in a registry ---------------------------------------------------------------------------------


def _split_enroot(text: str, rest: str, *, scheme: bool) -> tuple[str | None, str | None, str]:
    head, hash_sign, image = rest.partition("#")
    user: str | None = None
    registry: str | None = None
    if hash_sign:
        if "#" in image:
            _refuse(text, "holds more than one '#'")
        before, at, registry = head.rpartition("@")
        user, rest = (before if at else None), image
        if not registry:
            _refuse(text, "names no registry before '#'")
    elif scheme and "@" in rest and not is_digest(rest.partition("@")[2]):
        user, _, rest = rest.partition("@")
    if user is not None and not (0 < len(user) <= 255 and set("@#/:").isdisjoint(user)):
        _refuse(text, f"the user {user!r} is not one")
    return user, registry, rest


def _split_digest(text: str, rest: str) -> tuple[str, str | None]:
    name, at, digest = rest.partition("@")
    if not at:
        return rest, None
    if ":" not in digest:
        _refuse(
            text,
            f"after '@' stands {digest!r}, which is no digest",
            hint="a user is written USER@REGISTRY#NAME",
        )
    try:
        return name, parse_digest(digest)
    except errors.ReferenceError as error:
        raise errors.ReferenceError(
            f"{_shown(text)}: {error.message.partition(': ')[2]}"
        ) from error


def _split_tag(text: str, rest: str) -> tuple[str, str | None]:
    # A colon after the last slash starts a tag; any other belongs to the registry's port.
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if not colon:
        return rest, None
    if not tag:
        _refuse(text, "the tag after ':' is empty")
    if len(tag) > 128:
        _refuse(text, f"the tag has {len(tag)} characters, more than 128")
    if not _is_tag(tag):
        _refuse(
            text,
            f"the tag {tag!r} may hold only letters, digits, '_', and after the first '.' and '-'",
        )
    return f"{head}{slash}{last}", tag


def _split_registry(rest: str, default: str) -> tuple[str, str]:
    first, slash, remainder = rest.partition("/")
    if (
        slash
        and ("." in first or ":" in first or first.lower() == "localhost")
        and first not in {".", ".."}
    ):
        return first, remainder
    try:
        return _checked_registry(default, default), rest
    except errors.ReferenceError as error:
        raise errors.ConfigError(f"default_registry = {default!r}: {error.message}") from error


def _checked_registry(text: str, registry: str) -> str:
    registry = registry.lower()
    host, colon, port = registry.rpartition(":")
    if not colon or port.endswith("]"):
        host = registry
    elif not (port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        _refuse(text, f"the port {port!r} is not a number from 1 to 65535")
    if host.startswith("["):
        valid = _is_ipv6(host)
    else:
        valid = len(host) <= 253 and all(_is_label(label) for label in host.split("."))
    if not valid:
        _refuse(text, f"the registry {host!r} is not a host name or address")
    if not any(char in registry for char in ".:") and registry != "localhost":
        # Its canonical text would read as a repository of the default registry.
        _refuse(text, f"the registry {registry!r} needs a port, as in {registry}:443")
    return DOCKER_HUB if registry in _HUB_ALIASES else registry


def _is_ipv6(text: str) -> bool:
    import re
    import socket  # for its parser only; too rare to pay for on every launch

    if not re.fullmatch(_IPV6, text):
        return False
    try:
        socket.inet_pton(socket.AF_INET6, text[1:-1])
    except OSError:
        return False
    return True


def _check_repository(text: str, registry: str, repository: str) -> None:
    if not repository:
        _refuse(text, "names no repository")
    if len(registry) + 1 + len(repository) > MAX_NAME:
        _refuse(
            text,
            f"the name has {len(registry) + 1 + len(repository)} characters, more than {MAX_NAME}",
        )
    for component in repository.split("/"):
        if _is_component(component):
            continue
        if not component:
            _refuse(text, "the name holds an empty component ('//' or a '/' at an end)")
        if component != component.lower():
            _refuse(text, f"the name's component {component!r} must be lower case")
        _refuse(
            text,
            f"the name's component {component!r} may hold a-z, 0-9, and inside '.', '_', '__', '-'",
        )


def _is_component(text: str) -> bool:
    """Tell whether text is ``[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*``."""
    if not text or text[0] not in _ALNUM or text[-1] not in _ALNUM:
        return False
    between = ""
    for char in text:
        if char not in _ALNUM:
            between += char
        elif between not in _SEPARATORS and between.strip("-"):
            return False
        else:
            between = ""
    return True


def _is_label(text: str) -> bool:
    """Tell whether text is ``[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?``."""
    plain = text.replace("-", "")
    return 0 < len(text) <= 63 and text == text.strip("-") and _ALNUM.issuperset(plain)


def _is_tag(text: str) -> bool:
    """Tell whether text is ``[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}``."""
    plain = text.replace(".", "").replace("-", "")
    return 0 < len(text) <= 128 and text[0] in _WORD and _WORD.issuperset(plain)


def _split_pin(text: str) -> tuple[str, str | None]:
    """Split the last ``@sha256:...`` or ``@sha512:...`` off."""
    at = max(text.rfind("@sha256:"), text.rfind("@sha512:"))
    return (text[:at], text[at + 1 :]) if at > 0 else (text, None)


def _refuse(text: str, why: str, *, hint: str = "") -> NoReturn:
    raise errors.ReferenceError(f"{_shown(text)}: {why}", hint=hint)


def _shown(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:120]}..."
