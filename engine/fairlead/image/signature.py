"""Whether a signature satisfies a demand: its key, the digest and the name that were signed.

Two kinds, one payload: JSON that holds a manifest's digest and a docker reference. ``signedBy``
wraps it in an OpenPGP message, which gpgv verifies; ``sigstoreSigned`` (cosign) has a plain
signature beside it, which openssl verifies. Both programs are the distribution's, which keeps them
safe.

Rules:
- A program gets what it verifies in memory files, an empty environment and no home directory: its
  user's own keys and settings count for nothing. What it prints is bounded, and so is its time.
- Exactly one good signature over exactly one text, by a key of the demand that is neither expired
  nor revoked. What else a message carries makes it worthless.
- A payload with anything unknown in what is signed is refused.
- Nothing here says that an image is good, only why one signature does not show it: the caller
  accepts an image where no reason comes back.

Source: containers-signature(5); containers-policy.json(5) "signedIdentity"; cosign
``SIGNATURE_SPEC.md``; GnuPG ``doc/DETAILS`` "Format of the --status-fd output"; RFC 9580.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from typing import Any, Self

from fairlead import errors, jsontext
from fairlead.image import configfile, policy, reference
from fairlead.image.policy import Requirement
from fairlead.image.reference import Reference

PATH = "/usr/bin:/bin:/usr/local/bin"
MAX_PAYLOAD = 1 << 20
PROGRAM_S = 30.0
ATOMIC, COSIGN = "atomic container signature", "cosign container image signature"
_WORTHLESS = {"BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NODATA", "UNEXPECTED"}
_ED25519 = bytes.fromhex("302a300506032b6570")  # the head of its SubjectPublicKeyInfo, RFC 8410


def fault_of_message(
    message: bytes, demand: Requirement, ref: Reference, digests: tuple[str, ...]
) -> str:
    """Return why an OpenPGP message does not satisfy a demand; empty if it does.

    Raises:
        errors.ConfigError: a key of the demand cannot be read.
        errors.SignatureError: gpgv cannot be run.
    """
    keyring = b"".join(_binary(key) for key in keys(demand))
    payload, status = _gpgv(keyring, message)
    lines = [line.split() for line in status.splitlines() if line.startswith("[GNUPG:] ")]
    words = [line[1] for line in lines if len(line) > 1]
    good = all(words.count(word) == 1 for word in ("PLAINTEXT", "NEWSIG", "GOODSIG", "VALIDSIG"))
    if not good or payload is None or not _WORTHLESS.isdisjoint(words):
        why = {"EXPKEYSIG": "an expired key", "REVKEYSIG": "a revoked key"}
        found = next((why[word] for word in words if word in why), "")
        if not found:
            found = "another key" if "NO_PUBKEY" in words else "no valid key"
        return f"it is signed by {found}"
    return _fault_of_payload(payload, ATOMIC, demand, ref, digests)


def fault_of_sigstore(
    payload: bytes, signed: bytes, demand: Requirement, ref: Reference, digests: tuple[str, ...]
) -> str:
    """Return why a payload and its signature do not satisfy a demand; empty if they do.

    Raises:
        errors.ConfigError: a key of the demand cannot be read.
        errors.SignatureError: openssl cannot be run.
    """
    if not any(_openssl(key, payload, signed) for key in keys(demand)):
        return "it is signed by another key, or altered"
    return _fault_of_payload(payload, COSIGN, demand, ref, digests)


def keys(demand: Requirement) -> tuple[bytes, ...]:
    """Return the public keys of a demand, as its files hold them.

    Raises:
        errors.ConfigError: one cannot be read.
    """
    found = [configfile.read(path, needed=True) or b"" for path in demand.key_paths]
    for text in demand.key_data:
        try:
            found.append(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise errors.ConfigError(f"{demand.origin}: keyData is not base64") from error
    return tuple(found)


# -- what was signed -------------------------------------------------------------------------------


def _fault_of_payload(
    payload: bytes, kind: str, demand: Requirement, ref: Reference, digests: tuple[str, ...]
) -> str:
    try:
        table = jsontext.loads(payload, _unique)
        critical = _only(table, {"critical", "optional"})["critical"]
        image = _only(_only(critical, {"type", "image", "identity"})["image"], {_DIGEST})
        identity = _only(critical["identity"], {_NAME})
        if critical["type"] != kind:
            return f"what is signed is a {critical['type']!r}"
        digest, name = str(image[_DIGEST]), str(identity[_NAME])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "what is signed is no description of an image"
    if digest not in digests:
        return f"it is for {digest}"
    return "" if is_named(name, ref, demand.identity) else f"it is for {name}"


_DIGEST, _NAME = "docker-manifest-digest", "docker-reference"


def is_named(signed: str, ref: Reference, identity: tuple[str, ...]) -> bool:
    """Tell whether a signed name is the one that a demand wants for an image.

    Args:
        signed: as the signature holds it; it may lack a tag.
        ref: the image that is asked for.
        identity: of the demand.
    """
    try:
        found = reference.parse(signed)
    except errors.ReferenceError:
        return False
    if found.transport:
        return False
    whole = ":" in signed.rpartition("/")[2]  # else the tag is our parser's
    kind, *given = identity
    tests: dict[str, Callable[[], bool]] = {
        policy.EXACT_OR_DIGEST: lambda: _is_same(found, ref, whole=whole),
        "matchExact": lambda: whole and found.identity == _by_tag(ref).identity,
        "matchRepository": lambda: found.name == ref.name,
        "exactReference": lambda: whole and str(found) == given[0],
        "exactRepository": lambda: found.name == given[0],
        "remapIdentity": lambda: _is_remapped(found, ref, given[0], given[1], whole=whole),
    }
    return tests[kind]()


def _is_same(found: Reference, ref: Reference, *, whole: bool) -> bool:
    if _by_tag(ref).digest:
        return found.name == ref.name
    return whole and found.identity == _by_tag(ref).identity


def _by_tag(ref: Reference) -> Reference:
    """Return a reference without its digest if it has a tag: that one was asked for by its tag.

    Else whoever moves the tag to another image that was once signed, under another, would be
    believed, for the digest that the tag has is only what its registry says.
    """
    return ref._replace(digest=None) if ref.tag else ref


def _is_remapped(
    found: Reference, ref: Reference, prefix: str, signed: str, *, whole: bool
) -> bool:
    name = ref.name
    if name == prefix or name.startswith(f"{prefix}/"):
        name = signed + name[len(prefix) :]
    registry, _, repository = name.partition("/")
    return _is_same(found, ref._replace(registry=registry, repository=repository), whole=whole)


def _only(table: Any, known: set[str]) -> dict[str, Any]:
    if not isinstance(table, dict) or table.keys() - known:
        raise ValueError("something unknown is signed")
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return table


# -- who signed it ---------------------------------------------------------------------------------


def _gpgv(keyring: bytes, message: bytes) -> tuple[bytes | None, str]:
    """Return the text of a signed message, None if there is too much of it, and gpgv's status."""
    with _memory(keyring) as ring, _memory(message) as signed, _memory(b"") as status:
        words = [_program("gpgv"), "--homedir", "/nonexistent", "--keyring", ring.name]
        words += ["--status-fd", str(status.fd), "--output", "-", signed.name]
        payload = _run(words, (ring.fd, signed.fd, status.fd))
        return payload, os.pread(status.fd, MAX_PAYLOAD, 0).decode(errors="replace")


def _openssl(key: bytes, payload: bytes, signed: bytes) -> bool:
    with _memory(key) as public, _memory(payload) as text, _memory(signed) as seal:
        words = [_program("openssl"), "pkeyutl", "-verify", "-pubin", "-inkey", public.name]
        words += ["-rawin", "-in", text.name, "-sigfile", seal.name]
        if not _is_ed25519(key):  # which hashes by itself
            words += ["-digest", "sha256"]
        answer = _run(words, (public.fd, text.fd, seal.fd))
    return answer is not None and answer.strip() == b"Signature Verified Successfully"


def _run(words: list[str], fds: tuple[int, ...]) -> bytes | None:
    """Return what a program prints, None if it fails, prints too much or takes too long."""
    env = {"LC_ALL": "C", "PATH": PATH, "OPENSSL_CONF": "/dev/null", "GNUPGHOME": "/nonexistent"}
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=fds,
        env=env,
        cwd="/",
    )
    watchdog = threading.Timer(PROGRAM_S, process.kill)
    watchdog.start()
    try:
        with process:
            assert process.stdout is not None
            answer = process.stdout.read(MAX_PAYLOAD + 1)
            if len(answer) > MAX_PAYLOAD:
                process.kill()
                return None
        return answer if process.returncode == 0 else None
    finally:
        watchdog.cancel()
        watchdog.join()


def _program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if found is None:
        raise errors.SignatureError(
            f"{name}: not found in {PATH}, and signatures are verified by it",
            hint=f"ask the administrator to install {name} on this node",
        )
    return found


class _memory:  # noqa: N801 - a context manager, used like a function
    """Bytes under a name that a child process can open."""

    def __init__(self, data: bytes) -> None:
        self.fd = os.memfd_create("fairlead-signature", os.MFD_CLOEXEC)
        self.name = f"/proc/self/fd/{self.fd}"
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.fd, rest) :]
        os.lseek(self.fd, 0, os.SEEK_SET)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _binary(key: bytes) -> bytes:
    """Return an OpenPGP key without its armour, which gpgv does not read in keyrings."""
    if b"-----BEGIN PGP PUBLIC KEY BLOCK-----" not in key:
        return key
    found = b""
    for block in key.split(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")[1:]:
        lines = block.partition(b"-----END")[0].replace(b"\r", b"").split(b"\n")
        start = next((n for n, line in enumerate(lines) if n and not line.strip()), 0)
        body = [line.strip() for line in lines[start:] if line.strip()]
        text = b"".join(line for line in body if not line.startswith(b"="))  # less its checksum
        try:
            found += base64.b64decode(text, validate=True)
        except binascii.Error:
            return key  # gpgv finds no key in it
    return found


def _is_ed25519(key: bytes) -> bool:
    body = b"".join(line for line in key.split(b"\n") if not line.startswith(b"-----"))
    try:
        return base64.b64decode(body).startswith(_ED25519)
    except binascii.Error:
        return False
