"""What applying layers must give, written down from the table of layer semantics and not from the C code.

The file system is objects in memory; an entry is a ``tarmaker.Entry``. The C side is compared with it: same tree
(type, mode, mtime, content, targets, which names share an inode, xattrs), same kinds of warnings, or both refuse.
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Iterable

from tarmaker import BLOCK, CHAR, DIR, FILE, LINK, SYMLINK, Entry

TIME_LIMIT = (1 << 34) * 10**9
AUFS = (b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.orph")
LINKS_MAX = 40

Snapshot = dict[bytes, tuple[object, ...]]


class Refused(Exception):
    """The entry named breaks a rule."""


class Inode:
    """A file of any type. ``made`` and ``layer`` say what the current layer has to do with a directory."""

    def __init__(self, kind: bytes, mode: int, mtime: int) -> None:
        self.kind, self.mode, self.mtime = kind, mode, mtime
        self.data = b""
        self.xattrs: dict[bytes, bytes] = {}
        self.children: dict[bytes, Inode] = {}
        self.made: dict[
            bytes, int
        ] = {}  # names of non-directories -> the last layer that made them
        self.listed = self.implied = -1
        self.born = 0


class Model:
    """One merged tree; or what overlayfs can show of it, where names in two layers never share an inode."""

    def __init__(
        self, root_mode: int = 0o755, root_mtime: int = 0, *, overlay: bool = False
    ) -> None:
        self.root = Inode(DIR, root_mode, root_mtime)
        self.overlay = overlay
        self.copies: dict[int, tuple[Inode, Inode]] = {}  # of this layer, of lower files
        self.layer = 0
        self.warnings: collections.Counter[str] = collections.Counter()
        self.devices = 0

    def apply(self, entries: Iterable[Entry]) -> None:
        self.layer += 1
        self.copies = {}
        for entry in entries:
            self._entry(entry)
        self.root.children.pop(AUFS[0], None)

    # -- names

    def _clean(self, name: bytes) -> list[bytes]:
        if not name or b"\0" in name:
            raise Refused(name)
        parts: list[bytes] = []
        clamped = name.startswith(b"/")
        for part in name.split(b"/"):
            if part == b"..":
                clamped = True
                del parts[-1:]
            elif part not in (b"", b"."):
                parts.append(part)
        self.warnings["clamped"] += clamped
        return parts

    def _walk(self, parts: list[bytes], *, create: bool) -> Inode | None:
        """Follow parts as chroot would; None when something is missing and create is not given."""
        stack, todo, links = [self.root], list(parts), 0
        while todo:
            part = todo.pop(0)
            if part in (b"", b"."):
                continue
            if part == b"..":
                stack = stack[:-1] or stack
                continue
            here = stack[-1]
            if part not in here.children:
                if not create:
                    return None
                here.children[part] = Inode(DIR, 0o755, 0)
                here.children[part].implied = self.layer
            child = here.children[part]
            if child.kind == SYMLINK:
                links += 1
                if links > LINKS_MAX:
                    raise Refused(part)
                if child.data.startswith(b"/"):
                    stack = [self.root]
                todo[:0] = child.data.split(b"/")
            elif child.kind == DIR:
                stack.append(child)
            else:
                raise NotADirectoryError
        return stack[-1]

    def _parent(self, parts: list[bytes], *, create: bool) -> Inode | None:
        try:
            return self._walk(parts[:-1], create=create)
        except NotADirectoryError:
            raise Refused(parts[-1]) from None

    # -- entries

    def _entry(self, entry: Entry) -> None:
        if not 0 <= entry.uid < 2**32 - 1 or not 0 <= entry.gid < 2**32 - 1:
            raise Refused(entry.name)
        parts = self._clean(entry.name)
        if any(len(part) > 255 for part in parts[:-1]):
            raise Refused(entry.name)
        last = parts[-1] if parts else b""
        if parts and parts[0] in AUFS:
            if (
                len(parts) != 2
                or parts[0] != AUFS[0]
                or entry.type != FILE
                or last.startswith(b".wh.")
            ):
                return
        elif any(part.startswith(b".wh.") for part in parts[:-1]):
            raise Refused(entry.name)
        elif last.startswith(b".wh."):
            self._marker(entry, parts)
            return
        if len(last) > 255:
            raise Refused(entry.name)
        self._plain(entry, parts)

    def _marker(self, entry: Entry, parts: list[bytes]) -> None:
        target = parts[-1][4:]
        if target == b".wh..opq":
            self.warnings["whiteout content"] += bool(entry.data)
            self._opaque(parts[:-1])
        elif target.startswith(b".wh."):
            return  # aufs's own
        elif target in (b"", b".", b"..") or len(target) > 255:
            raise Refused(entry.name)
        else:
            self.warnings["whiteout content"] += bool(entry.data)
            self._whiteout([*parts[:-1], target])

    def _whiteout(self, parts: list[bytes]) -> None:
        try:
            parent = self._walk(parts[:-1], create=False)
        except NotADirectoryError:
            return
        child = parent.children.get(parts[-1]) if parent else None
        if parent and child and parent.made.get(parts[-1]) != self.layer and not self._hide(child):
            del parent.children[parts[-1]]

    def _opaque(self, parts: list[bytes]) -> None:
        try:
            here = self._walk(parts, create=False)
        except NotADirectoryError:
            return
        if here:
            self._hide_below(here)

    def _hide_below(self, here: Inode) -> None:
        for name, child in list(here.children.items()):
            if here.made.get(name) != self.layer and not self._hide(child):
                del here.children[name]

    def _hide(self, inode: Inode) -> bool:
        """Take away what lower layers brought at and below inode; tell whether something stays."""
        if inode.kind != DIR:
            return False
        self._hide_below(inode)
        if self.layer in (inode.listed, inode.implied):
            return True
        if not inode.children:
            return False
        inode.mode, inode.mtime, inode.implied = 0o755, 0, self.layer
        inode.xattrs = {}
        return True

    def _plain(self, entry: Entry, parts: list[bytes]) -> None:
        if not parts and entry.type != DIR:
            raise Refused(entry.name)
        if entry.type == CHAR and (entry.major, entry.minor) == (0, 0):
            self._whiteout(parts)
            return
        if entry.type in (CHAR, BLOCK):
            self.devices += 1
            parent = self._parent(parts, create=False)
            if parent:
                parent.children.pop(parts[-1], None)
            return
        if entry.type in (SYMLINK, LINK) and not entry.link:
            raise Refused(entry.name)
        link = self._clean(entry.link) if entry.type == LINK else []
        if not parts:
            self._directory(self.root, entry)
            return
        parent = self._parent(parts, create=True)
        assert parent
        if entry.type == DIR:
            self._put_directory(parent, parts[-1], entry)
        elif entry.type == LINK:
            self._put_link(parent, parts[-1], entry, link)
        else:
            self._put(parent, parts[-1], self._inode(entry))

    def _inode(self, entry: Entry) -> Inode:
        mode = 0o777 if entry.type == SYMLINK else entry.mode & 0o1777
        inode = Inode(entry.type, mode, clamp(entry.mtime))
        inode.born = self.layer
        inode.data = entry.link if entry.type == SYMLINK else entry.data
        if entry.type == FILE:
            inode.xattrs = kept(entry.xattrs)
        return inode

    def _put(self, parent: Inode, name: bytes, inode: Inode) -> None:
        old = parent.children.get(name)
        if old is not None:
            twice = (
                old.listed == self.layer if old.kind == DIR else parent.made.get(name) == self.layer
            )
            self.warnings["duplicate"] += twice
        parent.children[name] = inode
        parent.made[name] = self.layer

    def _put_directory(self, parent: Inode, name: bytes, entry: Entry) -> None:
        old = parent.children.get(name)
        if old is None or old.kind != DIR:
            self.warnings["duplicate"] += old is not None and parent.made.get(name) == self.layer
            parent.made.pop(name, None)
            old = parent.children[name] = Inode(DIR, 0, 0)
        self._directory(old, entry)

    def _directory(self, inode: Inode, entry: Entry) -> None:
        self.warnings["duplicate"] += inode.listed == self.layer
        inode.listed = self.layer
        inode.mode = entry.mode & 0o1777 | (0o700 if inode is self.root else 0)
        inode.mtime = clamp(entry.mtime)
        inode.xattrs = kept(entry.xattrs)

    def _put_link(self, parent: Inode, name: bytes, entry: Entry, link: list[bytes]) -> None:
        target_dir = self._parent(link, create=False) if link else None
        target = target_dir.children.get(link[-1]) if target_dir else None
        if target is None or target.kind == DIR or (target_dir is parent and link[-1] == name):
            raise Refused(entry.name)
        old = parent.children.get(name)
        if old is not None and old.kind == DIR and contains(old, target_dir):
            raise Refused(entry.name)
        if self.overlay and target.born != self.layer and target_dir:
            # A lower file that gets another name here is copied, once, with the name that it was found by.
            _, target = self.copies.setdefault(id(target), (target, copy.copy(target)))
            target.born = self.layer
            target_dir.children[link[-1]] = target
        self._put(parent, name, target)

    # -- the result

    def snapshot(self) -> Snapshot:
        result: Snapshot = {}
        first: dict[int, bytes] = {}

        def visit(path: bytes, inode: Inode) -> None:
            shared = first.setdefault(id(inode), path)
            xattrs = tuple(sorted(inode.xattrs.items()))
            result[path] = (inode.kind, inode.mode, inode.mtime, inode.data, shared, xattrs)
            for name, child in sorted(inode.children.items()):
                visit(path + b"/" + name, child)

        visit(b"", self.root)
        return result


def contains(top: Inode, wanted: Inode | None) -> bool:
    return top is wanted or any(contains(child, wanted) for child in top.children.values())


def clamp(mtime: int) -> int:
    """Times are held to +-2^34 s."""
    return max(-TIME_LIMIT, min(TIME_LIMIT, mtime))


def kept(xattrs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    return {
        name: value
        for name, value in xattrs
        if name.startswith(b"user.") and len(name) > 5 and not name.startswith(b"user.overlay.")
    }
