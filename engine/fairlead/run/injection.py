"""Decide whose MPI runs in a launch, have its layer made, and say what will become of the ranks.

Index, verdict about glibc, and layer are kept in the image's place and vanish with it; what is
known of the host's MPI is kept in the store's ``host`` directory. Where the image comes from the
node's shared store, so does the layer, unless only this user's environment leads to what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import fairlead
from fairlead import config as settings
from fairlead import errors, kernel
from fairlead.plan import plan as launch_plan
from fairlead.plan import proof
from fairlead.plan import request as launch_request
from fairlead.run import ranks, view
from fairlead.store import layout

if TYPE_CHECKING:
    from fairlead.host import mpi, pmi
    from fairlead.host.index import Index
    from fairlead.plan import inject
    from fairlead.run import stage


class Shared(NamedTuple):
    """An image of the node's shared store.

    Attributes:
        broker: the step's connection to the broker.
        image: HEX of its manifest's digest.
        chain: ChainID of its layers.
        mounts: how many they came as.
    """

    broker: int
    image: str
    chain: str
    mounts: int


def asks_host_mpi(request: launch_request.Request) -> bool:
    """Tell whether the host's MPI has a say in a launch."""
    return request.mpi == "host" or (request.mpi == "auto" and _is_rank(request.environ))


def asks_image_mpi(request: launch_request.Request) -> bool:
    """Tell whether what the image has of MPI has a say in a launch."""
    return request.mpi == "host" or _is_rank(request.environ)


def decide(
    request: launch_request.Request,
    image: str,
    files: view.View,
    store: layout.Store,
    config: settings.Config,
    shared: Shared | None = None,
) -> launch_plan.Injection:
    """Decide whose MPI runs, make the layer that brings it, and say what will become of its ranks.

    Index and layer are kept in the image's place and vanish with it; what is known of the
    host's MPI is kept in the store's ``host`` directory.

    Raises:
        errors.MpiError: the host's MPI was asked for and does not fit, or the ranks of an MPI that
            was asked for would not become one world.
        errors.ConfigError: the settings name an MPI that this host does not have.
    """
    if not asks_image_mpi(request):
        foreseen = ranks.outlook(request, config, ())
        return launch_plan.Injection(
            variables=foreseen.variables, proof=proof.Proof(refusals=foreseen.refusals)
        )
    found, abilities = _known(files)
    verdict = _verdict(request, image, files, store, config, found)
    verdict, staged = _staged(request, files, found, verdict, shared)
    running = ranks.candidates(found, verdict.profiles, dict(abilities))
    foreseen = ranks.outlook(request, config, running)
    if staged is None:
        asked = request.mpi == "image"
        notes = (*(() if asked else verdict.reasons[:1]), *verdict.warnings, *foreseen.notes)
        return launch_plan.Injection(
            "",
            foreseen.variables,
            notes,
            (*verdict.reasons, *foreseen.report),
            proof=ranks.to_prove(config, foreseen, trace=bool(running), injected=False),
            same=(("mpi", "the image's own" if found.libraries else "none"),),
        )
    # An image may hold another class of MPI that was not replaced: its programs load their own,
    # unless the host's was asked for.
    whole = request.mpi == "host" or {item.abi_class for item in found.libraries} == {
        profile.abi_class for profile in verdict.profiles
    }
    return launch_plan.Injection(
        staged.directory,
        (*((name, None) for name in staged.unset), *staged.env, *ranks.of_host(foreseen)),
        (*verdict.warnings, *foreseen.notes),
        (*staged.report, *foreseen.report),
        proof=ranks.to_prove(config, foreseen, trace=True, injected=whole),
        shared=staged.shared,
        mount=staged.mount,
        same=_same(verdict),
    )


def _same(verdict: inject.Verdict) -> tuple[tuple[str, str], ...]:
    """Return what nodes compare of the host's MPI: by content, as times are every node's own."""
    names = []
    for profile in verdict.profiles:
        files = [(soname, os.path.basename(path)) for soname, path in profile.closure]
        content = repr((profile.abi_class, sorted(files), profile.exports, profile.glibc))
        build = f"{kernel.plan_hash(content.encode()):016x}"
        names.append(f"{profile.name} (build {build[:8]})")
    glibc = "; ".join(reason for reason in verdict.reasons if "glibc" in reason)
    return (
        ("mpi", f"the host's {', '.join(names)}"),
        ("glibc", "the host's" if verdict.swap else glibc or "the image's"),
    )


def _verdict(
    request: launch_request.Request,
    image: str,
    files: view.View,
    store: layout.Store,
    config: settings.Config,
    found: Index,
) -> inject.Verdict:
    """Return whose MPI runs.

    Raises:
        errors.MpiError: the host's was asked for and does not fit.
    """
    from fairlead.host import mpi
    from fairlead.plan import inject

    offered: tuple[mpi.Profile, ...] = ()
    if asks_host_mpi(request):
        offered = mpi.profiles(request.environ, store.path("host"), mpi.choice(config))
    glibc = {
        profile.identity: on_glibc(files, found, profile)
        for profile in inject.asks_more(found, offered)
    }
    verdict = inject.decide(
        request.mpi,
        found,
        offered,
        cross_major=config.mpi_cross_major,
        glibc=glibc,
        swap=config.mpi_glibc == "swap",
    )
    if request.mpi == "host" and verdict.refused:
        raise errors.MpiError(f"the host's MPI cannot run in {image}: {verdict.refused}")
    return verdict


def _staged(
    request: launch_request.Request,
    files: view.View,
    found: Index,
    verdict: inject.Verdict,
    shared: Shared | None,
) -> tuple[inject.Verdict, stage.Staged | None]:
    """Return the layer that brings the host's MPI, and the verdict that became of it.

    Where a library of the host cannot be put into the image, ``auto`` means the image's own MPI.

    Raises:
        errors.MpiError: the host's was asked for.
    """
    from fairlead.plan import inject
    from fairlead.run import stage

    if verdict.choice != "host":
        return verdict, None
    target = f"{files.place}/mpi-{fairlead.__version__}-{stage.key(verdict)}"
    if verdict.swap:  # a user's setting, and nothing for others
        shared = None
    staged = _of_all(shared, verdict) if shared else None
    staged = staged or stage.ready(target, verdict)
    if staged is None and shared and _made_for_all(shared, verdict):
        staged = _of_all(shared, verdict)
    if staged is None:
        try:
            files.read(lambda rootfs: stage.compose(verdict, found, rootfs, target))
        except errors.MpiError as error:
            if request.mpi == "host":
                raise
            return inject.Verdict(
                "image", (), (f"the image's own MPI runs: {error.message}",)
            ), None
        staged = view.made(stage.ready(target, verdict), target)
    return verdict, staged


def _of_all(shared: Shared, verdict: inject.Verdict) -> stage.Staged | None:
    """Return the layer of the node's shared store, None if this user's grant names none."""
    from fairlead.run import stage
    from fairlead.shared import ask, injection

    name = injection.name_of(shared.chain, _identities(verdict))
    mount = ask.injection(shared.broker, shared.image, name)
    if mount < 0:
        return None
    return stage.Staged(
        f"mount:{shared.mounts}",
        stage.environment(verdict.profiles),
        stage.unset(verdict.profiles),
        (*verdict.reasons, *verdict.warnings, f"from the node's shared store: {name[:12]}"),
        name,
        mount,
    )


def _made_for_all(shared: Shared, verdict: inject.Verdict) -> bool:
    """Have the layer made for all users, where the site's settings may lead to what it holds."""
    from fairlead.shared import ask

    if any(profile.own or profile.env for profile in verdict.profiles):
        return False
    return ask.make_injection(shared.broker, shared.image, _identities(verdict))


def _identities(verdict: inject.Verdict) -> tuple[str, ...]:
    return tuple(profile.identity for profile in verdict.profiles)


def _known(files: view.View) -> tuple[Index, pmi.Abilities]:
    """Return what the image has of MPI, found out once."""
    from fairlead.host import index, pmi

    kept, clients = f"{files.place}/mpi.json", f"{files.place}/pmi-2.json"
    found, abilities = index.cached(kept), pmi.cached(clients)
    if found is None or abilities is None:
        files.read(lambda rootfs: pmi.load(rootfs, index.load(rootfs, kept), clients))
        found, abilities = index.cached(kept), pmi.cached(clients)
    return view.made(found, kept), view.made(abilities, clients)


def on_glibc(files: view.View, found: Index, profile: mpi.Profile) -> inject.Glibc:
    """Return how an installation of the host runs on the image's glibc."""
    from fairlead.run import fit

    kept = fit.path(files.place, profile)
    answer = fit.cached(kept)
    if answer is None:
        files.read(lambda rootfs: fit.keep(rootfs, profile, found, kept))
        answer = view.made(fit.cached(kept), kept)
    return answer


def with_world(
    request: launch_request.Request,
    config: settings.Config,
    injection: launch_plan.Injection,
    texts: tuple[str, str, str, str],
) -> launch_plan.Injection:
    """Add the world check, where the step has a world to lose."""
    world = ranks.check(
        request,
        config,
        injected=injection.proof.injected,
        preload=texts[2],
        musl=bool(texts[3]),
        refusals=injection.proof.refusals,
    )
    return injection._replace(world=world)


def _is_rank(environ: Mapping[str, str]) -> bool:
    """Tell whether a launcher (srun with PMI, mpirun) started this as a rank of an MPI job.

    A program that is alone gains nothing from the host's MPI and may lose: OpenMPI 4 wants its own
    orted for a singleton.
    """
    return not environ.keys().isdisjoint(("PMIX_RANK", "PMI_FD", "PMI_RANK", "PMI2_RANK"))
