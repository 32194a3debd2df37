"""The request that the SPANK shim hands to the engine."""

import os
import re
import subprocess
import sys

import pytest

from fairlead import config, errors
from fairlead.run import step

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def packed(facts, environ):
    head = b"".join(f"{k}={v}".encode() + b"\0" for k, v in facts.items())
    return head + b"\0" + b"".join(f"{k}={v}".encode() + b"\0" for k, v in environ.items())


def test_facts_and_environment_come_apart():
    facts, environ = step.parse(
        packed({"protocol": step.PROTOCOL, "ref": "a=b"}, {"A": "x=y", "B": "1\n2"})
    )
    assert facts == {"protocol": step.PROTOCOL, "ref": "a=b"}
    assert environ == {"A": "x=y", "B": "1\n2"}


def test_bytes_that_are_no_text_survive():
    data = packed({"protocol": step.PROTOCOL}, {}) + b"NAME=\xff\0"
    assert step.parse(data)[1]["NAME"].encode(errors="surrogateescape") == b"\xff"


@pytest.mark.parametrize("data", [b"", b"protocol=2\0", b"protocol=1\0\0", b"\0\0"])
def test_other_protocol_or_a_cut_request_is_refused(data):
    with pytest.raises(errors.SlurmError):
        step.parse(data)


def test_step_options_become_the_request():
    settings = config.load({"HOME": "/nowhere"}, site_file="/nonexistent")
    facts = {
        "ref": "x",
        "command": "./app",
        "mpi": "image",
        "entrypoint": "1",
        "nodeid": "2",
        "nnodes": "4",
    }
    request = step.request_from(facts, {}, settings)
    assert (request.reference, request.command, request.mpi) == ("x", ("./app",), "image")
    assert request.use_entrypoint
    assert (request.step.node_index, request.step.nodes) == (2, 4)


@pytest.mark.parametrize(
    ("facts", "status", "line"),
    [
        ({"ref": "x:1", "mounts": "/a:/b:ro", "env": "A"}, 0, ""),
        ({"ref": "x:1", "env": "A-"}, 125, "--container-env: 'A-' is not the name of a variable"),
        ({"ref": "UPPER/x"}, 125, "error [reference]: UPPER/x"),
        ({"ref": "x:1", "mounts": "./a:/proc/b"}, 125, "destination '/proc/b': cannot be replaced"),
    ],
)
def test_options_are_checked_before_there_is_a_job(facts, status, line):
    code = "import sys; from fairlead.run import submit; sys.exit(submit.main('check'))"
    request = packed({"protocol": step.PROTOCOL, **facts}, {})
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], input=request, env=environ, capture_output=True
    )
    assert done.returncode == status, done.stderr
    assert line in done.stdout.decode()
    assert bool(done.stdout) == bool(status)


def options_table():
    """The rows of spank_shim/options.c: option (None: a further variable), key, variable."""
    with open(os.path.join(ROOT, "spank_shim/options.c"), encoding="utf-8") as file:
        text = file.read()
    rows = text.partition("table[] = {\n")[2].partition("\n};")[0]
    for row in re.split(r"\n\t\{ ", "\n" + rows)[1:]:
        words = re.findall(r'"(?:[^"\\]|\\.)*"|NULL', re.sub(r'"\s*\n\s*"', "", row))
        name, key, variable = words[0], words[3], words[5]
        yield (None if name == "NULL" else name.strip('"')), key.strip('"'), variable.strip('"')


def test_every_option_of_the_table_has_a_meaning_and_a_place_in_the_documentation():
    rows = list(options_table())
    assert len(rows) > 15
    with open(os.path.join(ROOT, "engine/fairlead/plan/pyxis.py"), encoding="utf-8") as file:
        meaning = file.read()
    with open(os.path.join(ROOT, "docs/user.md"), encoding="utf-8") as file:
        told = file.read()
    for name, key, variable in rows:
        if key not in (
            "container",
            "image",
            "environment",
            "batch",
            "report",
        ):  # the client's and slurmstepd's own
            assert f'"{key}"' in meaning, key
        for word in (name, None if variable == "NULL" else variable):
            bare = (word or "").removeprefix("no-")
            assert bare in told, word


def test_no_memory_is_one_line_and_no_defect(monkeypatch):
    told = []

    def no_memory(_):
        raise MemoryError

    monkeypatch.setattr(step, "read", no_memory)
    monkeypatch.setattr(step.kernel, "send_outcome", lambda *answer: told.append(answer))
    assert step.main() == 125
    line = "error [slurm]: no memory for the engine (the job's limit?)"
    assert told == [(step.SOCKET_FD, 125, line, None)]
