"""Forget the login of a registry, in every file and helper that ``fairlead login`` knows."""

from __future__ import annotations

import argparse
import os

from fairlead import config as settings
from fairlead import errors, log
from fairlead.cli import login
from fairlead.image import authfile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the argument."""
    parser.add_argument(
        "registry",
        nargs="?",
        metavar="REGISTRY",
        help="HOST[:PORT] (default: setting default_registry)",
    )


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Forget the login."""
    ref = login.registry_of(arguments.registry, config)
    where = authfile.forget(ref.registry, os.environ)
    if not where:
        raise errors.AuthError(
            f"{ref.registry}: there is no login to forget", hint="see fairlead login --help"
        )
    log.note(f"logged out of {ref.registry}; it was in {', '.join(where)}")
    return 0
