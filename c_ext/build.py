"""Builds ``fairlead._c_ext``: the C sources of this folder behind a cffi module.

The declarations that Python sees stand in ``cdef.h``, in one place; the C side includes the real
headers, so a mismatch is a compile error.
"""

import os

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = sorted(name for name in os.listdir(HERE) if name.endswith(".c") and name[0] != "_")
HEADERS = sorted(name for name in os.listdir(HERE) if name.endswith(".h") and name != "cdef.h")

ffibuilder = FFI()
with open(os.path.join(HERE, "cdef.h"), encoding="utf-8") as file:
    ffibuilder.cdef(file.read())
ffibuilder.set_source(
    "fairlead._c_ext",
    "".join(f'#include "{name}"\n' for name in HEADERS),
    sources=[os.path.join("c_ext", name) for name in SOURCES],
    include_dirs=["c_ext"],
    extra_compile_args=["-std=gnu17", "-O2", "-D_GNU_SOURCE", "-fvisibility=hidden", "-Wall"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
