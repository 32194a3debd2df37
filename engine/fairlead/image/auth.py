"""Credentials for a registry, from the files that podman, skopeo, buildah and docker write.

Looked at in this order, the first answer wins:

    $REGISTRY_AUTH_FILE
    $XDG_RUNTIME_DIR/containers/auth.json, $XDG_CONFIG_HOME/containers/auth.json
    $DOCKER_CONFIG/config.json, else ~/.docker/config.json
    enroot's .credentials (``netrc``)

Rules:
- ``credential-helpers`` of registries.conf name who is asked, in order; ``containers-auth.json``
  there means these files, and without the key they alone are looked at.
- In one file: ``credHelpers`` for the registry, then ``auths`` (the longest matching
  ``registry/name/space`` first), then ``credsStore``.
- A helper is ``docker-credential-NAME`` from PATH, run as the user, without a shell, its output
  bounded. One that fails is a warning: most images are public, and a registry that wants a login
  says so itself.
- Files are plain input of the user: bounded, regular files only. A file that cannot be parsed is
  an error.
- A secret never reaches a message or a repr.

Source: containers-auth.json(5); docker-credential-helpers README; docker ``cli/config/configfile``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fairlead import errors, log
from fairlead.image import netrc, registries

MAX_ANSWER = 1 << 16
HELPER_TIMEOUT_S = 30
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HUB_KEYS = ("docker.io", "index.docker.io", "registry-1.docker.io")


class Credentials(NamedTuple):
    """A login: user name and password, or an identity token that the token server takes instead."""

    username: str
    password: str
    identity_token: str = ""
    origin: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, from {self.origin!r})"


def credentials(
    registry: str,
    repository: str,
    environ: Mapping[str, str],
    *,
    user: str | None = None,
    helpers: tuple[str, ...] = (),
) -> Credentials | None:
    """Return the login for a repository, or None; with user, only that user's.

    Args:
        registry: HOST[:PORT]
        repository: name in it.
        environ: where the user's files are.
        user: whose login.
        helpers: who is asked, in order; ``registries.AUTH_FILES``: the files. Empty: these alone.

    Raises:
        errors.ConfigError: a file is unreadable or malformed, or a helper's name is none.
    """
    for helper in helpers or (registries.AUTH_FILES,):
        if helper == registries.AUTH_FILES:
            found = _in_files(registry, repository, environ, user)
        else:
            found = _ask_helper(helper, registry, environ)
        if found is not None and user in {None, found.username}:
            return found
    return None


def _in_files(
    registry: str, repository: str, environ: Mapping[str, str], user: str | None
) -> Credentials | None:
    for path in files(environ):
        table = read(path)
        if table is None:
            continue
        for found in _candidates(table, path, registry, repository, environ):
            if user is None or found.username == user:
                return found
    kept = netrc.login(registry, environ, user)
    if kept is None:
        return None
    username, password, origin = kept
    return checked(Credentials(username, password, "", origin), origin)


def files(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the paths that are looked at, in order; they need not exist."""
    home = environ.get("HOME") or ""
    config_home = environ.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    docker = environ.get("DOCKER_CONFIG") or (home and f"{home}/.docker")
    runtime = environ.get("XDG_RUNTIME_DIR") or ""
    paths = (
        environ.get("REGISTRY_AUTH_FILE") or "",
        runtime and f"{runtime}/containers/auth.json",
        config_home and f"{config_home}/containers/auth.json",
        docker and f"{docker}/config.json",
    )
    return tuple(path for path in paths if path)


def read(path: str) -> dict[str, object] | None:
    """Return what a file holds, None if there is none.

    Raises:
        errors.ConfigError: it is unreadable or malformed.
    """
    data = netrc.contents(path)
    if data is None:
        return None
    try:
        table = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        # Not the parser's own words: they may quote the file, and the file holds secrets.
        raise errors.ConfigError(
            f"{path}: is not valid JSON", hint="log in again to write it anew"
        ) from None
    if not isinstance(table, dict):
        raise errors.ConfigError(f"{path}: is not a JSON object")
    return table


def _candidates(
    table: dict[str, object], path: str, registry: str, repository: str, environ: Mapping[str, str]
) -> Iterator[Credentials]:
    names = HUB_KEYS if registry == "docker.io" else (registry,)
    helpers = section(table, "credHelpers", path)
    for name in names:
        helper = helpers.get(name)
        if isinstance(helper, str) and (found := _ask_helper(helper, name, environ)):
            yield found
    auths = {plain_key(key): value for key, value in section(table, "auths", path).items()}
    for key in _keys(names, repository):
        if key in auths and (found := _entry(auths[key], f"{path}: auths[{key!r}]", path)):
            yield found
    store = table.get("credsStore")
    if isinstance(store, str) and store:
        # docker login files Docker Hub under this URL, every other registry under its bare name
        server = "https://index.docker.io/v1/" if registry == "docker.io" else registry
        if found := _ask_helper(store, server, environ):
            yield found


def _keys(names: tuple[str, ...], repository: str) -> Iterator[str]:
    parts = repository.split("/")
    for count in range(len(parts), -1, -1):
        for name in names:
            yield "/".join((name, *parts[:count]))


def plain_key(key: str) -> str:
    """Return the registry, or the repository, that a key of ``auths`` means."""
    key = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    for version in ("/v1", "/v2"):
        key = key.removesuffix(version)
    return key


def section(table: dict[str, object], key: str, path: str) -> dict[str, object]:
    """Return one of the objects in a file, empty if it is not there.

    Raises:
        errors.ConfigError: it is no object.
    """
    value = table.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise errors.ConfigError(f"{path}: {key} is not an object")
    return value


def _entry(value: object, where: str, origin: str) -> Credentials | None:
    if not isinstance(value, dict):
        raise errors.ConfigError(f"{where} is not an object")
    texts = {key: item for key, item in value.items() if isinstance(item, str)}
    username, password = texts.get("username", ""), texts.get("password", "")
    token = texts.get("identitytoken", "")
    if texts.get("auth"):
        try:
            plain = base64.b64decode(texts["auth"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise errors.ConfigError(f"{where}: auth is not base64 of USER:PASSWORD") from None
        username, colon, password = plain.partition(":")
        if not colon:
            raise errors.ConfigError(f"{where}: auth is not base64 of USER:PASSWORD")
        password = password.rstrip("\0")
    if not token and not (username and password):
        return None  # docker leaves an empty entry where the secret is in a credsStore
    return checked(Credentials(username, password, token, origin), where)


def checked(found: Credentials, where: str) -> Credentials:
    """Return a login that may stand in a header line.

    Raises:
        errors.ConfigError: it holds a control character.
    """
    # They become header lines; a newline in one would forge another header.
    if any(ord(char) < 32 or ord(char) == 127 for field in found[:3] for char in field):
        raise errors.ConfigError(f"{where}: the login holds a control character")
    return found


def helper_program(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the path of a credential helper, None if it is not installed.

    Raises:
        errors.ConfigError: its name is none.
    """
    if not _HELPER.fullmatch(name):
        raise errors.ConfigError(f"credential helper {name!r}: not a name")
    import shutil

    return shutil.which(f"docker-credential-{name}", path=environ.get("PATH", os.defpath))


def _ask_helper(name: str, server: str, environ: Mapping[str, str]) -> Credentials | None:
    program = helper_program(name, environ)
    if program is None:
        log.warning(
            f"docker-credential-{name}: not found in PATH; going on without a login for {server}"
        )
        return None
    status, answer = run_helper(program, "get", server, environ)
    if status:
        words = answer.decode(errors="replace").strip()[:200]
        if "credentials not found" not in words:
            words = words or f"exit status {status}"
            log.warning(f"{program}: {words}; going on without a login for {server}")
        return None
    try:
        table = json.loads(answer)
        username, secret = table["Username"], table["Secret"]
    except (ValueError, RecursionError, KeyError, TypeError):
        log.warning(
            f"{program}: its answer is not the right JSON; going on without a login for {server}"
        )
        return None
    if not isinstance(username, str) or not isinstance(secret, str):
        return None
    if username == "<token>":
        return checked(Credentials("", "", secret, program), program)
    return checked(Credentials(username, secret, "", program), program)


def run_helper(
    program: str, verb: str, given: str, environ: Mapping[str, str]
) -> tuple[int, bytes]:
    """Let a helper do its verb with what it is given; return its status and what it said."""
    import subprocess
    import threading

    with subprocess.Popen(
        [program, verb],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(environ),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(HELPER_TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            try:
                process.stdin.write(given.encode())
                process.stdin.close()
            except BrokenPipeError:
                pass  # it answered without reading, or died; its exit status tells
            answer = process.stdout.read(MAX_ANSWER + 1)
            if len(answer) > MAX_ANSWER:
                process.kill()
                return 1, b"its answer is too long"
            return process.wait(), answer
        finally:
            watchdog.cancel()
            watchdog.join()
