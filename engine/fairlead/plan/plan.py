"""The plan: everything that a launch will do, as a value. Pure.

``make`` turns image, request, host facts, settings and MPI verdict into a Plan; ``run`` executes
it, ``fairlead plan`` prints it, ``plan.oci`` gives it as an OCI runtime-spec ``config.json``, tests
assert on it without a kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fairlead import errors
from fairlead.host import facts as host_facts
from fairlead.image import manifest
from fairlead.plan import edits as plan_edits
from fairlead.plan import env, mounts, proof, world
from fairlead.plan import request as launch

if TYPE_CHECKING:
    from fairlead.host import hooks


_OF_IMAGE = "the image's WorkingDir"


class Injection(NamedTuple):
    """What the MPI verdict adds to a plan."""

    layer: str = ""  # of the injection, laid over the image: directory, or mount:N; empty: none
    variables: tuple[tuple[str, str | None], ...] = ()  # None: unset
    notes: tuple[str, ...] = ()  # what the user should know at each launch
    report: tuple[str, ...] = ()  # what was decided and done, for ``fairlead plan``
    world: world.World | None = None  # what the world check is told; None: it does not go in
    proof: proof.Proof = proof.Proof()  # what is to be proven in the container
    shared: str = ""  # name of the injection in the node's shared store, and
    mount: int = -1  # its mount, the one behind the image's
    same: tuple[tuple[str, str], ...] = ()  # what must be the same on all nodes of a step


class Source(NamedTuple):
    """The image as the plan needs it."""

    reference: str  # with digest
    config: manifest.ImageConfig
    layers: tuple[str, ...]  # its lower directories, or ``mount:N``, topmost first
    passwd: str
    group: str


class Plan(NamedTuple):
    """A launch.

    Attributes:
        image: reference with digest.
        layers: lower directories of the root, topmost first; ``mount:N``: a mount that comes.
        readonly: the root refuses writes.
        upper: where the root is written to: ``memory``, ``disk``, or ``kept`` of a named container.
        upper_size: how much may be written there; empty: half of the memory, a tenth of the disk.
        upper_reason: why there.
        mounts, links, variables: each with its reason.
        arguments: words that go before the command (the image's entrypoint).
        command: the command's words.
        workdir: working directory inside.
        notes: what the user should know (``User`` ignored, MPI decisions).
        mpi: what was decided about MPI, and why.
        proof: what is proven in the container before the command runs.
        kept: of a named container its directory and its key; empty of any other.
        remap_root: the user appears as root inside.
        unshare: further namespaces of its own.
        makes_workdir: the working directory is the image's, and made where the image lacks it.
        hooks: the site's programs that run while it is built.
        same: name and value of what must be the same on all nodes of a step.
    """

    image: str
    layers: tuple[str, ...]
    readonly: bool
    upper: str
    upper_size: str
    upper_reason: str
    mounts: tuple[mounts.Mount, ...]
    links: tuple[mounts.Link, ...]
    variables: tuple[env.Variable, ...]
    arguments: tuple[str, ...]
    command: tuple[str, ...]
    workdir: str
    workdir_reason: str
    uid: int
    gid: int
    hostname: str
    notes: tuple[str, ...]
    mpi: tuple[str, ...]
    proof: proof.Proof = proof.Proof()
    kept: tuple[str, ...] = ()
    remap_root: bool = False
    unshare: tuple[str, ...] = ()
    makes_workdir: bool = False
    hooks: tuple[hooks.Hook, ...] = ()
    same: tuple[tuple[str, str], ...] = ()


def make(
    source: Source,
    request: launch.Request,
    facts: host_facts.Facts,
    injection: Injection,
    edits: plan_edits.Edits = plan_edits.NONE,
) -> Plan:
    """Return the plan for a launch.

    Raises:
        errors.UsageError: there is no command, neither asked for nor in the image.
    """
    inside = mounts.as_root(facts) if request.remap_root else facts
    trees, links = mounts.kernel_trees(facts, request.unshare)
    directories = mounts.user_directories(request, facts, inside.user.home)
    own = [
        *trees,
        *directories,
        *edits.mounts,
        *mounts.slurm_directories(request, facts),
        *mounts.identity_files(inside, source.passwd, source.group, edits.accounts),
        *(world.step_mounts(injection.world) if injection.world else ()),
    ]
    all_mounts = mounts.with_volumes(own, request.volumes)
    asked = [mount for mount in all_mounts if mount not in own]
    directories = [mount for mount in (*directories, *asked) if mount in all_mounts]
    arguments, command = _command(source.config, request)
    workdir, why = _workdir(source.config, request, inside, directories)
    return Plan(
        image=source.reference,
        layers=(*((injection.layer,) if injection.layer else ()), *source.layers),
        readonly=not request.writable,
        upper=request.upper if request.writable else "memory",
        upper_size=request.upper_size,
        upper_reason=_upper_reason(request),
        mounts=tuple(all_mounts),
        links=(*links, *edits.links),
        variables=_variables(source, request, injection, edits, inside.user),
        arguments=arguments,
        command=command,
        workdir=workdir,
        workdir_reason=why,
        uid=facts.user.uid,
        gid=facts.user.gid,
        remap_root=request.remap_root,
        unshare=request.unshare,
        hostname=facts.hostname,
        notes=(*request.notes, *_notes(source.config, facts, injection), *edits.notes),
        mpi=injection.report,
        proof=injection.proof,
        makes_workdir=why == _OF_IMAGE,
        hooks=edits.hooks,
        same=injection.same,
    )


def _variables(
    source: Source,
    request: launch.Request,
    injection: Injection,
    edits: plan_edits.Edits,
    me: host_facts.User,
) -> tuple[env.Variable, ...]:
    injected = injection.variables
    if injection.world:
        injected = (*injected, *world.variables(injection.world))
    variables = env.changes(
        request.environ,
        source.config.env,
        injected,
        request.variables,
        source.reference,
        edits.variables,
        dropped=request.dropped,
        kept=request.kept_variables,
    )
    if request.remap_pytorch:
        variables = (*variables, *env.for_pytorch(request.environ, source.config.env))
    if request.remap_root:
        variables = (*variables, env.Variable("HOME", me.home, "root's, inside"))
    if not request.templates:
        return variables
    from fairlead.plan import definition  # few launches need it

    asked = frozenset((*(name for name, _ in request.variables), *request.kept_variables))
    ours = dict(injected).get("LD_PRELOAD")
    return definition.variables(variables, request.environ, request.templates, asked, ours)


def _upper_reason(request: launch.Request) -> str:
    """Return why the root is written to where it is."""
    if not request.writable:
        return "nothing may be written; mount points are made in memory"
    if request.upper == "disk":
        size = f"{request.upper_size} of room" if request.upper_size else "a tenth of what is free"
        return f'upper = "disk": {size}, reserved and limited by the broker'
    return 'upper = "memory"'


def _command(
    config: manifest.ImageConfig, request: launch.Request
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return entrypoint and command (image-spec, config.md: Cmd is Entrypoint's arguments)."""
    if request.entrypoint is not None:
        entrypoint = request.entrypoint
        command = request.command
    else:
        entrypoint = config.entrypoint if request.use_entrypoint else ()
        command = request.command or (config.cmd if request.use_entrypoint else ())
    if not entrypoint and not command and not (request.step and request.step.multi_prog):
        raise errors.UsageError(
            f"{request.reference}: the image has no command of its own",
            hint="name one after the reference",
        )
    return entrypoint, command


def _workdir(
    config: manifest.ImageConfig,
    request: launch.Request,
    facts: host_facts.Facts,
    directories: list[mounts.Mount],
) -> tuple[str, str]:
    if request.workdir is not None:
        return request.workdir, "asked for"
    if config.workdir not in ("", "/"):
        return f"/{config.workdir.lstrip('/')}", _OF_IMAGE  # a relative one starts in the root
    if request.starts_in_image:
        return "/", "the image has no WorkingDir; as under pyxis"
    visible = (
        (request.cwd + "/").startswith(mount.destination.rstrip("/") + "/") for mount in directories
    )
    if request.cwd and any(visible):
        return request.cwd, "the job's working directory"
    if facts.user.home in {mount.destination for mount in directories}:
        return facts.user.home, "home, since the job's working directory is not in the container"
    return "/", "nothing better is in the container"


def _notes(
    config: manifest.ImageConfig, facts: host_facts.Facts, injection: Injection
) -> tuple[str, ...]:
    notes = list(injection.notes)
    wanted = config.user.split(":")[0]
    if wanted not in ("", "root", "0", facts.user.name, str(facts.user.uid)):
        notes.append(
            f"the image asks for user {config.user!r}; it runs as {facts.user.name}, as every job"
        )
    return tuple(notes)
