"""Say what a job script or a configuration of another engine becomes here, option by option.

Read are job scripts (srun, sbatch and salloc with pyxis's, CSCS's or Shifter's options; enroot,
sarus, apptainer, singularity, ch-run, ch-image, shifter, podman-hpc), plugstack.conf with pyxis,
enroot.conf, sarus.json and environment files (EDF). Nothing is run and nothing is changed.

Of a sarus.json the settings of fairlead.toml go to standard output, what has none to standard
error. Exit status 1 if something has no counterpart.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Callable, Iterator

from fairlead import config as settings
from fairlead import errors, log
from fairlead.cli import migrate_sarus, migrate_script, peers
from fairlead.cli.migrate_script import Finding

EPILOG = """\
examples:
  fairlead migrate job.sh
  fairlead migrate /etc/slurm/plugstack.conf /etc/enroot/enroot.conf
  fairlead migrate /etc/sarus/sarus.json > fairlead.toml
"""
INCOMPLETE = 1  # the exit status when something has no counterpart
_LIMIT_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="script or configuration")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Print what becomes of each file."""
    status = 0
    for path in arguments.files:
        text = _read(path)
        if path.endswith(".json"):
            converted = migrate_sarus.convert(path, text)
            print(converted.settings, end="")
            for line in converted.remarks:
                log.note(line)
            status |= INCOMPLETE if converted.remarks else 0
            continue
        findings = list(_reader(path, text)(text))
        for finding in findings:
            print(errors.one_line(f"{path}:{finding.line}: {finding.word}: {becomes(finding)}"))
        if not findings:
            print(errors.one_line(f"{path}: nothing in it is of another container engine"))
        if any(item.row is None or item.row.here == peers.NONE for item in findings):
            status = INCOMPLETE
    return status


def becomes(finding: Finding) -> str:
    """Return what a word becomes, for a reader."""
    if finding.row is None:
        return f"not known of {finding.peer.name} {finding.peer.version}"
    here = peers.SHOWN.get(finding.row.here, finding.row.here)
    return f"{here} ({finding.row.remark})" if finding.row.remark else here


def _reader(path: str, text: str) -> Callable[[str], Iterator[Finding]]:
    if path.endswith(".toml"):
        return migrate_script.of_edf
    if path.endswith(".conf"):
        if "pyxis" in text:
            return migrate_script.of_plugstack
        return migrate_script.of_enroot_conf
    return migrate_script.of_script


def _read(path: str) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would be waited for
            raise errors.UsageError(f"{path}: is no regular file", hint="name a file")
        with open(path, "rb") as file:
            data = file.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise errors.UsageError(f"{path}: {error.strerror}", hint="name a file") from error
    if len(data) > _LIMIT_BYTES:
        raise errors.UsageError(f"{path}: is larger than 1 MiB", hint="name another file")
    return data.decode(errors="replace")
