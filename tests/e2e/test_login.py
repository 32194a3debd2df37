"""Tokens, redirects and TLS: where credentials go, and where they never go.

Rows of security.md: section 2 rows 19, 20, 23, 43; section 4 fault 7.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess

import pytest
from faulty_registry import FaultyRegistry, redirect, said, status
from images import image, layer

from fairlead import errors
from fairlead.image import transport

pytestmark = pytest.mark.usefixtures("quick")
LOGIN = ("alice", "open sesame")


@pytest.fixture
def built():
    return image([layer({"a": b"1"}), layer({"b": os.urandom(1 << 20)}, "none")])


@pytest.fixture
def elsewhere():
    with FaultyRegistry() as registry:
        yield registry


def log_in(bench, host, user=LOGIN[0], password=LOGIN[1], **more):
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path = bench.home / "auth.json"
    path.write_text(json.dumps({"auths": {host: more or {"auth": auth}}}))
    bench.environ["REGISTRY_AUTH_FILE"] = str(path)
    return path


def refused(bench, name, error):
    with pytest.raises(error) as caught:
        bench.pull(name)
    assert LOGIN[1] not in caught.value.line()
    return caught.value.message


def sent_logins(registry):
    return [r for r in registry.requests if "authorization" in r.headers]


# -- tokens ----------------------------------------------------------------------------------------


def test_anonymous_token_is_fetched_once(bench, faulty, built):
    faulty.scheme = "bearer"
    bench.pull(faulty.add("x/y", "1", built))
    asked = [r for r in faulty.requests if r.path.startswith("/token")]
    assert len(asked) == 2  # one for the question what the tag means, one for the fetching
    assert "scope=repository%3Ax%2Fy%3Apull" in asked[0].path
    assert "service=tests" in asked[0].path
    assert "authorization" not in asked[0].headers


def test_login_comes_from_a_helper_that_registries_conf_names(bench, faulty, built, tmp_path):
    faulty.scheme, faulty.login = "bearer", LOGIN
    helper = tmp_path / "bin/docker-credential-notes"
    helper.parent.mkdir()
    answer = json.dumps({"Username": LOGIN[0], "Secret": LOGIN[1]})
    helper.write_text(f"#!/bin/sh\nread host; test $host = {faulty.host} && echo '{answer}'\n")
    helper.chmod(0o755)
    bench.environ["PATH"] = f"{helper.parent}:{bench.environ['PATH']}"
    own = bench.home / ".config/containers/registries.conf"
    own.parent.mkdir(parents=True)
    own.write_text('credential-helpers = ["containers-auth.json", "notes"]\n')
    name = faulty.add("x/y", "1", built)
    bench.pull(name)
    own.write_text('credential-helpers = ["containers-auth.json"]\n')
    assert "gives no token without a login" in refused(bench, name, errors.AuthError)


def test_token_is_fetched_with_the_login(bench, faulty, built):
    faulty.scheme, faulty.login = "bearer", LOGIN
    log_in(bench, faulty.host)
    bench.pull(faulty.add("x/y", "1", built))
    basic = "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode()
    for request in faulty.requests:
        wanted = basic if request.path.startswith("/token") else "Bearer token-"
        assert request.headers.get("authorization", wanted).startswith(wanted)


def test_identity_token_is_exchanged(bench, faulty, built):
    faulty.scheme, faulty.login = "bearer", LOGIN
    log_in(bench, faulty.host, identitytoken=LOGIN[1])
    bench.pull(faulty.add("x/y", "1", built))
    asked = [r for r in faulty.requests if r.path.startswith("/token")]
    assert {r.method for r in asked} == {"POST"}
    assert all(b"grant_type=refresh_token" in r.body for r in asked)


def test_wrong_login_is_named_by_its_file(bench, faulty, built):
    faulty.scheme, faulty.login = "bearer", LOGIN
    path = log_in(bench, faulty.host, password="wrong")
    assert refused(bench, faulty.add("x/y", "1", built), errors.AuthError) == (
        f"{faulty.host}/x/y: token server 127.0.0.1 refused the login of {path}: incorrect username or password"
    )


def test_missing_login_is_said(bench, faulty, built):
    faulty.scheme, faulty.login = "bearer", LOGIN
    assert refused(bench, faulty.add("x/y", "1", built), errors.AuthError) == (
        f"{faulty.host}/x/y: token server 127.0.0.1 gives no token without a login: incorrect username or password"
    )


def test_login_for_another_registry_is_not_sent(bench, faulty, built):
    faulty.scheme = "basic"
    faulty.login = LOGIN
    log_in(bench, "other.example:5000")
    refused(bench, faulty.add("x/y", "1", built), errors.AuthError)
    assert sent_logins(faulty) == []


def test_token_that_expires_on_the_way_is_fetched_again(bench, faulty):
    faulty.scheme = "bearer"
    layers = [layer({str(number): os.urandom(1000)}) for number in range(9)]
    name = faulty.add("x/y", "1", image(layers))
    offer = f'Bearer realm="http://{faulty.host}/token",service="tests"'

    def expire(answer):
        faulty.tokens.clear()
        return said(401, "UNAUTHORIZED", "token expired", WWW_Authenticate=offer)(answer)

    faulty.fault(layers[4].digest, expire, times=1)
    assert len(os.listdir(bench.pull(name).rootfs)) == 9
    assert faulty.count("GET", "/token") == 3


def test_token_that_is_never_good_ends_in_one_error(bench, faulty, built):
    faulty.scheme, faulty.token_uses = "bearer", 0
    found = refused(bench, faulty.add("x/y", "1", built), errors.AuthError)
    assert found.endswith("the registry wants a login: authentication required")
    assert faulty.count("GET", "/token") <= 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": 7}',
        b'{"token": "a b"}',
        b'{"token": "a\\r\\nX: 1"}',
        b"[" * 9999,
    ],
)
def test_answer_without_a_token_is_refused(bench, faulty, built, body):
    faulty.scheme = "bearer"
    faulty.fault("/token", status(200, body))
    assert "its answer holds no token" in refused(
        bench, faulty.add("x/y", "1", built), errors.RegistryError
    )


def test_token_servers_passing_trouble_is_tried_again(bench, faulty, built):
    faulty.scheme = "bearer"
    faulty.fault("/token", status(503), times=2)
    bench.pull(faulty.add("x/y", "1", built))


# -- realms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "realm",
    [
        "file:///etc/passwd",
        "ftp://a/b",
        "//evil/token",
        "",
        "http://u:p@h/",
        "http://[::1",
        "gopher://x",
    ],
)
def test_strange_realm_is_refused(bench, faulty, built, realm):
    faulty.scheme, faulty.realm = "bearer", realm
    log_in(bench, faulty.host)
    found = refused(bench, faulty.add("x/y", "1", built), errors.RegistryError)
    assert "as token server, which is refused" in found
    assert sent_logins(faulty) == []


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1%eth0"])
def test_metadata_service_is_no_token_server(bench, faulty, built, monkeypatch, address):
    """Whatever name leads there: the address counts, once it is resolved."""
    peer = pretend_link_local(monkeypatch, "metadata.example", address)
    faulty.scheme, faulty.realm = "bearer", "http://metadata.example/token"
    log_in(bench, faulty.host)
    found = refused(bench, faulty.add("x/y", "1", built), errors.RegistryError)
    assert ": refused: a link-local address is no registry or token server" in found
    assert peer.recv(1000) == b""  # closed, and nothing was said


def pretend_link_local(monkeypatch, host, address):
    """Make host resolve to an address; returns the other end of the connection."""
    real = transport.connection.HTTPConnection._new_conn
    near, far = socket.socketpair()

    class Pretended(socket.socket):
        def getpeername(self):
            return (address, 80)

    def connect(self):
        return real(self) if self.host != host else Pretended(fileno=near.detach())

    monkeypatch.setattr(transport.connection.HTTPConnection, "_new_conn", connect)
    return far


def test_plain_realm_of_a_tls_registry_is_refused(bench, tls, built):
    registry = tls("registry.test")
    registry.scheme, registry.realm = "bearer", "http://127.0.0.1:1/token"
    found = refused(bench, f"registry.test:{registry.port}/x/y:1", errors.RegistryError)
    assert "as token server, which is refused" in found


# -- redirects -------------------------------------------------------------------------------------


def test_redirect_to_another_host_carries_no_login(bench, faulty, elsewhere, built):
    faulty.scheme, faulty.login = "basic", LOGIN
    log_in(bench, faulty.host)
    name = faulty.add("x/y", "1", built)
    elsewhere.add("x/y", "1", built)
    for digest in built.layer_digests:
        faulty.fault(
            digest, redirect(f"http://{elsewhere.host}/v2/x/y/blobs/{digest}"), times=1, skip=0
        )
    bench.pull(name)
    assert elsewhere.count("GET", "/blobs/") == 2
    assert sent_logins(elsewhere) == []


def test_redirect_on_the_same_host_keeps_the_login(bench, faulty, built):
    faulty.scheme, faulty.login = "basic", LOGIN
    log_in(bench, faulty.host)
    name = faulty.add("x/y", "1", built)
    digest = built.layer_digests[0]
    faulty.fault(digest, redirect(f"/v2/x/y/blobs/{digest}?again"), times=1)
    bench.pull(name)
    assert all("authorization" in r.headers for r in faulty.requests if "again" in r.path)


def test_401_from_another_host_is_final(bench, faulty, elsewhere, built):
    faulty.scheme, faulty.login = "bearer", LOGIN
    elsewhere.scheme = "bearer"
    log_in(bench, faulty.host)
    name = faulty.add("x/y", "1", built)
    digest = built.layer_digests[0]
    faulty.fault(digest, redirect(f"http://{elsewhere.host}/v2/x/y/blobs/{digest}"))
    refused(bench, name, errors.AuthError)
    assert sent_logins(elsewhere) == []
    assert elsewhere.count("GET", "/token") == 0


def test_redirects_end_after_five(bench, faulty, built):
    name = faulty.add("x/y", "1", built)
    digest = built.layer_digests[0]
    faulty.fault(digest, redirect(f"/v2/x/y/blobs/{digest}"), times=5)
    bench.pull(name)
    faulty.fault("/manifests/", redirect("/v2/x/y/manifests/1"))
    assert "redirects more than 5 times" in refused(bench, name, errors.RegistryError)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://x/y", "http://u:p@127.0.0.1/", "http://[::1"]
)
def test_strange_redirect_is_refused(bench, faulty, built, target):
    name = faulty.add("x/y", "1", built)
    faulty.fault("/blobs/", redirect(target))
    assert f"redirects to {target!r}, which is refused" in refused(
        bench, name, errors.RegistryError
    )


def test_redirect_to_a_dead_cdn_names_the_cdn(bench, faulty, built):
    name = faulty.add("x/y", "1", built)
    faulty.fault(built.layer_digests[1], redirect("http://127.0.0.1:1/blob"))
    assert "127.0.0.1:1: Connection refused" in refused(
        bench, name, errors.RegistryUnreachableError
    )


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path, monkeypatch, built):
    """Start a TLS registry whose certificate is for the names given; *.test resolves to the loopback."""
    real = socket.getaddrinfo

    def resolve(host, *args, **more):
        return real("127.0.0.1" if str(host).endswith(".test") else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    running = []

    def start(name, days=30, trusted=True):
        files = certificate(tmp_path, name, days)
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", files[0])
        registry = FaultyRegistry(tls=files)
        registry.__enter__()
        running.append(registry)
        registry.add("x/y", "1", built)
        return registry

    yield start
    for registry in running:
        registry.__exit__()


def certificate(folder, name, days):
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]
    words += [
        "-keyout",
        key,
        "-out",
        cert,
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName=DNS:{name}",
    ]
    if days > 0:
        words += ["-days", str(days)]
        subprocess.run(words, check=True, capture_output=True)
    else:
        # openssl req refuses a certificate of the past, x509 can make one
        request = str(folder / "request.pem")
        new = [word for word in words if word != "-x509"]
        new[new.index(cert)] = request
        subprocess.run(new, check=True, capture_output=True)
        sign = [
            "openssl",
            "x509",
            "-req",
            "-in",
            request,
            "-signkey",
            key,
            "-out",
            cert,
            "-days",
            "-1",
        ]
        sign += ["-copy_extensions", "copy"]
        subprocess.run(sign, check=True, capture_output=True)
    return cert, key


def test_trusted_tls_registry_is_used(bench, tls, built):
    registry = tls("registry.test")
    assert bench.pull(f"registry.test:{registry.port}/x/y:1").digest == built.digest


@pytest.mark.parametrize(
    ("name", "days", "trusted", "words"),
    [
        ("registry.test", 30, False, "self-signed certificate"),
        ("other.test", 30, True, "Hostname mismatch"),
        ("registry.test", -1, True, "certificate has expired"),
    ],
)
def test_bad_certificate_fails_closed(bench, tls, name, days, trusted, words):
    registry = tls(name, days, trusted)
    found = refused(bench, f"registry.test:{registry.port}/x/y:1", errors.RegistryError)
    assert f"registry.test:{registry.port}: its TLS certificate is not trusted: " in found
    assert words in found
    assert registry.requests == []


def test_bad_certificate_is_no_reason_to_use_an_old_image(bench, tls, built, monkeypatch):
    registry = tls("registry.test")
    name = f"registry.test:{registry.port}/x/y:1"
    bench.pull(name)
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    with pytest.raises(errors.RegistryError, match="not trusted"):
        bench.pull(name, "newer")


def test_tls_registry_cannot_send_us_down_to_plain_http(bench, tls, elsewhere, built):
    registry = tls("registry.test")
    elsewhere.add("x/y", "1", built)
    digest = built.layer_digests[0]
    target = f"http://{elsewhere.host}/v2/x/y/blobs/{digest}"
    registry.fault(digest, redirect(target))
    found = refused(bench, f"registry.test:{registry.port}/x/y:1", errors.RegistryError)
    assert f"redirects to {target!r}, which is refused" in found
    assert elsewhere.requests == []


def test_plain_http_is_not_tried_on_a_registry_that_is_not_listed(bench, faulty, tls, built):
    tls("unused.test")
    faulty.add("x/y", "1", built)
    with pytest.raises(errors.Error):
        bench.pull(f"registry.test:{faulty.port}/x/y:1")
    assert faulty.requests == []
    bench.environ["FAIRLEAD_INSECURE_REGISTRIES"] = f"registry.test:{faulty.port}"
    assert bench.pull(f"registry.test:{faulty.port}/x/y:1").digest == built.digest


def test_own_authority_is_read_from_certs_d(bench, tls, built, tmp_path, monkeypatch):
    registry = tls("registry.test", trusted=False)
    own = tmp_path / "certs.d" / f"registry.test:{registry.port}"
    own.mkdir(parents=True)
    (own / "site.crt").write_bytes((tmp_path / "cert.pem").read_bytes())
    monkeypatch.setattr(transport, "CERTIFICATE_DIRS", (str(tmp_path / "certs.d"),))
    assert bench.pull(f"registry.test:{registry.port}/x/y:1").digest == built.digest


# -- proxies ---------------------------------------------------------------------------------------


def test_proxy_is_used_for_what_is_not_exempt(bench, faulty, built):
    faulty.add("x/y", "1", built)
    bench.environ["http_proxy"] = f"http://user:secret@{faulty.host}"
    bench.environ["FAIRLEAD_INSECURE_REGISTRIES"] = "registry.example"
    bench.pull("registry.example/x/y:1")
    assert {r.path.partition("/v2/")[0] for r in faulty.requests} == {"http://registry.example"}
    assert all("proxy-authorization" in r.headers for r in faulty.requests)


@pytest.mark.parametrize(
    "exempt", ["*", "registry.example", ".example", "example", "a, registry.example:80"]
)
def test_no_proxy_exempts(exempt):
    environ = {"http_proxy": "http://p:1", "NO_PROXY": exempt}
    assert transport.proxy_for("http://registry.example:80/v2/", environ) is None


@pytest.mark.parametrize(
    "exempt", ["", "other.example", "registry.example:81", "10.0.0.0/8", "ample"]
)
def test_no_proxy_does_not_exempt(exempt):
    environ = {"http_proxy": "p:1", "NO_PROXY": exempt}
    assert transport.proxy_for("http://registry.example:80/v2/", environ) == "http://p:1"


def test_proxy_by_scheme_and_network():
    environ = {"HTTPS_PROXY": "http://s:1", "http_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}
    assert transport.proxy_for("https://a.b/", environ) == "http://s:1"
    assert transport.proxy_for("http://a.b/", environ) == "http://p:1"
    assert transport.proxy_for("https://10.1.2.3/", environ) is None
    assert transport.proxy_for("http://127.0.0.1:5000/", environ) is None
    assert transport.proxy_for("http://[::1]:5000/", environ) is None
    assert transport.proxy_for("https://a.b/", {"all_proxy": "http://q:1"}) == "http://q:1"


def call_insecure(bench, host, more=""):
    path = bench.home / ".config/containers/registries.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n{more}')


def test_registry_that_registries_conf_calls_insecure_need_not_prove_itself(bench, tls, built):
    registry = tls("other.test", trusted=False)
    host = f"hub.test:{registry.port}"
    with pytest.raises(errors.RegistryError, match="not trusted"):
        bench.pull(f"{host}/x/y:1")
    call_insecure(bench, host)
    assert bench.pull(f"{host}/x/y:1").target == built.digest


def test_registry_called_insecure_may_speak_plain_http(bench, tls, faulty, built):
    tls("unused.test")  # for its names
    faulty.add("x/y", "1", built)
    host = f"hub.test:{faulty.port}"
    call_insecure(bench, host)
    assert bench.pull(f"{host}/x/y:1").target == built.digest


def test_insecure_mirror_makes_the_registry_no_less_secure(bench, tls, faulty, quick):
    registry = tls("other.test", trusted=False)
    host, mirror = f"hub.test:{registry.port}", f"mirror.test:{faulty.port}"
    call_insecure(bench, "unused.test")
    text = f'[[registry]]\nlocation = "{host}"\n'
    text += f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'
    (bench.home / ".config/containers/registries.conf").write_text(text)
    with pytest.raises(errors.RegistryError, match="not trusted"):
        bench.pull(f"{host}/x/y:1")
    assert faulty.count("HEAD", "/manifests/1") == 1
