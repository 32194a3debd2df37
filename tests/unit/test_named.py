"""Which container a launch means, and whether the process that was to become it still lives."""

from __future__ import annotations

import os

import pytest

from fairlead import errors
from fairlead.plan import request as launch
from fairlead.run import named
from fairlead.store import layout

STEP = launch.Step("77", "3", 0, 1, 1, 1)


def request(**more):
    return launch.Request("x", ("true",), {}, "/", **more)


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (request(name="box"), ("0.box", "auto")),
        (request(name="box:create"), ("0.box", "create")),
        (request(name="box", step=STEP), ("77.box", "auto")),
        (request(name="box:exec", step=STEP, scope="global"), ("0.box", "exec")),
        (request(save="/x", step=STEP), ("77.save-3", "create")),
        (request(save="/x", step=STEP, scope="global"), ("77.save-3", "create")),
    ],
)
def test_key_of_a_container(asked, key):
    assert named.key_of(asked) == key


def test_only_the_first_node_saves():
    assert named.wanted(request(save="/x", step=STEP)).save == "/x"
    assert named.wanted(request(save="/x", step=STEP._replace(node_index=1))).save == ""


def test_a_step_of_many_programs_cannot_be_saved():
    with pytest.raises(errors.UsageError) as caught:
        named.wanted(request(save="/x", step=STEP._replace(multi_prog=True)))
    assert caught.value.message == "--container-save: not with --multi-prog"


def test_a_holder_lives_by_number_start_and_boot():
    boot, parent = layout.boot_id(), str(os.getppid())
    start = layout.start_time(parent)
    assert named._lives(f"{boot} {parent} {start}")
    assert not named._lives(f"{boot} {parent} {int(start) + 1}")
    assert not named._lives(f"another {parent} {start}")
    assert not named._lives(f"{boot} {os.getpid()} {layout.start_time()}")  # this very launch
    assert not named._lives("")
