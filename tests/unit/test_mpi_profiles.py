"""host.mpi: every installation has a name, and the preferred one is the one that somebody chose."""

import json
import os

import elf_forge
import pytest
from test_mpi import installation

from fairlead import config as settings
from fairlead import errors
from fairlead.host import ldso, mpi, trace


@pytest.fixture(autouse=True)
def only_hints(monkeypatch):
    """Nothing is found by the loader's cache: analysing the system's own MPI takes a second."""
    monkeypatch.setattr(ldso, "CACHE", "/nonexistent/ld.so.cache")


def abi(path, text=elf_forge.MPICH):
    """Something with the marks of a library of the standard's ABI."""
    return elf_forge.library(path, text, soname="libmpi_abi.so.1")


def found(tmp, environ=(), wanted="", origin="/etc/fairlead/fairlead.toml", prefixes=()):
    explicit = not origin.startswith("/")
    choice = mpi.Choice(wanted, origin, explicit, tuple(map(str, prefixes)))
    return mpi.profiles({"PATH": "/nowhere", **dict(environ)}, str(tmp / "cache"), choice)


def labels(profiles):
    return [profile.label for profile in profiles]


@pytest.fixture
def two(tmp_path):
    return installation(tmp_path / "a", "4.1.4"), installation(tmp_path / "b", "5.0.7")


def test_every_installation_is_found_and_named_by_what_it_is(tmp_path, two):
    profiles = found(tmp_path, prefixes=two)
    assert labels(profiles) == ["openmpi-4.1.4", "openmpi-5.0.7"]
    assert [profile.prefix for profile in profiles] == list(map(str, two))
    assert {profile.found_by for profile in profiles} == {"mpi_prefixes"}


def test_equal_names_are_told_apart_by_where_they_lie_whatever_the_order(tmp_path):
    places = [installation(tmp_path / name) for name in "ab"]
    names = {p.prefix: p.label for p in found(tmp_path, prefixes=places)}
    other = {p.prefix: p.label for p in found(tmp_path, prefixes=reversed(places))}
    assert names == other
    assert len(set(names.values())) == 2
    assert all(label.startswith("openmpi-4.1.4-") for label in names.values())


def test_symlink_to_an_installation_is_no_second_one(tmp_path, two):
    os.symlink(two[0], tmp_path / "current")
    environ = {"MPI_HOME": str(tmp_path / "current")}
    profiles = found(tmp_path, environ, prefixes=[two[0]])
    assert [(p.label, p.prefix) for p in profiles] == [("openmpi-4.1.4", str(tmp_path / "current"))]
    for prefix in (tmp_path / "current", two[0]):
        assert labels(found(tmp_path, environ, str(prefix))) == ["openmpi-4.1.4"]


ORDERS = {
    "as found": ({}, "", "default", "openmpi-4.1.4"),
    "setting by name": ({}, "openmpi-5.0.7", "/etc/f.toml", "openmpi-5.0.7"),
    "setting by prefix": ({}, "{b}", "/etc/f.toml", "openmpi-5.0.7"),
    "module": ({"MPI_HOME": "{b}"}, "", "default", "openmpi-5.0.7"),
    "module over a file": ({"MPI_HOME": "{a}"}, "openmpi-5.0.7", "/etc/f.toml", "openmpi-4.1.4"),
    "library path over a file": (
        {"LD_LIBRARY_PATH": "{a}/lib"}, "openmpi-5.0.7", "/etc/f.toml", "openmpi-4.1.4"),
    "variable over a module": (
        {"MPI_HOME": "{a}"}, "openmpi-5.0.7", "$FAIRLEAD_MPI_PROFILE", "openmpi-5.0.7"),
    "option over a module": ({"MPI_HOME": "{a}"}, "openmpi-5.0.7", "command line", "openmpi-5.0.7"),
}  # fmt: skip


@pytest.mark.parametrize("case", ORDERS)
def test_preferred_one_is_whom_somebody_chose(tmp_path, two, case):
    environ, wanted, origin, first = ORDERS[case]
    places = {"a": str(two[0]), "b": str(two[1])}
    variables = {name: value.format(**places) for name, value in environ.items()}
    profiles = found(tmp_path, variables, wanted.format(**places), origin, two)
    assert sorted(labels(profiles)) == ["openmpi-4.1.4", "openmpi-5.0.7"]
    assert labels(profiles)[0] == first


def test_variable_that_moves_one_installation_is_not_given_to_another(tmp_path, two):
    environ = {"OPAL_PREFIX": str(two[1]), "UCX_MODULE_DIR": "/x"}
    env = {p.label: dict(p.env) for p in found(tmp_path, environ, prefixes=two)}
    assert env == {
        "openmpi-4.1.4": {"UCX_MODULE_DIR": "/x"},
        "openmpi-5.0.7": {"OPAL_PREFIX": str(two[1]), "UCX_MODULE_DIR": "/x"},
    }


@pytest.mark.parametrize(
    "place", ["lib", "lib64", "lib/release", "lib64/openmpi/lib", "lib/x86_64-linux-gnu"]
)
def test_prefix_is_told_from_where_the_library_lies(tmp_path, place):
    elf_forge.openmpi(tmp_path / "lib" / place / "libmpi.so.40")
    environ = {"LD_LIBRARY_PATH": str(tmp_path / "lib" / place)}
    (profile,) = found(tmp_path, environ)
    inner = place.removesuffix("/lib") if place.endswith("/lib") else ""
    assert profile.prefix == str(tmp_path / "lib" / inner).rstrip("/")


def test_tool_on_the_systems_path_is_nobodys_choice(tmp_path, two, monkeypatch):
    monkeypatch.setattr(mpi, "SYSTEM", ("/", str(two[0])))
    os.makedirs(two[0] / "bin")
    (two[0] / "bin/mpicc").write_text("")
    environ = {"PATH": str(two[0] / "bin")}
    profiles = found(tmp_path, environ, "openmpi-5.0.7", prefixes=[two[1]])
    assert labels(profiles) == ["openmpi-5.0.7", "openmpi-4.1.4"]


def test_name_that_nothing_has_is_an_error_that_lists_the_names(tmp_path, two):
    with pytest.raises(errors.ConfigError) as raised:
        found(tmp_path, wanted="openmpi-3.1", prefixes=two)
    line = raised.value.line()
    assert "/etc/fairlead/fairlead.toml: mpi_profile = 'openmpi-3.1'" in line
    assert "there are: openmpi-4.1.4, openmpi-5.0.7" in line
    with pytest.raises(errors.ConfigError, match=r"openmpi-3\.1"):
        found(tmp_path / "nothing", wanted="openmpi-3.1")


def test_name_without_its_suffix_means_the_first_of_that_name(tmp_path):
    places = [installation(tmp_path / name) for name in "ab"]
    profiles = found(tmp_path, wanted="openmpi-4.1.4", prefixes=places)
    assert profiles[0].prefix == str(places[0])


def test_installation_that_offers_two_interfaces_has_one_name(tmp_path):
    elf_forge.mpich(tmp_path / "m/lib/libmpi.so.12")
    abi(tmp_path / "m/lib/libmpi_abi.so.1")
    profiles = found(tmp_path, prefixes=[tmp_path / "m"])
    assert {(p.label, p.abi_class) for p in profiles} == {
        ("mpich-4.0.9", "mpich-abi"), ("mpich-4.0.9", "mpi-abi"),
    }  # fmt: skip
    assert {p.name for p in profiles} == {"MPICH 4.0.9", "MPICH 4.0.9 (MPI ABI)"}


def test_standards_interface_of_openmpi_is_known_by_its_symbols(tmp_path):
    text = elf_forge.OPENMPI.format(world=512, version="6.0.0")
    abi(tmp_path / "o/lib/libmpi_abi.so.1", text)
    (profile,) = found(tmp_path, prefixes=[tmp_path / "o"])
    assert (profile.label, profile.abi_class, profile.family) == ("openmpi-6.0.0", "mpi-abi", "abi")


def test_preferred_host_mpi_serves_the_standards_interface(tmp_path):
    for name, version in (("a", "4.0.8"), ("b", "4.0.9")):
        abi(tmp_path / name / "lib/libmpi_abi.so.1", elf_forge.MPICH.replace("4.0.9", version))
    places = [tmp_path / "a", tmp_path / "b"]
    assert found(tmp_path, wanted="mpich-4.0.9", prefixes=places)[0].version == "4.0.9"


def test_choice_knows_whether_a_file_or_the_user_said_it(tmp_path):
    site = tmp_path / "site.toml"
    site.write_text('mpi_profile = "x"\nmpi_prefixes = ["/opt/a"]\n')
    environ = {"FAIRLEAD_SITE_CONFIG": str(site), "HOME": str(tmp_path)}
    config = settings.load(environ)
    assert mpi.choice(config) == mpi.Choice("x", str(site), False, ("/opt/a",))
    ours = settings.load({**environ, "FAIRLEAD_MPI_PROFILE": "y"})
    assert mpi.choice(ours).explicit
    assert mpi.choice(config.override(settings.COMMAND_LINE, mpi_profile="z")).explicit


def test_prefix_that_is_not_absolute_is_refused(tmp_path):
    environ = {"HOME": str(tmp_path), "FAIRLEAD_MPI_PREFIXES": "/opt/a opt/b"}
    with pytest.raises(errors.ConfigError, match="'opt/b' is not an absolute path"):
        settings.load(environ)


# -- what a trace adds


def traced(tmp, profile, *files):
    kept = trace.path(str(tmp / "cache"), profile)
    trace.keep(kept, trace.Trace(("p",), 2, (), files, (), (), files))
    return kept


@pytest.fixture
def etc(monkeypatch):
    """A place outside of /tmp, where files may travel."""
    monkeypatch.setattr(trace, "_USERS", ("/home/",))


def test_file_that_a_trace_saw_travels_with_the_profile(tmp_path, two, etc):
    settings_file = two[0] / "etc/site.conf"
    os.makedirs(settings_file.parent)
    settings_file.write_text("a = 1")
    (before,) = found(tmp_path, prefixes=two[:1])
    traced(tmp_path, before, str(settings_file))
    (after,) = found(tmp_path, prefixes=two[:1])
    assert (before.data, after.data) == ((), (str(settings_file),))
    assert after.identity != before.identity
    assert after.analysis == before.analysis
    settings_file.write_text("a = 22")
    (changed,) = found(tmp_path, prefixes=two[:1])
    assert changed.identity not in (before.identity, after.identity)


def test_trace_of_another_state_of_the_installation_does_not_count(tmp_path, two, etc):
    (two[0] / "x.conf").write_text("")
    (before,) = found(tmp_path, prefixes=two[:1])
    traced(tmp_path, before, str(two[0] / "x.conf"))
    elf_forge.library(two[0] / "lib/openmpi/mca_new.so", soname="")
    assert found(tmp_path, prefixes=two[:1])[0].data == ()


@pytest.mark.parametrize("bad", ["symlink", "others may write", "gone", "directory"])
def test_file_that_is_not_to_be_trusted_does_not_travel(tmp_path, two, etc, bad):
    path = two[0] / "x.conf"
    path.write_text("")
    (before,) = found(tmp_path, prefixes=two[:1])
    traced(tmp_path, before, str(path))
    if bad == "others may write":
        path.chmod(0o666)
    else:
        path.unlink()
    if bad == "symlink":
        path.symlink_to("/etc/passwd")
    if bad == "directory":
        path.mkdir()
    assert found(tmp_path, prefixes=two[:1])[0].data == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "trace": [1]}'])
def test_damaged_trace_is_as_good_as_none(tmp_path, two, text):
    (before,) = found(tmp_path, prefixes=two[:1])
    kept = traced(tmp_path, before)
    with open(kept, "w", encoding="ascii") as file:
        file.write(text)
    assert trace.load(kept) is None
    assert found(tmp_path, prefixes=two[:1]) == (before,)


def test_cache_holds_all_that_a_profile_is(tmp_path, two):
    first = found(tmp_path, prefixes=two)
    (path,) = (tmp_path / "cache").iterdir()
    assert len(json.loads(path.read_text())["profiles"]) == 2
    assert found(tmp_path, prefixes=two) == first
