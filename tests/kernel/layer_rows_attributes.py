"""Rows of the table: xattrs, owners, modes, devices, times."""

from __future__ import annotations

import tarmaker as tar
from layer_row import LOWER, OPAQUE, SECOND, XATTRS, A, B, Row
from tarmaker import device, directory, fifo, file, hardlink, header, pax, symlink

ATTRIBUTES = (
    Row(
        "user_xattrs_are_set",
        ((file(b"f", xattrs=XATTRS), directory(b"d", xattrs=XATTRS)),),
        xattrs={b"f": XATTRS, b"d": XATTRS},
    ),
    Row(
        "user_xattrs_on_what_the_owner_cannot_write",
        ((file(b"f", mode=0, xattrs=XATTRS), directory(b"d", 0, xattrs=XATTRS)),),
        xattrs={b"f": XATTRS, b"d": XATTRS},
        modes={b"f": 0, b"d": 0},
    ),
    Row(
        "an_xattr_of_no_bytes",
        ((file(b"f", xattrs=((b"user.empty", b""),)),),),
        xattrs={b"f": ((b"user.empty", b""),)},
    ),
    Row(
        "a_replaced_directorys_xattrs_are_cleared_first",
        ((directory(b"d", xattrs=XATTRS),), (directory(b"d", xattrs=((b"user.three", b"3"),)),)),
        xattrs={b"d": ((b"user.three", b"3"),)},
    ),
    Row(
        "a_directory_listed_without_xattrs_loses_them",
        ((directory(b"d", 0, xattrs=XATTRS),), (directory(b"d"),)),
        xattrs={b"d": ()},
    ),
    Row(
        "the_roots_xattrs",
        ((directory(b"/", xattrs=XATTRS),), (directory(b"./", xattrs=XATTRS[:1]),)),
        xattrs={b"": XATTRS[:1]},
    ),
    Row(
        "a_replaced_files_xattrs_are_gone",
        ((file(b"f", xattrs=XATTRS),), (file(b"f"),)),
        xattrs={b"f": ()},
    ),
    Row(
        "an_opaque_directory_keeps_its_xattrs",
        ((directory(b"d", xattrs=XATTRS),), (OPAQUE, file(b"d/x"))),
        xattrs={b"d": XATTRS},
    ),
    Row(
        "a_whited_out_directory_does_not_keep_its_xattrs",
        ((directory(b"d", xattrs=XATTRS),), (file(b"d/x"), file(b".wh.d"))),
        xattrs={b"d": ()},
    ),
    Row(
        "dangerous_xattrs_are_dropped",
        (
            (
                file(
                    b"f",
                    xattrs=tuple(
                        (name, b"y")
                        for name in (
                            b"security.capability",
                            b"security.selinux",
                            b"system.nfs4_acl",
                            b"system.posix_acl_access",
                            b"trusted.overlay.opaque",
                            b"trusted.x",
                            b"user.overlay.opaque",
                            b"user.overlay.redirect",
                            b"user.",
                            b"user",
                            b"User.x",
                            b"x",
                        )
                    ),
                ),
                directory(
                    b"d", xattrs=((b"user.overlay.opaque", b"y"), (b"user.overlay.whiteout", b"y"))
                ),
            ),
        ),
        xattrs={b"f": (), b"d": ()},
    ),
    Row(
        "xattrs_of_what_cannot_have_them_are_dropped",
        ((symlink(b"s", b"x", xattrs=XATTRS), fifo(b"p", xattrs=XATTRS)),),
        has={b"s": b"x"},
    ),
    Row("owners_up_to_4294967294", ((file(b"f", uid=2**32 - 2, gid=2**32 - 2),),), has={b"f": b""}),
    Row(
        "owners_up_to_4294967294_in_pax",
        ((pax((b"uid", b"4294967294"), (b"gid", b"4294967294")) + header(b"f"),),),
        has={b"f": b""},
        meant=((file(b"f"),),),
    ),
    Row("a_uid_of_2_32_less_1_is_refused", ((file(b"f", uid=2**32 - 1),),), "owner or group"),
    Row("a_gid_of_2_32_is_refused", ((file(b"f", gid=2**32),),), "owner or group"),
    Row("a_negative_uid_is_refused", ((header(b"f", uid=tar.base256(-1, 8)),),), "owner or group"),
    Row(
        "a_pax_uid_of_2_32_less_1_is_refused",
        ((pax((b"uid", b"4294967295")) + header(b"f"),),),
        "owner or group",
    ),
    Row(
        "a_pax_gid_of_2_64_is_refused",
        ((pax((b"gid", b"18446744073709551616")) + header(b"f"),),),
        "malformed",
    ),
    Row("a_negative_pax_uid_is_refused", ((pax((b"uid", b"-1")) + header(b"f"),),), "malformed"),
    Row(
        "set_id_bits_are_stripped_and_sticky_stays",
        ((file(b"f", mode=0o6755), directory(b"d", 0o7777), file(b"t", mode=0o1644)),),
        modes={b"f": 0o755, b"d": 0o1777, b"t": 0o1644},
    ),
    Row(
        "a_file_type_in_the_mode_is_ignored",
        ((header(b"f", mode=0o100640),),),
        modes={b"f": 0o640},
        meant=((file(b"f", mode=0o640),),),
    ),
    Row(
        "modes_do_not_depend_on_the_umask",
        (
            (
                file(b"f", mode=0o666),
                directory(b"d", 0o777),
                file(b"d/x/y", b"Y", mode=0o777),
                fifo(b"p", mode=0o666),
                file(b"x", b"X", xattrs=XATTRS),
            ),
        ),
        modes={b"f": 0o666, b"d": 0o777, b"d/x": 0o755, b"d/x/y": 0o777, b"p": 0o666},
        umask=0o777,
    ),
    Row(
        "devices_are_skipped",
        ((device(b"c", 1, 3), device(b"d/b", 8, 0, tar.BLOCK), B),),
        gone=(b"c", b"d"),
        has={b"b": b"B"},
    ),
    Row(
        "a_device_does_not_let_what_it_replaces_show_through",
        (LOWER, (device(b"a", 1, 3), device(b"d", 1, 5))),
        gone=(b"a", b"d"),
    ),
    Row(
        "a_device_0_0_is_a_whiteout",
        (LOWER, (device(b"a", 0, 0), device(b"d", 0, 0), device(b"n/x", 0, 0))),
        gone=(b"a", b"d", b"n"),
    ),
    Row("a_device_0_0_spares_its_own_layer", (LOWER, (A, device(b"a", 0, 0))), has={b"a": b"A"}),
    Row("a_block_device_0_0_is_a_device", (LOWER, (device(b"x", 0, 0, tar.BLOCK),)), gone=(b"x",)),
    Row("a_device_under_a_file_is_refused", ((A, device(b"a/x", 1, 3)),), "not a directory"),
    Row(
        "a_fifo_is_created",
        ((fifo(b"p", mode=0o4620, mtime=5 * SECOND),),),
        modes={b"p": 0o620},
        mtimes={b"p": 5 * SECOND},
    ),
    Row(
        "a_fifo_replaces_and_is_replaced",
        ((A, fifo(b"p")), (fifo(b"a"), file(b"p", b"P"))),
        has={b"p": b"P"},
    ),
    Row(
        "directories_without_access_get_their_children",
        (
            (
                directory(b"d", 0, mtime=3 * SECOND),
                directory(b"d/e", 0, mtime=4 * SECOND),
                file(b"d/e/f", b"F", mode=0),
                directory(b"r", 0o555),
                file(b"r/f", b"F", mode=0o444),
            ),
        ),
        has={b"d/e/f": b"F", b"r/f": b"F"},
        modes={b"d": 0, b"d/e": 0, b"d/e/f": 0, b"r": 0o555},
        mtimes={b"d": 3 * SECOND, b"d/e": 4 * SECOND},
    ),
    Row(
        "later_layers_work_in_directories_without_access",
        (
            (
                directory(b"d", 0, mtime=3 * SECOND),
                directory(b"d/e", 0o100, mtime=4 * SECOND),
                file(b"d/e/f", b"F"),
                directory(b"d/g", 0o400),
                file(b"d/g/h"),
            ),
            (
                file(b"d/e/new", b"new"),
                file(b"d/e/.wh.f"),
                file(b"d/.wh.g"),
                hardlink(b"l", b"d/e/new"),
            ),
        ),
        has={b"d/e/new": b"new"},
        gone=(b"d/e/f", b"d/g"),
        modes={b"d": 0, b"d/e": 0o100},
        mtimes={b"d": 3 * SECOND, b"d/e": 4 * SECOND},
        shared=((b"d/e/new", b"l"),),
    ),
    Row(
        "a_directory_without_access_that_is_only_passed_through",
        ((directory(b"d", 0, mtime=3 * SECOND), directory(b"d/e")), (file(b"d/e/f", b"F"),)),
        has={b"d/e/f": b"F"},
        modes={b"d": 0},
        mtimes={b"d": 3 * SECOND},
    ),
    Row(
        "a_directory_without_access_is_replaced",
        ((directory(b"d", 0), directory(b"d/e", 0o555), file(b"d/e/f")), (file(b"d", b"D"),)),
        has={b"d": b"D"},
    ),
    Row(
        "an_opaque_directory_without_access",
        ((directory(b"d", 0), directory(b"d/e", 0o555), file(b"d/e/f")), (OPAQUE,)),
        gone=(b"d/e",),
        modes={b"d": 0},
    ),
    Row(
        "fractions_of_a_second_are_kept",
        (
            (
                file(b"f", mtime=1_234_567_890_123_456_789),
                directory(b"d", mtime=1_234_567_890_987_654_321),
                symlink(b"s", b"x", mtime=3 * SECOND + 1),
            ),
        ),
        mtimes={
            b"f": 1_234_567_890_123_456_789,
            b"d": 1_234_567_890_987_654_321,
            b"s": 3 * SECOND + 1,
        },
    ),
    Row(
        "a_time_before_1970",
        ((file(b"f", mtime=-SECOND * 3 // 2), file(b"g", mtime=-5 * SECOND)),),
        mtimes={b"f": -1_500_000_000, b"g": -5 * SECOND},
    ),
    Row(
        "times_are_clamped_to_2_34_seconds",
        (
            (
                file(b"f", mtime=2**40 * SECOND),
                file(b"g", mtime=-(2**40) * SECOND),
                file(b"h", mtime=2**34 * SECOND + 1),
                file(b"i", mtime=2**34 * SECOND - 1),
                directory(b"d", mtime=2**40 * SECOND),
            ),
        ),
        mtimes={
            b"f": 2**34 * SECOND,
            b"g": -(2**34) * SECOND,
            b"h": 2**34 * SECOND,
            b"i": 2**34 * SECOND - 1,
            b"d": 2**34 * SECOND,
        },
    ),
    Row(
        "a_pax_time_of_many_digits",
        (
            (
                pax((b"mtime", b"9" * 400 + b"." + b"9" * 400)) + header(b"f"),
                pax((b"mtime", b"-" + b"9" * 400)) + header(b"g"),
                pax((b"mtime", b"1.1234567891")) + header(b"h"),
            ),
        ),
        mtimes={b"f": 2**34 * SECOND, b"g": -(2**34) * SECOND, b"h": 1_123_456_789},
        meant=(
            (
                file(b"f", mtime=2**40 * SECOND),
                file(b"g", mtime=-(2**40) * SECOND),
                file(b"h", mtime=1_123_456_789),
            ),
        ),
    ),
    Row(
        "a_pax_time_of_garbage_is_refused",
        ((pax((b"mtime", b"1.5x")) + header(b"f"),),),
        "time in its extended",
    ),
    Row(
        "a_pax_time_without_digits_is_refused",
        ((pax((b"mtime", b"-.5")) + header(b"f"),),),
        "time in its extended",
    ),
    Row(
        "a_directorys_time_survives_its_children",
        ((directory(b"d", mtime=3 * SECOND), file(b"d/f")), (file(b"d/g"),), (file(b"d/.wh.f"),)),
        mtimes={b"d": 3 * SECOND},
    ),
)
