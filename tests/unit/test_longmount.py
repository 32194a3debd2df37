"""Mounts in the long syntax of Sarus, podman and docker: what each means, each mistake's line."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fairlead import errors
from fairlead.plan import longmount
from fairlead.plan.request import Volume


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("type=bind,source=/a,destination=/b", Volume("/a", "/b", (), "bind", "--mount")),
        ("type=bind,src=./a,dst=/b,readonly", Volume("/cwd/a", "/b", ("ro",), "bind", "--mount")),
        ("source=/a,target=/b,ro=true", Volume("/a", "/b", ("ro",), "bind", "--mount")),
        ("type=bind,src=/a,dst=/b,rw", Volume("/a", "/b", ("rw",), "bind", "--mount")),
        ("type=bind,src=/a b:c,dst=/b,ro=false", Volume("/a b:c", "/b", (), "bind", "--mount")),
        ("type=bind,src=/a,dst=/b,bind-propagation=slave", Volume("/a", "/b", (), "bind", "--mount")),
        ("type=tmpfs,dst=/t", Volume("tmpfs", "/t", (), "tmpfs", "--mount")),
        (
            "type=tmpfs,destination=/t,tmpfs-size=1g,tmpfs-mode=700",
            Volume("tmpfs", "/t", ("size=1g", "mode=700"), "tmpfs", "--mount"),
        ),
    ],
)  # fmt: skip
def test_meaning(text, volume):
    assert longmount.parse(text, "/cwd") == volume


GRAMMAR = "write type=bind,source=SRC,destination=DST[,readonly]"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("type=bind,source=/a", f"has no destination ({GRAMMAR})"),
        ("type=bind,destination=/a", f"has no source ({GRAMMAR})"),
        ("type=volume,source=a,destination=/a", f"type 'volume' is neither bind nor tmpfs ({GRAMMAR})"),
        ("type=bind,src=/a,dst=/b,z", "'z' is not a key of bind (there are type, source, destination, readonly, rw, bind-propagation)"),
        ("type=bind,src=/a,source=/b,dst=/b", "source is given twice (give it once)"),
        ("type=bind,src=/a,dst=/b,ro=maybe", "readonly=maybe: neither true nor false (write readonly)"),
        ("type=bind,src=/a,dst=/b,ro,rw", "is both readonly and rw (give one)"),
        ("src=/a,dst=/b,bind-propagation=shared", "bind-propagation=shared: no mount leads from a container to the host (one of private, rprivate, slave, rslave)"),
        ("type=tmpfs,dst=/b,src=/a", "'source' is not a key of tmpfs (there are type, destination, readonly, rw, size, mode)"),
        ("type=tmpfs,dst=/b,tmpfs-size=1gb,", "'' is not a key of tmpfs (there are type, destination, readonly, rw, size, mode)"),
        ("type=tmpfs,dst=/b,tmpfs-size=x", "tmpfs-size=x: is no size (e.g. tmpfs-size=1g)"),
        ("type=tmpfs,dst=/b,tmpfs-mode=7,uid=0", "'uid' is not a key of tmpfs (there are type, destination, readonly, rw, size, mode)"),
    ],
)  # fmt: skip
def test_each_mistake_has_one_line(text, why):
    with pytest.raises(errors.UsageError) as caught:
        longmount.parse(text, "/cwd")
    assert caught.value.line() == f"error [usage]: --mount {text}: {why}"


@given(
    some.text(max_size=60), some.sampled_from(["type=bind,src=/a,dst=", "type=tmpfs,dst=/b,", ""])
)
def test_any_text_is_a_mount_or_a_usage_error(text, head):
    try:
        volume = longmount.parse(head + text, "/cwd")
    except errors.UsageError:
        return
    assert volume.kind == "tmpfs" or volume.source.startswith("/")
    assert all(flag.partition("=")[0] in {"ro", "rw", "size", "mode"} for flag in volume.flags)
