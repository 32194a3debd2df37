"""The request that the SPANK shim hands to the engine."""

import pytest

from fairlead import config, errors
from fairlead.run import step


def packed(facts, environ):
    head = b"".join(f"{k}={v}".encode() + b"\0" for k, v in facts.items())
    return head + b"\0" + b"".join(f"{k}={v}".encode() + b"\0" for k, v in environ.items())


def test_facts_and_environment_come_apart():
    facts, environ = step.parse(packed({"protocol": "1", "ref": "a=b"}, {"A": "x=y", "B": "1\n2"}))
    assert facts == {"protocol": "1", "ref": "a=b"}
    assert environ == {"A": "x=y", "B": "1\n2"}


def test_bytes_that_are_no_text_survive():
    data = packed({"protocol": "1"}, {}) + b"NAME=\xff\0"
    assert step.parse(data)[1]["NAME"].encode(errors="surrogateescape") == b"\xff"


@pytest.mark.parametrize("data", [b"", b"protocol=1\0", b"protocol=2\0\0", b"\0\0"])
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
