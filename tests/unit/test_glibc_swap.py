"""glibc.swap: all of the host's glibc over all of an older one of the image's, or a reason why not."""

import os

import elf_forge
import pytest

from fairlead.glibc import swap
from fairlead.host import elf, ldso

HOME = "lib/x86_64-linux-gnu"
LOADER = "ld-linux-x86-64.so.2"
MODULES = "/usr/lib/x86_64-linux-gnu/gconv"

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="forges files of x86-64")


def root(place, release, *names, home=HOME, files=()):
    """Forge a root with a glibc of a release, whose files have that in their names, as Debian's had."""
    script = f"{place}.map"
    os.makedirs(place)
    with open(script, "w", encoding="ascii") as file:
        file.write(f"GLIBC_2.2.5 {{ f; }};\nGLIBC_{release} {{ g; }} GLIBC_2.2.5;\n")
    text = f'int f(void) {{ return 1; }} int g(void) {{ return 2; }} const char *d = "{MODULES}";'
    for name in ("libc.so.6", LOADER, *names):
        stem = name.partition(".so")[0]
        real = f"{place}/{home}/{stem}-{release}.so"
        elf_forge.library(real, text, f"-Wl,--version-script={script}", soname=name)
        os.symlink(os.path.basename(real), f"{place}/{home}/{name}")
    os.makedirs(f"{place}/lib64", exist_ok=True)
    if not os.path.lexists(f"{place}/lib64/{LOADER}"):
        os.symlink(f"/{home}/{LOADER}", f"{place}/lib64/{LOADER}")
    for name in files:
        os.makedirs(os.path.dirname(f"{place}/{name}"), exist_ok=True)
        elf_forge.library(f"{place}/{name}")
    return ldso.Loader(str(place))


def test_every_file_of_the_images_glibc_is_replaced_where_it_really_lies(tmp_path):
    image = root(tmp_path / "image", "2.31", "libm.so.6", "libpthread.so.0")
    host = root(tmp_path / "host", "2.36", "libm.so.6", "libpthread.so.0", "libutil.so.1")
    found = swap.plan(image, host)
    assert (found.image, found.host) == ("GLIBC_2.31", "GLIBC_2.36")
    stems = ("ld-linux-x86-64", "libc", "libm", "libpthread")
    assert found.files == tuple(
        (f"/{HOME}/{stem}-2.31.so", f"/{HOME}/{stem}-2.36.so") for stem in stems
    )
    assert found.warning == (
        "the host's GLIBC_2.36 stands over the image's GLIBC_2.31 (mpi_glibc = \"swap\"): in the "
        "container ldd and linking programs fail, locales and modules of iconv and NSS that are the "
        "image's may"
    )


def test_what_glibc_loads_by_name_goes_with_it(tmp_path):
    nss = [f"{HOME}/libnss_{name}.so.2" for name in ("compat", "nis", "sss")]
    image = root(tmp_path / "image", "2.31", files=[*nss, f"{HOME}/libnss_db.so.2"])
    host = root(tmp_path / "host", "2.36", files=nss)
    os.makedirs(f"{tmp_path}/host{MODULES}/gconv-modules.d")
    for name in ("UTF-16.so", "gconv-modules", "gconv-modules.d/extra.conf"):
        with open(f"{tmp_path}/host{MODULES}/{name}", "wb"):
            pass
    found = swap.plan(image, host)
    names = {path.rpartition("/")[2] for path, _ in found.files}
    assert {name for name in names if "nss" in name} == {"libnss_compat.so.2"}
    assert found.modules == MODULES
    assert swap.module_files(f"{tmp_path}/host{MODULES}") == (
        "UTF-16.so",
        "gconv-modules",
        "gconv-modules.d/extra.conf",
    )


def refusal(image, host):
    with pytest.raises(elf.ElfError) as refused:
        swap.plan(image, host)
    return str(refused.value)


def test_glibc_that_is_as_new_as_the_hosts_stays(tmp_path):
    image, host = root(tmp_path / "image", "2.36"), root(tmp_path / "host", "2.36")
    assert refusal(image, host) == "the host's GLIBC_2.36 is no newer than the image's GLIBC_2.36"


def test_half_a_glibc_is_none(tmp_path):
    image = root(tmp_path / "image", "2.31", "libnsl.so.1")
    host = root(tmp_path / "host", "2.36")
    assert refusal(image, host) == "the host's glibc has no libnsl.so.1, the image's has"


def test_image_without_a_glibc_keeps_what_it_has(tmp_path):
    (tmp_path / "image/lib").mkdir(parents=True)
    host = root(tmp_path / "host", "2.36")
    assert refusal(ldso.Loader(f"{tmp_path}/image"), host) == (
        "the image has no glibc that the host's could stand for"
    )


def test_image_whose_libraries_the_hosts_loader_would_not_find_is_refused(tmp_path):
    image = root(tmp_path / "image", "2.31", home="lib64")
    host = root(tmp_path / "host", "2.36")
    assert refusal(image, host) == (
        "the image's libraries lie in /lib64, where the host's loader does not look, and the image "
        "has no ld.so.cache"
    )


def test_image_without_the_loader_that_the_kernel_starts_is_refused(tmp_path):
    image, host = root(tmp_path / "image", "2.31"), root(tmp_path / "host", "2.36")
    os.unlink(f"{tmp_path}/image/lib64/{LOADER}")
    assert refusal(ldso.Loader(image.root), host) == (
        f"image or host has no loader /lib64/{LOADER}"
    )


def test_programs_that_another_loader_starts_would_not_run_on_the_hosts_glibc(tmp_path):
    image = root(tmp_path / "image", "2.31", files=[f"nix/{LOADER}"])
    host = root(tmp_path / "host", "2.36")
    assert swap.plan(image, host, [f"/lib64/{LOADER}", f"/{HOME}/{LOADER}"])
    with pytest.raises(elf.ElfError) as refused:
        swap.plan(image, host, [f"/lib64/{LOADER}", f"/nix/{LOADER}"])
    said = f"programs of the image are started by /nix/{LOADER}, which would stay"
    assert str(refused.value) == said
