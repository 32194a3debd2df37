"""The table of what becomes of ranks says what was seen, row by row, and nothing where nothing was."""

import pytest

from fairlead.plan import bootstrap

# Family, release, started with, outcome: mpi.md section 2, and two rows run in this project's bed.
SEEN = [
    ("openmpi", "1.10.7", "pmix", "singletons"),
    ("openmpi", "1.10.7", "pmi2", "singletons"),
    ("openmpi", "2.1.1", "pmix", "fails"),
    ("openmpi", "2.1.1", "pmi2", "fails"),
    ("openmpi", "4.0.3", "pmix", "ok"),
    ("openmpi", "4.1.0", "pmix", "ok"),
    ("openmpi", "4.1.4", "pmix", "ok"),
    ("openmpi", "4.1.8", "pmix", "ok"),
    ("openmpi", "4.0.3", "pmi2", "fails"),
    ("openmpi", "4.1.4", "pmi2", "fails"),
    ("openmpi", "5.0.7", "pmix", "ok"),
    ("openmpi", "6.0.0rc2", "pmix", "ok"),
    ("openmpi", "5.0.11", "pmi2", "singletons"),
    ("openmpi", "6.0.0rc2", "pmi2", "singletons"),
    ("openmpi", "4.1.4", "none", "fails"),
    ("mpich", "3.2", "pmix", "singletons"),
    ("mpich", "3.4.3", "pmix", "singletons"),
    ("mpich", "4.2.1", "pmix", "singletons"),
    ("mpich", "5.0.2", "pmix", "fails"),
    ("mpich", "3.2", "pmi2", "ok"),
    ("mpich", "4.0.2", "pmi2", "ok"),
    ("mpich", "5.0.2", "pmi2", "ok"),
    ("mpich", "4.0.2", "none", "singletons"),
]


@pytest.mark.parametrize(("family", "version", "started", "outcome"), SEEN)
def test_outcome_is_the_one_that_was_seen(family, version, started, outcome):
    verdict = bootstrap.verdict(family, version, (), started)
    assert verdict.outcome == outcome
    assert bool(verdict.reason) == bool(verdict.remedy) == (outcome != "ok")
    if outcome != "ok":
        assert version in verdict.reason
        assert ("world of its own" in verdict.reason) == (outcome == "singletons")


def test_every_row_was_seen_and_has_its_source():
    covered = {
        (row.family, row.started_with, release)
        for row in bootstrap.ROWS
        for release in row.releases
    }
    seen = {(family, started, int(version.split(".")[0])) for family, version, started, _ in SEEN}
    assert all(row.source for row in bootstrap.ROWS)
    # What is of one row is seen in one of its releases at least.
    for row in bootstrap.ROWS:
        assert {(row.family, row.started_with, release) for release in row.releases} & seen
    assert seen <= covered


@pytest.mark.parametrize(
    ("family", "version", "started"),
    [
        ("openmpi", "3.1.6", "pmix"),
        ("mpich", "2021.10.0", "pmix"),  # Intel MPI counts in years
        ("mpich", "8.1.25", "pmi2"),  # Cray's own numbers
        ("abi", "", "pmix"),
        ("openmpi", "", "pmi2"),
        ("openmpi", "4.1.4", "other"),
    ],
)
def test_what_was_not_seen_is_unknown(family, version, started):
    assert bootstrap.verdict(family, version, (), started) == bootstrap.Verdict("unknown")


@pytest.mark.parametrize(
    ("family", "version", "ability", "started"),
    [("openmpi", "4.1.4", "pmi2", "pmi2"), ("mpich", "4.2.1", "pmix", "pmix")],
)
def test_library_that_was_built_with_the_client_is_all_right(family, version, ability, started):
    assert bootstrap.verdict(family, version, (ability,), started).outcome == "ok"


def test_openmpi_5_gains_nothing_from_a_pmi2_client():
    assert bootstrap.verdict("openmpi", "5.0.7", ("pmi2",), "pmi2").outcome == "singletons"


@pytest.mark.parametrize(
    ("environ", "started"),
    [
        ({}, "none"),
        ({"PMIX_RANK": "0", "PMI_RANK": "0"}, "pmix"),
        ({"PMI_FD": "11"}, "pmi2"),
        ({"PMIX_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, "other"),
    ],
)
def test_kind_of_pmi_comes_from_the_environment(environ, started):
    assert bootstrap.started_with(environ) == started


@pytest.mark.parametrize(
    ("offered", "munge", "chosen", "outcome"),
    [
        ("", False, None, "unknown"),
        ("munge,native", True, None, "ok"),
        ("munge,native", False, None, "ok"),
        ("munge", True, None, "ok"),
        ("munge", False, None, "fails"),
        ("munge,native", True, "none", "fails"),
        ("munge,native", False, "munge", "fails"),
        ("munge,native", True, "^munge", "ok"),
    ],
)
def test_security_that_client_and_server_share(offered, munge, chosen, outcome):
    assert bootstrap.security(offered, munge=munge, chosen=chosen).outcome == outcome


@pytest.mark.parametrize(
    ("chosen", "outcome"),
    [(None, "ok"), ("hash", "ok"), ("ds21,hash", "ok"), ("ds21", "fails"), ("shmem2", "fails")],
)
def test_data_store_needs_hash(chosen, outcome):
    assert bootstrap.storage("ds21,ds12,hash", chosen).outcome == outcome
    assert bootstrap.storage("", None).outcome == "unknown"


SERVER = tuple(f"PMIX_SERVER_URI{way}" for way in ("2", "21", "3", "4", "41"))  # PMIx 4.2.2


@pytest.mark.parametrize(
    ("abilities", "offered", "outcome"),
    [
        (("OpenPMIx 4.2.2", "PMIX_SERVER_URI", "PMIX_SERVER_URI4"), SERVER, "ok"),
        (("PMIX_SERVER_URI", "PMIX_SERVER_URI2"), SERVER, "ok"),
        (("OpenPMIx 7.0.0", "PMIX_SERVER_URI%s"), SERVER, "unknown"),
        ((), SERVER, "unknown"),
        (("PMIX_SERVER_URI2",), (), "unknown"),
        (("PMIX_SERVER_URI",), SERVER, "fails"),  # PMIx 1
        (("PMIX_SERVER_URI3",), ("PMIX_SERVER_URI9",), "fails"),
    ],
)
def test_client_finds_a_server_that_it_knows_the_way_to(abilities, offered, outcome):
    assert bootstrap.address("OpenMPI 4.1.4", abilities, offered, "4.2.2").outcome == outcome


def test_skew_is_named_with_both_releases():
    found = bootstrap.address(
        "OpenMPI 2.1.1", ("OpenPMIx 1.2.5", "PMIX_SERVER_URI"), SERVER[:2], "4.2.2rc2"
    )
    assert found.reason == (
        "OpenMPI 2.1.1: its OpenPMIx 1.2.5 looks for PMIX_SERVER_URI, the step's PMIx server 4.2.2rc2 gives "
        "PMIX_SERVER_URI2, PMIX_SERVER_URI21: its ranks would not find it"
    )
    found = bootstrap.address("OpenMPI 4", ("PMIX_SERVER_URI",), SERVER[:1], "")
    assert "its PMIx client looks for PMIX_SERVER_URI, the step's PMIx server gives" in found.reason
