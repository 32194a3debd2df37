"""The MPI matrix's judge: nothing but what was announced passes."""

import json
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(__file__)), "slurm"))
import mpi_cells
import mpi_judge
import mpi_table

HOST = mpi_judge.Host("4.1.4", frozenset({"aa11"}), ())
HOSTS = mpi_judge.Verdict("host", "the host's OpenMPI 4.1.4 replaces the image's OpenMPI 4.1.0")
IMAGES = mpi_judge.Verdict("image", "the image's own OpenMPI 4.1.0 runs: a reason")
REFUSAL = "n1: fairlead: error [mpi]: the host's MPI cannot run in 127.0.0.1:5000/demo/mpi-sid-mpich:1@sha256:0: why"


def ranks(count=4, **changed):
    """What the ranks of a good step print, with fields changed."""
    lines = []
    for rank in range(count):
        fields = {
            "language": "c",
            "rank": rank,
            "size": 4,
            "node": f"n{1 + rank // 2}",
            "sum": "ok",
            "ring": "ok",
            "own": 0,
            "other": 1,
            "id": "aa11",
            "library": "/x/libmpi.so.40",
            "version": "Open MPI v4.1.4",
            **changed,
        }
        lines.append("cell " + " ".join(f"{name}={value}" for name, value in fields.items()))
    return "\n".join(lines) + "\n"


def step(stdout="", stderr="", status=0):
    return mpi_judge.Step(status, stdout, stderr)


def test_what_was_announced_is_well():
    assert mpi_judge.judge(HOSTS, step(ranks()), HOST) == ("host", "")
    assert mpi_judge.judge(IMAGES, step(ranks(own=1, other=0, id="bb22")), HOST) == ("image", "")


def test_refusal_before_launch_is_well_and_keeps_its_reason():
    refused = mpi_judge.Verdict("refused", "why")
    outcome = mpi_judge.judge(refused, step(stderr=REFUSAL, status=125), HOST)
    assert outcome == ("refused", "[mpi]: the host's MPI cannot run in mpi-sid-mpich: why")


def test_refusal_of_what_was_announced_is_well_only_for_the_steps_pmi():
    outcome = mpi_judge.judge(HOSTS, step(stderr=REFUSAL, status=125), HOST)
    assert outcome == (
        "SURPRISE",
        "refused: [mpi]: the host's MPI cannot run in mpi-sid-mpich: why",
    )
    line = "fairlead: error [mpi]: /opt/mpi/c: MPICH 4.0.2 was not built with PMIx (start it with --mpi=pmi2)"
    assert mpi_judge.judge(HOSTS, step(stderr=line, status=125), HOST)[0] == "refused"


def test_engine_of_a_library_without_build_id_is_told_by_its_version():
    wheel = mpi_judge.Host("5.0.11", frozenset(), ())
    good = ranks(id="none", version="Open MPI v5.0.11")
    assert mpi_judge.judge(HOSTS, step(good), wheel) == ("host", "")
    other = ranks(id="none", version="Open MPI v5.0.1")
    assert mpi_judge.judge(HOSTS, step(other), wheel)[0] == "SURPRISE"


@pytest.mark.parametrize(
    ("verdict", "left", "words"),
    [
        (HOSTS, step(ranks(size=1, rank=0)), "4 worlds of 1"),
        (HOSTS, step(ranks(size=2)), "worlds of"),
        (HOSTS, step(ranks(count=3)), "3 of 4 ranks told"),
        (HOSTS, step(ranks(), status=1), "exit status 1"),
        (HOSTS, step(ranks(), "Segmentation fault\n", 139), "Segmentation fault"),
        (HOSTS, step(ranks(), status=None), "hangs"),
        (HOSTS, step(ranks(sum="wrong")), "wrong sum"),
        (HOSTS, step(ranks(ring="wrong")), "wrong ring"),
        (HOSTS, step(ranks(node="n1")), "ran on"),
        (HOSTS, step(ranks(own=1)), "libraries of the image and of the host"),
        (HOSTS, step(ranks(own=1, other=0)), "not the host's"),
        (HOSTS, step(ranks(id="cc33")), "not the installation that was selected"),
        (HOSTS, step(ranks(version="Open MPI v4.1.40")), "not the installation"),
        (HOSTS, step(ranks(), "PMIX ERROR: NOT-FOUND\n"), "noise: PMIX ERROR"),
        (IMAGES, step(ranks()), "not the image's own"),
        (mpi_judge.Verdict("unclear", "x"), step(ranks()), "no verdict"),
        (mpi_judge.Verdict("refused", "x"), step(ranks()), "no verdict"),
        (HOSTS, step(ranks(), REFUSAL, 125), "exit status 125"),
        (HOSTS, step(stderr=REFUSAL.replace("[mpi]", "[store]"), status=125), "exit status 125"),
        (HOSTS, step(stderr=f"{REFUSAL}\n{REFUSAL}", status=125), "exit status 125"),
    ],
)
def test_anything_else_is_a_surprise(verdict, left, words):
    outcome, detail = mpi_judge.judge(verdict, left, HOST)
    assert outcome == "SURPRISE"
    assert words in detail


def test_warnings_of_fairlead_and_words_of_slurm_are_no_noise():
    stderr = "fairlead: warning: x\nsrun: error: y\n"
    assert mpi_judge.judge(HOSTS, step(ranks(), stderr), HOST) == ("host", "")


@pytest.mark.parametrize(
    ("stdout", "choice"),
    [
        ('{"reasons": {"mpi": ["the host\'s MPICH 4.0.2 replaces the image\'s MPICH"]}}', "host"),
        ('{"reasons": {"mpi": ["host OpenMPI 4.1.4 injected; 72 symbols"]}}', "host"),
        ('{"reasons": {"mpi": ["the image\'s own OpenMPI 4.1.0 runs: host"]}}', "image"),
        ('{"reasons": {"mpi": ["the image holds no MPI library to replace"]}}', "none"),
        ('{"reasons": {"mpi": []}}', "unclear"),
        ("not JSON", "unclear"),
    ],
)
def test_verdict_is_read_from_the_plan(stdout, choice):
    assert mpi_judge.read_verdict(step(stdout), "openmpi").choice == choice


def test_verdict_is_the_one_for_the_abi_of_the_program():
    lines = [
        "the host's MPI ABI 5.0.2 replaces the image's MPI ABI 6.0.0 (mpi-abi)",
        "the image's own OpenMPI 6.0.0 runs: the host has MPICH",
    ]
    plan = step(json.dumps({"reasons": {"mpi": lines}}))
    assert mpi_judge.read_verdict(plan, "openmpi").choice == "image"
    assert mpi_judge.read_verdict(plan, "abi").choice == "host"


def test_refused_plan_is_a_verdict():
    assert mpi_judge.read_verdict(step(stderr=REFUSAL, status=125), "abi").choice == "refused"


def test_cells_have_names_of_their_own_and_the_quick_ones_are_among_them():
    names = [cell.name for cell in mpi_cells.cells()]
    assert len(set(names)) == len(names)
    assert {cell.name for cell in mpi_cells.QUICK} <= set(names)
    assert not {cell.suite for cell in mpi_cells.QUICK} & {"sid", "trixie"}


def test_page_depends_on_the_results_alone_and_shows_every_surprise():
    cells = [cell for cell in mpi_cells.cells() if cell.suite == "bookworm"][:3]
    results = {
        cell.name: mpi_judge.Result(cell, HOSTS, outcome, detail, "/x", 1.0)
        for cell, outcome, detail in zip(
            cells,
            ("host", "refused", "SURPRISE"),
            ("", "[mpi]: why", "hangs on n2: pid 77"),
            strict=True,
        )
    }
    page = mpi_table.text(results)
    assert page == mpi_table.text(dict(reversed(results.items())))
    assert "**2 of 3 cells went as announced**" in page
    assert "| H | R1 | **!1** |" in page
    assert "- **!1** hangs on …: … (announced: the host's)" in page
    assert "- **R1** [mpi]: why" in page


def test_the_test_command_makes_what_the_quick_cells_need():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open(os.path.join(root, "test"), encoding="utf-8") as file:
        words = subprocess.run(
            [
                "bash",
                "-c",
                "echo "
                + " ".join(line for line in file if "tests/bed/mpi_" in line).replace("\n", " "),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    assert {cell.image for cell in mpi_cells.QUICK} <= set(words)
    native = set(mpi_cells.NATIVE.values())
    assert {cell.host for cell in mpi_cells.QUICK} <= native | set(words)
