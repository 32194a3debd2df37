"""The storekeeper: a short-lived process of the service account that fills the node's shared store.

The broker (``spank_shim/broker_main.c``) starts it for a step, as the account that owns the store::

    keeper.py STORE UID JOB          descriptor 3: the step's engine (``wire``)
    keeper.py STORE UID JOB IMAGE N  descriptors 4 and up: the layers of an image, as N mounts

It fetches an image's layers, makes them EROFS images (``erofs``), and writes a *grant*: which
layers this user may have mounted for this manifest. Then it ends. Started for an image
that its user was granted, it lays out the host's MPI for that image (``injection``), and adds that
to the grant.

Rules:
- Whoever speaks on descriptor 3 is the user, whatever they claim to be. UID and JOB come from root.
- Knowing a digest gives no right to it. The manifest is read from its registry in this process,
  with an Authorization header that the user's engine made: that is the proof. A layer that is in
  the store already counts for this user only if the same registry gave it, as the same blob, before
  and still offers it to this user; otherwise it is fetched again, and must have the same DiffID.
- What the word of a registry is worth is the site's decision: verified TLS, or a host that the
  site's own configuration lists. The user's configuration, proxies and certificates are not read.
- The site's policy is verified here, for an engine is the user's: where images may come from, and
  the signatures of the manifest or of the index that the engine says led to it. A tag is what the
  user says it is, so a demand for one tag's name is a demand for the repository's here.
- A registry's answers change nothing but this user's grants, and layers that carry their digests.
- What is laid out for an image is decided here (``run.injector``): the user names installations of
  the host by identity, and those that the site's settings do not lead to are refused.
- Nothing of what the store holds is told to somebody whose registry has not shown it to them: the
  image's configuration, too, is read from the registry, each time.
- No process of the same account can read its memory (it is not dumpable): a user's header is there.
- Other users may be waiting for what this process has locked, so it waits for its own user nowhere
  but for a login, and there not long.
- It ends when the engine hangs up or the broker says so, within two seconds, whatever it is doing;
  what it could not tidy up the next storekeeper sweeps.

Source: security.md section 1 "Shared store"; docs/adr/0007.
"""

from __future__ import annotations

import functools
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from fairlead import config as settings
from fairlead import errors, log
from fairlead.image import manifest, reference
from fairlead.image.source import verified
from fairlead.shared import erofs, handed, index, injection, site, turn
from fairlead.shared import gc as shared_gc
from fairlead.shared.handed import Handed
from fairlead.shared.wire import PROTOCOL, Message, Wire
from fairlead.store import layers, layout, leftovers, resolve, room, trust
from fairlead.store.layout import Lock, Stage, Store
from fairlead.store.shared_blobs import UnreadableError

if TYPE_CHECKING:
    from fairlead.image.headers import Challenge
    from fairlead.image.login import Login
    from fairlead.image.mirrors import Client
    from fairlead.image.reference import Reference

SOCKET_FD = 3
REQUEST_S = 10.0  # the engine has its request ready before it asks for a storekeeper
LOGIN_S = 60.0  # a credential helper has half of it (``auth``)
END_S = 1.0
_PR_SET_DUMPABLE = 4
MAX_ANSWERS = 4  # unread; nobody who is honest has two
MAX_PROFILES = 8  # ABI classes of MPI that one image may hold
INJECT_S = 120  # for all: an image may be made to be looked at for long

# From the image's mounts, identities of the host's installations, settings and store.
Injector = Callable[[tuple[int, ...], tuple[str, ...], settings.Config, Store], injection.Writer]


def main(
    argv: list[str],
    living_jobs: Callable[[], frozenset[int] | None],
    injector: Injector | None = None,
) -> int:
    """Serve one engine; returns the exit status, which nobody reads.

    Args:
        argv: from the broker.
        living_jobs: asks Slurm which jobs have not ended: only if room must be made.
        injector: lays out the host's MPI (``run.injector``).
    """
    _close_memory()
    path, uid, job = argv[0], int(argv[1]), int(argv[2])
    keeper = _Keeper(Wire(SOCKET_FD), uid, job, living_jobs)
    signal.signal(signal.SIGTERM, keeper.terminated)
    try:
        if argv[3:]:
            mounts = tuple(range(SOCKET_FD + 1, SOCKET_FD + 1 + int(argv[4])))
            size = keeper.inject(path, argv[3], mounts, injector)
        else:
            size = keeper.serve(path)
    except errors.Error as error:
        keeper.say(error=[error.code, error.message, error.hint])
        return error.status
    except OSError as error:
        failure = layout.failure(error, path)
        keeper.say(error=[failure.code, failure.message, failure.hint])
        return failure.status
    keeper.say(done=size)
    return 0


def _close_memory() -> None:
    """Take this process's memory out of reach of others of its account, before anything is heard.

    There will be a user's login in it; another storekeeper, which serves another user, must gain
    nothing by being taken over. Source: prctl(2) PR_SET_DUMPABLE, ptrace(2) "access mode checking".
    """
    import ctypes

    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        os._exit(errors.StoreError.status)


def image_name(asked: Message) -> reference.Reference:
    """Return the image that an engine asks for.

    Without a tag, which is only what the user says: no scope of one tag means anything here.

    Raises:
        errors.ReferenceError
    """
    return reference.parse(str(asked.get("image", "")))._replace(tag=None)


class _Keeper:
    """One engine's request, and the line to it."""

    def __init__(
        self, wire: Wire, uid: int, job: int, living_jobs: Callable[[], frozenset[int] | None]
    ) -> None:
        self._wire, self._uid, self._job, self._living_jobs = wire, uid, job, living_jobs
        self._answers: queue.Queue[Message] = queue.Queue(MAX_ANSWERS)
        self._client: Client | None = None
        self._gone = threading.Event()
        self._handed: Handed | None = None

    def say(self, **message: object) -> None:
        """Send the last message, however long the engine takes to read it: no lock is held now."""
        try:
            self._wire.send(**message)
        except OSError:
            self._gone.set()

    def tell(self, **message: object) -> None:
        """Send a message that may get lost; an engine that is gone is noticed by the listener."""
        try:
            self._wire.offer(**message)
        except OSError:
            self._gone.set()

    # -- log.Progress ------------------------------------------------------------------------------

    def start(self, key: str, label: str, total: int | None) -> None:
        """Begin an item at the engine's side."""
        self.tell(start=[key, label, total])

    def advance(self, key: str, count: int) -> None:
        """Add bytes to an item at the engine's side."""
        self.tell(advance=[key, count])

    def finish(self, key: str) -> None:
        """End an item at the engine's side."""
        self.tell(finish=key)

    # -- the request -------------------------------------------------------------------------------

    def serve(self, path: str) -> int:
        """Answer the one request: make every layer ready, grant; returns its size in bytes."""
        asked = self._asked()
        name = image_name(asked)
        if name.digest is None or name.transport:
            raise errors.StoreError(f"{name}: is no digest at a registry")
        config = site_config()
        store = layout.open_store(config.override("broker", store=path), site.FOLDERS)
        leftovers.sweep(store)
        log.set_quiet(True)
        if asked.get("together") is True:
            self._wire.accept_fds()
            self._handed = Handed(self._offer_blob, self._gone)
        listener = threading.Thread(target=self._listen, name="listen", daemon=True)
        listener.start()
        from fairlead.image import mirrors

        target = reference.parse_digest(str(asked.get("target") or name.digest))
        wanted = trust.demands(name, config, {}, site=True)
        suspect = bool(asked.get("suspect"))
        self._client = mirrors.Client(config, {}, log_in=self._log_in, site=True)
        with self._client as client, turn.work(store):
            _verify(client, name, target, wanted, config)
            return self._grant(client, name, config, store, suspect=suspect)

    def inject(
        self, path: str, image: str, mounts: tuple[int, ...], injector: Injector | None
    ) -> int:
        """Answer a request to lay out the host's MPI for a granted image; returns its bytes.

        No thread is alive here: the image is looked at in a child.
        """
        signal.alarm(INJECT_S)
        asked = self._asked().get("inject")
        profiles = tuple(asked) if isinstance(asked, list) else ()
        words = all(isinstance(identity, str) for identity in profiles)
        if injector is None or not words or not 0 < len(profiles) <= MAX_PROFILES:
            raise errors.StoreError("the engine asks for no injection that can be made")
        config = site_config()
        store = layout.open_store(config.override("broker", store=path), site.FOLDERS)
        leftovers.sweep(store)
        log.set_quiet(True)
        with turn.work(store):
            where = site.grant_path(store, self._uid, image)
            chain = layers.chain_id(tuple(_diff_ids(store, _read_grant(where))))
            write = injector(mounts, profiles, config, store)
            floor = _floor_bytes(store, config)
            made = injection.make(store, chain, profiles, write, floor_bytes=floor)
            with _grant_lock(store, self._uid, image):
                _add_injection(store, where, made)
        return made.size

    def _asked(self) -> Message:
        asked = self._wire.receive(REQUEST_S)
        if asked is None or asked.get("protocol") != PROTOCOL:
            raise errors.StoreError("the engine speaks another protocol than the storekeeper")
        return asked

    def _grant(
        self,
        client: Client,
        name: Reference,
        settled: settings.Config,
        store: Store,
        *,
        suspect: bool,
    ) -> int:
        assert name.digest is not None
        fetched = client.manifest(name, name.digest)
        found = manifest.parse_manifest(fetched.data, fetched.media_type, fetched.digest)
        config = manifest.parse_config(self._config(client, name, found), found.config.digest)
        manifest.check_pair(found, config)
        image = erofs.Wanted(name, found, config.diff_ids, _floor_bytes(store, settled))
        self._make_room(image, settled, store)
        infos = erofs.make(
            client,
            image,
            store,
            self,
            stop=self._gone,
            suspect=suspect,
            shared=settled.shared_blobs,
            handed=self._handed.ask if self._handed else None,
        )
        size = sum(info.size for info in infos)
        known = injection.of_chain(store, layers.chain_id(config.diff_ids))
        grant = site.Grant(self._uid, self._job, size, tuple(info.layer for info in infos))
        grant = grant._replace(injections=known)
        whole = self._index(store, infos, image.floor_bytes, suspect=suspect)
        if whole is not None:
            total = whole.size + sum(info.size for info in infos)
            grant = grant._replace(index_name=whole.name, index_bytes=total)
        with _grant_lock(store, self._uid, site.name_of(name.digest)):
            _write_grant(store, grant, site.name_of(name.digest))
        asked = time.time()
        shared_gc.forget_leases(store, lambda: shared_gc.Living(self._living_jobs(), asked))
        return sum(info.bytes for info in infos)

    def _config(self, client: Client, name: Reference, found: manifest.Manifest) -> bytes:
        """Return an image's configuration, from the engine if the registry shows it to its user."""
        blob = found.config
        if self._handed and blob.size <= manifest.MAX_DOCUMENT and client.has_blob(name, blob):
            fd = self._handed.ask(blob)
            if fd is not None:
                try:
                    data = b"".join(handed.chunks(fd, blob.size))
                    return verified(name, blob, data)
                except (errors.DigestError, UnreadableError) as error:
                    self.tell(warning=f"{blob.digest[:19]}: the engine's copy: {error.message}")
        return client.document(name, blob)

    def _index(
        self, store: Store, infos: tuple[site.LayerInfo, ...], floor_bytes: int, *, suspect: bool
    ) -> site.IndexInfo | None:
        """Return the index of the layers; without one they are mounted one by one."""
        try:
            return index.make(
                store, infos, floor_bytes=floor_bytes, stop=self._gone, suspect=suspect
            )
        except (errors.Error, OSError) as error:
            self.tell(warning=f"the layers are mounted one by one: {error}")
            return None

    def _make_room(self, image: erofs.Wanted, config: settings.Config, store: Store) -> None:
        asked = time.time()
        need = room.forecast(unpacked=erofs.missing(store, image), stored=())
        ask = functools.cache(lambda: shared_gc.Living(self._living_jobs(), asked))
        room.make(store, config, need, str(image.reference), shared_gc.reclaim(store, ask))

    # -- the line ----------------------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            while (message := self._wire.receive()) is not None:
                if self._handed and "blob" in message:
                    fd = self._wire.take_fd() if message.get("has") is True else None
                    if not self._handed.answer(str(message["blob"]), fd):
                        break
                else:
                    self._answers.put_nowait(message)
        except (errors.StoreError, queue.Full):
            pass  # nonsense: as good as gone
        self._end()

    def _offer_blob(self, digest: str, size: int) -> bool:
        try:
            return self._wire.offer(blob=[digest, size])
        except OSError:
            self._gone.set()
            return False

    def terminated(self, *_: object) -> None:
        """Give up, as a signal handler: not here, where the main thread may hold any lock."""
        threading.Thread(target=self._end, name="end", daemon=True).start()

    def _end(self) -> NoReturn:
        self._gone.set()
        if self._client is not None:
            self._client.stop()
        # What still hangs, in a name server or a connection that nobody answers, ends here.
        time.sleep(END_S)
        os._exit(errors.StoreError.status)

    def _log_in(self, ref: Reference, offered: tuple[Challenge, ...]) -> Login | None:
        from fairlead.image import headers, login

        challenges = [[c.scheme, c.realm, c.service] for c in offered]
        self.tell(login=challenges, at=ref.name)
        try:
            header = self._answers.get(timeout=LOGIN_S).get("header")
        except queue.Empty:
            header = None
        if header is None:
            return None
        scheme, _, word = str(header).partition(" ")
        if scheme not in {"Basic", "Bearer"} or not headers.is_word(word):
            raise errors.AuthError(f"{ref.name}: the engine's answer to the registry is malformed")
        return login.Login(f"{scheme} {word}", "the user's")


def site_config() -> settings.Config:
    """Return the site's settings alone: no user's file and no environment counts here."""
    return settings.load({}, home="/nonexistent")


def _verify(
    client: Client,
    name: Reference,
    target: str,
    wanted: trust.Demands,
    config: settings.Config,
) -> None:
    """Verify that the site's policy accepts a manifest, or the index that led to it.

    Raises:
        errors.Error: it does not, or the index does not lead there.
    """
    if not wanted.requirements:
        return
    found = resolve.resolve(client, name._replace(digest=target), target)
    if found.manifest.digest != name.digest:
        raise errors.SignatureError(f"{name}: is not what {target} leads to on this machine")
    loose = tuple(
        demand._replace(identity=("matchRepository",))
        if demand.identity == ("matchExact",)
        else demand
        for demand in wanted.requirements
    )
    digests = tuple(dict.fromkeys((found.manifest.digest, target)))
    wanted = wanted._replace(requirements=loose)
    trust.verify(client, name, digests, wanted, config, {}, site=True)


def _floor_bytes(store: Store, config: settings.Config) -> int:
    """Return what no user's layers may take: what the site says, and never the last hundredth."""
    found = room.limits(store, config)
    return max(found.min_free, found.total // 100)


def _write_grant(store: Store, grant: site.Grant, image: str) -> None:
    os.makedirs(site.grants_path(store, grant.uid), mode=0o700, exist_ok=True)
    with Stage(store) as stage:
        text = site.format_grant(grant).encode()
        layout.replace_file(stage, site.grant_path(store, grant.uid, image), text)


def _grant_lock(store: Store, uid: int, image: str) -> Lock:
    """Return the lock under which a grant is written, from what was read of the old one."""
    return Lock(store, f"grant.{uid}.{image}", tells=False)


def _read_grant(where: str) -> site.Grant:
    with open(where, encoding="ascii") as file:
        return site.parse_grant(file.read(site.MAX_GRANT_BYTES + 1), where)


def _diff_ids(store: Store, grant: site.Grant) -> Iterator[str]:
    for layer in grant.layers:
        info = erofs.find(store, layer)
        if info is None:
            raise errors.StoreError(f"the layer {layer} is not in the store")
        yield info.diff_id


def _add_injection(store: Store, where: str, made: site.InjectionInfo) -> None:
    """Let a grant name an injection. Access was proven when it was: the grant's time stays."""
    proven = os.stat(where).st_mtime_ns
    grant = _read_grant(where)
    others = tuple(item for item in grant.injections if item[0] != made.name)
    named = ((made.name, made.size), *others)[: site.MAX_INJECTIONS]
    with Stage(store) as stage:
        staged = stage.name()
        text = site.format_grant(grant._replace(injections=named)).encode()
        layout.write_file(staged, text)
        os.utime(staged, ns=(time.time_ns(), proven))
        os.rename(staged, where)
        layout.sync_folder(os.path.dirname(where))
