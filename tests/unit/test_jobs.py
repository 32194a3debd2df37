"""Which jobs live: what squeue says and what runs here; silence is no answer."""

import os

import pytest

from fairlead.host import jobs


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A squeue that says what the test wants, and no steps on this node."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "slurm.conf").write_text("")
    monkeypatch.setattr(jobs, "_steps_here", frozenset)
    environ = {"PATH": str(tmp_path / "bin"), "SLURM_CONF": str(tmp_path / "slurm.conf")}

    def says(text, status=0):
        program = tmp_path / "bin/squeue"
        program.write_text(f"#!/bin/sh\nprintf '{text}'\nexit {status}\n")
        program.chmod(0o755)
        return jobs.living(environ)

    says.environ, says.conf = environ, tmp_path / "slurm.conf"
    return says


def test_jobs_are_those_of_squeue_and_those_with_a_step_here(cluster, monkeypatch):
    assert cluster("12 12\\n7 5\\n7 7\\n") == {5, 7, 12}
    assert cluster("") == frozenset()
    monkeypatch.setattr(jobs, "_steps_here", lambda: frozenset({99}))
    assert cluster("12\\n") == {12, 99}


@pytest.mark.parametrize(("text", "status"), [("12\\n", 1), ("slurm_load_jobs error", 0)])
def test_failure_and_nonsense_are_no_answer(cluster, text, status):
    assert cluster(text, status) is None


def test_no_squeue_is_no_answer(cluster):
    assert jobs.living(cluster.environ) is None


def test_slow_squeue_is_no_answer(cluster, monkeypatch):
    monkeypatch.setattr(jobs, "_PATIENCE_S", 0.2)
    cluster.environ["PATH"] += ":/bin:/usr/bin"
    assert cluster("12\\n'; sleep 5; printf '") is None


def test_hidden_jobs_are_no_answer_except_for_root(cluster, monkeypatch):
    cluster.conf.write_text("PrivateData=accounts,jobs\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cluster("12\\n") is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cluster("12\\n") == {12}


def test_steps_are_told_by_the_title_of_their_daemon(monkeypatch):
    psutil = pytest.importorskip("psutil")

    class Process:
        def __init__(self, *words):
            self.info = {"cmdline": list(words)}

    running = [
        Process("slurmstepd: [17.extern]"),
        Process("slurmstepd: [18.0]"),
        Process("/bin/sh", "-c", "slurmstepd: [19.0]"),
        Process("slurmstepd: [x.0]"),
        Process(),
    ]
    monkeypatch.setattr(psutil, "process_iter", lambda _: iter(running))
    assert jobs._steps_here() == {17, 18}
