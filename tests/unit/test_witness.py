"""What a decision hung on is noted, and C sees the same of a path as Python."""

import os

import pytest

from fairlead import kernel
from fairlead.host import facts, mpi, witness
from fairlead.run import injection


@pytest.fixture
def place(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    os.utime(tmp_path / "file", ns=(1, -1_500_000_001))
    return tmp_path


@pytest.mark.parametrize("nofollow", [False, True])
@pytest.mark.parametrize("kind", [False, True])
def test_c_and_python_write_the_same_texts(place, kind, nofollow):
    flags = kernel.lib.CHECK_KIND * kind | kernel.lib.CHECK_NOFOLLOW * nofollow
    look = witness.kind if kind else witness.identity
    seen = set()
    for path in (
        *(f"{place}/{name}" for name in ("file", "link", "dangling", "fifo", "absent", "")),
        *("/dev/null", "/proc/self/exe", "/", f"{place}/file/below"),
    ):
        assert kernel.plan_witness(path, flags) == look(path, nofollow=nofollow)
        seen.add(look(path, nofollow=nofollow))
    assert len(seen) >= 4


def test_directory_of_another_is_told_from_an_own_one(place, monkeypatch):
    assert witness.kind(str(place)) == "own directory"
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert witness.kind(str(place)) == "directory"


def test_environment_notes_what_it_is_asked_and_no_more():
    environ = witness.Environment({"A": "1", "B": "2", "P_X": "3", "OTHER": "4"})
    assert environ.get("A") == "1"
    assert environ.get("MISSING") is None
    assert "B" in environ
    assert "GONE" not in environ
    assert witness.named(environ, "P_") == ("P_X",)
    assert environ.asked == {"A": "1", "MISSING": None}
    assert environ.presence == {"B": True, "GONE": False}
    assert environ.prefixes == {"P_": ("P_X",)}


def test_whoever_walks_through_an_environment_depends_on_all_of_it():
    environ = witness.Environment({"A": "1", "B": "2"})
    assert dict(environ) == {"A": "1", "B": "2"}
    assert environ.prefixes == {"": ("A", "B")}
    assert environ.asked == {"A": "1", "B": "2"}


def test_numbers_of_a_rank_and_a_step_are_no_part_of_a_decision():
    """Else no second launch could use what the first one decided."""
    environ = witness.Environment(
        {
            "PMIX_RANK": "3",
            "PMIX_SERVER_TMPDIR": "/spool/pmix.7.0",
            "PMIX_DSTORE_21_BASE_PATH": "/spool/pmix.7.0",
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_ID": "0",
            "PATH": "/bin",
        }
    )
    injection._is_rank(environ)
    facts.pmix_directories(environ)
    mpi.search_places(environ)
    assert not environ.asked.keys() & {"PMIX_RANK", "PMIX_SERVER_TMPDIR", "SLURM_JOB_ID"}
    assert "PMIX_DSTORE_21_BASE_PATH" not in environ.asked
    assert "" not in environ.prefixes


def test_template_is_expanded_from_the_step():
    environ = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    assert facts.from_template("/t/x_${SLURM_JOB_ID}.${SLURM_STEP_ID}", environ) == "/t/x_7.0"
    assert facts.from_template("/plain", environ) == "/plain"
