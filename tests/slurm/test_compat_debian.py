"""What is in a real Debian works in a step as on a machine of its own: bullseye and bookworm, by the plugin's every door."""

from __future__ import annotations

from typing import NamedTuple

import jobs
import pytest
import sheaf

USER = jobs.USER
RELEASES = {"bookworm": jobs.MPI, "bullseye": jobs.BULLSEYE}
MARK = "-- end of case --"


class Case(NamedTuple):
    script: str
    expected: str  # {release}: its name


CASES = {
    "os-release": Case(". /etc/os-release; echo $VERSION_CODENAME", "{release}"),
    "its own bash": Case("bash -c 'echo ${BASH_VERSINFO[0]}'", "5"),
    "its own glibc, not the host's": Case("ldd --version | head -n 1 | grep -c Debian", "1"),
    "user by NSS": Case("getent passwd $(id -u) | cut -d: -f1,3,6", f"{USER.pw_name}:{USER.pw_uid}:{USER.pw_dir}"),
    "group by NSS": Case("getent group $(id -g) | cut -d: -f3", str(USER.pw_gid)),
    "root by NSS": Case("getent passwd 0 | cut -d: -f1", "root"),
    "localhost by NSS": Case("getent hosts localhost | grep -c localhost", "1"),
    "its users by NSS": Case("getent passwd www-data | cut -d: -f1", "www-data"),
    "perl": Case("perl -e 'print getpwuid($<) . qq(\\n)'", USER.pw_name),
    "home is the host's": Case("cd && pwd", USER.pw_dir),
    "temporary files": Case("f=$(mktemp) && echo x > $f && cat $f && rm $f", "x"),
    "pipes and here documents": Case("cat <<END | tr a-z A-Z\nhere\nEND", "HERE"),
    "job control of bash": Case("bash -c 'sleep 0.1 & wait && echo done'", "done"),
    "process substitution by /dev/fd": Case("bash -c 'cat <(echo sub)'", "sub"),
    "stdout by its name in /dev": Case("echo x > /dev/stdout", "x"),
    "random numbers": Case("head -c 4 /dev/urandom | wc -c", "4"),
    "shared memory": Case("f=/dev/shm/fairlead-debian-$$; echo x > $f && cat $f && rm $f", "x"),
    "packages are known": Case("dpkg-query -W -f '${Status}' bash", "install ok installed"),
    "package files can be written to": Case("echo x > /usr/share/new && cat /usr/share/new", "x"),
    "tar keeps what it packs": Case("cd /tmp && tar -C /etc -cf - debian_version | tar -tf -", "debian_version"),
    "no set-user-ID program gains anything": Case("grep -c 'NoNewPrivs.*1' /proc/self/status; find /usr/bin /bin -perm -4000 | wc -l", "1\n0"),
    "root's password file is the image's": Case("head -n 1 /etc/passwd | cut -d: -f1; cat /etc/shadow 2>/dev/null | grep -c demo", f"{USER.pw_name}\n0"),
    "limits are the job's": Case("test $(ulimit -n) -gt 100 && echo yes", "yes"),
    "its locale": Case("LC_ALL=C.UTF-8 bash -c 's=é; echo ${#s}'", "1"),
    "time of day": Case("test $(date +%s) -gt 1700000000 && echo yes", "yes"),
    "name of the node": Case("test $(cat /proc/sys/kernel/hostname) = $(uname -n) && echo yes", "yes"),
    "mounts are its own": Case("awk '$2 == \"/\" {print $3}' /proc/mounts | tail -n 1", "overlay"),
    "working directory of the image": Case("pwd", "/opt/demo"),
}  # fmt: skip
DOORS = {
    "container": ("--container={image}",),
    "container-image": ("--container-image={image}", "--container-mount-home"),
}


@pytest.fixture(scope="module")
def done() -> dict[tuple[str, str, str], list[str]]:
    """What every case printed, by release, door and name."""
    script = "; ".join(f"({case.script}\n) 2>&1; echo '{MARK}'" for case in CASES.values())  # fmt: skip
    commands = {
        f"{release} {door}": sheaf.step(*(word.replace("{image}", image) for word in words), "sh", "-c", script)
        for release, image in RELEASES.items()
        for door, words in DOORS.items()
    }  # fmt: skip
    ended = sheaf.run(commands)
    return {
        (*launch.split(), name): part.splitlines()
        for launch, whole in ended.items()
        for name, part in zip(CASES, "\n".join([*whole.lines, ""]).split(f"{MARK}\n"), strict=False)
    }


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", CASES)
def test_debian(
    done: dict[tuple[str, str, str], list[str]], name: str, release: str, door: str
) -> None:
    expected = CASES[name].expected.replace("{release}", release)
    assert done[release, door, name] == expected.splitlines()
