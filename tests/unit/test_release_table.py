"""The table of releases says what the runs said."""

import os
import sys

SLURM = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "slurm")
sys.path.insert(0, SLURM)

import applicable  # noqa: E402 - lies beside the tests of another floor
import release_table  # noqa: E402

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.slurm.test_door" name="test_a[x]"/>
<testcase classname="tests.slurm.test_door" name="test_b"><failure message="m"/></testcase>
<testcase classname="tests.slurm.test_door" name="test_c"><skipped message="m"/></testcase>
<testcase classname="tests.slurm.test_mpi" name="test_d"><error message="m"/></testcase>
</testsuite></testsuites>"""
SAID = """2 failed
not applicable here: 2 tests: this Slurm has no --mpi=pmix
not applicable: this Slurm has no --mpi=pmix: tests/slurm/test_mpi.py::test_e[a/b: c]
not applicable: this Slurm has no --mpi=pmix: tests/slurm/test_mpi.py::test_e[d]
not applicable: needs Slurm 23.02: tests/slurm/test_mpi.py::test_f
"""


def outcome():
    return release_table.outcome("24.11.5", "Debian 13", "abc", JUNIT, SAID, 12.4)


def test_failures_errors_and_skips_are_failed():
    assert outcome().passed == 1
    assert outcome().failed == ("test_door::test_b", "test_door::test_c", "test_mpi::test_d")


def test_what_does_not_apply_is_named_with_its_reason():
    assert outcome().not_applicable == (
        ("test_mpi.py::test_e[a/b: c]", "this Slurm has no --mpi=pmix"),
        ("test_mpi.py::test_e[d]", "this Slurm has no --mpi=pmix"),
        ("test_mpi.py::test_f", "needs Slurm 23.02"),
    )


def test_page_has_a_column_for_each_release_and_the_names():
    page = release_table.text([outcome(), outcome()._replace(release="26.05.5", failed=())])
    assert "|  | Slurm 24.11.5 | Slurm 26.05.5 |\n| --- | --- | --- |\n" in page
    assert "| passed | 1 | 1 |\n| failed | 3 | 0 |\n| not applicable | 3 | 3 |\n" in page
    assert "- failed: `test_door::test_b`\n" in page
    assert "- not applicable, this Slurm has no --mpi=pmix: 2: `test_mpi.py::test_e` (2)\n" in page


FACTS = applicable.Facts((22, 5), frozenset({"pmi2"}), {"openmpi": "5.0.7"}, (2, 41))


def test_markers_are_held_against_the_facts():
    def why(name, *arguments):
        return applicable.reason(name, arguments, FACTS)

    assert why("slurm_min", 22, 5) == ""
    assert why("slurm_min", 23, 2) == "needs Slurm 23.02"
    assert why("pmix") == "this Slurm has no --mpi=pmix"
    assert why("host_mpi", "openmpi", 5) == ""
    assert why("host_mpi", "openmpi", 4) == "the host's openmpi is 5.0.7, not 4"
    assert why("host_mpi", "mpich", 4) == "the host's mpich is not there, not 4"
    assert why("host_libc", 2, 41) == ""
    assert why("host_libc", 2, 36) == "the host's C library is 2.41, the images' is 2.36"
