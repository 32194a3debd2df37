"""The engine's door in srun, sbatch and salloc: what can be said of a job before it has nodes.

Started by the plugin (``spank_shim/submit.c``) as the user, with the facts of the options on
standard input. It ends with 0 and what is to be known on standard output, or with an error's status
and its line there.

    check     nothing is to be known: the options are right
    freeze    the same, and the reference with the digest that its tag has now; empty: it stays

Rules:
- What is said here is for the user's comfort and binds nobody: the node checks all of it again.
- A reference is frozen where a step would ask the registry (``pull`` is newer or always). What lies
  on the nodes, an image there or a file, may be another on each and is theirs to look at.
"""

from __future__ import annotations

import os

from fairlead import config as settings
from fairlead import errors
from fairlead.image import reference
from fairlead.plan import pyxis
from fairlead.plan import request as launch
from fairlead.run import step


def main(verb: str) -> int:
    """Serve one command; the return value is the exit status."""
    try:
        answer = _serve(verb, step.read_facts(0))
    except errors.Error as error:
        answer, status = error.line(), error.status
    else:
        status = 0
    os.write(1, os.fsencode(answer))
    return status


def _serve(verb: str, facts: dict[str, str]) -> str:
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = ""
    request = launch.Request(facts.get("ref", ""), ("true",), {}, cwd)
    # An environment file is read on the node, and what a name stands for is known there.
    there = request.reference.startswith(pyxis.NAME_ALONE)
    there = there or reference.environment(request.reference) is not None
    if not there:
        reference.parse(request.reference, cwd=cwd)
    launch.check(pyxis.apply(request, facts))
    return "" if verb == "check" or there else frozen(request.reference, cwd, settings.load())


def frozen(text: str, cwd: str, config: settings.Config) -> str:
    """Return a reference with the digest that its tag has now; empty: it stays as it is.

    Raises:
        errors.Error: its registry does not tell.
    """
    if config.resolve == "start" or config.pull not in {"newer", "always"}:
        return ""
    from fairlead.store import fetch, meaning

    found = meaning.of(text, config, cwd)
    if found.transport or found.digest:
        return ""
    try:
        digest = fetch.digest(found, config)
    except errors.RegistryUnreachableError as error:
        hint = f"{error.hint}; FAIRLEAD_RESOLVE=start leaves the question to the nodes"
        raise errors.RegistryUnreachableError(error.message, hint=hint) from error
    return str(found._replace(digest=digest))
