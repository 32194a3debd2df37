"""An OCI image layout, in a directory (``oci:``) or in a tar archive (``oci-archive:``).

Rules:
- Blobs are found by their digest alone, which passed the grammar before a path is made of it.
- index.json and every document are bounded before they are read, and verified by size and digest.
- A name means the one image that the index names so. Without a name there must be one image, or one
  per platform.

Source: image-spec 1.1 ``image-layout.md``, ``annotations.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from fairlead import errors
from fairlead.image import files, manifest, source
from fairlead.image.manifest import Descriptor, Index
from fairlead.image.reference import Reference, is_digest
from fairlead.image.source import Fetched

MARK = "oci-layout"
INDEX = "index.json"


class Layout(source.Local):
    """A source over the files of a layout."""

    def __init__(self, content: files.Files) -> None:
        self._files = content
        self._index: Index | None = None

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def head(self, ref: Reference) -> str | None:
        """Return the digest that a reference means.

        Raises:
            errors.ImageNotFoundError: no image of that name.
            errors.ArchiveError, errors.ManifestError: this is no layout, or a damaged one.
        """
        return ref.digest or self._named(ref).digest

    def manifest(self, ref: Reference, target: str) -> Fetched:
        """Return the manifest or index that target names.

        Raises:
            errors.ImageNotFoundError, errors.ArchiveError, errors.ManifestError, errors.DigestError
        """
        digest = target if is_digest(target) else self._named(ref).digest
        size = self._size(ref, digest)
        known = {entry.descriptor.digest: entry.descriptor for entry in self._read(ref).entries}
        descriptor = known.get(digest, Descriptor("", digest, size))
        return Fetched(descriptor.media_type, digest, self.document(ref, descriptor))

    def document(self, ref: Reference, descriptor: Descriptor) -> bytes:
        """Return a small blob, size and digest verified.

        Raises:
            errors.DigestError, errors.ArchiveError, errors.ManifestError
        """
        source.check_document(ref, descriptor)
        return source.verified(ref, descriptor, b"".join(self.blob(ref, descriptor)))

    def blob(self, ref: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes.

        Raises:
            errors.DigestError: it has another size.
            errors.ArchiveError: it is not there, or cannot be read.
        """
        size = self._size(ref, descriptor.digest)
        if size != descriptor.size:
            raise errors.DigestError(
                f"{ref}: {descriptor.digest} should have {descriptor.size} bytes but has {size}"
            )
        yield from self._files.chunks(_path(descriptor.digest))

    def _size(self, ref: Reference, digest: str) -> int:
        size = self._files.size(_path(digest))
        if size is None:
            raise errors.ArchiveError(f"{ref}: {digest} is not in it", hint="copy the image again")
        return size

    def _read(self, ref: Reference) -> Index:
        if self._index is None:
            data = files.document(self._files, INDEX, manifest.MAX_DOCUMENT)
            if data is None or self._files.size(MARK) is None:
                raise errors.ArchiveError(
                    f"{ref}: is no OCI image layout: it has no {MARK if data else INDEX}"
                )
            self._index = manifest.parse_index(data, "", f"{self._files.where}: {INDEX}")
        return self._index

    def _named(self, ref: Reference) -> Descriptor:
        entries = self._read(ref).entries
        if ref.tag is not None:
            entries = tuple(entry for entry in entries if entry.name == ref.tag)
        if not entries or len({entry.name for entry in entries}) > 1:
            self._unclear(ref)
        if len(entries) == 1:
            return entries[0].descriptor
        chosen = self._read(ref)._replace(entries=entries)
        return manifest.select(chosen, manifest.this_platform())

    def _unclear(self, ref: Reference) -> NoReturn:
        names = sorted({entry.name for entry in self._read(ref).entries if entry.name})
        shown = ", ".join(names[:20]) + (" and others" if len(names) > 20 else "")
        if ref.tag is not None:
            why = f"holds no image named {ref.tag}"
        else:
            why = "holds several images" if names else "holds no image"
        raise errors.ImageNotFoundError(
            f"{ref.name}: {why}", hint=f"it holds: {shown}" if shown else "check the path"
        )


def _path(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"blobs/{algorithm}/{encoded}"
