"""The engine's door in srun, sbatch and salloc: what can be said of a job before it has nodes.

Started by the plugin (``spank_shim/submit.c``) as the user, with a request like a step's on
standard input: facts of the options, and the environment of the command. It ends with 0 and what is
to be known on standard output, or with an error's status and its line there.

    check     nothing is asked of a registry
    freeze    the reference gets the digest that its tag has now

What is to be known is nothing, or a line with the reference as it is from now on; where there is an
environment file, one with its path and one with the digest of its content follow.

Rules:
- What is said here is for the user's comfort and binds nobody: the node checks all of it again.
- A reference is frozen where a step would ask the registry (``pull`` is newer or always). What lies
  on the nodes, an image there or a named container, may be another on each: theirs to look at.
- Within a job the first answer counts (``store.frozen``), and before it what the job around was
  submitted with.
- A variable that an environment file names may be set on the node only; what depends on it is left
  to the node.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from fairlead import config as settings
from fairlead import errors, log
from fairlead.image import reference
from fairlead.plan import pyxis
from fairlead.plan import request as launch
from fairlead.run import step


def main(verb: str) -> int:
    """Serve one command; the return value is the exit status."""
    try:
        answer = "\n".join(_serve(verb, step.read(0)))
    except errors.Error as error:
        answer, status = error.line(), error.status
    else:
        status = 0
    os.write(1, os.fsencode(answer))
    return status


def _serve(verb: str, data: bytes) -> tuple[str, ...]:
    facts, environ = step.parse(data)
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = ""
    text, config = facts.get("ref", ""), settings.load()
    request = pyxis.apply(launch.Request(text, ("true",), environ, cwd), facts)
    file = reference.environment(text)
    if file is None and not text.startswith(pyxis.NAME_ALONE):  # what is under it, the node knows
        reference.parse(text, cwd=cwd)
    launch.check(request)
    if config.resolve == "start" or text.startswith(pyxis.NAME_ALONE):
        return ()
    around = facts.get("around", "") if verb == "freeze" else None
    name = facts.get("environment") or file
    if name is not None:
        return _described(request, config, name, around)
    found = "" if around is None else frozen(text, cwd, config, environ, around)
    return (found,) if found else ()


def _described(
    request: launch.Request, config: settings.Config, name: str, around: str | None
) -> tuple[str, ...]:
    from fairlead.image import edf
    from fairlead.plan import definition
    from fairlead.run import environment

    found, problems = edf.read(name, request.environ, request.cwd)
    for problem in problems:
        if not isinstance(problem, edf.UndefinedError):
            raise problem
    beside = reference.environment(request.reference) is None
    open_ = bool(problems) and not (found.image and found.image.value)
    told = frozenset({definition.IMAGE} if beside or open_ else ())
    described = launch.check(environment.under(request, found, told)) if not open_ else request
    result = request.reference if beside else f"edf:{found.files[0]}"
    if around is not None and (beside or not open_):
        text = described.reference
        result = frozen(text, request.cwd, config, request.environ, around) or result
    return result, found.files[0], found.digest


def frozen(
    text: str, cwd: str, config: settings.Config, environ: Mapping[str, str], around: str = ""
) -> str:
    """Return a reference with the digest that its tag has now; empty: it stays as it is.

    Args:
        text: what the user wrote.
        cwd: where relative paths start.
        config: the settings.
        environ: of the command, which says in which job it runs.
        around: the reference that the job around it was submitted with.

    Raises:
        errors.Error: its registry does not tell.
    """
    if config.pull not in {"newer", "always"}:
        return ""
    from fairlead.store import meaning

    found = meaning.of(text, config, cwd)
    if found.transport or found.digest:
        return ""
    before, at, digest = around.rpartition("@")
    if at and before == str(found):
        return f"{before}@{reference.parse_digest(digest)}"
    return str(found._replace(digest=_of_job(found, config, environ)))


def _of_job(found: reference.Reference, config: settings.Config, environ: Mapping[str, str]) -> str:
    """Return the digest of a tag: in a job what its first step was told."""
    from fairlead.host import jobs
    from fairlead.store import frozen as kept
    from fairlead.store import layout

    job = kept.job_of(environ)
    if job is None:
        return _asked(found, config)
    try:
        store = layout.open_store(config)
        digest = kept.digest(store, job, str(found))
        if not digest:
            digest = kept.settle(store, job, str(found), _asked(found, config))
            kept.forget_ended(store, job.cluster, jobs.living)
    except (errors.StoreError, errors.SpaceError) as error:
        log.warning(f"other steps of this job look {found} up for themselves: {error.message}")
        return _asked(found, config)
    return digest


def _asked(found: reference.Reference, config: settings.Config) -> str:
    from fairlead.store import fetch

    try:
        return fetch.digest(found, config)
    except errors.RegistryUnreachableError as error:
        hint = f"{error.hint}; FAIRLEAD_RESOLVE=start leaves the question to the nodes"
        raise errors.RegistryUnreachableError(error.message, hint=hint) from error
