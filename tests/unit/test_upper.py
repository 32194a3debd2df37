"""Where the root is written to: refused early where no disk can be had, and a value in plan and block."""

import errno
import socket
import struct

import plans
import pytest

from fairlead import errors, kernel
from fairlead.cli import plan as plan_verb
from fairlead.plan import request as launch
from fairlead.run import block, upper

DISK = {"upper": "disk", "upper_size": "8G"}


def made(**changes):
    return plans.make(request_=plans.request(**changes))


def test_disk_without_a_broker_is_refused_with_what_to_do():
    with pytest.raises(errors.UpperError, match="this is no Slurm step") as caught:
        upper.check(plans.request(**DISK), -1)
    assert 'set upper = "memory"' in caught.value.line()
    step = launch.Step("1", "0", 0, 1, 1, 1)
    with pytest.raises(errors.UpperError, match="this node has no shared store"):
        upper.check(plans.request(**DISK, step=step), -1)


def test_nothing_is_refused_that_needs_no_disk():
    upper.check(plans.request(), -1)
    upper.check(plans.request(**DISK), 5)
    upper.check(plans.request(**DISK, writable=False), -1)
    assert upper.mounts(made(), -1) == ()


def upper_records(plan):
    return [r for r in block.records(plan) if struct.unpack_from("=H", r)[0] == kernel.lib.OP_UPPER]


def test_plan_carries_the_disk_behind_the_layers_that_come_as_mounts():
    plan = made(**DISK)
    assert (plan.upper, plan.upper_size) == ("disk", "8G")
    assert upper_records(plan) == [block.record(kernel.lib.OP_UPPER, 0, "8G", "mount:0")]
    plan = plan._replace(layers=("/injection", "mount:1", "mount:0"))
    assert upper_records(plan) == [block.record(kernel.lib.OP_UPPER, 0, "8G", "mount:2")]
    plan = plan._replace(upper_size="")
    assert upper_records(plan) == [block.record(kernel.lib.OP_UPPER, 0, "", "mount:2")]


def test_read_only_root_takes_no_disk():
    plan = made(**DISK, writable=False)
    assert plan.upper == "memory"
    assert "root       read-only: nothing may be written" in plan_verb.text(plan)


def test_plan_says_where_and_why():
    text = plan_verb.text(made(**DISK))
    assert (
        'root       writable, on the node\'s disk, at most 8G: upper = "disk": 8G of room' in text
    )
    assert 'root       writable, in memory: upper = "memory"' in plan_verb.text(made())
    assert plan_verb.reasons(made(**DISK))["root"]["disk"].endswith("limited by the broker")


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, errors.SpaceError, "ask for less with upper_size"),
        (errno.EDQUOT, errors.UpperError, "ask for less with upper_size"),
        (errno.ENOPKG, errors.UpperError, "Package not installed"),
        (errno.EPERM, errors.UpperError, 'set upper = "memory"'),
    ],
)
def test_what_the_broker_refuses_is_one_line_with_a_remedy(number, kind, words):
    """The answer is the broker's own form: magic, -errno, no descriptors, detail."""
    broker, engine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with broker, engine:
        broker.send(struct.pack("=IiII512s", 0x46424B31, -number, 1, 0, b"needs 8 MiB"))
        with pytest.raises(kind) as caught:
            upper.mounts(made(**DISK), engine.fileno())
        asked = broker.recv(4096)
    assert asked[8:].startswith(b"8G\0")
    line = caught.value.line()
    assert 'upper = "disk": needs 8 MiB' in line
    assert words in line
