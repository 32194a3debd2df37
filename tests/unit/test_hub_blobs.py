"""Who fetches which blob for all nodes: the hub's decisions, message by message."""

import pytest

from fairlead.run.hub_blobs import FETCHERS, GRACE_S, HOLD_S, Blobs

DIGESTS = [f"sha256:{number:064x}" for number in range(12)]
ONE = DIGESTS[0]


class Told:
    """A hub of some nodes, a clock of its own, and what it said to whom."""

    def __init__(self, nodes):
        self.at = 0.0
        self.said = []
        self.blobs = Blobs(
            nodes, lambda node, line: self.said.append((node, line)), lambda: self.at
        )

    def hear(self, node, text):
        self.blobs.heard(node, tuple(text.split(" ")))
        return self.take()

    def take(self):
        said, self.said = self.said, []
        return said

    def pass_time(self, seconds):
        self.at += seconds
        self.blobs.tick()
        return self.take()


@pytest.fixture
def hub():
    return Told(4)


def test_layers_go_round_among_the_first_nodes():
    hub = Told(16)
    for node in reversed(range(16)):
        for digest in DIGESTS:
            hub.hear(node, f"need {digest} 100")
    chosen = [hub.blobs._blobs[digest].fetcher for digest in DIGESTS]
    assert chosen == [number % FETCHERS for number in range(12)]


def test_one_fetches_and_the_others_are_told_to_wait(hub):
    assert hub.hear(1, f"need {ONE} 5") == []
    assert hub.hear(0, f"need {ONE} 5") == [(0, f"fetch {ONE} 0"), (1, f"wait {ONE}")]
    assert hub.hear(2, f"need {ONE} 5") == [(2, f"wait {ONE}")]


def test_who_does_not_come_within_the_grace_is_not_waited_for(hub):
    hub.hear(2, f"need {ONE} 5")
    hub.hear(1, f"need {ONE} 5")
    assert hub.blobs.wait_s() == pytest.approx(GRACE_S)
    assert hub.pass_time(GRACE_S) == [(1, f"fetch {ONE} 0"), (2, f"wait {ONE}")]
    assert hub.blobs.wait_s() is None


def test_nobody_is_waited_for_who_has_ended(hub):
    hub.blobs.settled(0)
    assert hub.hear(1, f"need {ONE} 5") == [(1, f"fetch {ONE} 0")]


def test_what_nobody_waits_for_is_not_sent(hub):
    hub.hear(0, f"need {ONE} 5")
    assert hub.hear(0, f"fetched {ONE} 0") == []
    assert hub.blobs.wait_s() == pytest.approx(HOLD_S)
    assert hub.pass_time(HOLD_S) == [(0, f"rest {ONE} 0")]
    assert hub.hear(1, f"need {ONE} 5") == [(1, f"fetch {ONE} 1")]


def test_parts_go_to_who_waits_and_a_late_one_gets_a_round_of_its_own(hub):
    hub.hear(1, f"need {ONE} 5")
    hub.hear(0, f"need {ONE} 5")
    hub.hear(0, f"fetched {ONE} 0")
    assert hub.pass_time(HOLD_S) == [(0, f"spread {ONE} 0")]
    assert hub.hear(2, f"need {ONE} 5") == [(2, f"wait {ONE}")]
    assert hub.hear(0, f"part {ONE} 0 0") == [(1, f"part {ONE} 0 0")]
    assert hub.hear(0, f"have {ONE} 0 1") == [(1, f"have {ONE} 0 1"), (2, f"fetch {ONE} 1")]


@pytest.mark.parametrize("end", ["leave", "gone"])
def test_a_fetcher_that_ends_has_a_successor(hub, end):
    for node in (0, 1, 2):
        hub.hear(node, f"need {ONE} 5")
    hub.hear(0, f"fetched {ONE} 0")
    hub.pass_time(HOLD_S)
    hub.hear(0, f"part {ONE} 0 0")
    if end == "leave":
        hub.hear(0, f"leave {ONE}")
    else:
        hub.blobs.settled(0)
    assert hub.blobs._blobs[ONE].fetcher == 1
    hub.take()
    assert hub.hear(0, f"part {ONE} 0 1") == []
    hub.hear(1, f"fetched {ONE} 1")
    assert hub.pass_time(HOLD_S) == [(1, f"spread {ONE} 1")]


def test_what_is_held_is_sent_as_soon_as_all_have_spoken(hub):
    hub.hear(0, f"need {ONE} 5")
    hub.hear(1, f"need {ONE} 5")
    hub.hear(2, "all")
    hub.take()
    assert hub.hear(0, f"fetched {ONE} 0") == []
    hub.blobs.settled(3)
    assert hub.take() == [(0, f"spread {ONE} 0")]


def test_a_small_blob_is_kept_for_whoever_comes_late(hub):
    hub.hear(0, f"need {ONE} 5")
    hub.hear(1, f"need {ONE} 5")
    lines = [f"piece {ONE} 0 0 aGVs", f"piece {ONE} 0 1 bG8=", f"have {ONE} 0 2"]
    said = [hub.hear(0, line) for line in lines][-1]
    assert said == [(1, line) for line in lines]
    assert hub.hear(2, f"need {ONE} 5") == [(2, line) for line in lines]


def test_what_cannot_be_sent_each_fetches(hub):
    for node in (0, 1, 2):
        hub.hear(node, f"need {ONE} 5")
    said = hub.hear(0, f"alone {ONE} 0")
    assert said == [(1, f"alone {ONE} 0"), (2, f"alone {ONE} 0")]


def test_the_last_one_is_told_so(hub):
    hub.hear(0, f"need {ONE} 5")
    hub.hear(1, f"need {ONE} 5")
    assert hub.hear(0, "done") == [(0, "last 0")]
    assert hub.hear(1, "done") == [(1, "last 1")]


@pytest.mark.parametrize(
    "line",
    [
        "need",
        "need sha256:../../x 5",
        f"need {ONE} -1",
        f"need {ONE} 5 6",
        f"need {ONE} 9999999999999999",
        f"part {ONE} 0 0",
        f"piece {ONE} 0 x YQ==",
        f"have {ONE} 0 99999999999999999999",
        f"fetched {ONE}",
        f"leave {DIGESTS[1]}",
        f"alone {DIGESTS[1]} 0",
        "part",
        "",
    ],
)
def test_nonsense_and_words_of_others_have_no_effect(hub, line):
    hub.hear(0, f"need {ONE} 5")
    hub.hear(1, f"need {ONE} 5")
    assert hub.hear(2, line) == []
    assert hub.blobs._blobs[ONE].fetcher == 0


def test_the_number_of_blobs_is_bounded(hub, monkeypatch):
    monkeypatch.setattr("fairlead.run.hub_blobs.MAX_BLOBS", 2)
    for digest in DIGESTS[:2]:
        hub.hear(0, f"need {digest} 5")
    hub.take()
    assert hub.hear(0, f"need {DIGESTS[2]} 5") == [(0, f"alone {DIGESTS[2]} 0")]
