"""Image trees of Debian packages for the tests of MPI injection, and a container around them made by unshare.

The packages are fetched with apt's own resolver into a cache of the user's and unpacked with dpkg-deb: no root, no
dpkg database. ``FAIRLEAD_TEST_CACHE`` names the cache (default: ~/.cache/fairlead-tests).
"""

import contextlib
import fcntl
import os
import shutil
import subprocess

ORDINARY = 54321 if os.getuid() == 0 else None  # who runs what is in the images
CACHE = os.environ.get("FAIRLEAD_TEST_CACHE") or os.path.expanduser("~/.cache/fairlead-tests")
MIRROR = os.environ.get("FAIRLEAD_TEST_MIRROR", "http://deb.debian.org/debian")
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
LIBRARIES = f"usr/lib/{os.uname().machine}-linux-gnu"
MPI = ("libopenmpi3", "libmpich12", "libc6", "libc-bin", "coreutils", "dash", "libgfortran5")

# mount the layer over the tree as an ordinary user, with what a process expects, and run a command inside
INSIDE = """
set -e
mount -t tmpfs none "$ROOT"; mkdir "$ROOT/merged" "$ROOT/upper" "$ROOT/work"
mount -t overlay none -o "userxattr,lowerdir=$LOWER,upperdir=$ROOT/upper,workdir=$ROOT/work" "$ROOT/merged"
cd "$ROOT/merged"; mkdir -p proc dev sys tmp mnt
for name in proc dev sys; do mount --rbind /$name $name; done
mount --rbind "$PROGRAMS" mnt
exec env -i PATH=/usr/bin:/bin HOME=/tmp OMPI_MCA_ess_singleton_isolated=1 "$@"
"""


def packages(suite, *names, state=""):
    """Fetch packages with all that they need; return the paths of the archives, and of all in the same state."""
    state = f"{CACHE}/apt-{state or suite}"
    for directory in ("lists/partial", "archives/partial", "etc/preferences.d", "etc/apt.conf.d"):
        os.makedirs(f"{state}/{directory}", exist_ok=True)
    with open(f"{state}/sources.list", "w") as file:
        file.write(f"deb [signed-by={KEYS}] {MIRROR} {suite} main\n")
    with open(f"{state}/status", "w"):
        pass
    apt = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", f"Dir::Etc={state}/etc",
           "-o", f"Dir::Etc::sourcelist={state}/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null",
           "-o", f"Dir::State={state}", "-o", f"Dir::State::status={state}/status", "-o", f"Dir::Cache={state}",
           "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1",
           # A mirror may be a snapshot, whose Release file has expired.
           "-o", "Acquire::Check-Valid-Until=false"]  # fmt: skip
    subprocess.run([*apt, "update"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [*apt, "--download-only", "install", *names], check=True, stdout=subprocess.DEVNULL
    )
    return sorted(
        f"{state}/archives/{name}"
        for name in os.listdir(f"{state}/archives")
        if name.endswith(".deb")
    )


def unpack(archives, tree):
    for archive in archives:
        subprocess.run(["dpkg-deb", "--extract", archive, tree], check=True)


def pristine(suite, name, add=(), wanted=MPI):
    """Return the cached tree of a suite with MPI, without what tests change; ``add`` unpacks more over it."""
    os.makedirs(CACHE, exist_ok=True)
    tree = f"{CACHE}/{name}"
    with open(f"{tree}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(tree):
            shutil.rmtree(f"{tree}.tmp", ignore_errors=True)
            state = suite if wanted == MPI else name
            unpack([*packages(suite, *wanted, state=state), *add], f"{tree}.tmp")
            for directory in ("bin", "sbin", "lib", "lib64"):  # merged /usr, as base-files would
                if os.path.isdir(f"{tree}.tmp/usr/{directory}"):
                    with contextlib.suppress(FileExistsError):
                        os.symlink(f"usr/{directory}", f"{tree}.tmp/{directory}")
            os.rename(f"{tree}.tmp", tree)
    return tree


def copy(tree, target):
    """Return a copy that a test may change."""
    subprocess.run(["cp", "-a", "--reflink=auto", tree, target], check=True)
    return str(target)


def run(layer, tree, programs, command, env=(), *, user=None, space, timeout=20):
    """Run a command in a container of the layer over the tree, as an ordinary user; return the finished process."""
    lower = f"{layer}:{tree}" if layer else str(tree)
    os.makedirs(space, exist_ok=True)
    variables = [f"{name}={value}" for name, value in env]
    environ = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "ROOT": str(space),
        "LOWER": lower,
        "PROGRAMS": str(programs),
    }
    identity = {"user": user, "group": user, "extra_groups": []} if user else {}
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-c", INSIDE, "sh", *variables, "/usr/sbin/chroot", ".", *command],
        env=environ, capture_output=True, text=True, timeout=timeout, **identity,
    )  # fmt: skip
