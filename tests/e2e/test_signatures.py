"""policy.json in use: images signed by real tools, and everything that must not pass for a signature."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
from faulty_registry import FaultyRegistry, status
from images import Image, digest_of, encoded, image, index, layer, platform, push
from shared_bed import ALICE

ONE = image([layer({"name": b"one\n"})])
TWO = image([layer({"name": b"two\n"})])
HINT = "(use an image that is signed as the file named requires, or ask who publishes it)"
COSIGN = "application/vnd.dev.cosign.simplesigning.v1+json"


class Keys:
    """Signers: GnuPG keys of a home of their own, and keys for sigstore."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home = place / "gnupg"
        self.home.mkdir(mode=0o700)
        for name in ("good", "other"):
            address = f"{name}@example.org"
            self.gpg("--passphrase", "", "--quick-gen-key", address, "rsa2048", "sign", "never")
            (place / f"{name}.gpg").write_bytes(self.gpg("--export", address))
            (place / f"{name}.asc").write_bytes(self.gpg("--armor", "--export", address))
        self.openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", "ec.key")
        self.openssl("genpkey", "-algorithm", "RSA", "-out", "rsa.key")
        self.openssl("genpkey", "-algorithm", "ed25519", "-out", "ed.key")
        for name in ("ec", "rsa", "ed"):
            self.openssl("pkey", "-in", f"{name}.key", "-pubout", "-out", f"{name}.pub")

    def gpg(self, *words: str, text: bytes = b"") -> bytes:
        given = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--pinentry-mode"]
        return run(*given, "loopback", *words, text=text)

    def openssl(self, *words: str) -> bytes:
        return run("openssl", *words, cwd=self.place)

    def message(self, payload: bytes, name: str = "good") -> bytes:
        return self.gpg("-u", f"{name}@example.org", "-s", "-o", "-", text=payload)

    def raw(self, payload: bytes, name: str) -> bytes:
        """Sign as cosign does."""
        (self.place / "payload").write_bytes(payload)
        digest = [] if name == "ed" else ["-digest", "sha256"]
        words = ("-sign", "-inkey", f"{name}.key", "-rawin", *digest, "-in", "payload")
        return self.openssl("pkeyutl", *words)


def run(*words: str, text: bytes = b"", cwd: Path | None = None) -> bytes:
    done = subprocess.run(words, input=text, capture_output=True, cwd=cwd)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


@pytest.fixture(scope="session")
def keys():
    place = Path(f"/tmp/fairlead-keys-{os.getpid()}")  # a short path: gpg-agent's socket
    place.mkdir(mode=0o755)
    made = Keys(place)
    yield made
    subprocess.run(["gpgconf", "--homedir", made.home, "--kill", "all"], check=False)
    shutil.rmtree(place)


class Site:
    """The site's files of a test, and the signatures that lie beside its registry."""

    def __init__(self, place: Path, file: Path) -> None:
        self.place, self.file = place, file
        self.lookaside = place / "lookaside"
        for name in ("registries.d", "lookaside"):
            (place / name).mkdir(parents=True)
        self.settings = ""
        self.look(f"file://{self.lookaside}")

    def look(self, url: str) -> None:
        text = (
            f"default-docker:\n  lookaside: {url}\n  lookaside-staging: file://{self.lookaside}\n"
        )
        (self.place / "registries.d/default.yaml").write_text(text)

    def require(self, *demands: dict[str, object], scopes=None, default=None) -> str:
        """Write the policy; returns the name of what decides."""
        policy = self.place / "policy.json"
        default = default or (list(demands) or [{"type": "insecureAcceptAnything"}])
        transports = {"docker": scopes} if scopes else {}
        policy.write_text(json.dumps({"default": default, "transports": transports}))
        text = f'containers_config = "{self.place}"\n{self.settings}'
        self.file.write_text(text)
        return f"{policy}: default"

    def keep(self, repository: str, digest: str, *messages: bytes) -> None:
        """Lay messages where a lookaside has them."""
        folder = self.lookaside / f"{repository}@{digest.replace(':', '=')}"
        folder.mkdir(parents=True)
        for number, message in enumerate(messages, 1):
            (folder / f"signature-{number}").write_bytes(message)


@pytest.fixture
def site(bench, tmp_path):
    file = tmp_path / "fairlead.toml"
    bench.environ["FAIRLEAD_SITE_CONFIG"] = str(file)
    return Site(tmp_path / "containers", file)


@pytest.fixture
def name(registry):
    return f"{registry}/demo/{uuid.uuid4().hex[:12]}"


def pushed(name: str, tag: str, made: Image = ONE) -> str:
    """Push an image; returns its digest."""
    registry, _, repository = name.partition("/")
    return push(registry, repository, tag, made)


def signed_by(keys: Keys, name: str = "good.gpg", **more: object) -> dict[str, object]:
    key = {} if "keyPaths" in more or "keyData" in more else {"keyPath": f"{keys.place}/{name}"}
    return {"type": "signedBy", "keyType": "GPGKeys", **key, **more}


def sigstore(keys: Keys, name: str = "ec", **more: object) -> dict[str, object]:
    return {"type": "sigstoreSigned", "keyPath": f"{keys.place}/{name}.pub", **more}


def payload(digest: str, name: str, kind: str = "atomic container signature", **more) -> bytes:
    critical = {
        "type": kind,
        "image": {"docker-manifest-digest": digest},
        "identity": {"docker-reference": name},
    }
    return json.dumps({"critical": {**critical, **more}, "optional": {}}).encode()


def seal(keys: Keys, name: str, digest: str, text: bytes, key: str = "ec", sealed=None) -> None:
    """Push a signature as cosign does."""
    signed = base64.b64encode(keys.raw(text, key) if sealed is None else sealed).decode()
    note = {"dev.cosignproject.cosign/signature": signed}
    config = encoded({"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers"}})
    described = {"mediaType": COSIGN, "digest": digest_of(text), "size": len(text)}
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": [{**described, "annotations": note}],
    }
    blobs = {digest_of(config): config, digest_of(text): text}
    made = Image(encoded(document), str(document["mediaType"]), blobs)
    pushed(name, f"{digest.replace(':', '-')}.sig", made)


def cosigned(digest: str, name: str) -> bytes:
    return payload(digest, name, "cosign container image signature")


def content(found) -> str:
    return Path(f"{found.rootfs}/name").read_text()


def refused(bench, name: str) -> str:
    """Return why an image is refused; nothing of it may be in the store but documents."""
    line = bench.line("pull", "-q", name)
    assert bench.leftovers() == []
    assert not list(bench.root.glob("trees/*"))
    return line


# -- simple signing --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["good.gpg", "good.asc"])
def test_image_signed_by_skopeo_is_accepted(bench, site, keys, name, tmp_path, key):
    pushed(f"{name}-unsigned", "1")
    words = ["--src-tls-verify=false", "--dest-tls-verify=false", "--sign-by", "good@example.org"]
    subprocess.run(
        [
            "skopeo",
            "--registries.d",
            site.place / "registries.d",
            "copy",
            "-q",
            *words,
            f"docker://{name}-unsigned:1",
            f"docker://{name}:1",
        ],
        env={**os.environ, "GNUPGHOME": str(keys.home)},
        check=True,
    )
    site.require(signed_by(keys, key))
    assert content(bench.pull(f"{name}:1")) == "one\n"


def test_missing_signature_stops_before_any_layer(bench, site, keys, faulty):
    name = faulty.add("demo/x", "1", ONE)
    where = site.require(signed_by(keys))
    assert refused(bench, name) == (
        f"fairlead: error [signature]: {name}: {where} requires a signature (signedBy), "
        f"and {ONE.digest} has none {HINT}"
    )
    assert faulty.count("GET", ONE.layer_digests[0]) == 0


@pytest.mark.parametrize(
    ("digest", "tag", "key", "why"),
    [
        ("one", "1", "other", "it is signed by another key"),
        ("two", "1", "good", f"it is for {TWO.digest}"),
        ("one", "2", "good", "it is for {name}:2"),
        ("one", "", "good", "it is for {name}"),
    ],
    ids=["wrong-key", "another-digest", "another-tag", "no-tag"],
)
def test_signature_of_something_else_is_none(bench, site, keys, name, digest, tag, key, why):
    pushed(name, "1")
    other = {"one": ONE, "two": TWO}[digest].digest
    text = payload(other, f"{name}:{tag}" if tag else name)
    site.keep(name.partition("/")[2], ONE.digest, keys.message(text, key))
    where = site.require(signed_by(keys))
    assert refused(bench, f"{name}:1") == (
        f"fairlead: error [signature]: {name}:1: {where} requires a signature (signedBy), "
        f"and none of 1 is one: {why.format(name=name)} {HINT}"
    )


def test_one_good_signature_among_others_suffices(bench, site, keys, name):
    pushed(name, "1")
    text = payload(ONE.digest, f"{name}:1")
    messages = (b"nonsense", keys.message(text, "other"), keys.message(text))
    site.keep(name.partition("/")[2], ONE.digest, *messages)
    site.require(signed_by(keys))
    assert content(bench.pull(f"{name}:1")) == "one\n"


def forged(keys: Keys, text: bytes, how: str) -> bytes:
    good = keys.message(text)
    unsigned = keys.gpg("--store", "-o", "-", text=text)
    return {
        "unsigned": unsigned,
        "unsigned-before-signed": unsigned + keys.message(b"{}"),
        "signed-before-unsigned": keys.message(b"{}") + unsigned,
        "signed-twice": keys.gpg("-u", "good", "-u", "other", "-s", "-o", "-", text=text),
        "cut": good[:-20],
        "altered": good[:-30] + bytes([good[-30] ^ 1]) + good[-29:],
        "empty": b"",
        "unknown-field": keys.message(text.replace(b'"optional"', b'"more": 1, "optional"')),
        "unknown-critical": keys.message(text.replace(b'"type"', b'"also": 1, "type"')),
        "twice": keys.message(text.replace(b'"optional"', b'"critical": {}, "optional"')),
        "cosign's": keys.message(text.replace(b"atomic container", b"cosign container image")),
        "no-json": keys.message(b"[" * 100_000),
        "too-much": keys.message(text + b" " * (2 << 20)),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        *("unsigned", "unsigned-before-signed", "signed-before-unsigned", "signed-twice", "cut"),
        *("altered", "empty", "unknown-field", "unknown-critical", "twice", "cosign's", "no-json"),
        "too-much",
    ],
)
def test_forged_message_is_no_signature(bench, site, keys, name, how):
    pushed(name, "1")
    text = payload(ONE.digest, f"{name}:1")
    site.keep(name.partition("/")[2], ONE.digest, forged(keys, text, how))
    site.require(signed_by(keys))
    assert "requires a signature (signedBy), and none of 1 is one" in refused(bench, f"{name}:1")


def test_lookaside_is_reached_by_http(bench, site, keys, name, faulty):
    pushed(name, "1")
    text = keys.message(payload(ONE.digest, f"{name}:1"))
    place = f"{name.partition('/')[2]}@{ONE.digest.replace(':', '=')}/signature-1"
    faulty.fault(place, lambda answer: answer._replace(status=200, body=text))
    site.look(f"http://{faulty.host}/signatures")
    site.require(signed_by(keys))
    assert content(bench.pull(f"{name}:1")) == "one\n"
    assert faulty.count("GET", "signature-2") == 0


def test_lookaside_that_fails_is_told(bench, site, keys, name, faulty):
    pushed(name, "1")
    faulty.fault("signature-1", status(418, b"a teapot"))
    site.look(f"http://{faulty.host}/s")
    site.require(signed_by(keys))
    repository = name.partition("/")[2]
    assert refused(bench, f"{name}:1") == (
        f"fairlead: error [signature]: http://{faulty.host}/s/{repository}"
        f"@{ONE.digest.replace(':', '=')}/signature-1: a teapot (tell the administrator)"
    )


def test_registry_that_keeps_signatures_is_asked_for_them(bench, site, keys, faulty):
    name = faulty.add("demo/x", "1", ONE)
    message = keys.message(payload(ONE.digest, name))
    entry = {"schemaVersion": 2, "type": "atomic", "name": "x", "content": None}
    entry["content"] = base64.b64encode(message).decode()
    body = json.dumps({"signatures": [entry]}).encode()
    faulty.fault("/v2/", marked, method="GET")
    faulty.fault("/extensions/", lambda answer: answer._replace(status=200, body=body))
    site.require(signed_by(keys))
    assert content(bench.pull(name)) == "one\n"


def test_registry_that_keeps_signatures_is_asked_behind_a_mirror_that_does_not(
    bench, site, keys, faulty
):
    with FaultyRegistry() as mirror:
        mirror.add("demo/x", "1", ONE)
        text = f'[[registry]]\nlocation = "{faulty.host}"\n[[registry.mirror]]\nlocation = '
        (site.place / "registries.conf").write_text(f'{text}"{mirror.host}"\n')
        test_registry_that_keeps_signatures_is_asked_for_them(bench, site, keys, faulty)
        assert mirror.count("GET", ONE.layer_digests[0]) == 1


def marked(answer):
    headers = {**answer.headers, "X-Registry-Supports-Signatures": "1"}
    return answer._replace(headers=headers)


# -- sigstore --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["ec", "rsa", "ed"])
def test_image_signed_as_by_cosign_is_accepted(bench, site, keys, name, key):
    digest = pushed(name, "1")
    seal(keys, name, digest, cosigned(digest, name), key)
    repository = {"type": "matchRepository"}
    site.require(sigstore(keys, key, signedIdentity=repository))
    assert content(bench.pull(f"{name}:1")) == "one\n"


def test_signature_of_the_index_covers_this_machine_s_image(bench, site, keys, name):
    digest = pushed(name, "1", index((ONE, platform("amd64"))))
    seal(keys, name, digest, cosigned(digest, f"{name}:1"))
    site.require(sigstore(keys))
    assert content(bench.pull(f"{name}:1")) == "one\n"


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("wrong-key", "it is signed by another key, or altered"),
        ("altered", "it is signed by another key, or altered"),
        ("nonsense", "it is signed by another key, or altered"),
        ("another-digest", f"it is for {TWO.digest}"),
        ("another-repository", "it is for {name}-other"),
        ("gnupg's", "what is signed is a 'atomic container signature'"),
    ],
)
def test_sigstore_signature_of_something_else_is_none(bench, site, keys, name, case, why):
    pushed(name, "1")
    text = cosigned(
        TWO.digest if case == "another-digest" else ONE.digest,
        f"{name}-other" if case == "another-repository" else name,
    )
    if case == "gnupg's":
        text = payload(ONE.digest, name)
    sealed = {"altered": keys.raw(text + b" ", "ec"), "nonsense": b"x"}.get(case)
    seal(keys, name, ONE.digest, text, "rsa" if case == "wrong-key" else "ec", sealed)
    where = site.require(sigstore(keys, signedIdentity={"type": "matchRepository"}))
    assert refused(bench, f"{name}:1") == (
        f"fairlead: error [signature]: {name}:1: {where} requires a signature (sigstoreSigned), "
        f"and none of 1 is one: {why.format(name=name)} {HINT}"
    )


def test_missing_sigstore_signature_is_told(bench, site, keys, name):
    pushed(name, "1")
    where = site.require(sigstore(keys))
    assert refused(bench, f"{name}:1") == (
        f"fairlead: error [signature]: {name}:1: {where} requires a signature (sigstoreSigned), "
        f"and {ONE.digest} has none {HINT}"
    )


@pytest.mark.parametrize(
    ("demand", "what"),
    [
        ({"type": "sigstoreSigned", "fulcio": {"caPath": "/x"}}, "sigstoreSigned by fulcio"),
        (
            {"type": "sigstoreSigned", "keyPath": "/x", "rekorPublicKeyPath": "/y"},
            "sigstoreSigned with rekor",
        ),
        (
            {"type": "signedBy", "keyType": "X509Certificates", "keyPath": "/x"},
            "signedBy with 'X509Certificates'",
        ),
        ({"type": "signedByMagic"}, "the unknown 'signedByMagic'"),
    ],
)
def test_demand_that_is_not_supported_is_refused_by_name(bench, site, name, demand, what):
    where = site.require(demand)
    assert refused(bench, f"{name}:1") == (
        f"fairlead: error [signature]: {name}:1: {where} requires {what}, which is not supported "
        "(ask the administrator for a requirement by key)"
    )


# -- scopes, and whose policy ----------------------------------------------------------------------


def test_most_specific_scope_decides(bench, site, name):
    for tag in ("1", "2"):
        pushed(name, tag)
    registry = name.partition("/")[0]
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    site.require(scopes={registry: reject, f"{name}:1": accept, name: reject}, default=accept)
    assert content(bench.pull(f"{name}:1")) == "one\n"
    assert bench.line("pull", "-q", f"{name}:2") == (
        f"fairlead: error [policy]: {name}:2: is rejected by {site.place}/policy.json: "
        f"transports: docker: '{name}' "
        "(use what the file named allows, or ask the administrator)"
    )


def test_rejected_image_is_not_asked_for(bench, site, faulty):
    name = faulty.add("demo/x", "1", ONE)
    site.require({"type": "reject"})
    assert "is rejected by" in bench.line("pull", "-q", name)
    assert faulty.requests == []


def test_image_must_satisfy_the_user_s_policy_too(bench, site, name):
    pushed(name, "1")
    site.require({"type": "insecureAcceptAnything"})
    own = bench.home / ".config/containers/policy.json"
    own.parent.mkdir(parents=True)
    own.write_text(json.dumps({"default": [{"type": "reject"}]}))
    assert f"is rejected by {own}: default" in bench.line("pull", "-q", f"{name}:1")
    own.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    site.require({"type": "reject"})
    line = bench.line("pull", "-q", f"{name}:1")
    assert f"is rejected by {site.place}/policy.json: default" in line


def test_image_of_the_store_shows_its_signatures_anew_where_the_demands_changed(
    bench, site, keys, name
):
    pushed(name, "1")
    site.keep(name.partition("/")[2], ONE.digest, keys.message(payload(ONE.digest, f"{name}:1")))
    site.require({"type": "insecureAcceptAnything"})
    assert content(bench.pull(f"{name}:1", "missing")) == "one\n"
    where = site.require(signed_by(keys, "other.gpg"))
    assert bench.line("pull", "-q", f"{name}:1").startswith("fairlead: error [signature]")
    with pytest.raises(Exception, match=r"was not verified by .*: default, and pull is never"):
        bench.pull(f"{name}:1", "never")
    assert where == site.require(signed_by(keys))
    assert content(bench.pull(f"{name}:1", "missing")) == "one\n"
    bench.environ["FAIRLEAD_DEFAULT_REGISTRY"] = "gone.invalid"
    shutil.rmtree(site.lookaside)  # what was verified is not asked for again
    assert content(bench.pull(f"{name}:1", "never")) == "one\n"


def test_what_lies_on_this_machine_has_no_signatures(bench, site, keys, name, tmp_path):
    pushed(name, "1")
    layout = f"oci:{tmp_path}/layout:x"
    words = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
    subprocess.run([*words, f"docker://{name}:1", layout], check=True)
    where = site.require(signed_by(keys))
    assert bench.line("pull", "-q", layout) == (
        f"fairlead: error [signature]: {layout}: {where} requires signedBy, and what lies on this "
        "machine has no signatures (use the image from its registry)"
    )
    policy = site.place / "policy.json"
    accept = {"oci": {str(tmp_path): [{"type": "insecureAcceptAnything"}]}}
    policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": accept}))
    assert content(bench.pull(layout)) == "one\n"
    assert "is rejected by" in bench.line("pull", "-q", f"dir:{bench.home}")


# -- the files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is not valid JSON: "),
        ('{"default": [], "default": []}', "is not valid JSON: a key stands twice in one object"),
        ("[]", "the file is no object"),
        ("{}", "must hold default, may hold transports, and nothing else"),
        ('{"default": []}', "default is no list of requirements"),
        ('{"default": [{}]}', "default holds a requirement without a type"),
        (
            '{"default": [{"type": "reject", "keyPath": "/x"}]}',
            "default: reject holds the unknown 'keyPath'",
        ),
        (
            '{"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}',
            "default: signedBy needs either keyPath, keyPaths or keyData",
        ),
        (
            '{"default": [{"type": "sigstoreSigned", "keyPath": "x"}]}',
            "default: keyPath is no absolute path",
        ),
    ],
)
def test_malformed_policy_accepts_nothing(bench, site, name, text, why):
    site.require()
    policy = site.place / "policy.json"
    policy.write_text(text)
    line = bench.line("pull", "-q", f"{name}:1")
    assert line.startswith(f"fairlead: error [config]: {policy}: {why}"), line


def test_policy_that_is_named_must_exist(bench, site, name):
    site.settings = 'signature_policy = "/nonexistent/policy.json"\n'
    site.require()
    assert bench.line("pull", "-q", f"{name}:1") == (
        "fairlead: error [config]: /nonexistent/policy.json: No such file or directory "
        "(correct the file named)"
    )


def test_key_that_cannot_be_read_accepts_nothing(bench, site, keys, name):
    site.require(signed_by(keys, "gone.gpg"))
    assert bench.line("pull", "-q", f"{name}:1") == (
        f"fairlead: error [config]: {keys.place}/gone.gpg: No such file or directory "
        "(correct the file named)"
    )


# -- the storekeeper -------------------------------------------------------------------------------


def test_storekeeper_verifies_for_itself(shared, site, keys, faulty):
    """The user's engine is told of no policy; the storekeeper's answer is the site's."""
    name = faulty.add("demo/x", "1", ONE)
    os.chmod(site.place.parent, 0o755)
    os.chmod(keys.place, 0o755)
    place = shared.place / "containers"
    shutil.copytree(site.place, place)
    where = f"{place}/policy.json"
    demand = signed_by(keys, keyPaths=[f"{keys.place}/good.gpg"])
    (place / "policy.json").write_text(json.dumps({"default": [demand]}))
    text = f"default-docker: {{lookaside: 'file://{place}/lookaside'}}\n"
    (place / "registries.d/default.yaml").write_text(text)
    shared.trust(faulty.host, settings=f'containers_config = "{place}"\n')
    blind = shared.place / "blind.toml"
    blind.write_text(
        f'insecure_registries = ["{faulty.host}"]\ncontainers_config = "/nonexistent"\n'
    )
    environ = {"FAIRLEAD_SITE_CONFIG": str(blind)}
    answer = shared.run(ALICE, name, environ=environ)
    pinned = f"{name.rpartition(':')[0]}@{ONE.digest}"
    assert answer.error == (
        "signature",
        f"{pinned}: {where}: default requires a signature (signedBy), and {ONE.digest} has none",
    )
    assert shared.layers() == []
    assert faulty.count("GET", ONE.layer_digests[0]) == 0
    folder = place / f"lookaside/demo/x@{ONE.digest.replace(':', '=')}"
    folder.mkdir(parents=True)
    (folder / "signature-1").write_bytes(keys.message(payload(ONE.digest, name)))
    assert shared.run(ALICE, name, environ=environ).found()["name"] == "one\n"
