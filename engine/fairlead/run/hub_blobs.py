"""Who fetches which blob for all nodes of a step: the hub's side of ``store.spread``.

    node → hub
    need DIGEST SIZE                  this node lacks it
    all                               this node has said all that it lacks
    fetched DIGEST ATTEMPT            the fetcher has it, verified
    part DIGEST ATTEMPT NUMBER        a part was sent on its way to all nodes
    piece DIGEST ATTEMPT NUMBER TEXT  a part, in base64: of small blobs, never "fetched"
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
- What was fetched is held until every node has said whether it needs it, but no longer than
  ``HOLD_S``. Who asks while a blob is already being sent gets it in a next round.
- Small blobs stay here, for whoever comes late.
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
HOLD_S = 2.0
MAX_KEPT = 8 << 20  # bytes of messages
MAX_BLOBS = 4096
MAX_SIZE = 1 << 50


class _Blob:
    """A blob that somebody needs."""

    def __init__(self, number: int, size: int, since: float) -> None:
        self.number, self.size, self.since = number, size, since
        self.attempt, self.fetcher = 0, -1
        self.held_since: float | None = None  # its fetcher has it, and nobody was sent it yet
        self.is_sent = False
        self.waiting: dict[int, None] = {}  # sets that keep their order
        self.late: dict[int, None] = {}
        self.pieces: list[str] = []
        self.is_kept = False

    def next_round(self) -> None:
        """Let who came late wait like the others, for another fetcher."""
        self.waiting, self.late = self.waiting | self.late, {}
        self.fetcher, self.attempt = -1, self.attempt + 1
        self.held_since, self.is_sent, self.pieces = None, False, []


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
        self._complete: set[int] = set()  # have said all that they need
        self._kept = 0
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
        due = [
            blob.since + GRACE_S
            for blob in self._blobs.values()
            if blob.waiting and blob.fetcher < 0
        ]
        held = (blob.held_since for blob in self._blobs.values())
        due += [since + HOLD_S for since in held if since is not None]
        return max(0.0, min(due) - self._now()) if due else None

    def tick(self) -> None:
        """Choose fetchers that are due."""
        for digest in self._blobs:
            self._choose(digest)
            self._release(digest)

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
        if node == blob.fetcher or node in blob.waiting or node in blob.late:
            return
        if blob.is_kept:
            for line in blob.pieces:
                self._tell(node, line)
            return
        if blob.fetcher >= 0:
            self._tell(node, f"wait {digest}")
        (blob.late if blob.is_sent else blob.waiting)[node] = None
        self._choose(digest)
        self._release(digest)

    def _all(self, node: int, words: tuple[str, ...]) -> None:
        self._complete.add(node)
        self.tick()

    def _fetched(self, node: int, words: tuple[str, ...]) -> None:
        blob = self._of_fetcher(node, words, 3)
        if blob is None:
            return
        blob.held_since = self._now()
        self._release(words[1])

    def _part(self, node: int, words: tuple[str, ...]) -> None:
        blob = self._of_fetcher(node, words, 4)
        if blob is not None:
            self._pass_on(blob, words)

    def _piece(self, node: int, words: tuple[str, ...]) -> None:
        blob = self._of_fetcher(node, words, 5)
        if blob is not None:
            self._keep(blob, words)

    def _have(self, node: int, words: tuple[str, ...]) -> None:
        blob = self._of_fetcher(node, words, 4)
        if blob is None:
            return
        if blob.pieces:
            self._keep(blob, words)
            for other in tuple(blob.waiting):  # telling one may show that it is gone
                for line in blob.pieces:
                    self._tell(other, line)
            blob.is_kept = self._kept <= MAX_KEPT
        else:
            self._pass_on(blob, words)
        self._end(blob, words[1])

    def _alone(self, node: int, words: tuple[str, ...]) -> None:
        blob = self._of_fetcher(node, words, 3)
        if blob is not None:
            self._pass_on(blob, words)
            self._end(blob, words[1])

    def _left(self, node: int, words: tuple[str, ...]) -> None:
        if len(words) == 2 and words[1] in self._blobs:
            self._leave(node, words[1])
            self._choose(words[1])
            self._release(words[1])

    def _done(self, node: int, words: tuple[str, ...]) -> None:
        self._needy.discard(node)
        self._tell(node, f"last {0 if self._needy else 1}")

    def _keep(self, blob: _Blob, words: tuple[str, ...]) -> None:
        line = " ".join(words)
        blob.pieces.append(line)
        self._kept += len(line)

    def _pass_on(self, blob: _Blob, words: tuple[str, ...]) -> None:
        for other in tuple(blob.waiting):  # telling one may show that it is gone
            self._tell(other, " ".join(words))

    def _end(self, blob: _Blob, digest: str) -> None:
        blob.waiting, pieces = {}, blob.pieces
        blob.next_round()
        if blob.is_kept:
            blob.pieces = pieces
        self._choose(digest)

    # -- who fetches -------------------------------------------------------------------------------

    def _of_fetcher(self, node: int, words: tuple[str, ...], count: int) -> _Blob | None:
        """Return the blob that a message is about, if it is well formed and of its fetcher."""
        blob = self._blobs.get(words[1]) if len(words) == count else None
        if blob is None or blob.fetcher != node or words[2] != str(blob.attempt):
            return None
        return blob if all(map(_is_number, words[3:4])) else None

    def _leave(self, node: int, digest: str) -> None:
        blob = self._blobs[digest]
        blob.waiting.pop(node, None)
        blob.late.pop(node, None)
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
            or preferred in self._complete
            or len(blob.waiting) + len(self._settled) >= self._nodes
        )
        if preferred not in blob.waiting and not is_due:
            return
        least = min(blob.waiting, key=lambda node: (self._load.get(node, 0), node))
        chosen = preferred if preferred in blob.waiting and not blob.attempt else least
        self._load[chosen] = self._load.get(chosen, 0) + blob.size
        blob.fetcher = chosen
        del blob.waiting[chosen]
        self._tell(chosen, f"fetch {digest} {blob.attempt}")
        for other in tuple(blob.waiting):  # telling one may show that it is gone
            self._tell(other, f"wait {digest}")

    def _release(self, digest: str) -> None:
        """Let a fetcher send what it holds, once no other may come who needs it."""
        blob = self._blobs[digest]
        if blob.held_since is None:
            return
        if self._now() < blob.held_since + HOLD_S and not self._have_spoken(blob):
            return
        blob.held_since, blob.is_sent = None, bool(blob.waiting)
        self._tell(blob.fetcher, f"{'spread' if blob.is_sent else 'rest'} {digest} {blob.attempt}")
        if not blob.is_sent:
            blob.next_round()

    def _have_spoken(self, blob: _Blob) -> bool:
        if len(blob.waiting) + len(self._settled) + len(self._complete) + 1 < self._nodes:
            return False
        known = self._settled | self._complete | blob.waiting.keys() | {blob.fetcher}
        return len(known) >= self._nodes


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
    "all": Blobs._all,
    "part": Blobs._part,
    "piece": Blobs._piece,
    "have": Blobs._have,
    "alone": Blobs._alone,
    "leave": Blobs._left,
    "done": Blobs._done,
}
TOPICS = frozenset(_TOPICS)
