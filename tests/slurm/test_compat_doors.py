"""What users of pyxis, enroot, CSCS's Container Engine and Sarus type means the same here: one case for each documented behaviour.

All run in one allocation; ``{place}`` stands for a directory of the user's that is made for them. What concerns several
nodes, sbatch or a whole job is in ``test_pyxis`` and ``test_edf``.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import compat_images
import jobs
import pytest
import sheaf
from jobs import REGISTRY

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
import images
import local_images

USER = jobs.USER
HOST = "{image}"  # by digest: srun need not ask for it each time
IMAGE = f"--container-image={HOST}"
ENTRY = b'#!/bin/sh\necho "entrypoint of $FROM"\nexec "$@"\n'
ENROOT_RC = """\
mkdir -p "/srv" 2> /dev/null
cd "/srv" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec '/bin/echo' 'enroot entry' "$@"
else
    exec '/bin/echo' 'enroot entry' 'default'
fi
"""


class Case(NamedTuple):
    """A step, or with ``door`` another command; what it prints, or the one line of its refusal, which begins with ``[``."""

    options: tuple[str, ...]
    script: str
    expected: str
    variables: dict[str, str]
    status: int = 0
    door: tuple[str, ...] = sheaf.STEP


def pyxis(
    *options: str, script: str = "", expected: str = "", status: int = 0, **variables: str
) -> Case:
    return Case((IMAGE, *options), script, expected, variables, status)


def edf(text: str, script: str, expected: str, *options: str, **variables: str) -> Case:
    """A step in an environment file of this text; a line ``--- NAME`` begins a further file beside it."""
    return Case((text, *options), script, expected, variables)


def run(*options: str, script: str, expected: str, **variables: str) -> Case:
    """The same by ``fairlead run``, with Sarus's or podman's options."""
    words = ("fairlead", "run", "--entrypoint", "")
    return Case((*options, HOST), script, expected, variables, 0, words)


NO_HOME = f"grep -c ' {USER.pw_dir} ' /proc/self/mountinfo"
WRITES = "touch /x 2>/dev/null && echo writes || echo refused"
MOUNTED = "[mount]: cannot mount "
REMEDY = "(check that the path exists and that you may read it)"
GRAMMAR = "(write SRC[:DST[:FLAG+FLAG]],...)"

PYXIS = {
    "variables of the host come in": pyxis(script="echo $MINE", expected="mine", MINE="mine"),
    "variable of several lines comes in whole": pyxis(script='echo "$MINE"', expected="a\nb", MINE="a\nb"),
    "the image's beat them": pyxis(script="echo $FROM", expected="image", FROM="host"),
    "locale is unset": pyxis(script="echo ${LANG-unset} ${LANGUAGE-unset}", expected="unset unset", LANG="de_DE", LANGUAGE="de"),
    "locale of the image stays": pyxis(script="echo $LC_ALL", expected="C.image", LC_ALL="de_DE"),
    "library path of the host is dropped": pyxis(script="echo ${LD_LIBRARY_PATH-unset}", expected="unset", LD_LIBRARY_PATH="/host"),
    "library path is kept by name": pyxis("--container-env=LD_LIBRARY_PATH", script="echo $LD_LIBRARY_PATH", expected="/host", LD_LIBRARY_PATH="/host"),
    "PATH is the image's": pyxis(script="echo $PATH", expected="/bin", PATH="/host:/usr/bin:/bin"),
    "PATH is kept by name": pyxis("--container-env=PATH", script="echo $PATH", expected="/usr/bin:/bin", PATH="/usr/bin:/bin"),
    "env: several names": pyxis("--container-env=FROM,LANG", script="echo $FROM $LANG", expected="host de", FROM="host", LANG="de"),
    "env: given twice adds up": pyxis("--container-env=FROM", "--container-env=LANG", script="echo $FROM $LANG", expected="host de", FROM="host", LANG="de"),
    "env: a name that is not set leaves the image's": pyxis("--container-env=ABSENT,FROM", script="echo $FROM ${ABSENT-unset}", expected="image unset"),
    "env: an empty value of the host wins": pyxis("--container-env=FROM", script="echo ${FROM-unset}.", expected=".", FROM=""),
    "Slurm's variables are there": pyxis(script='test "$SLURM_JOB_ID" -gt 0 && echo $SLURM_PROCID $SLURM_NTASKS', expected="0 1"),
    "PyTorch's rank is Slurm's": pyxis(script="echo $RANK $LOCAL_RANK $WORLD_SIZE", expected="0 0 1"),
    "PyTorch's address that is set stays": pyxis(script="echo $MASTER_ADDR $MASTER_PORT", expected="here 1", MASTER_ADDR="here", MASTER_PORT="1"),
    "work starts in /": pyxis(script="pwd", expected="/"),
    "workdir": pyxis("--container-workdir=/bin", script="pwd", expected="/bin"),
    "workdir: given twice alike": pyxis("--container-workdir=/bin", "--container-workdir=/bin", script="pwd", expected="/bin"),
    "workdir in a mount": pyxis("--container-mounts={place}:/m", "--container-workdir=/m/plain", script="cat who", expected="plain"),
    "workdir that is not there": pyxis("--container-workdir=/absent", expected="[workdir]: /absent: No such file or directory (choose another with --container-workdir (or fairlead run --workdir))"),
    "workdir in /proc": pyxis("--container-workdir=/proc/self/fd/3", expected="[workdir]: /proc/self/fd/3: /proc, /sys and /dev cannot be a working directory (choose another with --container-workdir (or fairlead run --workdir))"),
    "srun --chdir beats the image": pyxis("--chdir=/var/tmp", script="pwd", expected="/var/tmp"),
    "home with --container-mount-home": pyxis("--container-mount-home", script=NO_HOME, expected="1"),
    "no home with --no-container-mount-home": pyxis("--no-container-mount-home", script=f"{NO_HOME}; true", expected="0"),
    "writable": pyxis("--container-writable", script=WRITES, expected="writes"),
    "read-only": pyxis("--container-readonly", script=WRITES, expected="refused"),
    "read-only leaves what is mounted writable": pyxis("--container-readonly", "--container-mounts={place}/w:/w", script="touch /w/x && echo writes", expected="writes"),
    "what is written is gone afterwards": pyxis(script="test -e /x || echo gone", expected="gone"),
    "entrypoint is not run": pyxis(script="echo x", expected="x"),
    "entrypoint": pyxis("--container-entrypoint", script="echo x", expected="entrypoint of image\nx"),
    "entrypoint with its log": pyxis("--container-entrypoint", "--container-entrypoint-log", script="echo x", expected="entrypoint of image\nx"),
    "entrypoint sees the host's value": pyxis("--container-entrypoint", "--container-env=FROM", script="true", expected="entrypoint of host", FROM="host"),
    "remapped root": pyxis("--container-remap-root", script="id -u; id -un; echo $HOME", expected="0\nroot\n/root"),
    "remapped root is no other user outside": pyxis("--container-remap-root", "--container-mounts={place}/w:/w", script="touch /w/by-root; stat -c %u /w/by-root", expected="0"),
    "one is oneself": pyxis(script="id -u; id -un", expected=f"{USER.pw_uid}\n{USER.pw_name}"),
    "unshared ipc": pyxis("--container-unshare=ipc", script="test $(readlink /proc/self/ns/ipc) != {ipc} && echo own", expected="own"),
    "unshared uts": pyxis("--container-unshare=uts", script="test $(readlink /proc/self/ns/uts) != {uts} && echo own", expected="own"),
    "unshared net has a loopback that is up": pyxis("--container-unshare=net", script="ls /sys/class/net; cat /sys/class/net/lo/carrier", expected="lo\n1"),
    "nothing is unshared": pyxis(script="test $(readlink /proc/self/ns/ipc) = {ipc} && echo host", expected="host"),
    "status is the command's": pyxis(script="exit 42", status=42),
    "a signal is 128 and its number": pyxis(script="kill -9 $$", status=137),
    "command that is missing": Case((IMAGE,), "", "[command-not-found]: absent: not found in the container (check the spelling and the image's PATH)", {}, 127),
    "a squashfs file of enroot by a path that begins with a dot": Case(("--container-image=./box.sqsh",), "echo $ENROOT; pwd", "of the file\n/srv", {}),
    "a squashfs file by its absolute path": Case(("--container-image={place}/box.sqsh",), "echo $ENROOT", "of the file", {}),
    "its /etc/rc is the entrypoint": Case(("--container-image=./box.sqsh", "--container-entrypoint"), "", "enroot entry sh -c true", {}),
    "a SIF file": Case(("--container-image=./box.sif",), "cat /etc/os-release", "ID=box", {}),
    "a directory": Case(("--container-image=./root",), "cat /etc/os-release", "ID=box", {}),
    "an OCI layout": Case(("--container-image=oci:{place}/layout:1",), "cat /etc/os-release", "ID=box", {}),
    "an OCI archive": Case(("--container-image=oci-archive:{place}/oci.tar",), "cat /etc/os-release", "ID=box", {}),
    "a docker archive": Case(("--container-image=docker-archive:{place}/docker.tar",), "cat /etc/os-release", "ID=box", {}),
    "a squashfs file that is missing": Case(("--container-image=./absent.sqsh",), "", "[image-not-found]: {place}/absent.sqsh: ", {}),
}  # fmt: skip

MOUNTS = {
    "source and destination": ("{place}/plain:/m", "cat /m/who", "plain"),
    "source alone": ("{place}/plain", "cat {place}/plain/who", "plain"),
    "relative source": ("./plain:/m", "cat /m/who", "plain"),
    "relative source alone lands at its own path": ("./plain", "cat {place}/plain/who", "plain"),
    "destination is made": ("{place}/plain:/not/yet/there", "cat /not/yet/there/who", "plain"),
    "a file": ("{place}/plain/who:/file", "cat /file", "plain"),
    "a file over a file of the image": ("{place}/plain/who:/entry", "cat /entry", "plain"),
    "a directory over one of the image hides it": ("{place}/plain:/srv", "ls /srv", "who"),
    "a directory over a file": ("{place}/plain:/entry", "", "[mount]: /entry: the container has a file where this path takes a directory (rebuild the image, or mount elsewhere)"),
    "a file over a directory": ("{place}/plain/who:/srv", "", "[mount]: /srv: the container has a directory in place of this file (rebuild the image, or mount elsewhere)"),
    "ro": ("{place}/w:/m:ro", "touch /m/x 2>/dev/null || echo refused", "refused"),
    "rw": ("{place}/w:/m:rw", "touch /m/x && echo writes", "writes"),
    "noexec": ("{place}/w:/m:noexec", "/m/program 2>/dev/null || echo refused", "refused"),
    "without noexec": ("{place}/w:/m", "/m/program", "runs"),
    "several flags": ("{place}/w:/m:ro+nosuid+nodev+noexec+rprivate", "touch /m/x 2>/dev/null || echo refused", "refused"),
    "nofail": ("{place}/absent:/m:nofail", "test -e /m || echo none", "none"),
    "source that is missing": ("{place}/absent:/m", "", f"{MOUNTED}{{place}}/absent: No such file or directory {REMEDY}"),
    "source that one may not read": ("/root/x:/m", "", f"{MOUNTED}/root/x: Permission denied {REMEDY}"),
    "source that is a link": ("{place}/link:/m", "cat /m/who", "plain"),
    "space in a path": ("{place}/a b:/a b", "cat '/a b/who'", "a b"),
    "colon in a path": (r"{place}/c\:d:/m", "cat /m/who", "c:d"),
    "comma in a path": (r"{place}/e\,f:/m", "cat /m/who", "e,f"),
    "hash and dollar in a path": ("{place}/#$x:/m", "cat /m/who", "#$x"),
    "an octal escape is four characters": (r"{place}/\040y:/m", "cat /m/who", r"\040y"),
    "tmpfs": ("tmpfs:/m", "touch /m/x && grep -c ' /m tmpfs' /proc/mounts", "1"),
    "tmpfs of a size": ("tmpfs:/m:size=1m+mode=700", "stat -f -c %b.%S /m | (IFS=. read -r b s; echo $((b * s))); stat -c %a /m", "1048576\n700"),
    "tmpfs, read-only": ("tmpfs:/m:ro", "touch /m/x 2>/dev/null || echo refused", "refused"),
    "umount of what is mounted": ("umount:/dev/shm", "grep -c ' /dev/shm ' /proc/self/mountinfo; true", "0"),
    "umount of the home": (f"umount:{USER.pw_dir}", f"{NO_HOME}; true", "0"),
    "umount of nothing": ("umount:/srv", "", "[mount]: --container-mounts: umount:/srv: nothing is mounted there (leave it out)"),
    "several": ("{place}/plain:/1,{place}/a b:/2", "cat /1/who /2/who", "plain\na b"),
    "the same twice is one": ("{place}/plain:/m,{place}/plain:/m", "grep -c ' /m ' /proc/self/mountinfo", "1"),
    "of two at one place the later is seen": ("{place}/plain:/m,{place}/a b:/m", "cat /m/who", "a b"),
    "one in the other": ("{place}/w:/m,{place}/plain:/m/inner", "cat /m/inner/who", "plain"),
    "one in the other, where it has no place": ("{place}/w:/m,{place}/plain:/m/none", "", "[mount]: /m/none: does not exist in the host's directory that is bound there (create it on the host first, or mount elsewhere)"),
    "a place in the host's directory that is missing": ("{place}/plain:{home}/fairlead-absent", "", "[mount]: {home}/fairlead-absent: does not exist in the host's directory that is bound there (create it on the host first, or mount elsewhere)"),
    "through a link of the image it stays in the root": ("{place}/plain:/out/m", "cat /etc/m/who", "plain"),
    "a link of the image into the kernel's trees": ("{place}/plain:/evil/sys", "", "[mount]: /evil/sys: the image has a symbolic link in place of this directory (rebuild the image)"),
    "over /proc": ("{place}/plain:/proc", "", "[usage]: --container-mounts: destination '/proc': cannot be replaced (choose another)"),
    "over /": ("{place}/plain:/", "", "[usage]: --container-mounts: destination '/': cannot be replaced (choose another)"),
    "a device": ("/dev/zero:/dev/mine", "head -c 1 /dev/mine | od -An -c | tr -d ' '", "\\0"),
    "a device elsewhere than in /dev cannot be opened": ("/dev/zero:/mine", "ls /mine; head -c 1 /mine 2>/dev/null || echo refused", "/mine\nrefused"),
    "shared memory stays the host's": ("/dev/shm:/dev/shm", "touch /dev/shm/fairlead-doors && rm /dev/shm/fairlead-doors && echo writes", "writes"),
    "shared": ("/tmp:/m:shared", "", "[usage]: --container-mounts: '/tmp:/m:shared' flag 'shared': no mount leads from a container to the host (leave it out)"),
    "long syntax": ("type=bind,source={place}/plain,destination=/m,readonly", "cat /m/who; touch /m/x 2>/dev/null || echo refused", "plain\nrefused"),
    "long syntax, several": ("type=bind,src={place}/plain,dst=/1,type=tmpfs,dst=/2,{place}/a b:/3", "cat /1/who /3/who; grep -c ' /2 tmpfs' /proc/mounts", "plain\na b\n1"),
    "long syntax, without a destination": ("type=bind,source=/tmp", "", "[usage]: --container-mounts type=bind,source=/tmp: has no destination (write type=bind,source=SRC,destination=DST[,readonly])"),
}  # fmt: skip

YES, NO = ("1", "true", "YES", "y"), ("0", "False", "no", "N")
WORDS = {
    **{f"PYXIS_CONTAINER_READONLY={word}": pyxis(script=WRITES, expected="refused", PYXIS_CONTAINER_READONLY=word) for word in YES},
    **{f"PYXIS_CONTAINER_READONLY={word}": pyxis(script=WRITES, expected="writes", PYXIS_CONTAINER_READONLY=word) for word in NO},
    "PYXIS_CONTAINER_READONLY=": pyxis(script=WRITES, expected="writes", PYXIS_CONTAINER_READONLY=""),
    "the opposite option beats the variable": pyxis("--container-writable", script=WRITES, expected="writes", PYXIS_CONTAINER_READONLY="1"),
    "PYXIS_CONTAINER_SAVE": pyxis(script="echo kept > /new", PYXIS_CONTAINER_SAVE="{place}/w/saved.sqsh"),
    "PYXIS_CONTAINER_NAME that is none": pyxis(expected="[usage]: --container-name: '/x' is not a name (letters, digits, '_', '-' and '.', at most 128, not '-' or '.' first)", PYXIS_CONTAINER_NAME="/x"),
}  # fmt: skip

NAMED = f'image = "{HOST}"\n'
EDF = {
    "image": edf(NAMED, "echo $FROM", "image"),
    "image as a squashfs file": edf('image = "{place}/box.sqsh"', "echo $ENROOT", "of the file"),
    "image from a variable": edf('image = "${REG}#demo/${WHAT:-doors}:1"', "echo $FROM", "image", REG=REGISTRY),
    "workdir": edf(f'{NAMED}workdir = "/bin"', "pwd", "/bin"),
    "no workdir: the image's, else /": edf(NAMED, "pwd", "/"),
    "entrypoint is off": edf(NAMED, "echo x", "x"),
    "entrypoint = true": edf(f"{NAMED}entrypoint = true", "echo x", "entrypoint of image\nx"),
    "entrypoint = false": edf(f"{NAMED}entrypoint = false", "echo x", "x"),
    "writable is on": edf(NAMED, WRITES, "writes"),
    "writable = false": edf(f"{NAMED}writable = false", WRITES, "refused"),
    "mounts": edf(f'{NAMED}mounts = ["{{place}}/plain:/1", "{{place}}/a b:/2:ro"]', "cat /1/who /2/who; touch /2/x 2>/dev/null || echo ro", "plain\na b\nro"),
    "mounts from a variable": edf(f'{NAMED}mounts = ["${{PLACE}}/plain:${{TO:-/m}}"]', "cat /m/who", "plain", PLACE="{place}"),
    "mounts, relative": edf(f'{NAMED}mounts = ["./plain:/m"]', "cat /m/who", "plain"),
    "mounts of a squashfs file": edf(f'{NAMED}mounts = ["{{place}}/box.sqsh:/m:sqsh"]', "cat /m/etc/os-release; touch /m/x 2>/dev/null || echo ro", "ID=box\nro"),
    "mounts, tmpfs": edf(f'{NAMED}mounts = ["tmpfs:/m"]', "grep -c ' /m tmpfs' /proc/mounts", "1"),
    "devices": edf(f'{NAMED}devices = ["/dev/zero:/dev/mine"]', "test -c /dev/mine && echo there", "there"),
    "env": edf(f'{NAMED}[env]\nA = "1"\nB = "two words"', 'echo "$A" "$B"', "1 two words"),
    "env beats image and job": edf(f'{NAMED}[env]\nFROM = "file"', "echo $FROM", "file", FROM="host"),
    "env from the job": edf(f'{NAMED}[env]\nA = "${{MINE}}!"', "echo $A", "mine!", MINE="mine"),
    "env from the image": edf(f'{NAMED}[env]\nPATH = "/x:${{PATH}}"', "echo $PATH", "/x:/bin"),
    "env with a default": edf(f'{NAMED}[env]\nA = "${{ABSENT:-default}}"', "echo $A", "default"),
    "env with a dollar": edf(f'{NAMED}[env]\nA = "$${{FROM}}"', "echo $A", "${FROM}"),
    "env unsets what the image sets": edf(f'{NAMED}[env]\nFROM = ""', "echo ${FROM-unset}", "unset"),
    "env unsets what the job sets": edf(f'{NAMED}[env]\nMINE = ""', "echo ${MINE-unset}", "unset", MINE="mine"),
    "entries of env do not see each other": edf(f'{NAMED}[env]\nA = "1"\nB = "${{A:-none}}"', "echo $B", "none"),
    "locale is unset": edf(NAMED, "echo ${LANG-unset}", "unset", LANG="de_DE"),
    "PyTorch gets its variables": edf(NAMED, "echo $RANK", "0"),
    "PyTorch's annotation, dotted": edf(f'{NAMED}[annotations]\ncom.pyxis.pytorch_remap_vars = "false"', "echo ${RANK-none}", "none"),
    "PyTorch's annotation, in a table": edf(f'{NAMED}[annotations.com.pyxis]\npytorch_remap_vars = "false"', "echo ${RANK-none}", "none"),
    "the image's MPI by annotation": edf(f'{NAMED}[annotations.com.hooks.mpi]\nenabled = "false"', "echo ok", "ok"),
    "inherits a name": edf(f'base_environment = "base"\n--- base\n{NAMED}workdir = "/bin"', "pwd", "/bin"),
    "inherits a path": edf(f'base_environment = "{{edf}}/base.toml"\n--- base\n{NAMED}workdir = "/bin"', "pwd", "/bin"),
    "inherits several, the later beats": edf(f'base_environment = ["one", "two"]\n--- one\n{NAMED}workdir = "/bin"\n[env]\nA = "1"\nB = "1"\n--- two\nworkdir = "/srv"\n[env]\nB = "2"', "pwd; echo $A $B", "/srv\n1 2"),
    "what inherits beats": edf(f'base_environment = "base"\nworkdir = "/srv"\n--- base\n{NAMED}workdir = "/bin"', "pwd", "/srv"),
    "mounts add up": edf(f'base_environment = "base"\nmounts = ["{{place}}/a b:/2"]\n--- base\n{NAMED}mounts = ["{{place}}/plain:/1"]', "cat /1/who /2/who", "plain\na b"),
    "ten levels": edf('base_environment = "l1"\n' + "".join(f'--- l{n}\nbase_environment = "l{n + 1}"\n' for n in range(1, 10)) + f'--- l10\n{NAMED}workdir = "/bin"', "pwd", "/bin"),
    "option beats workdir": edf(f'{NAMED}workdir = "/bin"', "pwd", "/srv", "--container-workdir=/srv"),
    "option beats writable": edf(f"{NAMED}writable = false", WRITES, "writes", "--container-writable"),
    "option beats entrypoint": edf(f"{NAMED}entrypoint = true", "echo x", "x", "--no-container-entrypoint"),
    "option beats image": edf('image = "none/such:1"', "echo $FROM", "image", IMAGE),
    "mounts of options are added": edf(f'{NAMED}mounts = ["{{place}}/plain:/1"]', "cat /1/who /2/who", "plain\na b", "--container-mounts={place}/a b:/2"),
    "the host's value by --container-env beats the file": edf(f'{NAMED}[env]\nFROM = "file"', "echo $FROM", "host", "--container-env=FROM", FROM="host"),
    "home is left out by option": edf(NAMED, f"{NO_HOME}; true", "0", "--no-container-mount-home"),
    "unknown key": edf(f"{NAMED}moutns = []", "", "[edf]: {file}:2: unknown key 'moutns' (did you mean mounts?)"),
    "wrong type": edf(f'{NAMED}writable = "yes"', "", "[edf]: {file}:2: writable is a string, not true or false (see fairlead edf check)"),
    "undefined variable": edf(f'{NAMED}[env]\nA = "${{ABSENT}}"', "", "[edf]: {file}:3: the variable ABSENT is not defined (set it, or write ${ABSENT:-default})"),
    "malformed mount": edf(f'{NAMED}mounts = ["/a:b"]', "", "[edf]: {file}:2: '/a:b' has a destination that is no path (begin it with /)"),
    "mount without a source": edf(f'{NAMED}mounts = ["{{place}}/absent:/m"]', "", f"{MOUNTED}{{place}}/absent: No such file or directory {REMEDY}"),
    "mount over /sys": edf(f'{NAMED}mounts = ["/tmp:/sys"]', "", "[usage]: {file}:2: destination '/sys': cannot be replaced (choose another)"),
    "unknown flag": edf(f'{NAMED}mounts = ["/tmp:/m:readonly"]', "", "[edf]: {file}:2: '/tmp:/m:readonly' flag 'readonly' is not known (known are ro, rw, bind, rbind, noexec, private, rprivate, slave, rslave, unbindable, runbindable)"),
    "no image": edf('workdir = "/"', "", '[edf]: {file}: names no image (add image = "...")'),
    "no TOML": edf("image =", "", "[edf]: {file}:1: Invalid value (write it as TOML)"),
    "inherits from itself": edf('base_environment = "base"\n--- base\nbase_environment = "base"', "", "[edf]: {edf}/base.toml:1: inherits from itself: {edf}/base.toml -> {edf}/base.toml (shorten the chain)"),
    "eleven levels": edf('base_environment = "l1"\n' + "".join(f'--- l{n}\nbase_environment = "l{n + 1}"\n' for n in range(1, 11)) + f"--- l11\n{NAMED}", "", "[edf]: "),
    "base that is missing": edf('base_environment = "absent"', "", "[edf]: {file}:1: base_environment absent: no such environment file in {edf} (set EDF_PATH, or write the path)"),
    "annotation that is neither": edf(f'{NAMED}[annotations]\ncom.hooks.mpi.enabled = "maybe"', "", "[edf]: {file}:3: annotation com.hooks.mpi.enabled: 'maybe' is neither true nor false (write \"true\" or \"false\")"),
    "device that is none": edf(f'{NAMED}devices = ["thing"]', "", "[edf]: {file}:2: device 'thing': neither HOST[:CONTAINER][:rwm] nor vendor.com/class=name (write e.g. /dev/fuse or nvidia.com/gpu=0)"),
    "device of CDI that is unknown": edf(f'{NAMED}devices = ["vendor.com/none=0"]', "", "[device]: vendor.com/none=0: "),
    "workdir with a newline": edf(f'{NAMED}workdir = "/a\\nb"', "", "[edf]: {file}:2: workdir: '/a\\nb' is too long, or holds a control character (see fairlead edf check)"),
}  # fmt: skip

SARUS = {
    "--mount": run("--mount=type=bind,source={place}/plain,destination=/m,readonly", script="cat /m/who; touch /m/x 2>/dev/null || echo ro", expected="plain\nro"),
    "--mount, several": run("--mount=type=bind,source={place}/plain,dst=/1", "--mount=type=bind,source={place}/a b,dst=/2", script="cat /1/who /2/who", expected="plain\na b"),
    "-e NAME=VALUE": run("-e", "FROM=me", "--env=B=2", script="echo $FROM $B", expected="me 2"),
    "-e NAME": run("-e", "FROM", script="echo $FROM", expected="host", FROM="host"),
    "--workdir": run("--workdir=/bin", script="pwd", expected="/bin"),
    "-w": run("-w", "/bin", script="pwd", expected="/bin"),
    "--device": run("--device=/dev/zero:/dev/mine", script="test -c /dev/mine && echo there", expected="there"),
    "--annotation": run("--annotation=com.hooks.logging.level=2", script="echo ok", expected="ok"),
    "--init, --glibc, --tty": run("--init", "--glibc", "-t", script="echo ok", expected="ok"),
    "--pid=host": run("--pid=host", script="echo ok", expected="ok"),
    "--pid=private": run("--pid=private", script="", expected="[usage]: "),
    "--ssh": run("--ssh", script="", expected="[usage]: "),
    "--mount of no kind": run("--mount=type=volume,source=x,destination=/m", script="", expected="[usage]: --mount type=volume,source=x,destination=/m: type 'volume' is neither bind nor tmpfs (write type=bind,source=SRC,destination=DST[,readonly])"),
}  # fmt: skip

CASES = {
    **{f"pyxis: {name}": case for name, case in PYXIS.items()},
    **{
        f"mount: {name}": pyxis(f"--container-mounts={text}", script=script, expected=expected)
        for name, (text, script, expected) in MOUNTS.items()
    },
    **{f"variable: {name}": case for name, case in WORDS.items()},
    **{f"edf: {name}": case for name, case in EDF.items()},
    **{f"sarus: {name}": case for name, case in SARUS.items()},
}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory of the user's: files of odd names, one image in every form, environment files."""
    top = Path(tempfile.mkdtemp(prefix="fairlead-doors-", dir="/var/tmp"))
    for name in ("plain", "a b", "c:d", "e,f", "#$x", r"\040y", "w"):
        (top / name).mkdir()
        (top / name / "who").write_text(f"{name}\n")
    (top / "w/inner").mkdir()
    (top / "w/program").write_bytes(b"#!/bin/sh\necho runs\n")
    (top / "w/program").chmod(0o755)
    (top / "link").symlink_to("plain")
    _local_images(top)
    for number, case in enumerate(CASES.values()):
        _write_edf(top, number, case)
    for path in (top, *top.rglob("*")):
        os.lchown(path, USER.pw_uid, USER.pw_gid)
    yield top
    shutil.rmtree(top)


def _local_images(top: Path) -> None:
    files = {**compat_images.shell(), "etc/os-release": b"ID=box\n", "srv/x": b""}
    box = images.image(
        [images.layer(files)], {"Env": ["PATH=/bin"]}, architecture=compat_images.PLATFORM
    )
    local_images.write_layout(top / "layout", {"1": box})
    local_images.oci_archive(top / "oci.tar", box)
    local_images.docker_archive(top / "docker.tar", box, {"layer.tar": images.tar(files)})
    root = top / "root"
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        entry = content if isinstance(content, images.Entry) else images.Entry(content)
        if entry.link:
            path.symlink_to(entry.link)
        else:
            path.write_bytes(entry.data)
            path.chmod(entry.mode)
    local_images.sif(top / "box.sif", local_images.mksquashfs(root, top / "box.sqsh").read_bytes())
    enroot = shutil.copytree(root, top / "enroot", symlinks=True)
    (enroot / "etc/rc").write_text(ENROOT_RC)
    (enroot / "etc/environment").write_text("PATH=/bin\nENROOT='of the file'\n")
    (enroot / "etc/fstab").write_text("")
    local_images.mksquashfs(enroot, top / "box.sqsh")


def _write_edf(top: Path, number: int, case: Case) -> None:
    """Write the files of a case into a directory of their own, as x.toml and what it names."""
    if not case.options or "=" not in case.options[0] or case.options[0].startswith("-"):
        return
    directory = top / f"edf{number}"
    directory.mkdir()
    first, *others = _filled(case.options[0], top, number).split("--- ")
    (directory / "x.toml").write_text(first)
    for text in others:
        name, _, content = text.partition("\n")
        (directory / f"{name}.toml").write_text(content)


@functools.cache
def _image() -> str:
    """An image with an entrypoint and PyTorch's variable, without a working directory."""
    entry = {
        "entry": images.program(ENTRY),
        "srv/x": b"",
        "out": images.symlink("/etc"),
        "etc/x": b"",
        "evil": images.symlink("/proc"),
    }
    config = {
        "Env": ["PATH=/bin", "FROM=image", "LC_ALL=C.image", "PYTORCH_VERSION=2.1"],
        "Entrypoint": ["/entry"],
    }
    image = images.image(
        [compat_images.BASE, images.layer(entry)], config, architecture=compat_images.PLATFORM
    )
    return f"{REGISTRY}/demo/doors@{images.push(REGISTRY, 'demo/doors', '1', image)}"


@functools.cache
def _namespaces() -> dict[str, str]:
    """The namespaces of a step without a container."""
    kinds = ("ipc", "uts")
    paths = (f"/proc/self/ns/{kind}" for kind in kinds)
    return dict(zip(kinds, jobs.output(jobs.run("srun", "readlink", *paths)).split(), strict=True))


def _filled(text: str, top: Path, number: int) -> str:
    values = {
        "place": top,
        "edf": f"{top}/edf{number}",
        "file": f"{top}/edf{number}/x.toml",
        "home": USER.pw_dir,
    }
    values |= {**_namespaces(), "image": _image()}
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


@pytest.fixture(scope="module")
def done(place: Path) -> dict[str, sheaf.Done]:
    """How every case ended."""
    commands = {}
    for number, (name, case) in enumerate(CASES.items()):
        commands[name] = _command(name, case, place, number)
    ended = sheaf.run(commands)
    assert jobs.nodes_out_of_service() == []
    return ended


def _command(name: str, case: Case, top: Path, number: int) -> sheaf.Command:
    options = [_filled(word, top, number) for word in case.options]
    variables = {key: _filled(value, top, number) for key, value in case.variables.items()}
    if name.startswith("edf: "):
        options[0] = "--environment=x"
        variables["EDF_PATH"] = f"{top}/edf{number}"
    script = _filled(case.script, top, number)
    words = ("absent",) if case.status == 127 else ("sh", "-c", script or "true")
    return sheaf.host(*case.door, *options, *words, cwd=str(top), **variables)


@pytest.mark.parametrize("name", CASES)
def test_documented_behaviour(done: dict[str, sheaf.Done], place: Path, name: str) -> None:
    case, ended = CASES[name], done[name]
    expected = _filled(case.expected, place, list(CASES).index(name))
    if not expected.startswith("["):
        assert (ended.status, ended.stdout.splitlines()) == (case.status, expected.splitlines()), (
            ended.stderr
        )
        return
    assert ended.status == (case.status or 125)
    found = ended.refusal
    if expected.endswith(": "):  # the rest is the kernel's, or names what this node has
        found = found[: len(expected)]
    assert found == expected


def test_variable_of_pyxis_names_the_file_to_save(done: dict[str, sheaf.Done], place: Path) -> None:
    assert done["variable: PYXIS_CONTAINER_SAVE"].status == 0
    assert (place / "w/saved.sqsh").stat().st_uid == USER.pw_uid
