"""plan.inject: a table of who runs, and why; each refusal names what decided."""

import pytest

from fairlead.host.index import Index, Library, Program
from fairlead.host.mpi import Need, Plugins, Profile
from fairlead.plan import inject, libraries

GLIBC_31 = tuple(f"GLIBC_2.{minor}" for minor in range(2, 32))
GLIBC_36 = tuple(f"GLIBC_2.{minor}" for minor in range(2, 37))
EXPORTS = "MPI_Init\nMPI_Send\nompi_mpi_comm_world 512"


def library(
    path="/usr/lib/libmpi.so.40.30.0",
    role="c",
    family="openmpi",
    abi_class="openmpi-4",
    version="4.1.0",
    libc="glibc",
):
    return Library(path, path.rpartition("/")[2], role, family, abi_class, version, libc)


MPICH = library("/usr/lib/libmpich.so.12", "c", "mpich", "mpich-abi", "3.4.1")
FORTRAN = library("/usr/lib/libmpi_mpifh.so.40", "mpifh", version="")
CXX = library("/usr/lib/libmpi_cxx.so.40", "cxx", version="")


def image(*libraries, versions=GLIBC_36, **changes):
    base = Index(libraries, (), (), "glibc", (), (("libc.so.6", versions),), (), (), (), (), (), ())
    return base._replace(**changes)


def host(
    abi_class="openmpi-4", family="openmpi", version="4.1.4", roles=("c", "mpifh", "cxx"), **changes
):
    soname = "libmpi.so.40" if family == "openmpi" else "libmpich.so.12"
    name = {"openmpi": "OpenMPI", "mpich": "MPICH"}[family]
    base = Profile(
        name=f"{name} {version}", family=family, abi_class=abi_class, version=version,
        libraries=tuple((role, soname, f"/host/{soname}") for role in roles), closure=((soname, f"/host/{soname}"),),
        plugin_dirs=(), data_dirs=(), pmi=("pmix",),
        glibc=(Need("libc.so.6", "GLIBC_2.34", soname, "pthread_join"), Need("libc.so.6", "GLIBC_2.4", soname, "x")),
        exports=EXPORTS, env=(), notes=(), identity="id",
    )  # fmt: skip
    return base._replace(**changes)


HOST_MPICH = host("mpich-abi", "mpich", "4.0.2", ("c",))


@pytest.mark.parametrize(
    ("mode", "index", "profiles", "choice", "said"),
    [
        # the host's fits
        ("auto", image(library()), [host()], "host", "the host's OpenMPI 4.1.4 replaces the image's OpenMPI 4.1.0"),
        ("host", image(library()), [host()], "host", "the host's OpenMPI 4.1.4 replaces"),
        ("auto", image(library(), FORTRAN, CXX), [host()], "host", "replaces"),
        ("auto", image(MPICH), [host(), HOST_MPICH], "host", "the host's MPICH 4.0.2 replaces"),
        # it is not wanted, or nothing is there
        ("image", image(library()), [host()], "image", "asked for"),
        ("image", image(), [host()], "none", "no MPI"),
        ("auto", image(), [host()], "none", "no MPI library to replace"),
        ("host", image(), [host()], "none", "no MPI library to replace"),
        ("auto", image(library()), [], "image", "no MPI library is found on this host"),
        ("host", image(library()), [], "image", "no MPI library is found on this host"),
        # another family or class
        ("auto", image(MPICH), [host()], "image", "the host has OpenMPI 4.1.4 (openmpi-4)"),
        ("host", image(MPICH), [host()], "image", "cannot stand in for MPICH 3.4.1 (mpich-abi)"),
        ("auto", image(library(abi_class="openmpi-world1024", version="1.10.2")), [HOST_MPICH], "image", "OpenMPI 1.10.2"),
        # glibc, libc, static
        ("auto", image(library(), versions=GLIBC_31), [host()], "image", "GLIBC_2.34 (libmpi.so.40: pthread_join)"),
        ("host", image(library(), versions=GLIBC_31), [host()], "image", "up to GLIBC_2.31"),
        ("auto", image(library(libc="musl"), libc="musl"), [host()], "image", "musl"),
        ("host", image(library(libc="musl"), libc="musl"), [host()], "image", "musl"),
        ("auto", image(static=("/bin/app",)), [host()], "image", "/bin/app has its MPI linked in statically"),
        ("host", image(static=("/bin/app",)), [host()], "image", "linked in statically"),
        # something may hide in what was not looked at
        ("auto", image(library(), unseen=("/opt",)), [host()], "image", "cannot be looked at in full (/opt)"),
        ("host", image(library(), unseen=("/opt",)), [host()], "image", "cannot be looked at in full (/opt)"),
        # language bindings
        ("auto", image(library(), FORTRAN), [host(roles=("c",))], "image", "no Fortran library"),
        ("host", image(library(), CXX), [host(roles=("c", "mpifh"))], "image", "no C++ library"),
    ],
)  # fmt: skip
def test_verdict_and_the_reason_that_is_given(mode, index, profiles, choice, said):
    verdict = inject.decide(mode, index, profiles)
    assert verdict.choice == choice
    assert said in "\n".join((*verdict.reasons, verdict.refused))
    assert bool(verdict.profiles) is (choice == "host")
    # Asked for and not obtained is refused; otherwise nothing is.
    assert bool(verdict.refused) is (mode == "host" and choice != "host")


def test_auto_falls_back_with_exactly_one_line():
    verdict = inject.decide("auto", image(library(), versions=GLIBC_31), [host()])
    needs = "host OpenMPI 4.1.4 needs GLIBC_2.34 (libmpi.so.40: pthread_join)"
    has = "the image's libc.so.6 has up to GLIBC_2.31"
    assert verdict.reasons == (f"the image's own OpenMPI 4.1.0 runs: {needs}, {has}",)


def test_version_is_looked_up_in_the_library_that_it_is_asked_of():
    """glibc 2.31's libpthread has its own versions: the highest of libc.so.6 says nothing about them."""
    profile = host(
        glibc=(Need("libpthread.so.0", "GLIBC_2.30", "libmpi.so.40", "pthread_clockjoin_np"),)
    )
    only_libc = image(library())
    assert "libpthread.so.0" in inject.decide("host", only_libc, [profile]).refused
    both = image(library(), glibc=(("libc.so.6", GLIBC_36), ("libpthread.so.0", ("GLIBC_2.30",))))
    assert inject.decide("host", both, [profile]).choice == "host"


def test_relr_marker_is_a_need_like_any_other():
    profile = host(glibc=(Need("libc.so.6", "GLIBC_ABI_DT_RELR", "libmpi.so.40", ""),))
    assert (
        "GLIBC_ABI_DT_RELR (libmpi.so.40)"
        in inject.decide("host", image(library()), [profile]).refused
    )


@pytest.mark.parametrize("mode", ["auto", "host"])
def test_symbol_that_a_program_uses_and_the_host_lacks_is_refused_by_name(mode):
    index = image(library(version="4.1.9"), needs=(("openmpi-4", "MPI_Send\nMPI_New"),))
    verdict = inject.decide(mode, index, [host()])
    assert verdict.choice == "image"
    assert "host OpenMPI 4.1.4 lacks MPI_New, which programs in the image use" in verdict.reasons[0]
    assert bool(verdict.refused) is (mode == "host")


def test_data_object_of_another_size_is_not_proven():
    index = image(library(), needs=(("openmpi-4", "ompi_mpi_comm_world 1024"),))
    assert "has 1024 bytes in the image" in inject.decide("auto", index, [host()]).reasons[0]


def test_another_major_release_of_openmpi_is_only_taken_when_asked_for():
    index = image(library(version="5.0.7"))
    assert inject.decide("auto", index, [host()]).choice == "image"
    for mode, opted in (("host", False), ("auto", True)):
        asked = inject.decide(mode, index, [host()], cross_major=opted)
        assert asked.choice == "host"
        assert "another major release" in asked.warnings[0]


def test_another_major_release_must_still_have_every_symbol():
    index = image(library(version="5.0.7"), needs=(("openmpi-4", "MPI_Session_init"),))
    verdict = inject.decide("auto", index, [host()], cross_major=True)
    assert verdict.choice == "image"
    assert "lacks MPI_Session_init" in verdict.reasons[0]


OPENMPI_5 = host(version="5.0.7", roles=("c", "mpifh"))


def program(path="/opt/app", *needed):
    return Program(path, needed, "/lib64/ld-linux-x86-64.so.2", "", "", False)


@pytest.mark.parametrize("mode", ["auto", "host"])
def test_removed_bindings_are_refused_with_the_program_that_uses_them(mode):
    cxx = CXX._replace(soname="libmpi_cxx.so.40")
    index = image(library(), cxx, programs=(program("/opt/sum", "libmpi_cxx.so.40"),))
    verdict = inject.decide(mode, index, [OPENMPI_5], cross_major=True)
    assert verdict.choice == "image"
    assert "no C++ library for /usr/lib/libmpi_cxx.so.40, which /opt/sum uses" in verdict.reasons[0]
    assert "OpenMPI 5 removed them" in verdict.reasons[0]


def test_binding_that_no_program_of_the_image_uses_is_a_doubt():
    """A program outside the image (a home directory) may use it: auto does not risk that."""
    index = image(library(), CXX, programs=(program("/opt/ring", "libmpi.so.40"),))
    absent = host(roles=("c", "mpifh"))
    assert inject.decide("auto", index, [absent]).choice == "image"
    assert inject.decide("auto", index, [absent], cross_major=True).choice == "image"
    asked = inject.decide("host", index, [absent])
    assert asked.choice == "host"
    assert "no C++ library" in asked.warnings[0]
    assert inject.decide("auto", index, [OPENMPI_5], cross_major=True).choice == "host"


@pytest.mark.parametrize(
    ("action", "choice", "said"),
    [
        ("nothing", "host", "replaces"),
        ("down-bind", "host", "72 symbols above GLIBC_2.31 down-bound, 60 moved, 12 new"),
        ("impossible", "image", "72 symbols above GLIBC_2.31 down-bound, 60 moved, 12 new"),
    ],
)
def test_glibc_verdict_decides_where_there_is_one(action, choice, said):
    words = ("72 symbols above GLIBC_2.31 down-bound, 60 moved, 12 new",)
    decided = {"id": inject.Glibc(action, () if action == "nothing" else words)}
    old = image(library(), versions=GLIBC_31)
    verdict = inject.decide("auto", old, [host()], glibc=decided)
    assert verdict.choice == choice
    assert said in "\n".join(verdict.reasons)


def test_glibc_verdict_of_another_installation_says_nothing_about_this_one():
    decided = {"another": inject.Glibc("down-bind", ("x",))}
    old = image(library(), versions=GLIBC_31)
    assert inject.decide("auto", old, [host()], glibc=decided).choice == "image"


ABI = (("mpi-abi", ("libmpi_abi.so.1",)),)
HOST_ABI = host("mpi-abi", "mpich", "5.0.2", ("c",), name="MPICH 5.0.2 (MPI ABI)")


def test_image_without_the_library_that_its_programs_want_gets_the_hosts():
    verdict = inject.decide("auto", image(lacking=ABI), [HOST_ABI])
    assert [profile.abi_class for profile in verdict.profiles] == ["mpi-abi"]
    said = "the host's MPICH 5.0.2 (MPI ABI) is libmpi_abi.so.1, which the image lacks (mpi-abi)"
    assert verdict.reasons == (said,)


def test_image_and_host_without_the_library_is_said_and_for_host_refused():
    verdict = inject.decide("auto", image(lacking=ABI), [host()])
    assert (verdict.choice, verdict.profiles) == ("none", ())
    assert "no libmpi_abi.so.1 for the image's programs" in verdict.reasons[0]
    refused = inject.decide("host", image(lacking=ABI), [host()]).refused
    assert "cannot stand in for libmpi_abi.so.1" in refused


def test_first_of_a_class_is_the_one_that_is_taken():
    better = host(version="4.1.9", identity="better")
    verdict = inject.decide("auto", image(library()), [better, host()])
    assert verdict.profiles == (better,)


def test_each_class_is_replaced_by_its_own():
    verdict = inject.decide("auto", image(library(), MPICH), [host(), HOST_MPICH])
    assert {profile.abi_class for profile in verdict.profiles} == {"openmpi-4", "mpich-abi"}


def test_class_without_a_counterpart_stays_and_is_explained():
    verdict = inject.decide("auto", image(library(), MPICH), [host()])
    assert [profile.abi_class for profile in verdict.profiles] == ["openmpi-4"]
    assert verdict.reasons[0].startswith("the host's OpenMPI")
    assert verdict.reasons[1].startswith("the image's own MPICH 3.4.1 runs")


def test_two_installations_with_different_copies_of_one_library_do_not_go_together():
    one = host(closure=(("libmpi.so.40", "/host/libmpi.so.40"), ("libucp.so.0", "/a/libucp.so.0")))
    two = HOST_MPICH._replace(closure=(("libucp.so.0", "/b/libucp.so.0"),))
    verdict = inject.decide("auto", image(library(), MPICH), [one, two])
    assert len(verdict.profiles) == 1
    assert "different libucp.so.0" in verdict.reasons[1]


# -- libraries that both sides have


def kept(closure, host_symbols, image_symbols, **changes):
    profile = host(closure=tuple((name, f"/host/{name}") for name in closure), **changes)
    chosen = libraries.choose(
        profile,
        {name: frozenset(symbols) for name, symbols in host_symbols.items()},
        {name: frozenset(symbols) for name, symbols in image_symbols.items()},
    )
    return {item.soname: item.source for item in chosen}


def test_image_keeps_a_library_that_offers_all_that_the_hosts_does():
    assert kept(["libz.so.1"], {"libz.so.1": "ab"}, {"libz.so.1": "abc"}) == {"libz.so.1": "image"}


def test_hosts_copy_is_taken_when_it_offers_more_or_the_image_has_none():
    assert kept(["libz.so.1"], {"libz.so.1": "abc"}, {"libz.so.1": "ab"}) == {"libz.so.1": "host"}
    assert kept(["libz.so.1"], {}, {}) == {"libz.so.1": "host"}


@pytest.mark.parametrize(
    "name", ["libmpi.so.40", "libopen-pal.so.40", "libpmix.so.2", "libfabric.so.1"]
)
def test_mpi_and_the_way_to_the_wire_are_always_the_hosts(name):
    assert kept([name], {name: "a"}, {name: "ab"}) == {name: "host"}


def test_newer_ucx_of_the_image_stays_for_those_that_need_it_and_the_host_keeps_its_own():
    names = ["libucp.so.0", "libucs.so.0"]
    both = kept(names, dict.fromkeys(names, "a"), {names[0]: "a", names[1]: "ab"})
    assert both == dict.fromkeys(names, "private")
    older = kept(names, dict.fromkeys(names, "ab"), dict.fromkeys(names, "a"))
    assert older == dict.fromkeys(names, "host")


def test_group_is_not_split():
    names = ["libevent_core-2.1.so.7", "libevent_pthreads-2.1.so.7"]
    both = kept(names, dict.fromkeys(names, "a"), dict.fromkeys(names, "a"))
    assert set(both.values()) == {"image"}
    one_older = kept(names, dict.fromkeys(names, "ab"), {names[0]: "ab", names[1]: "a"})
    assert set(one_older.values()) == {"host"}
    one_absent = kept(names, {names[0]: "a"}, {names[0]: "a"})
    assert set(one_absent.values()) == {"host"}


def test_library_goes_with_its_plugins():
    directory = Plugins("/usr/lib/hwloc", "libhwloc.so.15", (("hwloc_pci.so", "/x"),), ())
    names = ["libhwloc.so.15"]
    assert kept(names, {names[0]: "a"}, {names[0]: "ab"}, plugin_dirs=(directory,)) == {
        names[0]: "host"
    }
    empty = directory._replace(files=())
    assert kept(names, {names[0]: "a"}, {names[0]: "ab"}, plugin_dirs=(empty,)) == {
        names[0]: "image"
    }


def test_newer_library_of_the_image_that_is_overridden_is_reported():
    profile = host(closure=(("libpmix.so.2", "/host/libpmix.so.2"),))
    (item,) = libraries.choose(
        profile, {"libpmix.so.2": frozenset("a")}, {"libpmix.so.2": frozenset("ab")}
    )
    assert "the image's offers 1 that the host's lacks, e.g. b" in item.reason


def test_libraries_that_each_offer_something_of_their_own_are_both_kept():
    names = ["libevent_core-2.1.so.7", "libevent_pthreads-2.1.so.7"]
    profile = host(closure=tuple((name, f"/host/{name}") for name in names))
    chosen = libraries.choose(
        profile,
        {names[0]: frozenset("ab"), names[1]: frozenset("a")},
        {names[0]: frozenset("ac"), names[1]: frozenset("a")},
    )
    assert [(item.source, item.name) for item in chosen] == [
        ("private", f"fairlead-{name}") for name in names
    ]
    assert "libevent_core-2.1.so.7 lacks b, the host's libevent_core" in chosen[0].reason


def test_there_is_one_runtime_library_of_a_compiler():
    name = "libstdc++.so.6"
    assert kept([name], {name: "ab"}, {name: "ac"}) == {name: "host"}


# -- an older glibc in the image

OLDER = image(library(), versions=GLIBC_31)
BOUND = {"id": inject.Glibc("down-bind", ("68 symbols above GLIBC_2.31 down-bound",))}
LOST = {"id": inject.Glibc("impossible", ("nothing offers frob@GLIBC_2.40",))}


def test_only_those_are_asked_about_that_the_image_needs_and_cannot_serve():
    assert inject.asks_more(OLDER, [host(), HOST_MPICH]) == (host(),)
    assert inject.asks_more(image(library()), [host(), HOST_MPICH]) == ()


def test_installation_that_is_bound_to_the_images_glibc_runs_and_says_so():
    for mode in ("auto", "host"):
        verdict = inject.decide(mode, OLDER, [host()], glibc=BOUND)
        assert verdict.choice == "host"
        assert verdict.reasons[1] == (
            "the host's OpenMPI 4.1.4: 68 symbols above GLIBC_2.31 down-bound"
        )


def test_installation_that_cannot_be_bound_is_refused_with_the_symbol():
    verdict = inject.decide("host", OLDER, [host()], glibc=LOST)
    assert verdict.refused == "host OpenMPI 4.1.4: nothing offers frob@GLIBC_2.40"
    assert inject.decide("auto", OLDER, [host()], glibc=LOST).choice == "image"


SWAPPED = {"id": LOST["id"]._replace(swap="the host's glibc stands there")}
UNSWAPPED = {"id": LOST["id"]._replace(no_swap="the host's glibc has no libnsl.so.1")}


def test_hosts_glibc_takes_the_images_place_only_where_that_was_allowed():
    for mode in ("auto", "host"):
        assert inject.decide(mode, OLDER, [host()], glibc=SWAPPED).choice == "image"
        verdict = inject.decide(mode, OLDER, [host()], glibc=SWAPPED, swap=True)
        assert (verdict.choice, verdict.swap) == ("host", True)
        assert verdict.warnings == ("the host's glibc stands there",)
        assert verdict.reasons[1] == ("the host's OpenMPI 4.1.4: nothing offers frob@GLIBC_2.40")


def test_glibc_that_can_be_bound_to_is_never_swapped():
    for glibc in (BOUND, {}):
        verdict = inject.decide("auto", OLDER, [host()], glibc=glibc, swap=True)
        assert not verdict.swap
        assert verdict.warnings == ()


def test_why_there_is_no_swap_is_said_where_one_was_allowed():
    refused = inject.decide("host", OLDER, [host()], glibc=UNSWAPPED, swap=True).refused
    assert refused == (
        "host OpenMPI 4.1.4: nothing offers frob@GLIBC_2.40; the host's glibc has no libnsl.so.1"
    )
    refused = inject.decide("host", OLDER, [host()], glibc=UNSWAPPED).refused
    assert refused == "host OpenMPI 4.1.4: nothing offers frob@GLIBC_2.40"
