"""What is foreseen for the ranks of a step: an error, a note, or nothing."""

import pytest

from fairlead import config as settings
from fairlead import errors
from fairlead.host.index import Index, Library
from fairlead.host.mpi import Profile
from fairlead.plan import bootstrap
from fairlead.plan import request as launch_request
from fairlead.run import ranks

OPENMPI = ranks.Candidate("openmpi", "4.1.4", ("pmix",), ("libmpi.so.40",))
MPICH = ranks.Candidate("mpich", "4.0.2", ("pmi2",), ("libmpich.so.12",))
EMPTY = Index((), (), (), "", (), (), (), (), (), (), (), ())
PROFILE = Profile(
    "OpenMPI 4.1.4", "openmpi", "openmpi-4", "4.1.4",
    (("c", "libmpi.so.40", "/host/libmpi.so.40.30"),), (), (), (), ("pmix",), (), "", (), (), "id",
)  # fmt: skip
PMIX = {"PMIX_RANK": "0", "PMIX_SECURITY_MODE": "munge,native", "PMIX_GDS_MODULE": "ds21,hash"}
PMI2 = {"PMI_FD": "11", "PMI_RANK": "0"}


@pytest.fixture
def config(tmp_path):
    return settings.load({}, site_file=str(tmp_path / "none"), home=str(tmp_path))


def request(environ, tasks=2, mpi="auto"):
    step = launch_request.Step("1", "0", 0, 1, tasks, tasks)
    return launch_request.Request("q.io/x:1", ("true",), environ, "/", mpi=mpi, step=step)


def test_wrong_kind_is_a_note_and_refuses_programs_of_that_mpi(config):
    found = ranks.outlook(request(PMIX), config, (MPICH,))
    (note,) = found.notes
    assert "MPICH 4.0.2" in note
    assert "--mpi=pmi2" in note
    ((names, verdict),) = found.refusals
    assert names == ("libmpich.so.12",)
    assert verdict.outcome == "singletons"


@pytest.mark.parametrize("mode", ["host", "image"])
def test_wrong_kind_is_an_error_where_mpi_was_asked_for(config, mode):
    with pytest.raises(errors.MpiError, match="SLURM's PMI support") as caught:
        ranks.outlook(request(PMI2, mpi=mode), config, (OPENMPI,))
    assert caught.value.hint == "start it with --mpi=pmix"


def test_mode_of_the_site_is_not_the_users_word(config):
    site = config._replace(mpi="image", origins={**config.origins, "mpi": settings.SITE_FILE})
    assert ranks.outlook(request(PMI2, mpi="image"), site, (OPENMPI,)).notes


def test_image_with_a_library_that_fits_is_not_refused(config):
    found = ranks.outlook(request(PMIX, mpi="image"), config, (OPENMPI, MPICH))
    assert [names for names, _ in found.refusals] == [MPICH.names]


@pytest.mark.parametrize(
    ("environ", "tasks", "checked"),
    [(PMIX, 1, True), (PMIX, 2, False)],
    ids=["one task", "switched off"],
)
def test_nothing_is_foreseen_without_a_world_to_lose(config, environ, tasks, checked):
    config = config._replace(mpi_world_check=checked)
    found = ranks.outlook(request(environ, tasks), config, (MPICH,))
    assert found.notes == found.refusals == ()


def test_step_without_pmi_refuses_mpi_programs(config):
    found = ranks.outlook(request({}), config, ())
    assert {name for names, _ in found.refusals for name in names} >= {
        "libmpi.so.40",
        "libmpi.so.12",
    }
    assert ranks.outlook(request({}, tasks=1), config, ()).refusals == ()


def test_right_kind_prepares_the_client_and_says_nothing(config):
    found = ranks.outlook(request(PMIX), config, (OPENMPI,))
    assert found.notes == found.refusals == ()
    assert found.variables == (("PMIX_MCA_psec", "native"),)
    assert found.report == ("OpenMPI 4.1.4 in a step started with pmix: ok",)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PMIX_MCA_psec", "none", "no security module in common"),
        ("PMIX_MCA_gds", "ds21", "leaves out hash"),
        ("PMIX_SECURITY_MODE", "munge", "munge only"),
    ],
)
def test_skew_of_client_and_server_is_named(config, monkeypatch, tmp_path, name, value, words):
    monkeypatch.setattr(ranks, "MUNGE", str(tmp_path / "no munge"))
    (note,) = ranks.outlook(request({**PMIX, name: value}), config, (OPENMPI,)).notes
    assert words in note


def test_host_client_takes_native_security_where_munge_is_absent(config, monkeypatch, tmp_path):
    found = ranks.outlook(request(PMIX), config, (OPENMPI,))
    monkeypatch.setattr(ranks, "MUNGE", str(tmp_path))
    assert ranks.of_host(found) == ()
    monkeypatch.setattr(ranks, "MUNGE", str(tmp_path / "none"))
    assert ranks.of_host(found) == (("PMIX_MCA_psec", "native"),)


def test_world_check_goes_into_steps_of_several_tasks_under_pmi(config, monkeypatch, tmp_path):
    library = tmp_path / "fairlead-world.so"
    monkeypatch.setattr(ranks, "library", lambda: str(library))

    def check(environ, tasks=2, config=config):
        return ranks.check(request(environ, tasks), config, injected=False, preload="", musl=False)

    assert check(PMIX) is None, "it is not installed"
    library.touch()
    assert check(PMIX).tasks == 2
    assert check(PMI2, 3).tasks == 3
    assert check(PMIX, 1) is check({}) is None
    assert check(PMIX, config=config._replace(mpi_world_check=False)) is None


def test_client_that_does_not_know_the_servers_ways_is_refused(config):
    old = OPENMPI._replace(abilities=("pmix", "OpenPMIx 1.2.5", "PMIX_SERVER_URI"))
    step = {**PMIX, "PMIX_SERVER_URI4": "x", "PMIX_VERSION": "4.2.2"}
    found = ranks.outlook(request(step), config, (old,))
    ((names, verdict),) = found.refusals
    assert names == OPENMPI.names
    assert verdict.outcome == "fails"
    assert found.notes == (f"{verdict.reason} ({verdict.remedy})",)
    assert (
        found.report[0]
        == "OpenMPI 4.1.4: its client is OpenPMIx 1.2.5, the step's PMIx server 4.2.2"
    )
    known = OPENMPI._replace(abilities=("pmix", "PMIX_SERVER_URI4"))
    assert ranks.outlook(request(step), config, (known,)).refusals == ()


def test_world_check_is_told_which_files_are_not_to_start(config, monkeypatch, tmp_path):
    (tmp_path / "fairlead-world.so").touch()
    monkeypatch.setattr(ranks, "library", lambda: str(tmp_path / "fairlead-world.so"))
    names = (*OPENMPI.names, "/usr/lib/libmpi.so.40")
    refusals = ((names, bootstrap.Verdict(bootstrap.FAILS, "it stops", "do this")),)
    found = ranks.check(
        request(PMI2), config, injected=False, preload="", musl=False, refusals=refusals
    )
    assert found.refused == ((("/usr/lib/libmpi.so.40",), "it stops (do this)"),)


def test_candidates_are_known_by_the_paths_at_which_they_lie_in_the_container():
    own = Library(
        "/usr/lib/libmpi.so.40.1", "libmpi.so.40", "c", "openmpi", "openmpi-4", "4.1.0", ""
    )
    found = EMPTY._replace(libraries=(own,))
    (image,) = ranks.candidates(found, (), {own.path: ("pmix",)})
    assert image[:3] == ("openmpi", "4.1.0", ("pmix",))
    assert image.names == ("libmpi.so.40", "/usr/lib/libmpi.so.40.1")
    (host,) = ranks.candidates(found, (PROFILE,), {})
    assert host.names == ("libmpi.so.40", "/.fairlead/mpi/openmpi-4/lib/libmpi.so.40")


def test_library_of_the_standards_abi_starts_as_its_makers_do(config):
    own = Library(
        "/usr/lib/libmpi_abi.so.1", "libmpi_abi.so.1", "c", "abi", "mpi-abi", "5.0.2", "", "mpich"
    )
    found = ranks.candidates(EMPTY._replace(libraries=(own,)), (), {})
    ((_, verdict),) = ranks.outlook(request(PMIX), config, found).refusals
    assert verdict.reason.startswith('MPICH 5.0.2 says "unsupported PMI version PMIx"')
    host = PROFILE._replace(
        family="abi", abi_class="mpi-abi", label="openmpi-6.0.0", version="6.0.0"
    )
    found = ranks.candidates(EMPTY._replace(libraries=(own,)), (host,), {})
    ((_, verdict),) = ranks.outlook(request(PMI2), config, found).refusals
    assert verdict.reason.startswith("OpenMPI 6.0.0 speaks PMIx only")
