"""Families, needs and small libraries for the tests of ``glibc``: made up, or made by this machine's compiler."""

import functools
import os

import elf_forge

from fairlead.glibc import binding, polyfill, versions
from fairlead.host import elf, ldso

MACHINE = elf.MACHINES["x86_64"]
IMPLEMENTATION = os.path.join(
    os.path.dirname(os.path.abspath(polyfill.__file__)), polyfill.IMPLEMENTATION
)


def family(release=(2, 31), machine=MACHINE, **libraries):
    """Return a family: file (``libc`` for libc.so.6) → "name@version" (hidden), "name@@version", "name#@@…" (data)."""
    files = {"libc": "libc.so.6", "libpthread": "libpthread.so.0", "libm": "libm.so.6", "libdl": "libdl.so.2"}  # fmt: skip
    defined, symbols = {}, {}
    for key, texts in libraries.items():
        names = set()
        for text in texts.split():
            name, _, rest = text.partition("@")
            version = rest.lstrip("@")
            names.add(version)
            if name:
                item = versions.Definition(
                    files[key], version, rest.startswith("@"), not name.endswith("#")
                )
                symbols.setdefault(name.rstrip("#"), []).append(item)
        defined[files[key]] = frozenset(names)
    return versions.Family(
        release, machine, defined, {name: tuple(found) for name, found in symbols.items()}
    )


def needs(*texts, file="libhost.so", libraries=("libc.so.6",), relative=False, machine=MACHINE):
    """Return what a file asks: "libc.so.6:stat@GLIBC_2.33", a weak one with "?", thread-local with "!", none with ""."""
    wants, asked = [], set()
    for text in texts:
        library, _, rest = text.partition(":")
        name, _, version = rest.partition("@")
        asked.add((library, version))
        if name:
            plain = name.rstrip("?!")
            wants.append(elf.Want(library, version, plain, "?" in name, "!" in name))
    return versions.Needs(
        file, machine, frozenset(asked), tuple(wants), frozenset(libraries), relative
    )


@functools.cache
def offers():
    with elf.Reader(IMPLEMENTATION) as reader:
        return binding.offers(reader)


@functools.cache
def own():
    """This machine's glibc."""
    return versions.read(ldso.Loader("/"))


@functools.cache
def as_old_as(release):
    """This machine's glibc without what came after a release."""

    def old(version):
        number = versions.number(version)
        return number <= release if number else version == versions.PRIVATE

    whole = own()
    return versions.Family(
        release,
        whole.machine,
        {name: frozenset(filter(old, names)) for name, names in whole.libraries.items()},
        {
            name: kept
            for name, definitions in whole.symbols.items()
            if (kept := tuple(item for item in definitions if old(item.version)))
        },
    )


def decide(path, release=(2, 17)):
    """Return the decision for one real file on this glibc, taken for an older one."""
    found = binding.plan(
        versions.read_needs([(os.path.basename(str(path)), str(path))]),
        as_old_as(release),
        offers(),
    )
    assert found.action != "impossible", found.reasons
    return found


PROGRAM = """
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
{extra}
static int ready;
__attribute__((constructor)) static void begin(void) {{ ready = 1; }}
static void *run(void *data) {{ return (char *)data + (gettid() != getpid()); }}
int main(void)
{{
    pthread_t thread;
    void *value;
    struct stat status;
    char bytes[8];
    pthread_create(&thread, NULL, run, NULL);
    pthread_join(thread, &value);
    printf("%d %d %d %d\\n", ready, value == (void *)1, stat("/", &status), (int)getrandom(bytes, 8, 0));
    return 0;
}}
"""


def program(path, *flags, extra=""):
    """Compile a program that uses moved and new functions, and constructors."""
    return elf_forge.compile_c(path, PROGRAM.format(extra=extra), "-pthread", *flags)
