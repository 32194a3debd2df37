"""Who ran what: Slurm's answers, and which images a digest or a name means."""

import os
import subprocess
import sys
import types

import pytest

from fairlead import errors
from fairlead.cli import jobs as verb
from fairlead.host import jobs

DIGEST = "sha256:" + "ab" * 32
IMAGE = f"registry.example.org:5000/team/solver:2.1@{DIGEST}"


@pytest.mark.parametrize(
    ("what", "fits"),
    [
        ("", True),
        (DIGEST, True),
        (DIGEST[:12], True),
        (f"sha512:{'ab' * 4}", False),
        ("sha256:ba", False),
        ("solver", True),
        ("team/solver", True),
        ("team/solver:2.1", True),
        ("registry.example.org:5000/team/solver", True),
        (IMAGE, True),
        (f"solver@{DIGEST}", True),
        ("solver@sha256:00", False),
        ("solver:2", False),
        ("olver", False),
        ("team", False),
        ("5000/team/solver", False),
    ],
)
def test_what_means_an_image_by_its_digest_or_the_end_of_its_name(what, fits):
    assert verb.means(what, IMAGE) is fits


def test_name_without_a_tag_keeps_its_port():
    assert verb.means("small", "127.0.0.1:5000/small@sha256:00")
    assert verb.means("/data/x.sqsh", "/data/x.sqsh")
    assert verb.means("127.0.0.1:5000/small", "127.0.0.1:5000/small")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands that say what the test wants."""
    monkeypatch.setattr(jobs, "_mark", lambda: "|M|")
    monkeypatch.setattr(jobs, "_pyslurm", lambda release: None)

    def says(name, text, status=0, said=""):
        program = tmp_path / name
        program.write_text(
            f"#!/bin/sh\n[ \"$1\" = --version ] && echo slurm 22.05.8 && exit\ncat <<'END'\n{text}END\n"
            f"echo '{said}' >&2\nexit {status}\n"
        )
        program.chmod(0o755)

    says.environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CONF": f"{tmp_path}/none"}
    return says


def rows(*lines):
    return "".join("|M|".join(line) + "\n" for line in lines)


def test_steps_stand_for_their_job_and_a_job_without_any_for_itself(slurm):
    slurm(
        "sacct",
        rows(
            ("7_0", "ada", "RUNNING", "10", "Unknown", "a@sha256:1", "n1"),
            ("7_0.batch", "", "RUNNING", "10", "Unknown", "a@sha256:1", "n1"),
            ("7_0.0", "", "COMPLETED", "11", "12", "a@sha256:1", "n1"),
            ("7_0.1", "", "COMPLETED", "12", "13", "none", "n1"),
            ("8", "bob", "PENDING", "Unknown", "Unknown", "b@sha256:2", "None assigned"),
            ("9", "bob", "COMPLETED", "1", "2", "", "n2"),
        ),
    )
    answer = jobs.ran(0, environ=slurm.environ)
    assert answer.way == "sacct"
    assert [(item.job, item.step, item.user, item.start, item.end) for item in answer.ran] == [
        ("7_0", "0", "ada", 11, 12),
        ("8", "", "bob", 0, 0),
    ]


def test_line_breaks_within_a_label_make_no_row_and_spoil_none(slurm):
    forged = "x\n9.0|root|COMPLETED|1|2|a@sha256:1|n1\n\n9"
    slurm(
        "sacct",
        rows(
            ("7", "ada", "COMPLETED", "1", "2", forged, "n1"),
            ("8", "bob", "COMPLETED", "3", "4", "a@sha256:1", "n2"),
        ),
    )
    found = jobs.ran(0, environ=slurm.environ).ran
    assert [(item.job, item.user, item.image) for item in found] == [
        ("7", "ada", forged),
        ("8", "bob", "a@sha256:1"),
    ]


def test_site_without_accounting_is_answered_by_squeue(slurm, tmp_path):
    slurm("sacct", "", 1, "Slurm accounting storage is disabled")
    waiting = ("8", "bob", "PENDING", "N/A", "b@sha256:2", "", "")
    running = ("7", "ada", "RUNNING", "5", "a@sha256:1", "n1", "")
    step = ("7.0", "ada", "6", "a@sha256:1", "n1", "")
    (tmp_path / "squeue").write_text(
        f"#!/bin/sh\ncase \"$*\" in *--steps*) printf %s '{rows(step)}' ;; *) printf %s '{rows(waiting, running)}' ;; esac\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    answer = jobs.ran(0, environ=slurm.environ)
    assert answer.way == "squeue"
    assert answer.ran == (
        jobs.Ran("7", "0", "ada", "RUNNING", 6, 0, "n1", "a@sha256:1"),
        jobs.Ran("8", "", "bob", "PENDING", 0, 0, "", "b@sha256:2"),
    )


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("sacct: error: connection refused", "sacct: error: connection refused (see sacct)"),
        (
            'Invalid field requested: "Container"',
            'Invalid field requested: "Container" (Slurm keeps containers from 21.08 on)',
        ),
    ],
)
def test_what_sacct_objects_to_is_passed_on(slurm, said, line):
    slurm("sacct", "", 1, said)
    with pytest.raises(errors.SlurmError) as raised:
        jobs.ran(0, environ=slurm.environ)
    assert raised.value.line() == f"error [slurm]: {line}"


def test_no_slurm_is_said():
    with pytest.raises(errors.SlurmError, match="sacct is not installed here"):
        jobs.ran(0, environ={"PATH": "/nonexistent"})


def test_pyslurm_answers_where_it_is_of_the_sites_release(slurm, monkeypatch):
    """As 22.5.3 does, whose answer on a real cluster was the same as sacct's (ADR 30)."""
    step = types.SimpleNamespace(id=0, state="COMPLETED", start_time=5, end_time=6, container=IMAGE)
    job = types.SimpleNamespace(
        id=8, array_id=7, array_task_id=None, user_name="ada", nodelist="n1", state="COMPLETED",
        start_time=4, end_time=None, container=[IMAGE], steps={0: step},
    )  # fmt: skip
    asked = []
    module = types.SimpleNamespace(
        RPCError=OSError,
        db=types.SimpleNamespace(
            JobFilter=lambda **words: asked.append(words),
            Jobs=types.SimpleNamespace(load=lambda _: {8: job}),
        ),
    )
    slurm("sacct", "")
    monkeypatch.setattr(jobs, "_pyslurm", lambda release: module if release == (22, 5) else None)
    answer = jobs.ran(3, "ada", slurm.environ)
    assert answer.way == "pyslurm"
    assert asked == [{"start_time": 3, "users": ["ada"]}]
    assert answer.ran == (jobs.Ran("7_0", "0", "ada", "COMPLETED", 5, 6, "n1", IMAGE),)


def test_pyslurm_of_another_release_is_not_used(tmp_path):
    package = tmp_path / "pyslurm"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '25.11.2'\nclass db: pass\n")
    code = "from fairlead.host import jobs; print(jobs._pyslurm((25, 11)), jobs._pyslurm((22, 5)))"
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("<module 'pyslurm'")
    assert done.stdout.endswith(" None\n")
