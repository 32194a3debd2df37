"""A reference on a command line: relative paths start from the caller's directory."""

from __future__ import annotations

import os

from fairlead import config as settings
from fairlead.image import reference
from fairlead.store import meaning


def parse(text: str, config: settings.Config) -> reference.Reference:
    """Return the reference that text names, or that the environment file does that it names.

    Raises:
        errors.EdfError: the environment file cannot be had, or something is wrong with it.
        errors.ReferenceError: text breaks the grammar, or is a relative path where there is no
            working directory.
        errors.Error: a short name has no one meaning.
    """
    name = reference.environment(text)
    if name is not None:
        from fairlead.plan import request as launch
        from fairlead.run import environment

        asked = launch.Request("", (), os.environ, directory())
        text = environment.applied(asked, config, name, frozenset())[0].reference
    return meaning.of(text, config, directory())


def directory() -> str:
    """Return the working directory, empty when it was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
