"""The way to the wire travels with the host's MPI: drivers, providers, modules, their settings, what each of them loads.

Trees as sites have them, recorded from the packages' layouts and made anew from small ELF files; no fabric is at work.
"""

import contextlib
import os

import elf_forge
import pytest

from fairlead.host import ldso, mpi
from fairlead.plan import libraries

COMM = elf_forge.OPENMPI.format(world=512, version="4.1.8")


@pytest.fixture(autouse=True)
def only_hints(monkeypatch):
    monkeypatch.setattr(ldso, "CACHE", "/nonexistent/ld.so.cache")


def needs(directory, *names):
    """Return linker options that make a library need others of a directory."""
    if not names:
        return ()
    return (
        f"-L{directory}",
        "-Wl,--no-as-needed,-rpath,$ORIGIN:$ORIGIN/..",
        *(f"-l:{n}" for n in names),
    )


def naming(*paths):
    """Return the text of a library that has paths compiled in."""
    return "const char *names[] = {" + ", ".join(f'"{path}"' for path in paths) + "};"


class Site:
    """An installation below one prefix."""

    def __init__(self, prefix):
        self.prefix, self.lib = prefix, prefix / "lib"
        os.makedirs(self.lib)

    def library(self, name, *needed, text="int unused;"):
        elf_forge.library(self.lib / name, text, *needs(self.lib, *needed))

    def plugin(self, directory, name, *needed):
        elf_forge.library(
            self.lib / directory / name, "int plugin;", *needs(self.lib, *needed), soname=""
        )

    def mpi(self, *needed):
        self.library("libmpi.so.40", *needed, text=COMM)

    def profile(self, tmp_path):
        environ = {"PATH": "/nowhere", "MPI_HOME": str(self.prefix)}
        (profile,) = mpi.profiles(environ, str(tmp_path / "cache"))
        return profile


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What all have together; compiled once."""
    made = Site(tmp_path_factory.mktemp("fabric") / "site")
    verbs(made)
    fabric(made)
    ucx(made)
    made.mpi("libucp.so.0", "libfabric.so.1", "librdmacm.so.1")
    return made


@contextlib.contextmanager
def without(path):
    """Take a file away for a while."""
    os.rename(path, f"{path}.away")
    yield
    os.rename(f"{path}.away", path)


def plugins(profile):
    """Return owner → (directory, plugins, those left out with the reason)."""
    return {
        item.owner: (
            os.path.basename(item.path),
            [name for name, _ in item.files],
            dict(item.left_out),
        )
        for item in profile.plugin_dirs
    }


def verbs(site):
    """rdma-core: drivers beside the library, a file for each in etc, RDMA connection manager, netlink."""
    site.library("libnl-3.so.200")
    paths = (
        f"{site.lib}/libibverbs",
        f"{site.lib}/libibverbs/lib%s-rdmav34.so",
        f"{site.prefix}/etc/libibverbs.d",
    )
    site.library("libibverbs.so.1", "libnl-3.so.200", text=naming(*paths))
    site.library("librdmacm.so.1", "libibverbs.so.1")
    site.library("libmlx5.so.1", "libibverbs.so.1")
    site.plugin("libibverbs", "libmlx5-rdmav34.so", "libmlx5.so.1")
    site.plugin("libibverbs", "libsiw-rdmav34.so", "libibverbs.so.1")
    os.makedirs(site.prefix / "etc/libibverbs.d")
    (site.prefix / "etc/libibverbs.d/mlx5.driver").write_text("driver mlx5\n")


def fabric(site):
    """libfabric with HPE Slingshot's provider, and one for a library that this host lacks."""
    site.library("libcxi.so.1")
    site.library("libgone.so.2")
    site.library("libfabric.so.1", text=naming(f"{site.lib}/libfabric"))
    site.plugin("libfabric", "libcxi-fi.so", "libcxi.so.1")
    site.plugin("libfabric", "libgone-fi.so", "libgone.so.2")
    os.unlink(site.lib / "libgone.so.2")


def ucx(site):
    """Modules for verbs, shared memory by kernel modules, and a GPU."""
    site.library("libucs.so.0", text=naming(f"{site.lib}/ucx"))
    site.library("libuct.so.0", "libucs.so.0")
    site.library("libucp.so.0", "libuct.so.0")
    site.library("libxpmem.so.0")
    site.library("libcuda.so.1")
    site.plugin("ucx", "libuct_ib.so.0", "libuct.so.0", "libibverbs.so.1", "libmlx5.so.1")
    site.plugin("ucx", "libuct_rdmacm.so.0", "libuct.so.0", "librdmacm.so.1")
    site.plugin("ucx", "libuct_knem.so.0", "libuct.so.0")
    site.plugin("ucx", "libuct_xpmem.so.0", "libuct.so.0", "libxpmem.so.0")
    site.plugin("ucx", "libuct_cuda.so.0", "libuct.so.0", "libcuda.so.1")


def test_drivers_of_rdma_core_come_with_their_settings(site, tmp_path):
    profile = site.profile(tmp_path)
    assert plugins(profile)["libibverbs.so.1"] == (
        "libibverbs", ["libmlx5-rdmav34.so", "libsiw-rdmav34.so"], {},
    )  # fmt: skip
    assert (f"{site.prefix}/etc/libibverbs.d", "libibverbs.so.1") in profile.data_dirs
    # libmlx5 is asked for by a driver, libnl by the library.
    assert {"libibverbs.so.1", "librdmacm.so.1", "libmlx5.so.1", "libnl-3.so.200"} <= dict(
        profile.closure
    ).keys()


def test_provider_of_libfabric_brings_its_own_library(site, tmp_path):
    profile = site.profile(tmp_path)
    directory, taken, left = plugins(profile)["libfabric.so.1"]
    assert (directory, taken) == ("libfabric", ["libcxi-fi.so"])
    assert left == {"libgone-fi.so": "needs libgone.so.2, which this host lacks"}
    assert dict(profile.closure)["libcxi.so.1"] == str(site.lib / "libcxi.so.1")


def test_modules_of_ucx_bring_xpmem_and_verbs(site, tmp_path):
    profile = site.profile(tmp_path)
    directory, taken, left = plugins(profile)["libucs.so.0"]
    assert (directory, left) == ("ucx", {})
    names = ("cuda", "ib", "knem", "rdmacm", "xpmem")
    assert taken == [f"libuct_{name}.so.0" for name in names]
    assert {"libxpmem.so.0", "libibverbs.so.1", "libmlx5.so.1"} <= dict(profile.closure).keys()


def test_driver_of_a_gpu_is_never_a_copy(site, tmp_path):
    """It must be the kernel's, and one in the process: what the container has, or none."""
    assert "libcuda.so.1" not in dict(site.profile(tmp_path).closure)


def test_module_for_a_gpu_is_left_out_where_the_host_has_no_driver(site, tmp_path):
    with without(site.lib / "libcuda.so.1"):
        _, taken, left = plugins(site.profile(tmp_path))["libucs.so.0"]
    assert "libuct_cuda.so.0" not in taken
    assert left == {"libuct_cuda.so.0": "needs libcuda.so.1, which this host lacks"}


def test_driver_and_settings_that_are_installed_later_are_noticed(site, tmp_path):
    """In the second look nothing else has changed."""
    driver, setting = "lib/libibverbs/libsiw-rdmav34.so", "etc/libibverbs.d/mlx5.driver"
    seen = []
    with without(site.prefix / setting):
        with without(site.prefix / driver):
            seen.append(site.profile(tmp_path))
        seen.append(site.profile(tmp_path))
    seen.append(site.profile(tmp_path))
    assert [len(plugins(profile)["libibverbs.so.1"][1]) for profile in seen] == [1, 2, 2]
    assert len({profile.identity for profile in seen}) == 3


def test_whole_way_to_the_wire_is_the_hosts_whatever_the_image_has(site, tmp_path):
    """An image's libibverbs of another release would ask the host's drivers for another interface."""
    profile = site.profile(tmp_path)
    names = [name for name, _ in profile.closure]
    host = {name: frozenset({"old@"}) for name in names}
    image = {name: frozenset({"old@", "new@"}) for name in names}
    kept = {item.soname: item.source for item in libraries.choose(profile, host, image)}
    for name in (
        "libibverbs.so.1",
        "librdmacm.so.1",
        "libmlx5.so.1",
        "libxpmem.so.0",
        "libfabric.so.1",
    ):
        assert kept[name] == "host"
    # UCX looks for its modules beside its own file, so both can be there.
    assert {kept[name] for name in names if name.startswith("libuc")} == {"private"}
