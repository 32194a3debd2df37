"""Keep and forget logins, in the files that ``auth`` reads.

Rules:
- A registry whose login a file already holds, itself or by a ``credHelpers`` entry, has it changed
  there; else it goes to $REGISTRY_AUTH_FILE, or to ``containers/auth.json`` in the user's
  configuration, which a cluster's nodes see, and $XDG_RUNTIME_DIR not.
- A file is written whole and renamed, mode 0600; what else it holds stays. One that is a symbolic
  link stays one.
- A secret stands in the file, or goes to a helper's standard input; never on a command line.

Source: containers-auth.json(5); docker-credential-helpers README.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping

from fairlead import errors
from fairlead.image import auth
from fairlead.image.auth import Credentials

Table = dict[str, object]


def keep(registry: str, found: Credentials, environ: Mapping[str, str]) -> str:
    """Keep a login that was verified; return where: a file, or a helper's program.

    Raises:
        errors.ConfigError: a file is malformed or cannot be written, or a helper fails.
    """
    for path in auth.files(environ):
        table = auth.read(path)
        if table is None:
            continue
        helper = _helper(table, registry, path)
        if helper:
            secret = {
                "ServerURL": registry,
                "Username": found.username,
                "Secret": found.password,
            }
            return _tell_helper(helper, "store", json.dumps(secret), environ)
        if _own_keys(table, registry, path):
            return _write(path, table, registry, found)
    path = _default(environ)
    return _write(path, auth.read(path) or {}, registry, found)


def forget(registry: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Forget every login of a registry; return where there was one.

    Raises:
        errors.ConfigError: a file is malformed or cannot be written, or a helper fails.
    """
    where = []
    for path in auth.files(environ):
        table = auth.read(path)
        if table is None:
            continue
        helper = _helper(table, registry, path)
        if helper and auth.credentials(registry, "", environ):
            where.append(_tell_helper(helper, "erase", registry, environ))
        if _own_keys(table, registry, path):
            where.append(_write(path, table, registry, None))
    return tuple(where)


def _default(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME") or ""
    place = environ.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    path = environ.get("REGISTRY_AUTH_FILE") or (place and f"{place}/containers/auth.json")
    if not path:
        raise errors.ConfigError(
            "no place to keep a login in", hint="set HOME or REGISTRY_AUTH_FILE"
        )
    return path


def _names(registry: str) -> tuple[str, ...]:
    return auth.HUB_KEYS if registry == "docker.io" else (registry,)


def _helper(table: Table, registry: str, path: str) -> str:
    helpers = auth.section(table, "credHelpers", path)
    found = (helpers.get(name) for name in _names(registry))
    return next((name for name in found if isinstance(name, str) and name), "")


def _own_keys(table: Table, registry: str, path: str) -> list[str]:
    auths = auth.section(table, "auths", path)
    return [key for key in auths if auth.plain_key(key) in _names(registry)]


def _tell_helper(name: str, verb: str, given: str, environ: Mapping[str, str]) -> str:
    program = auth.helper_program(name, environ)
    if program is None:
        raise errors.ConfigError(
            f"docker-credential-{name}: not found in PATH",
            hint="install it, or take its credHelpers entry away",
        )
    status, said = auth.run_helper(program, verb, given, environ)
    if status:
        words = said.decode(errors="replace").strip()[:200] or f"exit status {status}"
        raise errors.ConfigError(f"{program}: {words}", hint="ask the helper's own documentation")
    return program


def _write(path: str, table: Table, registry: str, found: Credentials | None) -> str:
    old = _own_keys(table, registry, path)
    auths = {k: v for k, v in auth.section(table, "auths", path).items() if k not in old}
    if found is not None:
        text = base64.b64encode(f"{found.username}:{found.password}".encode()).decode()
        auths[registry] = {"auth": text}
    real = os.path.realpath(path)
    staged = f"{real}.{os.getpid()}"
    data = json.dumps({**table, "auths": auths}, indent="\t").encode() + b"\n"
    try:
        os.makedirs(os.path.dirname(real), mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(staged, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(staged, real)
    except OSError as error:
        raise errors.ConfigError(f"{path}: {error.strerror}", hint="check its place") from error
    return path
