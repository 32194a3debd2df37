"""Log in to a registry, for this and for later pulls and pushes.

The login is shown to the registry, and kept if that accepts it: in the file that already holds one
for this registry, else in $REGISTRY_AUTH_FILE, or in ~/.config/containers/auth.json, which podman,
buildah and skopeo read as well; or with the credential helper that one of these names.
"""

from __future__ import annotations

import argparse
import os
import sys

from fairlead import config as settings
from fairlead import errors, log
from fairlead.image import auth, authfile, reference, registry

EPILOG = """\
examples:
  fairlead login registry.example.org
  fairlead login --username "$USER" --password-stdin registry.example.org < token
"""
_MAX_PASSWORD = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("-u", "--username", metavar="NAME", help="user name (default: asked for)")
    parser.add_argument(
        "--password-stdin", action="store_true", help="read the password from standard input"
    )
    parser.add_argument(
        "registry",
        nargs="?",
        metavar="REGISTRY",
        help="HOST[:PORT] (default: setting default_registry)",
    )


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Verify the login and keep it."""
    ref = registry_of(arguments.registry, config)
    name = arguments.username or _ask_name(ref.registry, stdin=arguments.password_stdin)
    password = _password(name, ref.registry, stdin=arguments.password_stdin)
    found = auth.checked(auth.Credentials(name, password), f"login to {ref.registry}")
    with registry.Client(config, os.environ) as client:
        client.verify(ref, found)
    where = authfile.keep(ref.registry, found, os.environ)
    log.note(f"logged in to {ref.registry} as {name}; kept in {where}")
    return 0


def registry_of(text: str | None, config: settings.Config) -> reference.Reference:
    """Return a reference into the registry that is meant.

    Raises:
        errors.UsageError: text is no registry.
    """
    text = config.default_registry if text is None else text
    plain = text.removeprefix("https://").rstrip("/")
    try:
        ref = reference.parse(f"{plain}/login", default_registry="default.invalid")
    except errors.ReferenceError as error:
        raise errors.UsageError(f"{text!r}: is no registry", hint="write HOST[:PORT]") from error
    if ref.transport or ref.tag != "latest" or ref.repository not in {"login", "library/login"}:
        raise errors.UsageError(f"{text!r}: is no registry", hint="write HOST[:PORT]")
    return ref


def _ask_name(host: str, *, stdin: bool) -> str:
    if stdin or not sys.stdin.isatty():
        raise errors.UsageError(
            f"login to {host}: no user name", hint="give one with --username NAME"
        )
    print(f"user name for {host}: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _password(name: str, host: str, *, stdin: bool) -> str:
    if stdin:
        password = sys.stdin.read(_MAX_PASSWORD).rstrip("\r\n")
    elif sys.stdin.isatty():
        import getpass

        password = getpass.getpass(f"password of {name} for {host}: ")
    else:
        raise errors.UsageError(
            f"login to {host}: no terminal to ask for the password",
            hint="use --password-stdin",
        )
    if not name or not password:
        what = "password" if name else "user name"
        raise errors.UsageError(f"login to {host}: the {what} is empty")
    if ":" in name:
        raise errors.UsageError(f"login to {host}: a user name holds no ':'")
    return password
