"""What the tests of this floor said on each release of Slurm → docs/releases.md. Pure."""

from __future__ import annotations

import collections
import re
import xml.etree.ElementTree as ET
from typing import NamedTuple

NOT_APPLICABLE = re.compile(r"^not applicable: (.+?): tests/slurm/(.+)$", re.MULTILINE)

HEAD = """\
# Releases of Slurm

Written by `tests/slurm/matrix`, which brings up each release on one machine in namespaces of its own (four nodes, a registry,
the images of the tests), installs one and the same plugin binary there, and runs every test of `tests/slurm`.

- **passed** and **failed** count tests; the matrix ends with an error if one fails or is skipped.
- **not applicable**: the release or that Debian cannot have what the test is about. Each such test says so by a marker
  (`tests/slurm/applicable.py`), which is held against what the cluster answers, and is listed below.

"""


class Outcome(NamedTuple):
    """What came of the floor on one release.

    Attributes:
        release: of Slurm, as srun says it.
        host: the Debian, and its MPI.
        binary: the first digits of the installed plugin's SHA-256.
        passed: how many tests.
        failed: names, those skipped among them.
        not_applicable: names and reasons.
        minutes: how long it took.
    """

    release: str
    host: str
    binary: str
    passed: int
    failed: tuple[str, ...]
    not_applicable: tuple[tuple[str, str], ...]
    minutes: float


def outcome(release: str, host: str, binary: str, junit: str, said: str, minutes: float) -> Outcome:
    """Return the outcome of a run, from pytest's XML and what it printed."""
    failed, passed = [], 0
    for case in ET.fromstring(junit).iter("testcase"):
        bad = any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        failed += [name] if bad else []
        passed += not bad
    found = tuple((name, why) for why, name in NOT_APPLICABLE.findall(said))
    return Outcome(release, host, binary, passed, tuple(failed), found, minutes)


def text(outcomes: list[Outcome]) -> str:
    """Return the page."""
    rows = [
        ("", *(f"Slurm {item.release}" for item in outcomes)),
        ("---", *("---" for _ in outcomes)),
        ("host", *(item.host for item in outcomes)),
        ("plugin binary", *(f"`{item.binary}`" for item in outcomes)),
        ("passed", *(str(item.passed) for item in outcomes)),
        ("failed", *(str(len(item.failed)) for item in outcomes)),
        ("not applicable", *(str(len(item.not_applicable)) for item in outcomes)),
        ("minutes", *(f"{item.minutes:.0f}" for item in outcomes)),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return HEAD + table + "\n" + "".join(map(_names, outcomes))


def _names(item: Outcome) -> str:
    lines = [f"\n## Slurm {item.release}\n"]
    lines += [f"- failed: `{name}`" for name in item.failed]
    reasons = collections.defaultdict(list)
    for name, why in item.not_applicable:
        reasons[why].append(name)
    for why, names in reasons.items():
        tests = collections.Counter(name.partition("[")[0] for name in names)
        listed = ", ".join(
            f"`{n}`" + (f" ({count})" if count > 1 else "") for n, count in tests.items()
        )
        lines.append(f"- not applicable, {why}: {len(names)}: {listed}")
    if len(lines) == 1:
        lines.append("Every test of the floor applies and passed.")
    return "\n".join(lines) + "\n"
