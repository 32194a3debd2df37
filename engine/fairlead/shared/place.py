"""Which store the verbs act on: the user's own, or the site's for root.

Root has no business in a store: what lies there came from outside, and its owner may change it
under our hands. So root becomes the owner of the site store, for good, before the first file of it
is read.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from fairlead import errors
from fairlead.config import Config
from fairlead.shared import site
from fairlead.store import layout
from fairlead.store.layout import Store


class Place(NamedTuple):
    """An open store, and whether it is the site's."""

    store: Store
    site: bool


def is_site(config: Config, *, own: bool) -> bool:
    """Tell whether the site store is meant: root asks, there is one, and not ``own``."""
    return not own and os.geteuid() == 0 and bool(config.site_store) and _exists(config)


def open_place(config: Config, *, own: bool) -> Place:
    """Open the store that is meant; for the site's this process becomes its owner.

    Raises:
        errors.StoreError: it is no store, or belongs to root, or is open to others.
    """
    if not is_site(config, own=own):
        return Place(layout.open_store(config), site=False)
    root = config.site_store.rstrip("/")
    _become_owner(root)
    # Made, if it is still empty, as the first storekeeper would.
    config = config.override("site_store", store=root)
    return Place(layout.open_store(config, site.FOLDERS), site=True)


def _exists(config: Config) -> bool:
    return os.path.lexists(config.site_store)


def _become_owner(root: str) -> None:
    info = os.lstat(root)
    if not stat.S_ISDIR(info.st_mode) or info.st_mode & 0o077:
        raise errors.StoreError(f"{root}: is not a directory of mode 0700")
    if info.st_uid == 0 or info.st_gid == 0:
        raise errors.StoreError(
            f"{root}: belongs to root", hint="give it to the service account, see docs/admin.md"
        )
    os.setgroups([])
    os.setresgid(info.st_gid, info.st_gid, info.st_gid)
    os.setresuid(info.st_uid, info.st_uid, info.st_uid)
    if os.getresuid() != (info.st_uid,) * 3 or os.getresgid() != (info.st_gid,) * 3:
        raise errors.StoreError(f"{root}: cannot become its owner, uid {info.st_uid}")
    os.umask(0o077)
