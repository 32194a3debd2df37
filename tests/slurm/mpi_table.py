"""The MPI matrix as a page of Markdown: the same results give the same page."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Mapping

import mpi_cells
import mpi_judge

COLUMNS = tuple(
    (program, pmi) for program in (*mpi_cells.LANGUAGES, "mpi4py") for pmi in mpi_cells.PMIS
)
HEAD = """\
# The MPI matrix

Written by `tests/slurm/mpi_matrix`; do not edit. Each cell ran on 2 nodes with 2 ranks each of the bed's cluster (Slurm on one
machine, no fabric; the nodes have networks of their own: `FAIRLEAD_BED_NET=own tests/bed/cluster up`), after the engine had
been asked what it would do. Rows are the installation that the user selects on the host, columns program and `--mpi`.
`bindings` are C++ bindings; mpi4py is Debian's.

| | |
|---|---|
| **H** | the host's MPI was announced and ran: four ranks, one world, right sums, 4 MiB around the ring; only libraries with that installation's build-ids were mapped |
| **I**n | the image's own MPI was announced, with the reason below, and ran, likewise |
| **R**n | refused before MPI started on any rank, with exit status 125 and the one line below |
| **!**n | a surprise: what happened is not what had been announced; described below |
| · | no such program for this image, or not run |

The trixie and sid installations need a newer glibc than the bed's nodes have: nothing can run on them outside of a
container. They are there to be carried into images.
"""


ANNOUNCED = {
    "host": "announced: the host's",
    "image": "announced: the image's own",
    "none": "announced: no MPI",
    "refused": "announced: a refusal",
    "unclear": "nothing was announced",
}


class Notes:
    """Numbers texts in the order in which they are met."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Return the number of a text, a new one for a new text."""
        return self.numbers.setdefault(text, len(self.numbers) + 1)


def text(results: Mapping[str, mpi_judge.Result]) -> str:
    """Return the page."""
    refusals, surprises, fallbacks = Notes(), Notes(), Notes()

    def mark(result: mpi_judge.Result | None) -> str:
        if result is None:
            return "·"
        if result.outcome == "refused":
            return f"R{refusals.number(plain(result.detail))}"
        if result.outcome == "SURPRISE":
            said = f"{plain(result.detail)} ({ANNOUNCED[result.verdict.choice]})"
            return f"**!{surprises.number(said)}**"
        if result.outcome == "image":
            return f"I{fallbacks.number(plain(result.verdict.reason))}"
        return "H"

    parts = [HEAD, summary(results)]
    for suite, family in itertools.product(mpi_cells.SUITES, mpi_cells.FAMILIES):
        parts += [grid(suite, family, results, mark)]
    parts.append(specials(results, mark))
    for title, notes, letter in (
        ("The image's own runs, because", fallbacks, "I"),
        ("Refused", refusals, "R"),
        ("Surprises", surprises, "!"),
    ):
        if notes.numbers:
            lines = [f"- **{letter}{number}** {words}" for words, number in notes.numbers.items()]
            parts.append("\n".join([f"## {title}", "", *lines]) + "\n")
    return "\n".join(parts)


def plain(words: str) -> str:
    """Return words without what differs from run to run: node names, jobs, pids, addresses, times."""
    words = re.sub(r"\[\[\d+,\d+\],\d+\]|\[n[1-4](:\d+)*\]", "", words)
    words = re.sub(
        r"\b(n[1-4]|job \d+|pid \d+|0x[0-9a-f]+|STEP \S+|tasks? [\d,-]+)(?=\W|$)", "…", words
    )
    words = re.sub(r"\b\d{4}-\d\d-\d\dT[\d:]*", "…", words)
    return re.sub(r"\s+", " ", words.replace("|", "\\|")).strip()


def summary(results: Mapping[str, mpi_judge.Result]) -> str:
    """Return the counts, one line."""
    counts = collections.Counter(result.outcome for result in results.values())
    well = len(results) - counts["SURPRISE"]
    return (
        f"**{well} of {len(results)} cells went as announced** ({len(mpi_cells.cells())} cells in all): "
        f"host's {counts['host']}, image's own {counts['image']}, refused {counts['refused']}, "
        f"surprises {counts['SURPRISE']}.\n"
    )


def grid(suite, family, results, mark) -> str:  # type: ignore[no-untyped-def]
    """Return one image's table: hosts by programs and PMI."""
    lines = [
        f"## {suite}, {family}",
        "",
        "| host's MPI | " + " | ".join(f"{program} {pmi}" for program, pmi in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    other = "mpich" if family == "openmpi" else "openmpi"
    for host in (*mpi_cells.HOSTS[family], mpi_cells.HOSTS[other][2]):
        cells = [mpi_cells.Cell(suite, family, host, program, pmi) for program, pmi in COLUMNS]
        marks = [mark(results.get(cell.name)) for cell in cells]
        lines.append(f"| {host} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


def specials(results, mark) -> str:  # type: ignore[no-untyped-def]
    """Return the table of what is not in a grid: linkages, wrappers, modes, the MPI ABI."""
    gridded = {(program, pmi, "auto") for program, pmi in COLUMNS}
    lines = [
        "## Linkages, wrappers, modes, the MPI ABI",
        "",
        "| image | program | host's MPI | PMI | `--container-mpi` | |",
        "|---|---|---|---|---|---|",
    ]
    for cell in mpi_cells.cells():
        if (cell.program, cell.pmi, cell.mode) not in gridded:
            shown = f"{cell.suite}, {cell.family}", cell.program, cell.host, cell.pmi, cell.mode
            lines.append("| " + " | ".join((*shown, mark(results.get(cell.name)))) + " |")
    return "\n".join(lines) + "\n"
