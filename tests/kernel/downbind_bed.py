"""Programs of a newer release, bound to an older image's glibc, and containers to run them in.

A host is a Debian release with its compiler's files: this machine's own, or a tree of packages. An image is a tree of
an older one. ``FAIRLEAD_DOWNBIND`` names more pairs ("sid:bullseye trixie:bookworm"); tests/bed/downbind sets it.
"""

import os
import shutil
import subprocess
from typing import NamedTuple

import mpi_images

from fairlead.glibc import binding, patch, polyfill, versions
from fairlead.host import elf, ldso

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "downbind")
PACKAGE = os.path.dirname(os.path.abspath(polyfill.__file__))
IMPLEMENTATION = f"{PACKAGE}/{polyfill.IMPLEMENTATION}"
DOWN = "/down"
CALLS = [f"calls{part}.c" for part in
         ("", "_files", "_strings", "_system", "_threads", "_numbers", "_math", "_bits", "_moved")]  # fmt: skip
# What a program of the release is compiled with and runs on.
HOST = ("libc6", "libc6-dev", "libc-bin", "libstdc++6", "libgcc-s1", "coreutils", "dash")
IMAGE = ("libc6", "libc-bin", "coreutils", "dash")
PAIRS = [
    tuple(pair.split(":"))
    for pair in ["own:bullseye", *os.environ.get("FAIRLEAD_DOWNBIND", "").split()]
]


class Host(NamedTuple):
    """A release to compile for; ``root`` is empty for this machine."""

    name: str
    root: str


def host(name, base):
    """Return a release; ``base`` is a directory for a copy that any user can reach."""
    if name == "own":
        return Host(name, "")
    return Host(name, _copy(mpi_images.pristine(name, f"{name}-host", wanted=HOST), base))


def image(suite, base):
    """Return a tree that has nothing but glibc and a shell."""
    return _copy(mpi_images.pristine(suite, f"{suite}-plain", wanted=IMAGE), base)


def _copy(tree, base):
    target = f"{base}/{os.path.basename(tree)}"
    return target if os.path.isdir(target) else mpi_images.copy(tree, target)


def compile_for(release, target, sources, *flags):
    """Compile C or C++ as that release would: its headers, start files and libraries."""
    compiler = "g++" if sources[0].endswith(".cc") else "gcc"
    place = []
    if release.root:
        libraries = f"{release.root}/{mpi_images.LIBRARIES}"
        place = [f"--sysroot={release.root}", f"-B{libraries}/", f"-L{libraries}"]
    paths = [f"{SOURCES}/{name}" for name in sources]
    command = [compiler, *place, "-O1", "-w", "-D_GNU_SOURCE", "-fno-builtin", "-pthread"]
    if "calls.c" in sources:
        flags = (*flags, "-lrt", "-lutil", "-lresolv", "-ldl", "-lm")
    subprocess.run([*command, "-o", str(target), *paths, *flags], check=True)
    return str(target)


def offers():
    with elf.Reader(IMPLEMENTATION) as reader:
        return binding.offers(reader)


def family(tree):
    return versions.read(ldso.Loader(tree))


def as_old_as(found, release):
    """Return a family without what came after a release: the same glibc, taken for an older one."""

    def old(version):
        number = versions.number(version)
        return number <= release if number else version == versions.PRIVATE

    return versions.Family(
        release,
        found.machine,
        {name: frozenset(filter(old, names)) for name, names in found.libraries.items()},
        {
            name: kept
            for name, definitions in found.symbols.items()
            if (kept := tuple(item for item in definitions if old(item.version)))
        },
    )


def decide(glibc, files):
    """Return the decision for files, which must be possible."""
    found = binding.plan(
        versions.read_needs((os.path.basename(path), path) for path in files), glibc, offers()
    )
    assert found.action != "impossible", found.reasons
    return found


def put(decision, directory, files, search=DOWN):
    """Write patched files (source → name in the directory), the polyfill and what it needs."""
    os.makedirs(directory, exist_ok=True)
    for source, name in files.items():
        with open(source, "rb") as file:
            data = patch.patch(file.read(), name, decision, search)
        os.makedirs(os.path.dirname(f"{directory}/{name}"), exist_ok=True)
        with open(f"{directory}/{name}", "wb") as file:
            file.write(data)
        os.chmod(f"{directory}/{name}", 0o755)
    if decision.action == "down-bind":
        with open(f"{directory}/{polyfill.SONAME}", "wb") as file:
            file.write(polyfill.write(decision, search))
        shutil.copy(IMPLEMENTATION, directory)


def native(release, programs, command, space, user):
    """Run a command on the release that it was made for, in namespaces like the container's."""
    if release.root:
        return mpi_images.run(
            None, release.root, programs, command, user=user, space=space, timeout=120
        )
    identity = {"user": user, "group": user, "extra_groups": []} if user else {}
    os.makedirs(f"{space}-native", exist_ok=True)
    if user:
        os.chown(f"{space}-native", user, user)
    words = [
        word.replace("/mnt/", f"{programs}/").replace("cd /tmp", f"cd {space}-native")
        for word in command
    ]
    return subprocess.run(
        ["unshare", "-Urm", "env", "-i", "PATH=/usr/bin:/bin", "HOME=/tmp", *words],
        capture_output=True, text=True, timeout=120, **identity,
    )  # fmt: skip
