"""References: what is accepted, what it means, and that nothing else passes."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import errors
from fairlead.image import reference

HEX = "a" * 64
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("bitnami/spark", "docker.io/bitnami/spark:latest"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("docker.io/library/ubuntu", "docker.io/library/ubuntu:latest"),
        ("index.docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("registry-1.docker.io/a/b", "docker.io/a/b:latest"),
        ("docker://ubuntu:1", "docker.io/library/ubuntu:1"),
        ("docker://quay.io/a/b:1", "quay.io/a/b:1"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:1", "localhost:5000/x:1"),
        ("127.0.0.1:5000/demo/x:1", "127.0.0.1:5000/demo/x:1"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("[2001:db8::1]/x:1", "[2001:db8::1]/x:1"),
        ("Registry.Example.ORG/x", "registry.example.org/x:latest"),
        ("nvcr.io#nvidia/pytorch:24.01-py3", "nvcr.io/nvidia/pytorch:24.01-py3"),
        ("$oauthtoken@nvcr.io#nvidia/cuda", "nvcr.io/nvidia/cuda:latest"),
        ("docker://alice@nvcr.io#nvidia/cuda", "nvcr.io/nvidia/cuda:latest"),
        ("docker://alice@quay.io/a/b", "quay.io/a/b:latest"),
        (f"ubuntu@{DIGEST}", f"docker.io/library/ubuntu@{DIGEST}"),
        (f"docker://ubuntu@{DIGEST}", f"docker.io/library/ubuntu@{DIGEST}"),
        (f"ubuntu:1@{DIGEST}", f"docker.io/library/ubuntu:1@{DIGEST}"),
        (f"quay.io/x@sha512:{'0' * 128}", f"quay.io/x@sha512:{'0' * 128}"),
        ("a.b/c__d/e-f---g.h_i:T_a.g-1", "a.b/c__d/e-f---g.h_i:T_a.g-1"),
    ],
)
def test_accepted_reference_has_this_canonical_form(text, canonical):
    assert str(reference.parse(text)) == canonical
    assert str(reference.parse(canonical)) == canonical


def test_user_is_kept_beside_the_identity():
    assert reference.parse("$oauthtoken@nvcr.io#nvidia/cuda:1") == reference.Reference(
        "nvcr.io", "nvidia/cuda", "1", None, "$oauthtoken"
    )


def test_default_registry_is_used_without_library():
    assert str(reference.parse("a", default_registry="r.example:5000")) == "r.example:5000/a:latest"


def test_malformed_default_registry_is_a_configuration_error():
    with pytest.raises(errors.ConfigError, match=r"default_registry = 'a b'.*not a host name"):
        reference.parse("a", default_registry="a b")


def test_identity_drops_a_tag_beside_a_digest():
    assert reference.parse(f"q.io/a:1@{DIGEST}").identity == f"q.io/a@{DIGEST}"
    assert reference.parse("q.io/a:1").identity == "q.io/a:1"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "an image reference is empty"),
        ("Ubuntu", "Ubuntu: the name's component 'Ubuntu' must be lower case"),
        ("a/B/c", "the name's component 'B' must be lower case"),
        ("ubuntu:", "the tag after ':' is empty"),
        ("ubuntu:-x", "the tag '-x' may hold only"),
        ("ubuntu:a:b", "the tag 'a:b' may hold only"),
        ("ubuntu:" + "t" * 129, "the tag has 129 characters, more than 128"),
        ("a//b", "empty component"),
        ("a/", "empty component"),
        ("q.io//a", "empty component"),
        ("quay.io/", "names no repository"),
        ("oci-archive:///x.tar", "has the scheme 'oci-archive'"),
        ("q.io/../x", "component '..' may hold"),
        ("q.io/a..b", "component 'a..b' may hold"),
        ("q.io/a___b", "component 'a___b' may hold"),
        ("q.io/-a", "component '-a' may hold"),
        ("a b", "holds the character ' '"),
        ("a\nb", r"holds the character '\n'"),
        ("a\0b", r"holds the character '\x00'"),
        ("\x1b[31mred", r"holds the character '\x1b'"),
        ("ub\u00fcntu", r"holds the character '\xfc'"),
        ("q.io:0/x", "the port '0' is not a number from 1 to 65535"),
        ("q.io:65536/x", "the port '65536' is not"),
        ("q.io:http/x", "the port 'http' is not"),
        ("q.io:/x", "the port '' is not"),
        ("-q.io/x", "the registry '-q.io' is not a host name"),
        ("q..io/x", "the registry 'q..io' is not a host name"),
        ("[::1/x", "is not a host name or address"),
        ("[::zz]:1/x", "is not a host name"),
        ("myhost#x", "the registry 'myhost' needs a port, as in myhost:443"),
        ("oci://x", "has the scheme 'oci'; only docker:// is known"),
        ("dockerd:///x", "names a path where an image's name belongs"),
        ("dockerd://", "names nothing after docker-daemon:"),
        ("docker-daemon:X", "must be lower case"),
        ("https://q.io/x", "has the scheme 'https'"),
        ("a#b#c", "holds more than one '#'"),
        ("#b", "names no registry before '#'"),
        ("u@#b", "names no registry before '#'"),
        ("@q.io#b", "the user '' is not one"),
        ("u:p@q.io#b", "the user 'u:p' is not one"),
        ("ubuntu@latest", "after '@' stands 'latest', which is no digest"),
        ("ubuntu@sha256:", "a sha256 digest has 64 hex digits, not 0"),
        ("ubuntu@sha256:../../x", "lower-case hex digits only"),
        (f"ubuntu@sha256:{HEX[1:]}", "has 64 hex digits, not 63"),
        (f"ubuntu@sha256:{HEX.upper()}", "lower-case hex digits only"),
        (f"ubuntu@SHA256:{HEX}", "unknown digest algorithm 'SHA256'"),
        (f"ubuntu@md5:{HEX[:32]}", "unknown digest algorithm 'md5'"),
        (f"ubuntu@{DIGEST}@{DIGEST}", "lower-case hex digits only"),
        ("q.io/" + "a" * 300, "the name has 305 characters, more than 255"),
        ("a" * 2000, "has 2000 characters, more than 1024"),
    ],
)
def test_malformed_reference_is_refused_and_the_line_names_the_part(text, why):
    with pytest.raises(errors.ReferenceError) as caught:
        reference.parse(text)
    assert why in caught.value.message
    assert "\n" not in caught.value.line()
    assert len(caught.value.line()) < 500


@pytest.mark.parametrize(
    "text", ["", "sha256", "sha256:", ":", "sha256:" + "g" * 64, DIGEST + "\n"]
)
def test_what_is_no_digest_never_becomes_a_path(text):
    with pytest.raises(errors.ReferenceError):
        reference.parse_digest(text)


def test_host_and_port_are_taken_apart():
    assert reference.split_host("[::1]:5000") == ("::1", 5000)
    assert reference.split_host("[::1]") == ("::1", None)
    assert reference.split_host("q.io") == ("q.io", None)
    assert reference.split_host("q.io:443") == ("q.io", 443)


@given(st.text(alphabet=string.printable + "äé\0", max_size=80))
def test_any_text_is_refused_or_canonical(text):
    try:
        found = reference.parse(text)
    except errors.ReferenceError as error:
        assert error.message.isprintable()  # noqa: PT017 - either outcome is fine, a traceback is not
        return
    assert reference.parse(str(found)) == found._replace(user=None)
    if found.transport:
        assert found.repository.startswith("/")
        assert str(found).isprintable()
        return
    assert ".." not in found.repository
    assert found.repository == found.repository.lower()
    assert set(str(found)) <= set(string.ascii_letters + string.digits + "._-/:@[]")


LOCAL = [
    # what is typed, transport, path or name, tag, identity
    ("/a/x.sqsh", "path", "/a/x.sqsh", None, "/a/x.sqsh"),
    ("./x.sqsh", "path", "/home/u/x.sqsh", None, "/home/u/x.sqsh"),
    ("x.sif", "path", "/home/u/x.sif", None, "/home/u/x.sif"),
    ("../rootfs/", "path", "/home/u/../rootfs", None, "/home/u/../rootfs"),
    (".", "path", "/home/u", None, "/home/u"),
    (".hidden/root", "path", "/home/u/.hidden/root", None, "/home/u/.hidden/root"),
    ("dir:/a//b/./c", "path", "/a/b/c", None, "/a/b/c"),
    ("/a b/\u00fc:1.sqsh", "path", "/a b/\u00fc:1.sqsh", None, "/a b/\u00fc:1.sqsh"),
    ("oci:lay", "oci", "/home/u/lay", None, "oci:/home/u/lay"),
    ("oci:/lay:1.2", "oci", "/lay", "1.2", "oci:/lay:1.2"),
    ("oci:/lay:q.io/x:1", "oci", "/lay", "q.io/x:1", "oci:/lay:q.io/x:1"),
    ("oci-archive:x.tar:v1", "oci-archive", "/home/u/x.tar", "v1", "oci-archive:/home/u/x.tar:v1"),
    ("docker-archive:/x.tar", "docker-archive", "/x.tar", None, "docker-archive:/x.tar"),
    ("docker-archive:/x.tar:@1", "docker-archive", "/x.tar", "@1", "docker-archive:/x.tar:@1"),
    (
        "docker-archive:/x.tar:alpine",
        "docker-archive",
        "/x.tar",
        "docker.io/library/alpine:latest",
        "docker-archive:/x.tar:docker.io/library/alpine:latest",
    ),
    (
        "dockerd://q.io/me:2",
        "docker-daemon",
        "q.io/me",
        "2",
        "docker-daemon:q.io/me:2",
    ),
    (
        "docker-daemon:alpine",
        "docker-daemon",
        "docker.io/library/alpine",
        "latest",
        "docker-daemon:docker.io/library/alpine:latest",
    ),
    (
        "containers-storage:localhost/me:2",
        "containers-storage",
        "localhost/me",
        "2",
        "containers-storage:localhost/me:2",
    ),
    (
        f"containers-storage:{HEX}",
        "containers-storage",
        f"@{HEX}",
        None,
        f"containers-storage:@{HEX}",
    ),
]


@pytest.mark.parametrize(("text", "transport", "path", "tag", "identity"), LOCAL)
def test_what_lies_on_this_machine_is_named_by_an_absolute_path(
    text, transport, path, tag, identity
):
    found = reference.parse(text, cwd="/home/u")
    assert found == reference.Reference("", path, tag, None, transport=transport)
    assert found.identity == str(found) == identity
    assert reference.parse(identity) == found


@pytest.mark.parametrize("text", ["/a/x.sqsh", "oci:/lay:1", "containers-storage:q.io/x"])
def test_digest_names_local_content_for_good(text):
    found = reference.parse(f"{text}@{DIGEST}")
    assert found.digest == found.target == DIGEST
    assert found.identity == f"{found.name}@{DIGEST}"
    assert reference.parse(found.identity).identity == found.identity


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("./x.sqsh", "is a relative path, and there is no working directory"),
        ("oci:", "names nothing after oci:"),
        ("oci::1", "names no path"),
        ("oci:/lay:", "after the path stands '', which is no name"),
        ("oci:/lay:a b", "which is no name of an image"),
        ("oci:/lay:../../x", "which is no name of an image"),
        ("oci:/lay:1@sha256:../../x", "lower-case hex digits only"),
        (f"/x.sqsh@sha256:{HEX[1:]}", "has 64 hex digits, not 63"),
        ("docker-archive:/x:A", "must be lower case"),
        ("docker-archive:/x:@a", "which is no name of an image"),
        ("/a\nb", r"holds the character '\n'"),
        ("/a\udcffb", r"holds the character '\udcff'"),
        ("/" + "a" * 4000, "has 4001 characters, more than 4000"),
        ("containers-storage:[overlay@/x]y", "a store is not chosen in the reference"),
        ("containers-storage:/x", "names a path where an image's name belongs"),
        ("containers-storage:oci:/x", "names a path where an image's name belongs"),
    ],
)
def test_malformed_local_reference_is_refused(text, why):
    with pytest.raises(errors.ReferenceError) as caught:
        reference.parse(text)
    assert why in caught.value.message
    assert "\n" not in caught.value.line()


GRAMMAR = {
    "_is_component": r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*",
    "_is_label": r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
    "_is_tag": r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}",
}


@pytest.mark.parametrize("name", GRAMMAR)
@given(text=st.text("aZ09._-/é\n", max_size=8) | st.text("a-", min_size=60, max_size=130))
def test_grammar_by_hand_is_the_regular_expressions(name, text):
    assert getattr(reference, name)(text) == bool(re.fullmatch(GRAMMAR[name], text))


@given(text=st.text("a@:sh256", max_size=20) | st.just("x@sha256:1@sha512:2@sha256:3"))
def test_digest_at_the_end_is_split_off_as_the_regular_expression_does(text):
    found = re.fullmatch(r"(.+)@(sha(?:256|512):.*)", text, re.DOTALL)
    assert reference._split_pin(text) == (found.groups() if found else (text, None))
