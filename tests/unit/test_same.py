"""What the nodes of a step compare: what was asked for, not what each node's own names make of it."""

from fairlead.plan.request import Request, Volume
from fairlead.run import same


def asked(source, destination="/scratch"):
    volume = Volume(source, destination, origin="an.toml:3")
    return repr(same._asked(Request("debian", (), {}, "/", volumes=(volume,))))


def test_a_mount_from_a_place_that_names_its_node_is_no_difference():
    assert asked("/local/n1") == asked("/local/n2")
    assert asked("/local/n1") != asked("/local/n1", "/elsewhere")
