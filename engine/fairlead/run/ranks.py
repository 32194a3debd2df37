"""What a step's ranks must find so that they become one MPI world: prepared, foreseen, checked.

Rules:
- What is known to go wrong is said before the launch: as an error where MPI was asked for by name,
  or where the command turns out to be an MPI program (``run.proof``); else as a note.
- Only a step of several tasks has a world to lose; one that srun did not start with PMI gets no
  check at run time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from fairlead import config as settings
from fairlead import errors, log
from fairlead.host import cma, witness
from fairlead.plan import bootstrap, proof, world
from fairlead.plan import request as launch_request

if TYPE_CHECKING:  # json comes with them, which a launch without MPI does not need
    from fairlead.host.index import Index
    from fairlead.host.mpi import Profile

MUNGE = "/run/munge"


class Candidate(NamedTuple):
    """An MPI that a command of the container may load.

    ``family`` is whose code it is: a library of the standard's ABI starts as its makers' others do.
    ``names`` are its libraries' SONAMEs and their paths in the container.
    """

    family: str
    version: str
    abilities: tuple[str, ...]
    names: tuple[str, ...]


class Outlook(NamedTuple):
    """What is foreseen.

    Attributes:
        variables: for PMIx clients.
        notes: what the user should know at each launch.
        report: what was decided, for ``fairlead plan``.
        refusals: as in ``proof.Proof``.
    """

    variables: tuple[tuple[str, str | None], ...] = ()
    notes: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    refusals: tuple[tuple[tuple[str, ...], bootstrap.Verdict], ...] = ()


def library() -> str:
    """Return the path of the world check's library; beside the interpreter's own environment."""
    prefix = os.path.dirname(os.path.dirname(os.path.dirname(sys.executable)))
    return f"{prefix}/lib/fairlead/fairlead-world.so"


def has_several(request: launch_request.Request) -> bool:
    """Tell whether the launch is part of a step of more than one task."""
    if request.step is not None:
        return request.step.tasks > 1
    # `srun fairlead run`: every task makes a container of its own.
    tasks = request.environ.get("SLURM_STEP_NUM_TASKS", "")
    return tasks.isascii() and tasks.isdecimal() and int(tasks) > 1


def is_checked(request: launch_request.Request, config: settings.Config) -> bool:
    """Tell whether the world check goes into the container."""
    return (
        config.mpi_world_check
        and request.step is not None
        and has_several(request)
        and bootstrap.started_with(request.environ) in ("pmix", "pmi2")
    )


def candidates(
    index: Index, profiles: Iterable[Profile], abilities: Mapping[str, tuple[str, ...]]
) -> tuple[Candidate, ...]:
    """Return what may run: of each ABI class the host's if it was chosen, else the image's own."""
    chosen = {profile.abi_class: profile for profile in profiles}
    found: list[Candidate] = []
    for abi_class in dict.fromkeys(item.abi_class for item in index.libraries):
        own = [item for item in index.libraries if item.abi_class == abi_class]
        names = tuple(dict.fromkeys(item.soname for item in own))
        profile = chosen.get(abi_class)
        main = next((item for item in own if item.role in ("c", "open_mpi")), None)
        if profile:
            sonames = [soname for _, soname, _ in profile.libraries]
            paths = [f"{world.INJECTED}{abi_class}/lib/{soname}" for soname in sonames]
            names = tuple(dict.fromkeys((*names, *sonames, *paths)))
            product = profile.label.partition("-")[0] or profile.family
            can = (*profile.pmi, *profile.client)
            found.append(Candidate(product, profile.version, can, names))
        elif main:
            names = (*names, *(item.path for item in own))
            product, clients = main.product or main.family, abilities.get(main.path, ())
            found.append(Candidate(product, main.version, clients, names))
    return tuple(found)


def outlook(
    request: launch_request.Request,
    config: settings.Config,
    found: tuple[Candidate, ...],
) -> Outlook:
    """Return what is foreseen for a launch.

    Raises:
        errors.MpiError: MPI was asked for by name, and its ranks would not make one world.
    """
    environ = request.environ
    started = bootstrap.started_with(environ)
    report: list[str] = []
    notes: list[str] = []
    refusals: list[tuple[tuple[str, ...], bootstrap.Verdict]] = []
    for item in found:
        verdict = bootstrap.verdict(item.family, item.version, item.abilities, started)
        name = f"{bootstrap.NAMES.get(item.family, item.family)} {item.version}"
        if started == "pmix" and not verdict.reason:
            offered = witness.named(environ, bootstrap.ADDRESS)
            release = environ.get("PMIX_VERSION", "")
            met = bootstrap.address(name, item.abilities, offered, release)
            verdict = met if met.reason else verdict
            known = bootstrap.client(item.abilities)
            if known and release:
                report.append(f"{name}: its client is {known}, the step's PMIx server {release}")
        if started != "none":
            report.append(f"{name} in a step started with {started}: {verdict.outcome}")
        if verdict.reason:
            refusals.append((item.names, verdict))
    if not has_several(request) or not config.mpi_world_check:
        refusals.clear()
    if started == "none" and has_several(request) and config.mpi_world_check:
        refusals = list(bootstrap.without_pmi())
    elif refusals:
        _refuse_if_asked(request, config, found, refusals)
        notes += [f"{verdict.reason} ({verdict.remedy})" for _, verdict in refusals]
    variables, more = _pmix(environ)
    notes += more
    return Outlook(variables, tuple(notes), tuple(report), tuple(refusals))


def _refuse_if_asked(
    request: launch_request.Request,
    config: settings.Config,
    found: tuple[Candidate, ...],
    refusals: list[tuple[tuple[str, ...], bootstrap.Verdict]],
) -> None:
    """Raise where the user named whose MPI runs and none of what runs would make one world."""
    if request.mpi == "auto" or config.origins["mpi"] == settings.SITE_FILE:
        return
    if len(refusals) == len(found):
        raise errors.MpiError(refusals[0][1].reason, hint=refusals[0][1].remedy)


def _pmix(
    environ: Mapping[str, str],
) -> tuple[tuple[tuple[str, str | None], ...], list[str]]:
    """Return what PMIx clients need to meet Slurm's server, and what is in their way.

    The server offers munge and native security; a client built without munge prints ten lines per
    rank before it takes the other (mpi.md section 2).
    """
    offered = environ.get("PMIX_SECURITY_MODE", "")
    chosen = environ.get("PMIX_MCA_psec")
    verdicts = (
        bootstrap.security(offered, munge=os.path.isdir(MUNGE), chosen=chosen),
        bootstrap.storage(environ.get("PMIX_GDS_MODULE", ""), environ.get("PMIX_MCA_gds")),
    )
    notes = [f"{verdict.reason} ({verdict.remedy})" for verdict in verdicts if verdict.reason]
    native = "native" in offered.split(",") and chosen is None
    return ((("PMIX_MCA_psec", "native"),) if native else ()), notes


def of_host(foreseen: Outlook) -> tuple[tuple[str, str | None], ...]:
    """Return the variables for PMIx clients of the host, which has munge where the server has.

    Without the socket here they would be turned away with the server's other kind at hand.
    """
    return () if os.path.isdir(MUNGE) else foreseen.variables


def check(
    request: launch_request.Request,
    config: settings.Config,
    *,
    injected: bool,
    preload: str,
    musl: bool,
    refusals: tuple[tuple[tuple[str, ...], bootstrap.Verdict], ...] = (),
) -> world.World | None:
    """Return what the world check is told, None where it does not go in."""
    step = request.step
    if step is None or not is_checked(request, config):
        return None
    source = library()
    if not os.path.isfile(source):
        log.warning(f"{source}: not installed, so that nothing checks MPI's world")
        return None
    end = f"{step.job_id}.{step.step_id}"
    refused = tuple(
        (tuple(name for name in names if name.startswith("/")), f"{found.reason} ({found.remedy})")
        for names, found in refusals
    )
    return world.World(source, step.tasks, step.node_index, end, injected, preload, musl, refused)


def copying(
    request: launch_request.Request, config: settings.Config, cache_dir: str
) -> tuple[str, ...]:
    """Return a note where ranks of this node cannot copy from each other."""
    if not tries_copying(request, config):
        return ()
    line = cma.warning(cache_dir)
    return (line,) if line else ()


def tries_copying(request: launch_request.Request, config: settings.Config) -> bool:
    """Tell whether ``copying`` looks at anything."""
    started = bootstrap.started_with(request.environ)
    return config.mpi_cma_check and has_several(request) and started in ("pmix", "pmi2")


def to_prove(
    config: settings.Config,
    foreseen: Outlook,
    *,
    trace: bool,
    injected: bool,
) -> proof.Proof:
    """Return what is to be proven in the container."""
    return proof.Proof(trace and config.mpi_preflight, injected, foreseen.refusals)
