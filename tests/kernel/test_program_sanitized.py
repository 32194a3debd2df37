"""Headers of a hostile program are read within their bounds: a thousand damaged files under ASan and UBSan."""

import os
import random
import shutil
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAIN = """
#include <stdio.h>
#include "program.h"
int main(int argc, char **argv)
{
	struct program_facts facts;
	for (int i = 1; i < argc; i++)
		if (program_inspect(argv[i], &facts) < 0 || facts.kind < 0 || facts.kind > PROGRAM_DYNAMIC)
			return 1;
	return 0;
}
"""


@pytest.fixture
def inspect(tmp_path):
    (tmp_path / "main.c").write_text(MAIN)
    words = ["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-g", "-fsanitize=address,undefined"]
    words += ["-fno-sanitize-recover=all", f"-I{ROOT}/c_ext", "-o", tmp_path / "inspect"]
    subprocess.run([*words, tmp_path / "main.c", f"{ROOT}/c_ext/program.c"], check=True)
    return tmp_path / "inspect"


@pytest.mark.parametrize("seed", range(4))
def test_damaged_headers_are_read_within_their_bounds(inspect, tmp_path, seed):
    chance = random.Random(seed)
    with open(shutil.which("ls"), "rb") as file:
        whole = file.read()
    # What counts: file and program headers, and the dynamic section, which lies near the end.
    dynamic = whole.rfind(b"\x01\0\0\0\0\0\0\0", 0, len(whole))
    paths = []
    for number in range(250):
        data = bytearray(whole[: chance.choice((len(whole), len(whole), chance.randrange(5000)))])
        for _ in range(chance.randrange(1, 12)):
            start = chance.choice((0, 64, 64, max(dynamic - 400, 0)))
            place = start + chance.randrange(800)
            if place + 8 <= len(data):
                value = chance.choice((0, 1, 0xFF, 2**31, 2**63, 2**64 - 1, chance.getrandbits(64)))
                data[place : place + 8] = value.to_bytes(8, "little")
        path = tmp_path / f"{number}"
        path.write_bytes(data)
        paths.append(path)
    done = subprocess.run([inspect, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
