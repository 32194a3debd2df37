"""Small real ELF files and trees for the tests of ``host``: made by the system's own compiler and linker."""

import os
import subprocess

TRIPLET = f"{os.uname().machine}-linux-gnu"

MPICH = """
int MPI_Init(int *c, char ***v) { return 0; }
int MPI_Send(void) { return 0; }
int MPI_Only_here(void) { return 0; }
char MPII_Version_string[] = "4.0.9";
"""
OPENMPI = """
char ompi_mpi_comm_world[{world}] = {{1}};
char ompi_version_string[] = "{version}";
int MPI_Init(int *c, char ***v) {{ return 0; }}
int MPI_Send(void) {{ return 0; }}
"""


def compile_c(path, text, *flags):
    """Compile C text into path with further flags; return the path as a string."""
    path = str(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    command = ["gcc", "-x", "c", "-", "-o", path, "-O0", "-w", *map(str, flags)]
    subprocess.run(command, input=text.encode(), check=True)
    return path


def library(path, text="int f(void) { return 1; }", *flags, soname=None):
    """Compile a shared library whose SONAME is its file name unless told."""
    soname = os.path.basename(str(path)) if soname is None else soname
    named = [f"-Wl,-soname,{soname}"] if soname else []
    return compile_c(path, text, "-shared", "-fPIC", "-nostartfiles", *named, *flags)


def openmpi(path, version="4.1.4", world=512, soname="libmpi.so.40"):
    """Compile something that has the marks of an OpenMPI C library."""
    return library(path, OPENMPI.format(world=world, version=version), soname=soname)


def mpich(path, soname="libmpi.so.12", text=MPICH, *flags):
    """Compile something that has the marks of an MPICH C library."""
    return library(path, text, *flags, soname=soname)
