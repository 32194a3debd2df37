"""Down-binding for aarch64, from bookworm to bullseye, under qemu-user: what calls.c prints must be the same on both.

The cross compiler, qemu and both arm64 trees are fetched as packages into the tests' cache and used from there, so
nothing is installed. Run by tests/bed/downbind.
"""

import difflib
import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import downbind_bed as bed
import mpi_images

from fairlead.glibc import binding, patch, polyfill, versions
from fairlead.host import elf, ldso

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOLS = ("qemu-user-static", "gcc-aarch64-linux-gnu", "binutils-aarch64-linux-gnu")
LIBRARIES = "lib/aarch64-linux-gnu"


def fetch(suite, name, wanted, arch=""):
    """Return a cached tree of packages; ``arch`` is another one than this machine's."""
    options = os.environ.get("APT_CONFIG", "")
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            if arch:
                file.write(f'APT::Architecture "{arch}";\nAPT::Architectures "{arch}";\n')
                file.flush()
                os.environ["APT_CONFIG"] = file.name
            return mpi_images.pristine(suite, name, wanted=wanted)
    finally:
        os.environ.pop("APT_CONFIG", None)
        if options:
            os.environ["APT_CONFIG"] = options


def compiler(tools, tree):
    """Return the cross compiler's command for a tree, and the environment that it needs there."""
    internal = glob.glob(f"{tools}/usr/lib/gcc-cross/aarch64-linux-gnu/*/")[0]
    program = min(glob.glob(f"{tools}/usr/bin/aarch64-linux-gnu-gcc-[0-9]*"))
    places = [internal, f"{tools}/usr/aarch64-linux-gnu/bin/"]
    places += [f"{tree}/{LIBRARIES}/", f"{tree}/usr/{LIBRARIES}/"]
    headers = [f"{tree}/usr/include", f"{tree}/usr/include/aarch64-linux-gnu"]
    command = [program, f"--sysroot={tree}", *(f"-B{place}" for place in places)]
    command += [f"-L{place}" for place in places[2:]]
    command += [word for path in headers for word in ("-isystem", path)]
    environ = {
        "PATH": f"{tools}/usr/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": f"{tools}/usr/{mpi_images.LIBRARIES.removeprefix('usr/')}",
    }
    return command, environ


def build(command, environ, tree, directory):
    """Build libfairlead-glibc.so as setup.py does, and the program."""
    with open(f"{ROOT}/setup.py", encoding="utf-8") as file:
        flags = shlex.split(re.search(r'shlex\.split\("""(.*?)"""', file.read(), re.DOTALL)[1])
    sources = sorted(glob.glob(f"{ROOT}/c_ext/polyfill/*.c"))
    library = f"{directory}/{polyfill.IMPLEMENTATION}"
    subprocess.run([*command, *flags, "-o", library, *sources, "-lgcc"], check=True, env=environ)
    flags = ["-O1", "-w", "-D_GNU_SOURCE", "-fno-builtin", "-pthread"]
    calls = [f"{bed.SOURCES}/{name}" for name in bed.CALLS]
    # By file: the links for -lm are absolute, and lead out of the tree.
    calls += [
        f"{tree}/{LIBRARIES}/{name}" for name in ("libm.so.6", "librt.so.1", "libresolv.so.2")
    ]
    subprocess.run(
        [*command, *flags, "-o", f"{directory}/calls", *calls],
        check=True,
        env=environ,
    )
    return library


def family(tree):
    """Return the glibc of a tree of another machine, which ldso.Loader would pass over."""
    readers = {}
    for name in ldso.GLIBC:
        for place in (f"{tree}/{LIBRARIES}/{name}", f"{tree}/lib/{name}"):
            if os.path.exists(place):
                readers.setdefault(name, elf.Reader(os.path.realpath(place)))
    return versions.family(readers)


def run(qemu, tree, program, directory):
    os.makedirs(directory)
    done = subprocess.run(
        [qemu, "-L", tree, program], cwd=directory, capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        sys.exit(f"{program}: {done.returncode}\n{done.stderr}")
    return done.stdout.splitlines()


def main():
    tools = fetch("bookworm", "arm64-tools", TOOLS)
    newer = fetch("bookworm", "arm64-bookworm", ("libc6", "libc6-dev"), "arm64")
    older = fetch("bullseye", "arm64-bullseye", ("libc6",), "arm64")
    qemu = f"{tools}/usr/bin/qemu-aarch64-static"
    with tempfile.TemporaryDirectory(prefix="fairlead-arm64-", dir="/var/tmp") as work:
        library = build(*compiler(tools, newer), newer, work)
        with elf.Reader(library) as reader:
            offered = binding.offers(reader)
        image = mpi_images.copy(older, f"{work}/image")
        asked = versions.read_needs([("calls", f"{work}/calls")])
        decision = binding.plan(asked, family(image), offered)
        print(*decision.reasons, sep="\n")
        down = f"{image}{bed.DOWN}"
        os.makedirs(down)
        with open(f"{work}/calls", "rb") as file:
            data = patch.patch(file.read(), "calls", decision, bed.DOWN)
        for name, content in (
            ("calls", data),
            (polyfill.SONAME, polyfill.write(decision, bed.DOWN)),
        ):
            with open(f"{down}/{name}", "wb") as file:
                file.write(content)
            os.chmod(f"{down}/{name}", 0o755)
        shutil.copy(library, down)
        native = run(qemu, newer, f"{work}/calls", f"{work}/native")
        bound = run(qemu, image, f"{down}/calls", f"{work}/bound")
        difference = list(difflib.unified_diff(native, bound, "native", "bound", lineterm="", n=0))
        print(*difference, sep="\n")
        print(f"arm64: {len(native)} lines, {len(difference)} differ")
        sys.exit(bool(difference) or len(native) < 1000)


if __name__ == "__main__":
    main()
