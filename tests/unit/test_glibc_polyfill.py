"""glibc.polyfill: the library that is written, as readelf and the loader see it."""

import ctypes
import itertools
import re
import subprocess

import glibc_forge as forge
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.glibc import arch, binding, dynamic, polyfill
from fairlead.host import elf

FAMILY = forge.family(
    libc="__errno_location@@GLIBC_2.2.5 malloc@@GLIBC_2.2.5",
    libpthread="pthread_create@@GLIBC_2.2.5 pthread_join@@GLIBC_2.2.5",
)
OFFERS = binding.Offers(frozenset({"stat", "gettid"}), (("__errno_location", False),))
ASKED = (
    "libc.so.6:stat@GLIBC_2.33",
    "libc.so.6:pthread_create@GLIBC_2.34",
    "libc.so.6:pthread_join@GLIBC_2.34",
    "libc.so.6:__libc_single_threaded@GLIBC_2.32",
    "libc.so.6:@GLIBC_2.38",
)


def decide(*asked, family=FAMILY):
    found = binding.plan([forge.needs(*asked, machine=family.machine)], family, OFFERS)
    assert found.action == "down-bind", found.reasons
    return found


@pytest.fixture(params=["x86_64", "aarch64"])
def written(request, tmp_path):
    family = FAMILY._replace(machine=elf.MACHINES[request.param])
    path = tmp_path / polyfill.SONAME
    path.write_bytes(polyfill.write(decide(*ASKED, family=family), "/opt/down"))
    return str(path)


def test_definitions_are_hidden_and_exact(written):
    with elf.Reader(written) as reader:
        defined = {(item.name, item.version): item for item in reader.symbols() if item.defined}
        assert set(reader.definitions().values()) == {
            "FAIRLEAD_1", "GLIBC_2.32", "GLIBC_2.33", "GLIBC_2.34", "GLIBC_2.38"
        }  # fmt: skip
        assert 2 in reader.definitions()
        assert reader.definitions()[2] == "FAIRLEAD_1"
    assert set(defined) == {
        ("stat", "GLIBC_2.33"),
        ("pthread_create", "GLIBC_2.34"),
        ("pthread_join", "GLIBC_2.34"),
        ("__libc_single_threaded", "GLIBC_2.32"),
        ("fairlead_old___errno_location", ""),
        ("fairlead_data___libc_single_threaded", ""),
    }
    assert all(item.hidden for item in defined.values() if item.version)
    data = defined["__libc_single_threaded", "GLIBC_2.32"]
    assert data.is_object
    pointer = defined["fairlead_data___libc_single_threaded", ""].value
    _, _, by_index = slots(written)
    (index,) = [index for index, place in by_index.items() if place == pointer]
    with elf.Reader(written) as reader:
        assert list(reader.symbols())[index - 1] == data


def test_needs_name_the_images_files_and_older_versions(written):
    with elf.Reader(written) as reader:
        needs = {(need.library, need.version) for need in reader.needs()}
        asked = {item.name: item for item in reader.symbols() if not item.defined}
        headers = reader.elf
    assert needs == {("libc.so.6", "GLIBC_2.2.5"), ("libpthread.so.0", "GLIBC_2.2.5")}
    assert asked["pthread_create"].library == "libpthread.so.0"
    assert asked["fairlead_new_stat"].version == ""
    assert headers.needed == (polyfill.IMPLEMENTATION, "libpthread.so.0", "libc.so.6")
    assert headers.soname == polyfill.SONAME
    assert headers.rpath == "/opt/down"


def test_readelf_finds_nothing_to_complain_about(written):
    done = subprocess.run(
        ["readelf", "-W", "--headers", "--dynamic", "--use-dynamic", "--dyn-syms", written],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    shown = done.stdout
    assert "BIND_NOW" in shown
    assert re.search(r"GNU_STACK .* RW +0x10", shown)
    assert "GNU_RELRO" in shown
    assert "TEXTREL" not in shown
    loads = re.findall(r"LOAD +\S+ \S+ \S+ \S+ \S+ (R[ W][ E])", shown)
    assert loads == ["R  ", "R E", "RW "]


def test_segments_share_no_page_and_relro_ends_at_a_page(written):
    with open(written, "rb") as file:
        found = dynamic.parse(file.read(), "polyfill")
    page = arch.of(found.machine).page
    loads = [item for item in found.segments if item.type == dynamic.PT_LOAD]
    pages = [set(range(i.address // page, (i.address + i.memory - 1) // page + 1)) for i in loads]
    assert all(not one & other for one, other in itertools.pairwise(pages))
    (relro,) = [item for item in found.segments if item.type == dynamic.PT_GNU_RELRO]
    assert (relro.address + relro.memory) % page == 0
    with elf.Reader(written) as reader:
        data = next(item for item in reader.symbols() if item.name == "__libc_single_threaded")
    assert data.value >= relro.address + relro.memory


def slots(written):
    """Return symbol index → address of its slot, from the relocations."""
    with open(written, "rb") as file:
        data = file.read()
    found = dynamic.parse(data, "polyfill")
    size = found.tag(elf.DT_RELASZ)
    start = found.offset(found.tag(elf.DT_RELA), size)
    kind = arch.of(found.machine).glob_dat
    rows = list(dynamic.RELA.iter_unpack(data[start : start + size]))
    assert all(info & 0xFFFFFFFF == kind and addend == 0 for _, info, addend in rows)
    return data, found, {info >> 32: place for place, info, _ in rows}


def target_x86_64(code, here):
    assert code[:6] == b"\xf3\x0f\x1e\xfa\xff\x25"
    return here + 10 + int.from_bytes(code[6:10], "little", signed=True)


def target_aarch64(code, here):
    bti, adrp, load, branch = (int.from_bytes(code[i : i + 4], "little") for i in (0, 4, 8, 12))
    assert (bti, branch) == (0xD503245F, 0xD61F0220)
    assert (adrp & 0x9F00001F, load & 0xFFC003FF) == (0x90000010, 0xF9400211)
    pages = (adrp >> 29 & 3) | (adrp >> 5 & 0x7FFFF) << 2
    return ((here + 4) & ~0xFFF) + (pages << 12) + ((load >> 10 & 0xFFF) << 3)


def test_each_stub_jumps_through_the_slot_of_its_target(written):
    data, found, by_index = slots(written)
    follow = {62: target_x86_64, 183: target_aarch64}[found.machine]
    with elf.Reader(written) as reader:
        symbols = list(reader.symbols())
    led = {}
    for item in symbols:
        if item.defined and not item.is_object:
            start = found.offset(item.value, arch.STUB)
            place = follow(data[start : start + arch.STUB], item.value)
            (index,) = [index for index, slot in by_index.items() if slot == place]
            led[item.name] = symbols[index - 1].name  # the null symbol is not told
    assert led == {
        "stat": "fairlead_new_stat",
        "pthread_create": "pthread_create",
        "pthread_join": "pthread_join",
        "fairlead_old___errno_location": "__errno_location",
    }


def test_frames_cover_the_stubs(written):
    done = subprocess.run(
        ["readelf", "-W", "--segments", written], capture_output=True, text=True, check=True
    )
    assert "GNU_EH_FRAME" in done.stdout
    data, found, _ = slots(written)
    (header,) = [item for item in found.segments if item.type == dynamic.PT_GNU_EH_FRAME]
    (code,) = [i for i in found.segments if i.type == dynamic.PT_LOAD and i.flags & dynamic.PF_X]
    raw = data[header.offset : header.offset + header.size]
    first = int.from_bytes(raw[12:16], "little", signed=True) + header.address
    entry = int.from_bytes(raw[16:20], "little", signed=True)
    begin = int.from_bytes(raw[entry + 8 : entry + 12], "little", signed=True)
    size = int.from_bytes(raw[entry + 12 : entry + 16], "little")
    assert (first, size) == (code.address, code.size)
    assert header.address + entry + 8 + begin == code.address


def test_bytes_depend_on_the_decision_alone():
    assert polyfill.write(decide(*ASKED)) == polyfill.write(decide(*reversed(ASKED)))


NAMES = st.lists(
    st.from_regex(r"[a-z_]{1,20}", fullmatch=True), min_size=1, max_size=60, unique=True
)


@settings(max_examples=25, deadline=None)
@given(NAMES, st.data())
def test_any_set_of_symbols_is_found_through_the_hash_table(tmp_path_factory, names, data):
    """The table is walked as ld.so does: filter, bucket, chain."""
    names = [f"{name}_x" for name in names]
    numbers = {name: data.draw(st.integers(32, 43)) for name in names}
    family = forge.family(libc=" ".join(f"{name}@@GLIBC_2.17" for name in names))
    found = decide(*(f"libc.so.6:{n}@GLIBC_2.{v}" for n, v in numbers.items()), family=family)
    image = polyfill.write(found)
    parts = dynamic.parse(image, "polyfill")
    assert {look_up(image, parts, name) for name in names} == {
        (name, f"GLIBC_2.{number}") for name, number in numbers.items()
    }
    assert look_up(image, parts, "absent") is None


def look_up(image, parts, name):
    with elf.Reader("polyfill", image) as reader:
        definitions = reader.definitions()
    table = parts.offset(parts.tag(elf.DT_GNU_HASH), 16)
    buckets, first, words, shift = (word(image, table + 4 * i) for i in range(4))
    value = polyfill.gnu_hash(name)
    filtered = int.from_bytes(image[table + 16 + 8 * (value // 64 % words) :][:8], "little")
    if not (filtered >> value % 64 & 1 and filtered >> (value >> shift) % 64 & 1):
        return None
    index = word(image, table + 16 + 8 * words + 4 * (value % buckets))
    chain = table + 16 + 8 * words + 4 * buckets
    while index:
        entry = word(image, chain + 4 * (index - first))
        symbol = parts.offset(parts.tag(elf.DT_SYMTAB), 24) + 24 * index
        if entry | 1 == value | 1 and parts.string(word(image, symbol)) == name:
            versym = parts.offset(parts.tag(elf.DT_VERSYM), 2) + 2 * index
            return name, definitions[int.from_bytes(image[versym : versym + 2], "little") & 0x7FFF]
        if entry & 1:
            return None
        index += 1
    return None


def word(image, offset):
    return int.from_bytes(image[offset : offset + 4], "little")


def test_loader_takes_it_and_an_unversioned_search_does_not_find_it(tmp_path):
    """dlsym, like a reference without a version, must see this machine's own function."""
    path = tmp_path / polyfill.SONAME
    family = forge.as_old_as((2, 17))
    found = binding.plan(
        [forge.needs("libc.so.6:pthread_create@GLIBC_2.34")], family, forge.offers()
    )
    path.write_bytes(polyfill.write(found))
    library = ctypes.CDLL(str(path))
    with open("/proc/self/maps", encoding="utf-8") as file:
        lines = [line.split(None, 5) for line in file if str(path) in line]
    address = ctypes.cast(library.pthread_create, ctypes.c_void_p).value
    for line in lines:
        low, high = (int(text, 16) for text in line[0].split("-"))
        assert not low <= address < high
    assert not any("w" in line[1] and "x" in line[1] for line in lines)
    assert any(line[1] == "r--p" for line in lines)


def test_stub_is_called_by_version_and_known_to_the_unwinder(tmp_path):
    path = tmp_path / polyfill.SONAME
    asked = forge.needs(
        "libc.so.6:sem_getvalue@GLIBC_2.34", "libc.so.6:pthread_getconcurrency@GLIBC_2.34"
    )
    found = binding.plan([asked], forge.as_old_as((2, 17)), forge.offers())
    path.write_bytes(polyfill.write(found))
    library = ctypes.CDLL(str(path))
    search = ctypes.CDLL(None).dlvsym
    search.restype = ctypes.c_void_p
    search.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
    stub = search(library._handle, b"pthread_getconcurrency", b"GLIBC_2.34")
    with open("/proc/self/maps", encoding="utf-8") as file:
        code = [line for line in file if str(path) in line and "r-xp" in line]
    low, high = (int(text, 16) for text in code[0].split()[0].split("-"))
    assert low <= stub < high
    assert ctypes.CFUNCTYPE(ctypes.c_int)(stub)() == 0
    find = ctypes.CDLL("libgcc_s.so.1")._Unwind_Find_FDE
    find.restype = ctypes.c_void_p
    bases = (ctypes.c_void_p * 3)()
    assert find(ctypes.c_void_p(stub + 4), bases)
    assert bases[2] == low  # where the code begins that the description covers
