"""The cluster of tests/bed must be up: ``./test slurm`` sees to that."""

import collections
import os
import shutil
import subprocess

import applicable
import pytest
from installation import installed_prefix

NOT_APPLICABLE = pytest.StashKey[list[tuple[str, str]]]()


@pytest.fixture(scope="session", autouse=True)
def _cluster():
    answer = subprocess.run(["sinfo", "-h", "-o", "%P"], capture_output=True, text=True)
    if answer.returncode:
        pytest.skip("no Slurm cluster answers; ./test slurm starts one")


def pytest_collection_modifyitems(config, items):
    """Take out what this release or host cannot have (see ``applicable``)."""
    facts = applicable.ask()
    if facts is None:
        return
    reasons = [why_not(item, facts) for item in items]
    out = [item for item, why in zip(items, reasons, strict=True) if why]
    config.stash[NOT_APPLICABLE] = [(item.nodeid, why_not(item, facts)) for item in out]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item, why in zip(items, reasons, strict=True) if not why]


def why_not(item, facts):
    return next(filter(None, (applicable.reason(*need, facts) for need in needs(item))), "")


def needs(item):
    """What a test is marked with, and PMIx where it is a parameter."""
    for marker in item.iter_markers():
        if marker.name in applicable.MARKERS:
            yield marker.name, marker.args
    if "pmix" in getattr(getattr(item, "callspec", None), "params", {}).values():
        yield "pmix", ()


def pytest_terminal_summary(terminalreporter, config):
    """Say what was taken out; with names where a report is written, for tests/slurm/matrix."""
    out = config.stash.get(NOT_APPLICABLE, [])
    for why, count in collections.Counter(why for _, why in out).items():
        terminalreporter.write_line(f"not applicable here: {count} tests: {why}")
    for name, why in out if config.getoption("xmlpath") else ():
        terminalreporter.write_line(f"not applicable: {why}: {name}")


@pytest.fixture
def other_prefix():
    """A copy of the installation's outer shape, for a test to break; the engine in it is the real one."""
    place = f"/var/tmp/fairlead-prefix-{os.getpid()}"
    os.makedirs(f"{place}/venv/bin")
    os.symlink(f"{installed_prefix()}/libexec", f"{place}/libexec")
    yield place
    shutil.rmtree(place)


@pytest.fixture
def own_programs(other_prefix):
    """A copy of the installation whose programs can be replaced one by one."""
    os.unlink(f"{other_prefix}/libexec")
    os.makedirs(f"{other_prefix}/libexec/fairlead")
    there = f"{installed_prefix()}/libexec/fairlead"
    for name in os.listdir(there):
        os.symlink(f"{there}/{name}", f"{other_prefix}/libexec/fairlead/{name}")
    os.symlink(f"{installed_prefix()}/venv/bin/python", f"{other_prefix}/venv/bin/python")
    return other_prefix
