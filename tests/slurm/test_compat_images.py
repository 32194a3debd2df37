"""Images of every look run as they are, or are refused with the line that says why: in a step, and by ``fairlead run``.

All images of ``compat_images`` are pushed once and all cases run in one allocation; each case is a behaviour of its own.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import compat_images
import jobs
import pytest
import sheaf

MARK = "-- end of case --"
HOME = jobs.USER.pw_dir
NAME = jobs.USER.pw_name
UID = str(jobs.USER.pw_uid)
BY_HAND = (
    "--entrypoint",
    "",
)  # ``fairlead run`` starts an image's entrypoint, a step does not unless asked


class Case(NamedTuple):
    """A command in an image and what it prints; or the one line of its refusal, which begins with ``[``.

    Attributes:
        note: what Fairlead says beside it.
        options: of srun; None: there is no such case. run: of ``fairlead run``, likewise.
    """

    image: str
    words: tuple[str, ...]
    expected: str
    note: str = ""
    options: tuple[str, ...] | None = ()
    run: tuple[str, ...] | None = BY_HAND


def sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def entered(image: str, words: tuple[str, ...], expected: str) -> Case:
    """With the image's entrypoint; srun takes no step without a command."""
    return Case(image, words, expected, "", ("--container-entrypoint",) if words else None, ())


def same(images: str, words: tuple[str, ...], expected: str, note: str = "") -> dict[str, Case]:
    """One behaviour of several images."""
    return {f"{image}: {expected}": Case(image, words, expected, note) for image in images.split()}


LINK = "the image has a symbolic link in place of this directory (rebuild the image)"
NO_DIRECTORY = "the container has a file where this path takes a directory (rebuild the image, or mount elsewhere)"
NO_FILE = (
    "the container has a directory in place of this file (rebuild the image, or mount elsewhere)"
)
WORKDIR = "(choose another with --container-workdir (or fairlead run --workdir))"
MISSING = "not found in the container (check the spelling and the image's PATH)"
FOREIGN = "no program for this machine, or its interpreter is not in the image (check its permissions, its interpreter line and the machine it was built for)"
NO_PROGRAM = "(check its permissions, its interpreter line and the machine it was built for)"
WHO = sh("id -un; grep -c . /etc/passwd")
SHIPPED = sh(
    "for f in /etc/shadow /etc/fairlead-volume /etc/fairlead-escaped; do test -e $f && echo $f; done; echo no"
)

DISTRIBUTIONS = {
    "RHEL: usr-merged, libraries in /usr/lib64": Case("rhel", sh(". /etc/os-release; echo $ID $VERSION_ID"), "rhel 9.4"),
    "Debian 11: /bin and /lib of their own": Case("unmerged", sh(". /etc/os-release; echo $ID"), "debian"),
    "Ubuntu: os-release is a link": Case("ubuntu", sh(". /etc/os-release; echo $ID"), "ubuntu"),
    "Ubuntu: resolv.conf that dangles becomes the host's": Case("ubuntu", sh("read -r word rest < /etc/resolv.conf; echo ${word:+read}"), "read"),
    "Ubuntu: mtab is the container's": Case("ubuntu", sh("while read -r _ place _; do test $place = /proc && echo $place; done < /etc/mtab; true"), "/proc"),
    "NixOS: everything is a link into /nix": Case("nix", sh(". /etc/os-release; echo $ID"), "nixos"),
    "Alpine: a program of musl": Case("alpine", ("hello",), "hello of 1"),
    "Alpine: busybox is the shell": Case("alpine", sh("cat /etc/alpine-release; readlink /bin/sh"), "3.20.3\nbusybox"),
    "busybox: the user has a name": Case("busybox", WHO, f"{NAME}\n2"),
    "scratch: one static program": Case("scratch", ("/echo", "hello"), "hello"),
    "scratch: no shell": Case("scratch", ("sh",), f"[command-not-found]: sh: {MISSING}"),
    "scratch: without PATH the usual one": Case("scratch", ("/echo",), "\n"),
    "static: its entrypoint is all there is": entered("static", (), "hello of 1"),
    "distroless: a program without a shell": Case("distroless", ("hello",), "hello of 1"),
    "distroless: its user is told not to be": Case("distroless", ("/usr/bin/hello",), "hello of 1", f"the image asks for user '65532'; it runs as {NAME}, as every job"),
    "conda: PATH of the image finds the tool and its interpreter": Case("conda", ("tool",), "tool of /opt/conda"),
}  # fmt: skip

HOLES = {
    "no /etc: one with the user in it": Case("no-etc", WHO, f"{NAME}\n1"),
    "no passwd": Case("no-passwd", WHO, f"{NAME}\n1"),
    "passwd dangles": Case("passwd-dangling", WHO, f"{NAME}\n1"),
    "passwd is an absolute link within the image": Case("passwd-absolute", sh("id -un; grep -c marie /etc/passwd"), f"{NAME}\n1"),
    "passwd leads out of the image": Case("passwd-outside", ("true",), f"[mount]: /etc/passwd: {LINK}"),
    "passwd and group link to each other": Case("passwd-loop", ("true",), f"[mount]: /etc/passwd: {LINK}"),
    "passwd is a pipe": Case("passwd-fifo", WHO, f"{NAME}\n1"),
    "passwd is a directory": Case("passwd-folder", ("true",), f"[mount]: /etc/passwd: {NO_FILE}"),
    "passwd is huge": Case("passwd-huge", WHO, f"{NAME}\n1"),
    "/etc is a link": Case("etc-link", sh("cat /etc/os-release; ls -d /usr/etc/passwd"), "ID=link\n/usr/etc/passwd"),
    "/etc is a file": Case("etc-file", ("true",), f"[mount]: /etc/resolv.conf: {NO_DIRECTORY}"),
    "root and /etc that nobody may write": Case("modes", sh("touch /etc/new 2>/dev/null || echo no; touch /new && ls /new"), "no\n/new"),
    "a file without rights is the user's own to read": Case("modes", sh("test -r /srv/none || echo unreadable; stat -c %a /closed"), "unreadable\n0"),
    "no /tmp: the host's": Case("no-tmp", sh("test -d /tmp -a -w /tmp && echo there"), "there"),
    "/tmp is a file": Case("tmp-file", ("true",), f"[mount]: /tmp: {NO_DIRECTORY}"),
    "/tmp is a link": Case("tmp-link", sh("touch /tmp/fairlead-compat && rm /tmp/fairlead-compat && readlink /tmp"), "var/tmp"),
    "/home is a link": Case("home-link", sh(f"test -w {HOME} && readlink /home"), "usr/home"),
    "a home of this name in the image": Case("home-mine", sh(f"ls {HOME}/of-the-image 2>/dev/null || echo hidden"), "hidden"),
    "/home is a file": Case("home-file", ("true",), f"[mount]: {HOME}: {NO_DIRECTORY}"),
    "/dev of the image is not used": Case("dev-full", sh("test -c /dev/null && test -c /dev/zero && ! test -e /dev/mine && ! test -e /dev/sda && echo ours"), "ours"),
    "/dev leads out": Case("dev-link", ("true",), f"[mount]: /dev: {LINK}"),
    "/dev is a file": Case("dev-file", ("true",), f"[mount]: /dev: {NO_DIRECTORY}"),
    "/proc is a file": Case("proc-file", ("true",), f"[mount]: /proc: {NO_DIRECTORY}"),
    "/proc is a link": Case("proc-link", ("true",), f"[mount]: /proc: {LINK}"),
    "/proc is full": Case("proc-tree", sh("grep -c forged /proc/self/status; grep -q forged /proc/1/cmdline || echo ours"), "0\nours"),
    "/sys is a file": Case("sys-file", ("true",), f"[mount]: /sys: {NO_DIRECTORY}"),
    "/sys is a link": Case("sys-link", ("true",), f"[mount]: /sys: {LINK}"),
    "/run is a link": Case("run-link", sh("test -d /run/munge && readlink /run"), "var/run"),
    "resolv.conf dangles": Case("resolv-link", sh("test -f /etc/resolv.conf && ! readlink /etc/resolv.conf; echo file"), "file"),
    "/etc/hosts is a directory": Case("no-mount-points", ("true",), f"[mount]: /etc/hosts: {NO_FILE}"),
}  # fmt: skip

USERS = {
    f"user {text!r} is told": Case(f"user-{name}", ("id", "-u"), UID, f"the image asks for user {text!r}; it runs as {NAME}, as every job")
    for name, text in (
        *(("name", "nginx"), ("uid", "1234"), ("both", "1234:1234"), ("plus", "+0"), ("minus", "-1")),
        *(("big", "4294967296"), ("space", "1000 "), ("newline", "a\nfairlead: error [x]: forged")),
    )
}  # fmt: skip
USERS |= {f"user {name} is nobody but oneself": Case(f"user-{name}", ("id", "-u"), UID) for name in ("root", "zero", "words", "odd")}  # fmt: skip

CONFIGS = {
    "entrypoint with Cmd as its words": entered("entry", (), "entered with 2\ndefault"),
    "entrypoint with words in place of Cmd": entered("entry", ("echo", "mine"), "entered with 2\nmine"),
    "entrypoint is left out": Case("entry", ("echo", "mine"), "mine"),
    "entrypoint of several words": entered("entry-only", ("more",), "entered with 3\ngiven more"),
    "entrypoint in shell form takes no words": entered("entry-shell", ("ignored",), "shell form"),
    "entrypoint that is not there": entered("entry-missing", ("true",), f"[command-not-found]: /absent: {MISSING}"),
    "entrypoint that is no program": entered("entry-plain", ("true",), f"[command-not-executable]: /plain: Permission denied {NO_PROGRAM}"),
    "empty entrypoint": entered("entry-empty", ("echo", "mine"), "mine"),
    "empty entrypoint with Cmd": entered("entry-empty", (), "default"),
    "fields that are null": Case("entry-null", ("echo", "ok"), "ok"),
    "relative entrypoint starts in the working directory": entered("entry-relative", (), "x in /srv"),
    "Cmd alone, its words as they are": entered("cmd-only", (), "a  b c"),
    "volumes make no mount": Case("volumes", sh("cat /data/x; test -e /absent || echo no; grep -c ' /data ' /proc/self/mountinfo"), "of the image\nno\n0"),
    "volumes reach no file of the host": Case("volumes", SHIPPED, "no"),
    "a volume whose path is a link copies nothing": Case("volume-link", SHIPPED, "no"),
    "working directory": Case("workdir", ("pwd",), "/srv"),
    "working directory that the image lacks is made": Case("workdir-absent", sh("pwd; touch x && ls"), "/not/in/the/image\nx"),
    "working directory is made in a root that is read-only": Case("workdir-absent", sh("pwd; touch x 2>/dev/null || echo no"), "/not/in/the/image\nno", options=("--container-readonly",), run=(*BY_HAND, "--read-only")),
    "working directory is a file": Case("workdir-file", ("true",), f"[workdir]: /plain: Not a directory {WORKDIR}"),
    "relative working directory starts in the root": Case("workdir-relative", ("pwd",), "/srv"),
    "working directory behind a link to descriptors": Case("workdir-link", ("true",), "[workdir]: /out/5: "),
    **{f"working directory by descriptor {n}": Case(f"workdir-fd{n}", ("true",), f"[workdir]: /proc/self/fd/{n}: ") for n in (3, 9, 64)},
    "working directory with dots stays in the root": Case("workdir-dots", ("pwd",), "/"),
    "another working directory than the image's": Case("workdir-absent", ("pwd",), "/bin", options=("--container-workdir=/bin",), run=(*BY_HAND, "--workdir=/bin")),
    "variable without a name or a value is none": Case("env-odd", sh("env | grep -c -e '^=' -e no-equals; true"), "0"),
    "variable that stands twice": Case("env-odd", sh("echo $TWICE; env | grep -c ^TWICE="), "2\n1"),
    "variable with spaces and equals signs": Case("env-odd", sh('echo "$SPACE" "$EQUALS"'), "a b  c a=b=c"),
    "variable is not expanded": Case("env-odd", sh('echo "$DOLLAR" "$QUOTES"'), "$HOME ${PATH} `id` '\""),
    "variable of two lines": Case("env-odd", sh('echo "$LINES"'), "a\nb"),
    "variable in UTF-8": Case("env-odd", sh('echo "$UTF8"'), "é漢"),
    "variable that is empty is set": Case("env-odd", sh("echo ${EMPTY-unset}."), "."),
    "variable that no shell could name": Case("env-odd", ("grep", "-a", "-o", "A.B=dot", "/proc/self/environ"), "A.B=dot"),
    "PATH unset is the usual one, not the host's": Case("env-no-path", sh("echo $PATH"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    "PATH empty finds nothing": Case("env-path-empty", ("true",), f"[command-not-found]: true: {MISSING}"),
    "PATH empty runs what is named by its path": Case("env-path-empty", ("/bin/echo", "ok"), "ok"),
    "loader variables are the image's": Case("env-loader", sh("echo $LD_PRELOAD $LD_AUDIT $LD_LIBRARY_PATH $BASH_ENV"), "/absent.so /evil.so /opt/lib /evil"),
    "image cannot say who one is": Case("env-ours", sh("echo $HOME $USER"), f"{HOME} {NAME}"),
    "image cannot say which job": Case("env-ours", sh('test "$SLURM_JOB_ID" -gt 1 && echo ${PMIX_RANK:-none}'), "none"),
    "image cannot say which container": Case("env-ours", sh("echo ${FAIRLEAD_CONTAINER%%@*}"), "{ref}"),
    "a megabyte of variables": Case("env-large", sh("echo ${#BIG0} ${#BIG9}"), "100000 100000"),
    "a variable of a megabyte": Case("env-larger", ("true",), f"[command-not-executable]: /bin/true: Argument list too long {NO_PROGRAM}"),
    "fields that only Docker has": Case("docker-fields", ("echo", "ok"), "ok"),
    "labels have no effect": Case("annotated", sh("ls /hooked /dev/sda /started 2>/dev/null | wc -l; env | grep -c -i hook"), "0\n0"),
    "twenty thousand variables": Case("env-many", sh("env | grep -c ^V"), "20000"),
    "variable with a NUL": Case("env-nul", ("true",), "[manifest]: {ref}: sha256:{digest}: Env holds a NUL or half a surrogate pair (rebuild or push the image again)"),
    "variable that is no text": Case("env-surrogate", ("true",), "[manifest]: {ref}: sha256:{digest}: Env holds a NUL or half a surrogate pair (rebuild or push the image again)"),
    "entrypoint of numbers": Case("entry-number", ("true",), "[manifest]: {ref}: sha256:{digest}: Entrypoint holds a int, not a string (rebuild or push the image again)"),
    "working directory is not made on the host": Case("workdir-host", ("true",), f"[workdir]: /tmp/fairlead-absent/x: No such file or directory {WORKDIR}"),
    "working directory of two lines": Case("workdir-line", ("pwd",), "/a\nb"),
    "Cmd is a string": Case("cmd-string", ("true",), "[manifest]: {ref}: sha256:{digest}: Cmd is a str, not a list (rebuild or push the image again)"),
    "Env is a string": Case("env-string", ("true",), "[manifest]: {ref}: sha256:{digest}: Env is a str, not a list (rebuild or push the image again)"),
}  # fmt: skip

SAME = "oci docker zstd uncompressed mixed estargz mislabelled nondistributable index manifest-list nested buildx"
FORMATS = {
    **same(f"{SAME} empty-layer", sh("echo runs"), "runs"),
    "docker manifest list leads to this machine's": Case("manifest-list", sh("echo $WHICH"), "docker"),
    "OCI index leads to this machine's": Case("index", sh("echo $WHICH"), "plain"),
    "index in an index": Case("nested", sh("echo $WHICH"), "plain"),
    "an attestation of BuildKit is no image": Case("buildx", sh("echo $WHICH"), "plain"),
    "layers of three compressions": Case("mixed", ("cat", "/a", "/b", "/c"), "gzip\nzstd\nnone"),
    "no layer at all": Case("zero-layers", ("true",), f"[command-not-found]: true: {MISSING}"),
    "a hundred and twenty layers": Case("many-layers", ("ls", "/n"), "119"),
    "no image for this machine": Case("other-platform", ("true",), f"[platform]: {{ref}}: no image for linux/{compat_images.PLATFORM}; there is: linux/s390x (build the image for this machine, or use one of the platforms listed)"),
    "a model is no image": Case("artefact", ("true",), "[manifest]: {ref}: "),
}  # fmt: skip

CONTENTS = {
    "whiteout": Case("whiteouts", ("ls", "/a"), "kept"),
    "opaque directory": Case("whiteouts", ("ls", "/b"), "new"),
    "file in place of a directory": Case("whiteouts", ("cat", "/c"), "a file now"),
    "hard link over layers keeps its content": Case("hard-links", ("cat", "/name", "/other"), "second\nfirst"),
    "setuid bit is gone": Case("suid", sh("stat -c %a /bin/su; grep -c 'NoNewPrivs.*1' /proc/self/status"), "755\n1"),
    "file capabilities are gone": Case("suid", sh("/cap/grep CapEff /proc/self/status | tr -d '[:space:]'"), "CapEff:0000000000000000"),
    "odd names": Case("names", sh("for f in /odd/*; do test -e \"$f\" && echo x; done | grep -c x; test -e '/odd/back\\slash' && echo slash"), "6\nslash"),
    "300 levels": Case("deep", sh("find /d -name end | wc -l"), "1"),
    "sticky directory": Case("sticky", ("stat", "-c", "%a", "/shared"), "1777"),
    "preloaded library of the image reaches no program of the host": Case("preload", ("echo", "ok"), "ok"),
    "script with an interpreter's option": Case("shebang", ("run", "a"), "ran /bin/run a"),
    "script that is its own interpreter": Case("shebang", ("/bin/self",), "[slurm]: fairlead-enter is started by the Slurm plugin only (use fairlead run)", run=None),
    "script whose first line ends as on Windows": Case("shebang", ("crlf",), f"[command-not-executable]: crlf: {FOREIGN}"),
    "script without an interpreter line": Case("shebang", ("shell-less",), f"[command-not-executable]: shell-less: {FOREIGN}"),
    "empty program": Case("shebang", ("empty",), f"[command-not-executable]: empty: {FOREIGN}"),
    "names with dots stay in the root": Case("dot-dot", sh("cat /etc/fairlead-escaped"), "x"),
    "root that is a link": Case("root-link", ("true",), "[layer]: "),
}  # fmt: skip

CASES = {**DISTRIBUTIONS, **HOLES, **USERS, **CONFIGS, **FORMATS, **CONTENTS}


@pytest.fixture(scope="module")
def names() -> dict[str, str]:
    return compat_images.push(jobs.REGISTRY)


class Launch(NamedTuple):
    """One container, for all cases that want the same one and a shell."""

    command: sheaf.Command
    cases: tuple[str, ...]


def launches(names: dict[str, str]) -> list[Launch]:
    """Return what is started, of all cases by both doors."""
    scripts: dict[tuple[str, ...], list[str]] = {}
    made = []
    for name, case in CASES.items():
        for door in doors(case):
            words = _door(door, case, names[case.image])
            if case.words[:2] == ("sh", "-c") and not case.expected.startswith("["):
                scripts.setdefault(words, []).append(f"{door} {name}")
            else:
                made.append(Launch(sheaf.host(*words, *case.words), (f"{door} {name}",)))
    for words, cases in scripts.items():
        each = (f"({CASES[name.partition(' ')[2]].words[2]}); echo '{MARK}'" for name in cases)
        made.append(Launch(sheaf.host(*words, "sh", "-c", "; ".join(each)), tuple(cases)))
    return made


def doors(case: Case) -> list[str]:
    return [d for d, way in (("step", case.options), ("run", case.run)) if way is not None]


def _door(door: str, case: Case, image: str) -> tuple[str, ...]:
    if door == "step":
        return (*sheaf.STEP, f"--container={image}", *(case.options or ()))
    return ("fairlead", "run", *(case.run or ()), image)


@pytest.fixture(scope="module")
def done(names: dict[str, str]) -> dict[str, sheaf.Done]:
    """How every case ended, by door and name."""
    before = os.listdir("/etc")
    started = launches(names)
    ended = sheaf.run({launch.cases[0]: launch.command for launch in started})
    assert os.listdir("/etc") == before
    assert jobs.nodes_out_of_service() == []
    found = {}
    for launch in started:
        whole = ended[launch.cases[0]]
        parts = whole.stdout.split(f"{MARK}\n")
        for at, name in enumerate(launch.cases):
            found[name] = whole._replace(stdout=parts[at]) if at < len(parts) else whole
    return found


@pytest.mark.parametrize(
    ("door", "name"), [(door, name) for name, case in CASES.items() for door in doors(case)]
)
def test_image(done: dict[str, sheaf.Done], names: dict[str, str], name: str, door: str) -> None:
    case = CASES[name]
    ended = done[f"{door} {name}"]
    expected = case.expected.replace("{ref}", names[case.image].partition("@")[0])
    if not expected.startswith("["):
        assert ended.lines == expected.splitlines(), ended.stderr
        assert case.note in ("", *ended.notes), ended.stderr
        return
    found = re.sub(r"@sha256:[0-9a-f]{64}", "", ended.refusal)
    found = re.sub(r"sha256:[0-9a-f]{64}", "sha256:{digest}", found)
    if expected.endswith(": "):  # the rest is the kernel's, or says which of several places
        found = found[: len(expected)]
    assert found == expected
