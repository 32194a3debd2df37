"""The line about a step for the site's logs: one line of JSON, whatever a user wrote."""

import ctypes
import json
import os
import socket
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Stands for slurmstepd, which has what the plugin takes from it.
PROGRAM = """
#include <string.h>
#include "launch_log.h"
spank_err_t spank_get_item(spank_t s, spank_item_t i, ...) { (void)s; (void)i; return ESPANK_ERROR; }
spank_err_t spank_getenv(spank_t s, const char *n, char *b, int l) { (void)s; (void)n; (void)b; (void)l; return ESPANK_ERROR; }
void slurm_error(const char *f, ...) { (void)f; }
void log_line(const char *reference, const char *text, unsigned step, int outcome, const char *to)
{
	struct launch_record record = { .job = 7, .step = step, .uid = 1000, .outcome = outcome, .status = 125 };

	strncpy(record.reference, reference, sizeof(record.reference));
	strncpy(record.text, text, sizeof(record.text));
	launch_log_write(&record, to);
}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def log_line(place):
    (place / "test.c").write_text(PROGRAM)
    flags = ["-std=gnu17", "-D_GNU_SOURCE", "-fPIC", "-shared", "-Ispank_shim", "-Ic_ext"]
    sources = [str(place / "test.c"), "spank_shim/launch_log.c", "c_ext/block.c"]
    where = f'-DLOG_SOCKET="{place}/socket"'
    command = ["gcc", *flags, where, "-o", str(place / "log.so"), *sources]
    subprocess.run(command, cwd=ROOT, check=True)
    loaded = ctypes.CDLL(str(place / "log.so"))
    text = ctypes.c_char_p
    loaded.log_line.argtypes = [text, text, ctypes.c_uint, ctypes.c_int, text]
    return loaded.log_line


bytes_of_a_user = st.binary(max_size=3000).map(lambda data: data.replace(b"\0", b""))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(reference=bytes_of_a_user, text=bytes_of_a_user, outcome=st.sampled_from([-1, 0, 1, 2, 9]))
def test_any_bytes_stay_one_value_on_one_line(log_line, place, reference, text, outcome):
    path = place / "lines"
    path.unlink(missing_ok=True)
    log_line(reference, text, 0, outcome, str(path).encode())
    written = path.read_bytes()
    assert written.count(b"\n") == 1
    assert written.isascii()
    line = json.loads(written)
    assert line["reference"] == reference[:1024].decode("latin-1")
    key = {1: "image", 2: "error"}.get(outcome)
    assert key is None or line[key] == text[:2048].decode("latin-1")
    assert line["outcome"] == {1: "started", 2: "refused"}.get(outcome, "none")


@pytest.mark.parametrize(
    ("step", "name"), [(3, "3"), (0xFFFFFFFB, "batch"), (0xFFFFFFFA, "interactive")]
)
def test_steps_have_their_names(log_line, place, step, name):
    path = place / "steps"
    log_line(b"x", b"x", step, 1, str(path).encode())
    assert json.loads(path.read_text().splitlines()[-1])["step"] == name


def test_syslog_gets_the_line_with_its_priority_and_name(log_line, place):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(f"{place}/socket")
        daemon.settimeout(30)
        log_line(b"x:1", b"x", 0, 1, b"syslog")
        head, _, line = daemon.recv(1 << 16).decode().partition(": ")
    assert head == f"<30>fairlead[{os.getpid()}]"
    assert json.loads(line)["job"] == 7


def test_file_is_not_for_all_to_read_and_no_link_is_followed(log_line, place):
    log_line(b"x", b"x", 0, 1, f"{place}/new".encode())
    assert os.stat(place / "new").st_mode & 0o777 == 0o640
    (place / "link").symlink_to(place / "elsewhere")
    log_line(b"x", b"x", 0, 1, f"{place}/link".encode())
    assert not (place / "elsewhere").exists()


def test_no_one_listening_is_no_failure(log_line, place):
    log_line(b"x", b"x", 0, 1, b"/nonexistent/file")
    (place / "socket").unlink(missing_ok=True)
    log_line(b"x", b"x", 0, 1, b"syslog")
