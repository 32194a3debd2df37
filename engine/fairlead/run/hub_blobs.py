"""Who fetches which blob for all nodes of a step: the hub's side of ``store.spread``.

    node → hub
    need DIGEST SIZE                  this node lacks it
    fetched DIGEST ATTEMPT            the fetcher has it, verified
    part DIGEST ATTEMPT NUMBER        a part was sent on its way to all nodes
    piece DIGEST ATTEMPT NUMBER TEXT  a part, in base64: of small blobs
    have DIGEST ATTEMPT COUNT         that were all of its parts
    alone DIGEST ATTEMPT              it cannot be sent: who waits asks the registry
    leave DIGEST                      this node neither fetches it for others nor waits for it
    done                              this node needs nothing more

    hub → node
    fetch DIGEST ATTEMPT              you are its fetcher
    wait DIGEST                       another is
    spread DIGEST ATTEMPT             to the fetcher that has it: somebody waits, send it
    rest DIGEST ATTEMPT               nobody does
    part, piece, have, alone          as they came, to all who wait
    last 1 | last 0                   whether any other node still needs something

Rules:
- The layers of an image go round among the first ``FETCHERS`` nodes of the step: who of them needs
  the blob and asks within ``GRACE_S`` has it, else the node with the least to fetch, by number.
- Who asks while a blob is already being sent has missed its beginning, and gets it in a next round.
- A fetcher that ends, or leaves, has a successor among those who wait, under another attempt.
- A node can harm its own step only: what comes is checked for its form, and counts from a blob's
  fetcher alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fairlead import errors
from fairlead.image import reference

FETCHERS = 4
GRACE_S = 0.25
MAX_BLOBS = 4096
MAX_SIZE = 1 << 50


class _Blob:
    """A blob that somebody needs."""

    def __init__(self, number: int, size: int, since: float) -> None:
        self.number, self.size, self.since = number, size, since
        self.attempt, self.fetcher = 0, -1
        self.is_sent = False
        self.waiting: list[int] = []
        self.late: list[int] = []

    def next_round(self) -> None:
        """Let who came late wait like the others, for another fetcher."""
        self.waiting, self.late = [*self.waiting, *self.late], []
        self.fetcher, self.is_sent, self.attempt = -1, False, self.attempt + 1


class Blobs:
    """What the nodes of one step need, by their numbers in the step."""

    def __init__(
        self,
        nodes: int,
        tell: Callable[[int, str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin; tell sends a node a line."""
        self._nodes, self._tell, self._now = nodes, tell, now
        self._blobs: dict[str, _Blob] = {}
        self._load: dict[int, int] = {}  # bytes that each node was told to fetch
        self._settled: set[int] = set()
        self._needy: set[int] = set()

    def heard(self, node: int, words: tuple[str, ...]) -> None:
        """Act on a node's message; what has no sense has no effect."""
        act = _TOPICS.get(words[0] if words else "")
        if act is not None:
            act(self, node, words)

    def settled(self, node: int) -> None:
        """Act on the end of a node's work: its container stands, or it failed, or is gone."""
        self._settled.add(node)
        self._needy.discard(node)
        for digest in self._blobs:
            self._leave(node, digest)
        self.tick()

    def wait_s(self) -> float | None:
        """Return after how long ``tick`` has something to do; None: not before a message."""
        open_ = [blob.since for blob in self._blobs.values() if blob.waiting and blob.fetcher < 0]
        return max(0.0, min(open_) + GRACE_S - self._now()) if open_ else None

    def tick(self) -> None:
        """Choose fetchers that are due."""
        for digest in self._blobs:
            self._choose(digest)

    # -- what nodes say ----------------------------------------------------------------------------

    def _need(self, node: int, words: tuple[str, ...]) -> None:
        if len(words) != 3 or not _is_digest(words[1]) or not _is_number(words[2]):
            return
        digest, size = words[1], min(int(words[2]), MAX_SIZE)
        if digest not in self._blobs:
            if len(self._blobs) >= MAX_BLOBS:
                self._tell(node, f"alone {digest} 0")
                return
            self._blobs[digest] = _Blob(len(self._blobs), size, self._now())
        blob = self._blobs[digest]
        self._needy.add(node)
        if node in {blob.fetcher, *blob.waiting, *blob.late}:
            return
        if blob.fetcher >= 0:
            self._tell(node, f"wait {digest}")
        (blob.late if blob.is_sent else blob.waiting).append(node)
        self._choose(digest)

    def _fetched(self, node: int, words: tuple[str, ...]) -> None:
        blob = self._of_fetcher(node, words, 3)
        if blob is None:
            return
        blob.is_sent = bool(blob.waiting)
        self._tell(node, f"{'spread' if blob.is_sent else 'rest'} {words[1]} {words[2]}")
        if not blob.is_sent:
            blob.next_round()

    def _sent(self, node: int, words: tuple[str, ...]) -> None:
        blob = self._of_fetcher(node, words, 5 if words[0] == "piece" else 4)
        if blob is not None:
            for other in blob.waiting:
                self._tell(other, " ".join(words))

    def _ended(self, node: int, words: tuple[str, ...]) -> None:
        blob = self._of_fetcher(node, words, 4 if words[0] == "have" else 3)
        if blob is None:
            return
        for other in blob.waiting:
            self._tell(other, " ".join(words))
        blob.waiting = []
        blob.next_round()
        self._choose(words[1])

    def _left(self, node: int, words: tuple[str, ...]) -> None:
        if len(words) == 2 and words[1] in self._blobs:
            self._leave(node, words[1])
            self._choose(words[1])

    def _done(self, node: int, words: tuple[str, ...]) -> None:
        self._needy.discard(node)
        self._tell(node, f"last {0 if self._needy else 1}")

    # -- who fetches -------------------------------------------------------------------------------

    def _of_fetcher(self, node: int, words: tuple[str, ...], count: int) -> _Blob | None:
        """Return the blob that a message is about, if it is well formed and of its fetcher."""
        blob = self._blobs.get(words[1]) if len(words) == count else None
        if blob is None or blob.fetcher != node or words[2] != str(blob.attempt):
            return None
        return blob if all(map(_is_number, words[3:4])) else None

    def _leave(self, node: int, digest: str) -> None:
        blob = self._blobs[digest]
        blob.waiting = [other for other in blob.waiting if other != node]
        blob.late = [other for other in blob.late if other != node]
        if blob.fetcher == node:
            blob.next_round()

    def _choose(self, digest: str) -> None:
        blob = self._blobs[digest]
        if blob.fetcher >= 0 or not blob.waiting:
            return
        preferred = blob.number % min(self._nodes, FETCHERS)
        # Nobody is waited for who has ended, nor when all have spoken.
        is_due = (
            blob.attempt > 0
            or self._now() >= blob.since + GRACE_S
            or preferred in self._settled
            or len(blob.waiting) + len(self._settled) >= self._nodes
        )
        if preferred not in blob.waiting and not is_due:
            return
        least = min(blob.waiting, key=lambda node: (self._load.get(node, 0), node))
        chosen = preferred if preferred in blob.waiting and not blob.attempt else least
        self._load[chosen] = self._load.get(chosen, 0) + blob.size
        blob.fetcher = chosen
        blob.waiting.remove(chosen)
        self._tell(chosen, f"fetch {digest} {blob.attempt}")
        for other in blob.waiting:
            self._tell(other, f"wait {digest}")


def _is_digest(text: str) -> bool:
    try:
        return reference.parse_digest(text) == text
    except errors.ReferenceError:
        return False


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 15


_TOPICS: dict[str, Callable[[Blobs, int, tuple[str, ...]], None]] = {
    "need": Blobs._need,
    "fetched": Blobs._fetched,
    "part": Blobs._sent,
    "piece": Blobs._sent,
    "have": Blobs._ended,
    "alone": Blobs._ended,
    "leave": Blobs._left,
    "done": Blobs._done,
}
TOPICS = frozenset(_TOPICS)
