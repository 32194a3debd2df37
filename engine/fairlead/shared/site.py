"""The site store's place on disk: one store for all users of a node, written by the storekeeper.

::

    SITE/                      0700, owned by the service account (default /var/lib/fairlead)
      version                  "1", as in a user's store
      layers/HEX.erofs         one EROFS image per layer; HEX: the layer's DiffID, or its ChainID
                                 if it depends on the layers below
      layers/HEX.json          what the image file must be (``LayerInfo``); there before the image
      indexes/HEX.erofs        the merged tree of an image's layers, the files' data in theirs; HEX
                                 names those layers, and the form (``index``). Nobody needs one
      indexes/HEX.json         what that file must be (``IndexInfo``); there before it
      injections/HEX.erofs     the host's MPI, laid out for an image; HEX names the image's layers,
                                 the host's installations and the engine (``injection``)
      injections/HEX.json      what that file must be (``InjectionInfo``); there before it
      host/                    what the storekeeper knows of this node's MPI (``host.mpi``)
      grants/UID/HEX           what a user may mount (``Grant``), HEX: digest of a manifest;
                                 mtime: when access was proven; atime: last use, by the broker
      leases/JOBID.HEX         empty: the job uses that manifest on this node; made by the broker
      tmp/BOOT.PID.START.N/    work in progress; its owner holds a flock on it
      locks/NAME               one per object that is being made
      quarantine/              what ``fairlead store check --repair`` took out of use

Rules:
- A layer exists when its ``.erofs`` does; the ``.json`` beside it is there before.
- Names are made of checked digests and numbers only. A sha256 digest is named by its hexadecimal
  part, one of another algorithm by the sha256 of its text: every HEX has 64 characters.
- Grants are read by C as root: lines of a fixed order, no escapes, strict in both directions. What
  ``parse_grant`` refuses, the broker refuses.
- A lease holds while its job lives on this node. It has no content: its name says it all, and
  making it needs no block of a full disk.
- A storekeeper holds a shared flock on ``layers`` (``turn.work``) from its first layer to its last
  grant: until then nothing names the layers, and gc would take them for garbage.
"""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

from fairlead import errors, jsontext
from fairlead.image.manifest import MAX_LAYERS
from fairlead.store import blobs
from fairlead.store.layout import Store

ROOT = "/var/lib/fairlead"
ACCOUNT = "fairlead"
FOLDERS = (
    *("layers", "indexes", "injections", "grants", "leases"),
    *("host", "tmp", "locks", "quarantine"),
)

MAX_GRANT_BYTES = 1 << 17  # MAX_LAYERS lines of 71 bytes, and the rest
MAX_INJECTIONS = 16  # in one grant
MAX_INFO_BYTES = 1 << 16
MAX_ID = (1 << 32) - 2  # (uid_t) -1 means "no change" to the kernel
MAX_SIZE = 1 << 62

_MAGIC = "fairlead-grant 1"
_HEX_DIGITS = frozenset("0123456789abcdef")


def name_of(digest: str) -> str:
    """Return the HEX under which a digest's object is kept; digest has been parsed."""
    algorithm, _, encoded = digest.partition(":")
    if algorithm == "sha256":
        return encoded
    return blobs.digest_of("sha256:", digest.encode()).partition(":")[2]


def is_name(text: str) -> bool:
    """Tell whether text is a HEX: 64 hexadecimal digits in lower case."""
    return len(text) == 64 and _HEX_DIGITS.issuperset(text)


# -- paths -----------------------------------------------------------------------------------------


def layer_path(store: Store, layer: str) -> str:
    """Return the path of a layer's EROFS image; layer is its HEX."""
    return store.path("layers", f"{layer}.erofs")


def info_path(store: Store, layer: str) -> str:
    """Return the path of what is recorded about a layer."""
    return store.path("layers", f"{layer}.json")


def index_path(store: Store, index: str) -> str:
    """Return the path of an index, an EROFS image; index is its HEX."""
    return store.path("indexes", f"{index}.erofs")


def index_info_path(store: Store, index: str) -> str:
    """Return the path of what is recorded about an index."""
    return store.path("indexes", f"{index}.json")


def injection_path(store: Store, name: str) -> str:
    """Return the path of an injection, an EROFS image; name is its HEX."""
    return store.path("injections", f"{name}.erofs")


def injection_info_path(store: Store, name: str) -> str:
    """Return the path of what is recorded about an injection."""
    return store.path("injections", f"{name}.json")


def grants_path(store: Store, uid: int) -> str:
    """Return the directory of a user's grants."""
    return store.path("grants", str(uid))


def grant_path(store: Store, uid: int, manifest: str) -> str:
    """Return the path of a grant; manifest is the HEX of its digest."""
    return store.path("grants", str(uid), manifest)


def lease_path(store: Store, job: int, manifest: str) -> str:
    """Return the path of a job's lease on a manifest."""
    return store.path("leases", lease_name(job, manifest))


def lease_name(job: int, manifest: str) -> str:
    """Return the name of a lease."""
    return f"{job}.{manifest}"


def parse_lease(name: str) -> tuple[int, str] | None:
    """Return a lease's job and manifest, None if the name is no lease's."""
    job, _, manifest = name.partition(".")
    if not _is_number(job, MAX_ID) or job == "0" or not is_name(manifest):
        return None
    return int(job), manifest


def lock_name(diff: str) -> str:
    """Return the name of the lock under which a layer is made or removed; HEX of its DiffID."""
    return f"layer.{diff}"


# -- values ----------------------------------------------------------------------------------------


class Grant(NamedTuple):
    """What one user may mount for one manifest.

    As text, of one line each, in this order: ``fairlead-grant 1``, ``uid N``, ``job N``,
    ``size N``, ``index HEX N`` if there is one, then ``layer HEX`` per layer, the lowest first,
    then ``injection HEX N`` for each.

    Attributes:
        uid: whose grant it is.
        job: in which access was proven; 0 outside a job.
        size: bytes of the layers' images together. The broker compares it with what is there, since
            the kernel mounts an image that is cut short, and whoever reads its end gets errors.
        layers: HEX of each layer, the lowest first; empty for an image without layers.
        index_name: HEX of their index, by which all can be mounted at once; may be empty.
        index_bytes: of the index's and the layers' files together: mounting an index does not look
            at the layers, and would not notice that one was cut short.
        injections: HEX and bytes of what may be mounted over the layers.
    """

    uid: int
    job: int
    size: int
    layers: tuple[str, ...]
    index_name: str = ""
    index_bytes: int = 0
    injections: tuple[tuple[str, int], ...] = ()


class LayerInfo(NamedTuple):
    """What the storekeeper made: one layer's EROFS image.

    Attributes:
        layer: HEX, the layer's name.
        diff_id: digest of the uncompressed archive.
        size: bytes of the image file.
        digest: checksum of the image file, ``crc32:`` and eight hexadecimal digits (``erofs``).
        entries: how many the archive had.
        bytes: of the files in it.
        alone: it does not depend on the layers below, so that ``layer`` names its DiffID.
        origins: ``scheme://host:port BLOB`` of the registries that it came from, as which blob.
        markers: how many whiteouts and opaque directories it has, which only an overlay or an index
            hides. Records of before do not say: 1.
    """

    layer: str
    diff_id: str
    size: int
    digest: str
    entries: int
    bytes: int
    alone: bool
    origins: tuple[str, ...]
    markers: int = 1


class IndexInfo(NamedTuple):
    """What the storekeeper made: an index of layers.

    Attributes:
        name: its HEX.
        size: bytes of the image file.
        digest: checksum of the image file, as a layer's.
        layers: HEX of those that it was made of, the lowest first.
    """

    name: str
    size: int
    digest: str
    layers: tuple[str, ...]


class InjectionInfo(NamedTuple):
    """What the storekeeper made: the host's MPI, laid out for the images that have some layers.

    Attributes:
        name: its HEX.
        size: bytes of the image file.
        digest: checksum of the image file, as a layer's.
        chain: ChainID of the layers that it was made for.
        profiles: identities of the host's installations that it holds.
        engine: release that made it.
    """

    name: str
    size: int
    digest: str
    chain: str
    profiles: tuple[str, ...]
    engine: str


def parse_grant(text: str, where: str) -> Grant:
    """Read a grant; where names it in errors.

    Raises:
        errors.StoreError: it is not exactly what ``format_grant`` writes.
    """
    if len(text) > MAX_GRANT_BYTES or not text.endswith("\n"):
        _damaged(where, "is too long or cut short")
    lines = text[:-1].split("\n")
    if len(lines) < 4 or lines[0] != _MAGIC:
        _damaged(where, "is no grant")
    limits = (("uid", MAX_ID), ("job", MAX_ID), ("size", MAX_SIZE))
    numbers = [
        _number(line, key, limit, where)
        for line, (key, limit) in zip(lines[1:4], limits, strict=True)
    ]
    index, total, lines = _index_line(lines[4:], where)
    injections, lines = _injection_lines(lines, where)
    layers = tuple(line.removeprefix("layer ") for line in lines)
    if len(layers) > MAX_LAYERS:
        _damaged(where, f"has more than {MAX_LAYERS} layers")
    for line, layer in zip(lines, layers, strict=True):
        if line != f"layer {layer}" or not is_name(layer):
            _damaged(where, f"has the line {line[:100]!r}")
    return Grant(numbers[0], numbers[1], numbers[2], layers, index, total, injections)


def _index_line(lines: list[str], where: str) -> tuple[str, int, list[str]]:
    """Return what a line about an index says, and the lines behind it."""
    if not lines or not lines[0].startswith("index "):
        return "", 0, lines
    return (*_sized_name(lines[0], "index ", where), lines[1:])


def _injection_lines(lines: list[str], where: str) -> tuple[tuple[tuple[str, int], ...], list[str]]:
    """Return what the lines at the end say about injections, and the lines before them."""
    first = next((at for at, line in enumerate(lines) if line.startswith("injection ")), len(lines))
    found = tuple(_sized_name(line, "injection ", where) for line in lines[first:])
    if len(found) > MAX_INJECTIONS or (found and not first):
        _damaged(where, "has injections without layers, or too many")
    return found, lines[:first]


def _sized_name(line: str, key: str, where: str) -> tuple[str, int]:
    name, _, total = line.removeprefix(key).partition(" ")
    if not line.startswith(key) or not is_name(name) or not _is_number(total, MAX_SIZE):
        _damaged(where, f"has the line {line[:100]!r}")
    return name, int(total)


def format_grant(grant: Grant) -> str:
    """Return the grant as text."""
    head = [_MAGIC, f"uid {grant.uid}", f"job {grant.job}", f"size {grant.size}"]
    head += [f"index {grant.index_name} {grant.index_bytes}"] if grant.index_name else []
    head += [f"layer {layer}" for layer in grant.layers]
    return "\n".join([*head, *(f"injection {name} {size}" for name, size in grant.injections), ""])


def parse_info(data: bytes, where: str) -> LayerInfo:
    """Read the JSON that ``format_info`` writes; where names it in errors.

    Raises:
        errors.StoreError: a key is missing, or of the wrong type, or malformed.
    """
    table = _table(data)
    table.setdefault("markers", 1)
    if set(table) != set(LayerInfo._fields):
        _damaged(where, "does not describe a layer")
    origins = table["origins"]
    fine = (
        all(isinstance(table[key], str) for key in ("layer", "diff_id", "digest"))
        and all(type(table[key]) is int for key in ("size", "entries", "bytes", "markers"))
        and all(0 <= table[key] <= MAX_SIZE for key in ("size", "entries", "bytes", "markers"))
        and type(table["alone"]) is bool
        and isinstance(origins, list)
        and all(isinstance(origin, str) for origin in origins)
    )
    if not fine or not is_name(table["layer"]) or not _is_checksum(table["digest"]):
        _damaged(where, "has a value of the wrong type or form")
    return LayerInfo(**{**table, "origins": tuple(origins)})


def parse_index(data: bytes, where: str) -> IndexInfo:
    """Read the JSON that ``format_info`` writes of an index; where names it in errors.

    Raises:
        errors.StoreError: a key is missing, or of the wrong type, or malformed.
    """
    table = _table(data)
    if set(table) != set(IndexInfo._fields):
        _damaged(where, "does not describe an index")
    layers = table["layers"]
    fine = (
        all(isinstance(table[key], str) for key in ("name", "digest"))
        and type(table["size"]) is int
        and 0 <= table["size"] <= MAX_SIZE
        and isinstance(layers, list)
        and all(isinstance(layer, str) and is_name(layer) for layer in layers)
    )
    if not fine or not is_name(table["name"]) or not _is_checksum(table["digest"]):
        _damaged(where, "has a value of the wrong type or form")
    return IndexInfo(**{**table, "layers": tuple(layers)})


def parse_injection(data: bytes, where: str) -> InjectionInfo:
    """Read the JSON that ``format_info`` writes of an injection; where names it in errors.

    Raises:
        errors.StoreError: a key is missing, or of the wrong type, or malformed.
    """
    table = _table(data)
    if set(table) != set(InjectionInfo._fields):
        _damaged(where, "does not describe an injection")
    profiles = table["profiles"]
    fine = (
        all(isinstance(table[key], str) for key in ("name", "digest", "chain", "engine"))
        and type(table["size"]) is int
        and 0 <= table["size"] <= MAX_SIZE
        and isinstance(profiles, list)
        and all(isinstance(identity, str) for identity in profiles)
    )
    if not fine or not is_name(table["name"]) or not _is_checksum(table["digest"]):
        _damaged(where, "has a value of the wrong type or form")
    return InjectionInfo(**{**table, "profiles": tuple(profiles)})


def _table(data: bytes) -> dict[str, Any]:
    try:
        table = jsontext.loads(data) if len(data) <= MAX_INFO_BYTES else None
    except (ValueError, RecursionError):
        table = None
    return table if isinstance(table, dict) else {}


def format_info(info: LayerInfo | IndexInfo | InjectionInfo) -> bytes:
    """Return the description as JSON."""
    import json

    return json.dumps(info._asdict(), indent=1).encode() + b"\n"


def _number(line: str, key: str, limit: int, where: str) -> int:
    name, _, text = line.partition(" ")
    if name != key or not _is_number(text, limit):
        _damaged(where, f"has the line {line[:100]!r} where {key} belongs")
    return int(text)


def _is_number(text: str, limit: int) -> bool:
    """Tell whether text is a decimal number in its one spelling, up to a limit."""
    fine = text.isascii() and text.isdecimal() and len(text) <= 19
    return fine and (text == "0" or text[0] != "0") and int(text) <= limit


def _is_checksum(text: str) -> bool:
    kind, _, digits = text.partition(":")
    return kind == "crc32" and len(digits) == 8 and _HEX_DIGITS.issuperset(digits)


def _damaged(where: str, what: str) -> NoReturn:
    raise errors.StoreError(f"{where}: {what}", hint="run fairlead store check --repair")
