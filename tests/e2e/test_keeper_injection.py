"""A storekeeper that is asked for an injection makes none that is not the site's, for nobody's image.

The user of these tests speaks to broker and storekeeper by hand, as an engine that lies would.
"""

from __future__ import annotations

import os

import pytest
from faulty_registry import FaultyRegistry
from images import image, layer
from shared_bed import ALICE, BOB, QUICK, Bed

from fairlead import kernel
from fairlead.host import mpi
from fairlead.run import injector
from fairlead.shared.wire import PROTOCOL, Wire

NOT_OURS = "the site's settings lead to no such MPI on this host"
NONSENSE = "the engine asks for no injection that can be made"


@pytest.fixture
def granted(shared: Bed, faulty: FaultyRegistry) -> str:
    """HEX of an image without MPI that ALICE was granted."""
    built = image([layer({"etc/motd": b"hello", "lib/libc.so.6": b"no library"})])
    shared.trust(faulty.host)
    shared.run(ALICE, faulty.add("x/y", "1", built)).found()
    (name,) = shared.grants(ALICE)
    return name


def ask(shared: Bed, name: str, inject: object, uid: int = ALICE) -> object:
    """Ask for an injection; returns the error's message, or None if there is no answer."""
    broker, ours = shared.broker(uid)
    try:
        wire = Wire(kernel.broker_keeper(ours.fileno(), name))
        wire.send(protocol=PROTOCOL, inject=inject)
        answer = wire.receive(60)
        wire.close()
        assert answer is None or "error" in answer, answer
        return answer["error"][1] if answer else None
    finally:
        ours.close()
        assert broker.wait(10) == 0
        assert shared.leftovers() == []
        assert list(shared.root.glob("injections/*")) == []


@pytest.mark.parametrize(
    ("inject", "message"),
    [
        (["0" * 32], NOT_OURS),
        (["../../etc/passwd"], NOT_OURS),
        ([], NONSENSE),
        ("openmpi", NONSENSE),
        (None, NONSENSE),
        ([7], NONSENSE),
        ([["0" * 32]], NONSENSE),
        (["0" * 32] * 9, NONSENSE),
    ],
)
def test_installation_that_the_site_does_not_have_is_refused(shared, granted, inject, message):
    assert ask(shared, granted, inject) == message


def test_image_of_another_user_is_refused_before_a_storekeeper_starts(shared, granted):
    with pytest.raises(FileNotFoundError):
        ask(shared, granted, ["0" * 32], BOB)


def test_image_that_the_site_s_mpi_does_not_fit_gets_no_injection(shared, granted):
    found = mpi.profiles(injector.ENVIRONMENT, str(shared.place / "host"))
    assert found, "this machine has an MPI"
    message = ask(shared, granted, [found[0].identity])
    assert message == (
        "the host's MPI does not go into the image: the image holds no MPI library to replace"
    )


def test_installation_is_named_once(shared, granted):
    found = mpi.profiles(injector.ENVIRONMENT, str(shared.place / "host"))
    twice = [found[0].identity] * 2
    assert ask(shared, granted, twice) == ask(shared, granted, ["0" * 32])


def test_grant_keeps_its_time_of_proof_and_what_the_storekeeper_cannot_make_changes_nothing(
    shared, granted
):
    path = shared.root / f"grants/{ALICE}/{granted}"
    before = path.read_text(), os.stat(path).st_mtime_ns
    ask(shared, granted, ["0" * 32])
    assert (path.read_text(), os.stat(path).st_mtime_ns) == before


def test_storekeeper_that_looks_for_too_long_ends(shared, granted):
    shared.install(
        f"{QUICK}\nimport time\nkeeper.INJECT_S = 1\ninjector = lambda *given: time.sleep(600)"
    )
    assert ask(shared, granted, ["0" * 32]) is None
