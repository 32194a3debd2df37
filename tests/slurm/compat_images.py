"""Images doctored to look like those of other distributions, tools and times, and like none.

Each is a value (``images.Image``) under a name; ``push`` puts all into a registry. The programs are real: busybox,
a program linked to musl, the machine's own dash and glibc laid out as other distributions lay them out.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
import images
from images import (
    Entry,
    Image,
    Layer,
    folder,
    hardlink,
    image,
    index,
    layer,
    platform,
    program,
    symlink,
)

Files = dict[str, "bytes | Entry"]

APPLETS = (
    *(
        "sh",
        "cat",
        "echo",
        "env",
        "grep",
        "id",
        "ls",
        "pwd",
        "readlink",
        "stat",
        "touch",
        "true",
        "wc",
        "test",
        "head",
    ),
    *("printenv", "sort", "tr", "od", "find"),
)
PLATFORM = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
MUSL_LOADER = f"ld-musl-{os.uname().machine}.so.1"
NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
HELLO = b'#include <stdio.h>\n#include <unistd.h>\nint main(void) { return printf("hello of %d\\n", getuid() != 0) < 0; }\n'


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


BUSYBOX = program(read(shutil.which("busybox") or "/bin/busybox"))


def shell(place: str = "bin") -> Files:
    """Busybox and its applets in a directory."""
    return {
        f"{place}/busybox": BUSYBOX,
        **{f"{place}/{name}": symlink("busybox") for name in APPLETS},
    }


def release(**fields: str) -> Files:
    """An os-release of another distribution."""
    return {
        "etc/os-release": "".join(f'{name}="{value}"\n' for name, value in fields.items()).encode()
    }


def built(compiler: str, *flags: str) -> Entry:
    """The program HELLO as a compiler makes it."""
    with tempfile.TemporaryDirectory() as place:
        with open(f"{place}/hello.c", "wb") as file:
            file.write(HELLO)
        subprocess.run([compiler, *flags, "-o", f"{place}/hello", f"{place}/hello.c"], check=True)
        return program(read(f"{place}/hello"))


def glibc(loader: str, libraries: str) -> Files:
    """This machine's loader and C library, at other places."""
    found = subprocess.run(
        ["ldd", "/bin/dash"], capture_output=True, text=True, check=True
    ).stdout.split()
    libc = next(word for word in found if word.startswith("/") and "libc.so" in word)
    ld = next(word for word in found if word.startswith("/") and "/ld-" in word)
    return {loader: program(read(ld)), f"{libraries}/libc.so.6": program(read(libc))}


LOADER = {"x86_64": "lib64/ld-linux-x86-64.so.2", "aarch64": "lib/ld-linux-aarch64.so.1"}[
    os.uname().machine
]
DASH = program(read("/bin/dash"))
TRIPLET = f"{os.uname().machine}-linux-gnu"

REPOSITORY = "demo/compat"
BASE = layer(shell())
PATH = "PATH=/bin"


def on_base(files: Files | None = None, *more: Layer, **config: object) -> Image:
    """The shell's layer, one more of these files, and what a Dockerfile would set."""
    layers = [BASE, *([layer(files)] if files else []), *more]
    return image(layers, {"Env": [PATH], **config}, architecture=PLATFORM)


def alone(files: Files, **config: object) -> Image:
    return image([layer(files)], {"Env": [PATH], **config}, architecture=PLATFORM)


def distributions() -> dict[str, Image]:
    """Roots laid out as other distributions do."""
    rhel = {
        **{name: symlink(f"usr/{name}") for name in ("bin", "sbin", "lib", "lib64")},
        "usr/bin/sh": DASH,
        **glibc(f"usr/{LOADER}", "usr/lib64"),
        **release(ID="rhel", VERSION_ID="9.4"),
    }
    debian = {
        "bin/dash": DASH,
        "bin/sh": symlink("dash"),
        **glibc(LOADER, f"lib/{TRIPLET}"),
        **release(ID="debian", VERSION_ID="11"),
    }
    ubuntu = {
        **{name: symlink(f"usr/{name}") for name in ("bin", "sbin", "lib", "lib64")},
        "usr/bin/dash": DASH,
        "usr/bin/sh": symlink("dash"),
        **glibc(f"usr/{LOADER}", f"usr/lib/{TRIPLET}"),
        "etc/os-release": symlink("../usr/lib/os-release"),
        "usr/lib/os-release": b"ID=ubuntu\n",
        "etc/resolv.conf": symlink("../run/systemd/resolve/stub-resolv.conf"),
        "etc/mtab": symlink("../proc/self/mounts"),
        "var/run": symlink("/run"),
    }
    nix = {
        "nix/store/abc-bash/bin/sh": BUSYBOX,
        "bin/sh": symlink("/nix/store/abc-bash/bin/sh"),
        "etc": symlink("/nix/etc"),
        "nix/etc/os-release": b"ID=nixos\n",
    }
    musl = {
        "lib/" + MUSL_LOADER: program(
            read(
                f"/lib/{MUSL_LOADER}"
                if os.path.exists(f"/lib/{MUSL_LOADER}")
                else f"/usr/lib/{TRIPLET.split('-')[0]}-linux-musl/libc.so"
            )
        ),
        "usr/bin/hello": built("musl-gcc"),
        "etc/alpine-release": b"3.20.3\n",
        **release(ID="alpine", VERSION_ID="3.20.3"),
    }
    return {
        "rhel": alone(rhel, Env=["PATH=/usr/bin", "LD_LIBRARY_PATH=/usr/lib64"]),
        "unmerged": alone(debian),
        "ubuntu": alone(ubuntu),
        "nix": alone(nix),
        "alpine": on_base(musl, Env=["PATH=/usr/bin:/bin"]),
        "busybox": on_base({"etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n"}, Cmd=["sh"]),
        "scratch": alone({"echo": BUSYBOX}, Env=[]),
        "static": alone({"hello": built("gcc", "-static")}, Env=[], Entrypoint=["/hello"]),
        "distroless": alone(
            {
                "usr/bin/hello": built("gcc"),
                **glibc(LOADER, f"lib/{TRIPLET}"),
                "etc/passwd": b"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
                "home/nonroot": folder(0o700),
            },
            User="65532", WorkingDir="/home/nonroot", Env=["PATH=/usr/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
        ),
        "conda": on_base({"opt/conda/bin/tool": program(b"#!/usr/bin/env sh\necho tool of $CONDA_PREFIX\n"), "usr/bin/env": symlink("/bin/busybox")}, Env=["PATH=/opt/conda/bin:/bin", "CONDA_PREFIX=/opt/conda"]),
    }  # fmt: skip


def holes() -> dict[str, Image]:
    """Roots that lack something, or have something else in its place."""
    outside = "../../../../../../../../etc"
    return {
        "no-etc": on_base(),
        "no-passwd": on_base({"etc/group": b"root:x:0:\n"}),
        "passwd-dangling": on_base({"etc/passwd": symlink("/nowhere/passwd")}),
        "passwd-absolute": on_base({"etc/passwd": symlink("/usr/lib/passwd"), "usr/lib/passwd": b"marie:x:7:7::/:/bin/sh\n"}),
        "passwd-outside": on_base({"etc/passwd": symlink(f"{outside}/passwd"), "etc/group": symlink(f"{outside}/group")}),
        "passwd-loop": on_base({"etc/passwd": symlink("group"), "etc/group": symlink("passwd")}),
        "passwd-fifo": on_base({"etc/passwd": Entry(kind=b"6")}),
        "passwd-folder": on_base({"etc/passwd": folder()}),
        "passwd-huge": on_base({"etc/passwd": b"#" * (2 << 20)}),
        "etc-link": on_base({"etc": symlink("usr/etc"), "usr/etc/os-release": b"ID=link\n"}),
        "etc-file": on_base({"etc": b"no directory\n"}),
        "modes": on_base({".": folder(0o555), "etc": folder(0o555), "tmp": folder(0o755), "closed": folder(0o000), "srv/none": Entry(b"x", 0o000)}),
        "no-tmp": on_base({"var/x": b""}),
        "tmp-file": on_base({"tmp": b"a file\n"}),
        "tmp-link": on_base({"tmp": symlink("var/tmp"), "var/tmp": folder(0o1777)}),
        "home-link": on_base({"home": symlink("usr/home"), "usr/home/x": b""}),
        "home-mine": on_base({"home/demo/of-the-image": b"hidden\n"}),
        "home-file": on_base({"home": b"a file\n"}),
        "dev-full": on_base({"dev/null": b"a file\n", "dev/zero": symlink("/etc/zero"), "dev/mine": b"x", "dev/sda": Entry(kind=b"4")}),
        "dev-link": on_base({"dev": symlink(f"{outside}/../dev")}),
        "dev-file": on_base({"dev": b""}),
        "proc-file": on_base({"proc": b""}),
        "proc-link": on_base({"proc": symlink("/srv"), "srv/x": b""}),
        "proc-tree": on_base({"proc/self/status": b"forged\n", "proc/1/cmdline": b"forged"}),
        "sys-file": on_base({"sys": b""}),
        "sys-link": on_base({"sys": symlink("srv"), "srv/x": b""}),
        "run-link": on_base({"run": symlink("var/run"), "var/run/x": b""}),
        "resolv-link": on_base({"etc/resolv.conf": symlink("/run/resolvconf/resolv.conf")}),
        "no-mount-points": on_base({"etc/hosts": folder()}),
    }  # fmt: skip


def configs() -> dict[str, Image]:
    """What a configuration may hold."""
    entry: Files = {
        "entry": program(b'#!/bin/sh\necho entered with $#\nexec "$@"\n'),
        "plain": b"no program\n",
        "x": program(b"#!/bin/sh\necho x in $PWD\n"),
    }
    users = {
        "name": "nginx",
        "uid": "1234",
        "both": "1234:1234",
        "root": "root",
        "zero": "0:0",
        "words": "0:",
        "plus": "+0",
        "minus": "-1",
        "big": "4294967296",
        "space": "1000 ",
        "odd": "root:x",
        "newline": "a\nfairlead: error [x]: forged",
    }
    odd = [
        "=empty",
        "",
        "no-equals",
        "TWICE=1",
        "TWICE=2",
        "SPACE=a b  c",
        "EQUALS=a=b=c",
        "DOLLAR=$HOME ${PATH} `id`",
        "QUOTES='\"",
        "LINES=a\nb",
        "UTF8=é漢",
        PATH,
        "EMPTY=",
        "A.B=dot",
        "1ST=digit",
    ]
    return {
        "entry": on_base(entry, Entrypoint=["/entry"], Cmd=["echo", "default"]),
        "entry-only": on_base(entry, Entrypoint=["/entry", "echo", "given"]),
        "entry-shell": on_base(entry, Entrypoint=["/bin/sh", "-c", "echo shell form"]),
        "entry-missing": on_base(entry, Entrypoint=["/absent"]),
        "entry-plain": on_base(entry, Entrypoint=["/plain"]),
        "entry-empty": on_base(entry, Entrypoint=[], Cmd=["echo", "default"]),
        "entry-null": on_base(entry, Entrypoint=None, Cmd=None, Volumes=None, Labels=None, WorkingDir="", User=""),
        "entry-relative": on_base({"srv/x": entry["x"]}, Entrypoint=["./x"], WorkingDir="/srv"),
        "cmd-only": on_base(entry, Cmd=["echo", "a  b", "c"]),
        **{f"user-{name}": on_base({"etc/passwd": b"nginx:x:101:101::/:/bin/sh\n"}, User=user) for name, user in users.items()},
        "volumes": on_base({"data/x": b"of the image\n"}, Volumes={"/data": {}, "/absent": {}, "relative": {}, "/../../etc/fairlead-volume": {}}),
        "volume-link": on_base({"data": symlink("/../../../../etc"), "y": b""}, Volumes={"/data": {}, "/data/shadow": {}}),
        "workdir": on_base({"srv/x": b""}, WorkingDir="/srv"),
        "workdir-absent": on_base(WorkingDir="/not/in/the/image"),
        "workdir-file": on_base(entry, WorkingDir="/plain"),
        "workdir-relative": on_base({"srv/x": b""}, WorkingDir="srv"),
        "workdir-link": on_base({"out": symlink("/proc/self/fd"), "y": b""}, WorkingDir="/out/5"),
        **{f"workdir-fd{number}": on_base(WorkingDir=f"/proc/self/fd/{number}") for number in (3, 9, 64)},
        "workdir-dots": on_base({"srv/x": b""}, WorkingDir="/srv/../../../etc/.."),
        "env-odd": on_base(Env=odd),
        "env-no-path": on_base(Env=["A=1"]),
        "env-path-empty": on_base(Env=["PATH=", "A=1"]),
        "env-loader": on_base(Env=[PATH, "LD_PRELOAD=/absent.so", "LD_AUDIT=/evil.so", "GCONV_PATH=/evil", "BASH_ENV=/evil", "LD_LIBRARY_PATH=/opt/lib"]),
        "env-ours": on_base(Env=[PATH, "HOME=/evil", "USER=evil", "SLURM_JOB_ID=1", "PMIX_RANK=7", "FAIRLEAD_CONTAINER=forged", "TERM=evil"]),
        "env-large": on_base(Env=[PATH, *(f"BIG{n}={'x' * 100_000}" for n in range(10))]),
        "env-larger": on_base(Env=[PATH, f"BIG={'x' * (1 << 20)}"]),
        "docker-fields": on_base(OnBuild=["RUN false"], StopSignal="SIGKILL", Healthcheck={"Test": ["CMD", "false"]}, Shell=["/bin/ash"], ExposedPorts={"80/tcp": {}}, ArgsEscaped=True, Domainname="", Tty=True, OpenStdin=True, Memory=1),
        "annotated": on_base(Labels={"io.kubernetes.cri-o.Devices": "/dev/sda", "cdi.k8s.io/x": "vendor.com/thing=all", "run.oci.hooks.stderr": "/etc/x", "com.hooks.ssh.enabled": "true", "io.podman.annotations.privileged": "TRUE", "hook": "good"}),
        "env-nul": on_base(Env=[PATH, "A=1\0B=2"]),
        "env-surrogate": on_base(Env=[PATH, "BAD=\udcff"]),
        "env-many": on_base(Env=[PATH, *(f"V{n}=x" for n in range(20_000))]),
        "entry-number": on_base(Entrypoint=[1]),
        "workdir-host": on_base(WorkingDir="/tmp/fairlead-absent/x"),
        "workdir-line": on_base(WorkingDir="/a\nb"),
        "cmd-string": on_base(Cmd="echo a string"),
        "env-string": on_base(Env="A=1"),
    }  # fmt: skip


def formats() -> dict[str, Image]:
    """What registries and builders make of the same content."""
    plain = image([BASE], {"Env": [PATH, "WHICH=plain"]}, architecture=PLATFORM)
    docker = image([BASE], {"Env": [PATH, "WHICH=docker"]}, architecture=PLATFORM, docker=True)
    other = image([layer({"x": b""})], {"Env": ["WHICH=other"]}, architecture="s390x")
    zstd = image([layer(shell(), "zstd")], {"Env": [PATH, "WHICH=zstd"]}, architecture=PLATFORM)
    attestation = image(
        [layer({"x": b"{}"})], config_over={"architecture": "unknown", "os": "unknown"}
    )
    bare = layer(shell(), "none")
    mixed = [
        layer({"a": b"gzip\n"}),
        layer({"b": b"zstd\n"}, "zstd"),
        layer({"c": b"none\n"}, "none"),
    ]
    halves = gzip.compress(images.tar(shell()), mtime=0), gzip.compress(b"", mtime=0)
    estargz = Layer(b"".join(halves), BASE.media_type, BASE.diff_id)
    mine = platform(PLATFORM)
    model = {
        "mediaType": "application/vnd.example.model",
        "digest": images.digest_of(b"{}"),
        "size": 2,
    }
    artefact = image([layer({"w": b"1"})], manifest_over={"config": model})
    artefact.blobs[images.digest_of(b"{}")] = b"{}"
    return {
        "oci": plain,
        "docker": docker,
        "zstd": zstd,
        "uncompressed": image([bare], {"Env": [PATH]}, architecture=PLATFORM),
        "mixed": on_base(None, *mixed),
        "estargz": image([estargz], {"Env": [PATH]}, architecture=PLATFORM),
        "mislabelled": image([BASE._replace(media_type=images.OCI_LAYER)], {"Env": [PATH]}, architecture=PLATFORM),
        "nondistributable": image([BASE._replace(media_type=NONDISTRIBUTABLE)], {"Env": [PATH]}, architecture=PLATFORM),
        "index": index((other, platform("s390x")), (plain, mine)),
        "manifest-list": index((other, platform("s390x")), (docker, mine), docker=True),
        "nested": index((index((plain, mine)), None)),
        "buildx": index((plain, mine), (attestation, {"architecture": "unknown", "os": "unknown"})),
        "zero-layers": image([], {"Env": [PATH]}, architecture=PLATFORM),
        "empty-layer": on_base(None, layer(images.tar({}))),
        "many-layers": on_base(None, *(layer({f"n/{n}": b"", **({f"n/.wh.{n - 1}": b""} if n else {})}) for n in range(120))),
        "other-platform": index((other, platform("s390x"))),
        "artefact": artefact,
    }  # fmt: skip


def contents() -> dict[str, Image]:
    """Layers that depend on each other, and entries that only hostile ones have."""
    changed = {"a/.wh.gone": b"", "b/.wh..wh..opq": b"", "b/new": b"new\n", "c": b"a file now\n"}
    lower = {"a/gone": b"", "a/kept": b"kept\n", "b/old": b"", "c/d": b"", "name": b"first\n"}
    return {
        "whiteouts": on_base(lower, layer(changed)),
        "hard-links": on_base(lower, layer({"other": hardlink("name")}), layer({"name": b"second\n"})),
        "suid": on_base({"bin/su": Entry(BUSYBOX.data, 0o6755), "cap/grep": Entry(BUSYBOX.data, 0o755, pax=(("SCHILY.xattr.security.capability", "\x01\0\0\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),))}),
        "names": on_base({"odd/a b": b"", "odd/new\nline": b"", "odd/back\\slash": b"", "odd/-rf": b"", "odd/" + "n" * 255: b"", "odd/é": b""}),
        "deep": on_base({"/".join(["d"] * 300) + "/end": b"found\n"}),
        "sticky": on_base({"shared": folder(0o1777), "shared/x": b""}),
        "preload": on_base({"etc/ld.so.preload": b"/evil.so\n", "evil.so": b"no library"}),
        "shebang": on_base({"bin/run": program(b"#!/bin/sh -e\necho ran $0 $1\n"), "bin/self": program(b"#!/proc/self/exe\n"), "bin/empty": program(b""), "bin/crlf": program(b"#!/bin/sh\r\necho x\n"), "bin/shell-less": program(b"echo no interpreter line\n")}),
        "dot-dot": on_base({"a/../../../../../../etc/fairlead-escaped": b"x"}),
        "root-link": alone({"./.": symlink("/etc")}),
    }  # fmt: skip


def every() -> dict[str, Image]:
    """All of them."""
    return {**distributions(), **holes(), **configs(), **formats(), **contents()}


def push(registry: str) -> dict[str, str]:
    """Put all into one repository of a registry; return how each is named: by digest, for stores that know older ones."""
    there: set[str] = set()
    names = {}
    for tag, value in every().items():
        digest = images.push(registry, REPOSITORY, tag, _without(value, there))
        names[tag] = f"{registry}/{REPOSITORY}:{tag}@{digest}"
    return names


def _without(value: Image, there: set[str]) -> Image:
    """Leave out what has been pushed; all share their first layer."""
    children = tuple(_without(child, there) for child in value.children)
    blobs = {digest: data for digest, data in value.blobs.items() if digest not in there}
    there.update(blobs)
    return value._replace(blobs=blobs, children=children)
