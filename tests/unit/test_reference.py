"""References: what is accepted, what it means, and that nothing else passes."""

from __future__ import annotations

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
        ("/a", "empty component"),
        ("quay.io/", "names no repository"),
        ("../etc/passwd", "component '..' may hold"),
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
        ("dockerd://x", "has the scheme 'dockerd'"),
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
    assert ".." not in found.repository
    assert found.repository == found.repository.lower()
    assert set(str(found)) <= set(string.ascii_letters + string.digits + "._-/:@[]")
