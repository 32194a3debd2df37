"""Declares what is compiled: the cffi extension, and the library for images with an older glibc.

Everything else stands in pyproject.toml.
"""

import glob
import os
import platform
import shlex
import subprocess

from setuptools import setup
from setuptools.command.build_ext import build_ext

POLYFILL = "fairlead/glibc/libfairlead-glibc.so"
POLYFILL_MACHINES = ("x86_64", "aarch64")  # fairlead.glibc.arch knows no others
# Nothing is linked to it, so that it asks for no version of anything; its sources say why.
POLYFILL_FLAGS = shlex.split("""
    -std=gnu17 -O2 -D_GNU_SOURCE -U_FORTIFY_SOURCE -Wall -fPIC -fvisibility=hidden -ffreestanding
    -fno-tree-loop-distribute-patterns -fexceptions -fno-stack-protector -ffp-contract=off
    -shared -nostdlib -Wl,-soname,libfairlead-glibc.so -Wl,-z,now -Wl,-z,relro -Wl,-z,noexecstack
    -Wl,--hash-style=gnu -Wl,--build-id=sha1 -Wl,--exclude-libs,ALL -Wl,-s
""")


class Build(build_ext):
    """build_ext that makes the library as well; cffi's own class is put in front of it."""

    def run(self) -> None:
        """Build the extension, then the library beside the package's modules."""
        super().run()
        if platform.machine() not in POLYFILL_MACHINES:
            return
        place = os.path.join("engine" if self.inplace else self.build_lib, POLYFILL)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        sources = sorted(glob.glob("c_ext/polyfill/*.c"))
        # Under another name first: a library that is in use must not be written to.
        # libgcc.a has the arithmetic of types that the processor has not (long double on aarch64).
        command = [*compiler, *POLYFILL_FLAGS, "-o", f"{place}.new", *sources, "-lgcc"]
        subprocess.run(command, check=True)
        os.replace(f"{place}.new", place)


setup(cffi_modules=["c_ext/build.py:ffibuilder"], cmdclass={"build_ext": Build})
