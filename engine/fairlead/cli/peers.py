"""What users of other engines write, option by option, and what it is here.

One table: ``fairlead migrate`` looks words up in it, ``docs/migrate.md`` is printed from it
(``python -m fairlead.cli.peers``), and a test holds them together. Facts only, of the versions
that are named; what is not done here says so.

A line of a table is ``THEIRS | HERE | REMARK``. HERE is ``=`` where the same words do the same, ``~``
where nothing needs to be said, and ``-`` where nothing corresponds. An option that takes a value has it behind a blank. What is no
option is a word of its own: a verb, a key of a file, a variable, an argument.
"""

from __future__ import annotations

from typing import NamedTuple

SAME, NEEDLESS, NONE = "=", "~", "-"
SHOWN = {SAME: "the same", NEEDLESS: "not needed", NONE: "nothing"}


class Row(NamedTuple):
    """One thing that may be written: its spellings, what it is here, and a remark."""

    theirs: tuple[str, ...]
    takes_value: bool
    shown: str
    here: str
    remark: str


class Peer(NamedTuple):
    """An engine: whose table this is, and the words that begin its command lines."""

    name: str
    version: str
    intro: str
    commands: tuple[str, ...]
    rows: tuple[Row, ...]


def _rows(text: str) -> tuple[Row, ...]:
    return tuple(_row(line) for line in text.strip().splitlines())


def _row(line: str) -> Row:
    shown, here, remark = (part.strip() for part in f"{line} ".split(" | ", 2))
    spellings = [part.strip() for part in shown.split(", ")]
    words = tuple(part.partition(" ")[0].partition("[")[0] for part in spellings)
    return Row(words, " " in spellings[-1], shown, here, remark)


def row(peer: Peer, word: str) -> Row | None:
    """Return what a table says of a word: the word itself, or a family like ``NAME_*``."""
    for found in peer.rows:
        if word in found.theirs:
            return found
    families = ((item, text) for item in peer.rows for text in item.theirs if text.endswith("*"))
    return next((item for item, text in families if word.startswith(text[:-1])), None)


PYXIS = Peer(
    "pyxis",
    "0.24",
    "Options of srun, sbatch and salloc. All of them are here, under their names.",
    ("srun", "sbatch", "salloc"),
    _rows("""
--container-image REF|PATH | = | dockerd:// asks the node's docker; containers-storage: reads podman's store
--container-mounts SRC[:DST[:FLAGS]],... | = | also tmpfs:DST, umount:DST, and mounts in the long syntax, type=bind,...
--container-workdir DIR | = | default: the image's, else /; with --container the job's
--container-name NAME[:MODE] | = | auto, create, exec, no_exec
--container-save PATH | = | a squashfs file; also its changes as an image: oci:DIR, docker://REF
--container-mount-home, --no-container-mount-home | = | default: bound, as the setting mount_home says
--container-remap-root, --no-container-remap-root | = | default: you are yourself inside
--container-entrypoint, --no-container-entrypoint | = | default: not run
--container-entrypoint-log | = | what the entrypoint prints is always shown
--container-writable, --container-readonly | = | default: writable, and forgotten at the end
--container-env NAME,... | = | the host's value beats the image's
--container-unshare NS,... | = | net, ipc, uts
PYXIS_CONTAINER_* | = | the options' defaults
runtime_path= | ~ | plugstack.conf: nothing is kept while a container runs
execute_entrypoint= | = | plugstack.conf
container_scope= | = | plugstack.conf
sbatch_support= | = | plugstack.conf
use_enroot_load= | ~ | plugstack.conf: images are fetched without enroot
importer= | ~ | plugstack.conf: images are fetched by the engine
use_squashfuse= | ~ | plugstack.conf: squashfs files are unpacked, once per node
"""),
)

ENROOT = Peer(
    "enroot",
    "4.1",
    "There is no container to create before it is started: an image is run as it is. "
    "Squashfs files of enroot run unchanged, with their /etc/rc and /etc/environment.",
    ("enroot",),
    _rows("""
import | fairlead pull REF | or nothing at all: the first launch fetches
create | ~ | no container is created: fairlead run FILE.sqsh
start | fairlead run REF COMMAND | or FILE.sqsh
exec | fairlead exec PID COMMAND | see fairlead ps
list | fairlead ps | images: fairlead images
remove | fairlead rm REF | containers leave nothing behind
export | fairlead export |
bundle | - | self-extracting files are not made; see fairlead bundle for OCI bundles
load | fairlead run docker-archive:FILE | no copy is needed; the file is named wherever an image is
batch | fairlead run REF COMMAND | configuration scripts are not run
-m, --mount SRC:DST | -v SRC:DST[:ro] | fairlead run
-e, --env NAME=VALUE | -e NAME=VALUE | fairlead run
-r, --root | srun --container-remap-root | only in Slurm steps
-w, --rw | ~ | is so by default
-c, --conf FILE | - | shell code is not run; an environment file (EDF) describes a container
-n, --name NAME | --name NAME | fairlead run
-o, --output FILE | ~ | images are in the store
-f, --force | ~ | nothing is in the way
-a, --arch ARCH | ~ | the image for this machine is taken from its index
--rc FILE | --entrypoint COMMAND | fairlead run
ENROOT_CONFIG_PATH | = | its .credentials are read; no $(...) is run
ENROOT_CACHE_PATH | FAIRLEAD_STORE | one store for everything
ENROOT_DATA_PATH | FAIRLEAD_STORE | likewise
ENROOT_TEMP_PATH | FAIRLEAD_STORE | likewise: what is under way lies in the store, too
ENROOT_RUNTIME_PATH | ~ | nothing is kept while a container runs
ENROOT_MOUNT_HOME | mount_home | setting
ENROOT_ROOTFS_WRITABLE | writable | setting
ENROOT_REMAP_ROOT | srun --container-remap-root | per step
ENROOT_RESTRICT_DEV | ~ | is always so
ENROOT_SQUASH_OPTIONS | ~ | no squashfs is made of an image
ENROOT_MAX_CONNECTIONS | ~ | chosen by the engine
ENROOT_MAX_PROCESSORS | ~ | the job's processors
ENROOT_TRANSFER_RETRIES | ~ | five tries, with the registry's own Retry-After
ENROOT_CONNECT_TIMEOUT | ~ | fixed
ENROOT_ALLOW_HTTP | insecure_registries | setting: which hosts, not all
ENROOT_SYSCONF_PATH | /etc/fairlead/fairlead.toml | the site's settings
ENROOT_NATIVE_OVERLAYFS | ~ | is always so
ENROOT_SLURM_HOOK | - | Slurm's clients in a container: --container-slurm
environ.d | site_env | setting
mounts.d | site_mounts | setting
hooks.d | hooks_dirs | OCI hooks; scripts of enroot's own kind are not run
"""),
)

EDF = Peer(
    "EDF of CSCS's Container Engine",
    "documentation of 2026-08",
    "Environment files are read as they are. An unknown key is an error with the nearest known one.",
    ("srun", "sbatch", "salloc"),
    _rows("""
--environment NAME|PATH | = | also fairlead run, and srun --container=x.toml
--edf NAME|PATH | = | the same
EDF_PATH | = | default: ~/.edf
base_environment | = | at most 10 levels
image | = | everything that can be named elsewhere: digests, .sqsh, .sif, oci:
workdir | = |
entrypoint | = | default: false
writable | = | default: true
mounts | = | with the flags of --container-mounts, and sqsh: unpacked once per node, read-only
devices | = | paths, and CDI names
env | = | may name variables of the image and of the job; empty unsets
annotations | = | go to the site's hooks, too
com.hooks.mpi.enabled | = | true: the host's MPI or an error; false: the image's; without it: auto
com.hooks.mpi.type | = | a name of fairlead mpi list
com.hooks.glibc.enabled | ~ | the image keeps its glibc, the host's libraries are bound to it
com.hooks.cxi.enabled | ~ | the host's MPI comes with its fabric libraries
com.hooks.netstack.* | ~ | the network is the host's
com.hooks.logging.level | FAIRLEAD_VERBOSE |
com.hooks.aws_ofi_nccl.* | - | bring the plug-in in the image, or mount it
com.hooks.ssh.* | - | nothing listens in a container: srun --overlap, fairlead exec
com.hooks.nvidia_cuda_mps.* | - | start the daemon in the job, outside
com.hooks.dcgm.* | - | only by a hook of the site
com.hooks.slurm.enabled | = | true: Slurm's clients are brought
com.hooks.slurm-global-sync.* | - | only by a hook of the site
com.pyxis.pytorch_remap_vars | = |
com.pyxis.entrypoint_log | = | what the entrypoint prints is always shown
"""),
)

SARUS = Peer(
    "Sarus",
    "1.7",
    "fairlead run takes the options of sarus run; under Slurm, srun sarus run becomes srun --container. The setting "
    "sarus_json reads a site's sarus.json as it is.",
    ("sarus",),
    _rows("""
run | fairlead run | in a job: srun --container=REF COMMAND
pull | fairlead pull | a login is kept by fairlead login
load | fairlead run docker-archive:FILE | no copy is needed; the file is named wherever an image is
images | fairlead images |
rmi | fairlead rm |
hooks | fairlead plan | shows the hooks that a launch would run
ps | fairlead ps |
kill | kill PID | of fairlead ps; in a job scancel
ssh-keygen | - | nothing listens in a container
--annotation NAME=VALUE | = |
--device HOST[:CONTAINER][:rwm] | = | and CDI names
--entrypoint COMMAND | = |
-e, --env NAME=VALUE | = |
--glibc | = | accepted; done whenever it is needed
--init | = | accepted; orphans are the host's init's
--mount type=bind,... | = | also for srun --container-mounts
-m, --mpi | -m | --mpi takes a mode here: auto (default), host, image
--mpi-type NAME | = | a name of fairlead mpi list
-n, --name NAME | = |
--pid host|private | = | private is refused: ranks need the host's
--ssh | - | is refused: nothing listens in a container
-t, --tty | = | accepted; the terminal is always the command's
-w, --workdir DIR | = |
--centralized-repository | - | a node's shared store serves all users (site= in plugstack.conf)
--login | fairlead login | once
--username NAME | fairlead login --username NAME |
-u NAME | fairlead login --username NAME |
--password-stdin | fairlead login --password-stdin |
--digests | - | fairlead images --json
siteMounts | site_mounts | sarus.json
siteDevices | - | sarus.json: name them in a CDI specification (cdi_dirs)
environment | site_env | sarus.json: set, prepend, append, unset
userMounts | forbidden_targets | sarus.json: where users may not mount; forbidden_mounts restricts what
hooksDir | hooks_dirs | sarus.json; hooks run as the user
containersPolicy | signature_policy | sarus.json: with enforce; else it is a fallback
containersRegistries.dPath | containers_config | sarus.json: the directory that holds registries.d
insecureRegistries | insecure_registries | sarus.json
defaultMPIType | mpi_profile | sarus.json
seccompProfile | - | sarus.json: no privilege can be gained inside; no filter is loaded
apparmorProfile | - | sarus.json
selinuxLabel | - | sarus.json
selinuxMountLabel | - | sarus.json
localRepositoryBaseDir | store | sarus.json: must be node-local here, and yours alone
centralizedRepositoryDir | site_store | sarus.json
OCIBundleDir | ~ | sarus.json: nothing is kept while a container runs
rootfsFolder | ~ | sarus.json: likewise
prefixDir | ~ | sarus.json: PREFIX=DIR ./install
tempDir | ~ | sarus.json: what is under way lies in the store
ramFilesystemType | ~ | sarus.json: the root is written to memory, or to disk (setting upper)
securityChecks | ~ | sarus.json: are always made
mksquashfsPath, mksquashfsOptions, initPath, runcPath, skopeoPath, umociPath | ~ | sarus.json: not needed
"""),
)

APPTAINER = Peer(
    "Apptainer and Singularity",
    "1.5",
    "A .sif file runs as it is; its scripts run by their path: x.sif /.singularity.d/actions/exec COMMAND.",
    ("apptainer", "singularity"),
    _rows("""
exec | fairlead run REF COMMAND | in a job: srun --container=REF COMMAND
run | fairlead run REF | of a .sif: /.singularity.d/actions/run as command
shell | fairlead run REF sh |
pull | fairlead pull REF | library:// and oras:// are not read
build | - | build with podman or buildah; containers-storage:NAME runs it at once
instance | - | no container runs without its command: keep the command running
inspect | fairlead inspect REF |
cache | fairlead store |
remote | fairlead login |
registry | fairlead login |
verify | - | OCI images: signature_policy
-B, --bind SRC[:DST[:ro]] | -v SRC[:DST[:ro]] | one each
--mount type=bind,... | --mount type=bind,... | fairlead run
--env NAME=VALUE,... | -e NAME=VALUE | one each
--env-file FILE | --env-file FILE | NAME=VALUE lines, no shell code
-e, --cleanenv | - | the job's variables are kept; env -i NAME=VALUE ... fairlead run REF
-c, --contain | --no-home --tmpfs /tmp |
-C, --containall | --no-home --tmpfs /tmp | pid and ipc namespaces stay the host's
--no-home | --no-home |
-H, --home DIR | -v DIR:$HOME |
--pwd DIR, --cwd DIR | -w DIR |
--writable-tmpfs | ~ | is so by default
-w, --writable | - | the image stays as it is; a named container keeps changes: --name
-o, --overlay DIR | --name NAME | a named container keeps changes
--nv, --nvccli, --rocm | ~ | the GPUs of a job are there; others: --gpu=all
-f, --fakeroot | srun --container-remap-root | in Slurm steps
-u, --userns | ~ | is always so
-S, --scratch DIR | --tmpfs DIR |
-W, --workdir DIR | - | /tmp and /var/tmp are the host's
-n, --net | srun --container-unshare=net | in Slurm steps
-i, --ipc | srun --container-unshare=ipc | in Slurm steps
-p, --pid | - | ranks need the host's pid namespace
--uts | srun --container-unshare=uts | in Slurm steps
--hostname NAME | - | the host's
--dns ADDRESS | - | the host's
--no-mount WHAT | - | --no-home; --container-mounts umount:DST in Slurm steps
--no-init | ~ | no init is started
--no-eval | ~ | nothing is evaluated
--compat | --no-home --tmpfs /tmp |
--no-umask | - | the job's umask is kept
--device NAME | --device NAME | CDI names
--cdi-dirs DIR,... | - | the site's to set (cdi_dirs)
--no-nv, --no-rocm | --gpu=none |
--compat32 | - | 32-bit libraries of the driver are not brought
--containlibs FILE,... | -v SRC:DST | one each
--no-env NAME,... | -e NAME= | an environment file (EDF) unsets
--shell PATH | fairlead run REF PATH |
--unsquash, --underlay, --sharens | ~ | the tasks of a step share one container on each node
--fusemount SPEC | - | mount it on the host, and bind it
--network NAME, --network-args ARGS, --netns-path PATH | - | the network is the host's
--apply-cgroups FILE, --cpus N, --memory SIZE, --pids-limit N | - | Slurm limits the job
--no-privs, --ignore-subuid, --ignore-userns, --ignore-fakeroot-command | ~ | you are yourself inside
--keep-privs, --allow-setuid, --boot | - | root's alone there; containers do not run as root
--dmtcp-launch NAME, --dmtcp-restart NAME | - | start DMTCP in the container yourself
--app NAME | - | SCIF apps are not known: call their scripts by path
--add-caps CAPS | - | a container gives nobody further rights
--drop-caps CAPS | ~ | there are none
--security WHAT | - | no privilege can be gained inside
--docker-login | fairlead login | once
--disable-cache | ~ | nothing is kept twice
-s, --silent, -q, --quiet | ~ | a launch is silent
APPTAINER_BIND, APPTAINER_BINDPATH, SINGULARITY_BIND, SINGULARITY_BINDPATH | -v SRC:DST | or site_mounts, or an environment file (EDF)
APPTAINERENV_*, SINGULARITYENV_* | -e NAME=VALUE | or an environment file (EDF)
APPTAINER_CACHEDIR, SINGULARITY_CACHEDIR | FAIRLEAD_STORE |
APPTAINER_TMPDIR, SINGULARITY_TMPDIR | FAIRLEAD_STORE |
APPTAINER_DOCKER_USERNAME, APPTAINER_DOCKER_PASSWORD | fairlead login |
APPTAINER_NV, SINGULARITY_NV | ~ | see --nv
"""),
)

CHARLIECLOUD = Peer(
    "Charliecloud",
    "0.38",
    "A directory that ch-convert wrote runs as it is: fairlead run ./dir, srun --container=./dir.",
    ("ch-run", "ch-image", "ch-convert", "ch-fromhost"),
    _rows("""
-b, --bind SRC[:DST] | -v SRC[:DST] |
-c, --cd DIR | -w DIR |
--set-env[=NAME=VALUE], --set-env0[=FILE] | -e NAME=VALUE | a file: --env-file FILE; the image's variables are set by default
--unset-env GLOB | -e NAME= | an environment file (EDF) unsets
--env-no-expand | ~ | nothing is expanded
--home | ~ | is there by default, at its own path and not below /home
-g, --gid GID | - | you are yourself inside
-u, --uid UID | - | you are yourself inside; srun --container-remap-root
-w, --write | - | the image stays as it is; a named container keeps changes: --name
-W, --write-fake | ~ | is so by default
-t, --private-tmp | --tmpfs /tmp |
-j, --join | ~ | the tasks of a step share one container on each node
--join-ct N, --join-pid PID, --join-tag TAG | ~ | likewise
-m, --mount DIR | ~ | nothing is mounted on the host
--no-passwd | ~ | your entries are added to the image's
-s, --storage DIR | FAIRLEAD_STORE |
--seccomp | - | no filter is loaded
-q, --quiet, -v, --verbose | --verbose |
pull | fairlead pull REF | ch-image
build | - | ch-image: build with podman or buildah; containers-storage:NAME runs it
push | fairlead push | ch-image
list | fairlead images | ch-image
delete | fairlead rm REF | ch-image
import | fairlead import | ch-image
reset | fairlead rm --all | ch-image
build-cache, undelete, gestalt, modify | - | ch-image: there is no build cache; a named container keeps changes
ch-convert | ~ | images are read in every format: oci:, oci-archive:, docker-archive:, .sqsh, a directory
ch-fromhost | ~ | the host's MPI is brought at launch, and the image stays as it is
CH_IMAGE_STORAGE | FAIRLEAD_STORE |
"""),
)

SHIFTER = Peer(
    "Shifter",
    "22.02",
    "No image gateway: each node fetches, once for all its jobs.",
    ("shifter", "shifterimg", "srun", "sbatch", "salloc"),
    _rows("""
-i, --image docker:REF | --container=REF | srun, sbatch, salloc; fairlead run REF without Slurm; id:HEX is not known
-V, --volume SRC:DST[:ro] | --container-mounts=SRC:DST[:ro] | fairlead run -v
-m, --module NAME,... | --container-mpi=auto | mpich: is so by default; gpu: is so in a job with GPUs; none: --container-mpi=image
--entrypoint, --entry | --container-entrypoint | with a value: fairlead run --entrypoint
-w, --workdir DIR | --container-workdir=DIR |
-e, --env NAME=VALUE | -e NAME=VALUE | fairlead run; in a job export it
--env-file FILE | --env-file FILE | fairlead run
-E, --clearenv | - | the job's variables are kept
perNodeCache=size=SIZE | upper = "disk" | a flag of --volume; or a directory of the node's disk
SHIFTER, SHIFTER_IMAGE | - | name the image by option
--ccm | - | not known
shifter | fairlead run REF COMMAND | in a job: srun --container=REF COMMAND
pull | fairlead pull REF | shifterimg
images | fairlead images | shifterimg
lookup | fairlead inspect REF | shifterimg
login | fairlead login | shifterimg
udiRoot.conf siteFs | site_mounts | setting
udiRoot.conf siteEnv | site_env | setting: also siteEnvAppend, siteEnvPrepend, siteEnvUnset
"""),
)

PODMAN_HPC = Peer(
    "podman-hpc",
    "1.1",
    "fairlead run takes podman's words for what a job needs; podman's own images run by containers-storage:NAME.",
    ("podman-hpc", "podman"),
    _rows("""
run | fairlead run REF COMMAND | in a job: srun --container=REF COMMAND
shared-run | srun --container=REF COMMAND | the tasks of a step share one container on each node
exec | fairlead exec PID COMMAND |
ps | fairlead ps |
pull | fairlead pull REF |
push | fairlead push |
migrate | ~ | no squashed copy is needed
images | fairlead images |
rmi, rmsqi | fairlead rm REF |
infohpc | fairlead config |
build | - | build with podman; containers-storage:NAME runs it at once
commit | fairlead commit |
login | fairlead login |
logout | fairlead logout |
inspect | fairlead inspect REF |
-v, --volume SRC[:DST[:ro]] | = |
--mount type=bind,... | = |
--tmpfs DIR[:OPTIONS] | = |
-e, --env NAME=VALUE | = |
--env-file FILE | = |
-w, --workdir DIR | = |
--entrypoint COMMAND | = |
--name NAME | = |
--device DEVICE | = |
--annotation NAME=VALUE | = |
--read-only | = |
--pull POLICY | = |
--rm | = | accepted; nothing is left behind
-i, --interactive, -t, --tty, -it, -ti | = | accepted
--init | = | accepted; orphans are the host's init's
--pid host | = | private is refused
--net host, --network host | ~ | is so by default
--ipc host | ~ | is so by default
--uts host | ~ | is so by default
--userns keep-id | ~ | is so by default
-u, --user UID[:GID] | - | you are yourself inside
--hostname NAME | - | the host's
--privileged | - | a container gives nobody further rights
--cap-add CAP, --cap-drop CAP | ~ | there are none
--security-opt WHAT | - | no privilege can be gained inside
-d, --detach | - | no container runs without its caller
-p, --publish PORT | - | the network is the host's
--restart POLICY | - | Slurm requeues
--shm-size SIZE | - | /dev/shm is the host's
--ulimit LIMIT | - | the job's
-m, --memory SIZE, --cpus N | - | the job's
--mpi | --mpi=auto | is so by default
--openmpi-pmi2, --openmpi-pmix | --mpi=auto | the server that srun --mpi= starts
--cuda-mpi | --mpi=auto | is so by default
--gpu, --nccl | --gpu=auto | is so by default; NCCL's plug-in is the image's
--home | ~ | is so by default
--scratch, --cfs | -v DIR | or site_mounts
--jupyter | ~ | home and /tmp are there by default
--cvmfs | -v /cvmfs |
"""),
)

PEERS = (PYXIS, ENROOT, SARUS, EDF, APPTAINER, CHARLIECLOUD, SHIFTER, PODMAN_HPC)


def _cell(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`" if text else ""


def markdown() -> str:
    """Return the table for readers."""
    lines = [
        "# Coming from another engine",
        "",
        "Generated from `engine/fairlead/cli/peers.py` by `python -m fairlead.cli.peers`.",
        "`fairlead migrate FILE` says the same of a job script, a `plugstack.conf`, an `enroot.conf`, a `sarus.json` or an",
        "environment file.",
    ]
    for peer in PEERS:
        lines += ["", f"## {peer.name} ({peer.version})", "", peer.intro, ""]
        lines += ["| there | here | |", "|---|---|---|"]
        for item in peer.rows:
            here = SHOWN.get(item.here) or _cell(item.here)
            remark = item.remark.replace("|", "\\|")
            lines.append(f"| {_cell(item.shown)} | {here} | {remark} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
