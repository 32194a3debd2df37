"""Prove a launch in its container, before any rank runs: what ``plan.proof`` asks for.

Rules:
- Called after ``namespace.enter``: nothing is imported any more.
- The image's loader runs in a child with the user's rights, no_new_privs, two seconds and 64 KiB of
  output (``c_ext/preflight.h``). A script, a static program, one of another machine and one that
  would gain rights are not asked about.
- A loader that says nothing, or too late, proves nothing: the launch goes on and is not kept.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from fairlead import errors, kernel
from fairlead.host import witness
from fairlead.plan import env, proof
from fairlead.plan import plan as launch_plan

LIMIT_MS = 2000


class Proven(NamedTuple):
    """What was found.

    Attributes:
        certain: all that was asked could be proven, so that it need not be proven again.
        notes: what the user should know.
        seen: files of the host, outside the image, on which the proof hangs.
    """

    certain: bool = True
    notes: tuple[str, ...] = ()
    seen: tuple[witness.Seen, ...] = ()


def prove(plan: launch_plan.Plan, block: bytes) -> Proven:
    """Prove what the plan asks for.

    Raises:
        errors.LibraryError: the loader misses something.
        errors.MpiError: another MPI than the chosen one would run, or not as one
        world.
    """
    words = (*plan.arguments, *plan.command)
    if not words or not (plan.proof.trace or plan.proof.refusals):
        return Proven()
    path = env.value(plan.variables, "PATH") or env.DEFAULT_PATH
    # A first look without running anything: most commands of a step are no MPI programs.
    found = kernel.preflight(block, words[0], path, LIMIT_MS, trace=False)
    if found is None or found.kind != kernel.lib.PROGRAM_DYNAMIC:
        return Proven()
    _refuse(plan, found.path, (found.mpi,))
    if not plan.proof.trace:
        return Proven(seen=_seen(plan, (found.path,)))
    found = kernel.preflight(block, words[0], path, LIMIT_MS, trace=True)
    if found is None or not found.text:
        return Proven(certain=False)
    if found.timed_out:
        note = f"{found.path}: the image's loader did not answer within {LIMIT_MS // 1000} s"
        return Proven(certain=False, notes=(f"{note}; its libraries are not checked",))
    trace = proof.parse(found.text)
    if not trace.libraries and not trace.missing:
        return Proven(certain=False)
    notes = proof.check(found.path, trace)
    libraries = proof.mpi_of(trace)
    if plan.proof.injected and libraries:
        files = tuple(os.path.realpath(at) for _, at in libraries)
        proof.check_injected(found.path, files)
    _refuse(plan, found.path, tuple(name for name, _ in trace.libraries))
    return Proven(True, notes, _seen(plan, (found.path, *(at for _, at in trace.libraries if at))))


def _refuse(plan: launch_plan.Plan, command: str, names: tuple[str, ...]) -> None:
    verdict = proof.refusal(plan.proof, names)
    if verdict:
        raise errors.MpiError(f"{command}: {verdict.reason}", hint=verdict.remedy)


def _seen(plan: launch_plan.Plan, paths: tuple[str, ...]) -> tuple[witness.Seen, ...]:
    """Look at the files that lie in directories of the host: the image's own never change."""
    seen = []
    for path in paths:
        real = os.path.realpath(os.path.join(plan.workdir, path))
        below = [
            mount
            for mount in plan.mounts
            if f"{real}/".startswith(f"{mount.destination.rstrip('/')}/")
        ]
        if below and max(below, key=lambda mount: len(mount.destination)).type == "bind":
            mount = max(below, key=lambda mount: len(mount.destination))
            there = f"{mount.source.rstrip('/')}{real[len(mount.destination.rstrip('/')) :]}"
            seen.append(witness.Seen(there, witness.identity(real)))
    return tuple(seen)
