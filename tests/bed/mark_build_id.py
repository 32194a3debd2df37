"""Give an image's libmpi a build-id of its own and print it.

The demo images come from the same Debian as the host may, so their libmpi may be the very same file. With its own
build-id (20 bytes that nothing at run time reads) a running program can tell, from its own memory, which of the two it
has mapped: see programs/loaded.h.

Usage: mark_build_id.py LIBRARY
"""

from __future__ import annotations

import hashlib
import os
import sys

NOTE = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"  # name size 4, data size 20, NT_GNU_BUILD_ID


def main(path: str) -> None:
    """Replace the 20 bytes behind the only build-id note of the file."""
    with open(os.path.realpath(path), "r+b") as file:
        data = file.read()
        if data.count(NOTE) != 1:
            raise SystemExit(
                f"mark_build_id: {path} has {data.count(NOTE)} build-id notes, not one"
            )
        start = data.index(NOTE) + len(NOTE)
        build_id = hashlib.sha1(
            b"fairlead demo image" + data[start : start + 20]
        ).digest()  # an identifier, no security
        file.seek(start)
        file.write(build_id)
    print(build_id.hex())


if __name__ == "__main__":
    main(sys.argv[1])
