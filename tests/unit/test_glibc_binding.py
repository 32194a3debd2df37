"""glibc.binding: what is bound to what, and what is refused, on made-up families."""

import glibc_forge as forge
import pytest

from fairlead.glibc import binding, rules, versions

OFFERS = binding.Offers(
    frozenset({"gettid", "stat", "totalorder__2_31", "fmaximum", "__libc_start_main__2_34"}),
    (("__errno_location", False), ("dladdr1", True)),
)
BASE = "__errno_location@@GLIBC_2.2.5 "


def plan(family, *needs):
    return binding.plan(needs, family, OFFERS)


def only(decision):
    (found,) = decision.bindings
    return found


def test_nothing_is_done_if_nothing_is_missing():
    family = forge.family(libc="printf@@GLIBC_2.2.5")
    found = plan(family, forge.needs("libc.so.6:printf@GLIBC_2.2.5"))
    assert found.action == "nothing"
    assert found.reasons == ("nothing above GLIBC_2.31 is asked for",)


def test_whole_family_counts_and_not_libc_alone():
    """glibc 2.31's libc.so.6 defines up to 2.30; its libpthread has 2.31."""
    family = forge.family(
        libc="printf@@GLIBC_2.2.5 @@GLIBC_2.30", libpthread="pthread_clockjoin_np@@GLIBC_2.31"
    )
    asked = forge.needs(
        "libpthread.so.0:pthread_clockjoin_np@GLIBC_2.31", libraries=("libpthread.so.0",)
    )
    assert plan(family, asked).action == "nothing"


def test_function_that_moved_into_libc_leads_to_the_library_that_had_it():
    family = forge.family(libc=BASE, libpthread="pthread_create@@GLIBC_2.2.5")
    found = plan(family, forge.needs("libc.so.6:pthread_create@GLIBC_2.34"))
    assert found.action == "down-bind"
    assert only(found) == binding.Binding(
        "pthread_create", "GLIBC_2.34", "moved", "pthread_create", "GLIBC_2.2.5", "libpthread.so.0"
    )
    assert found.libraries == ("libc.so.6", "libpthread.so.0")
    assert found.redirect == {("libc.so.6", "GLIBC_2.34")}
    assert found.reasons == ("1 symbols above GLIBC_2.31 down-bound, 1 moved, 0 new",)


def test_default_version_is_taken_before_newer_hidden_ones():
    """As ld.so and the linker do: a program that is linked in the image gets name@@version."""
    family = forge.family(libc=BASE + "f@GLIBC_2.2.5 f@@GLIBC_2.3.4 f@GLIBC_2.17")
    found = plan(family, forge.needs("libc.so.6:f@GLIBC_2.32"))
    assert only(found).target_version == "GLIBC_2.3.4"


def test_libpthreads_own_function_is_taken_before_libcs_stand_in():
    both = "pthread_cond_wait@@GLIBC_2.3.2"
    family = forge.family(libc=BASE + both, libpthread=both)
    found = plan(family, forge.needs("libc.so.6:pthread_cond_wait@GLIBC_2.34"))
    assert only(found).library == "libpthread.so.0"


def test_loaders_own_malloc_is_not_taken():
    family = forge.family(libc=BASE + "malloc@@GLIBC_2.2.5", libdl="malloc@@GLIBC_2.2.5")
    assert only(plan(family, forge.needs("libc.so.6:malloc@GLIBC_2.40"))).library == "libc.so.6"


@pytest.mark.parametrize(
    ("symbol", "version", "old"),
    [
        ("__isoc23_sscanf", "GLIBC_2.38", "__isoc99_sscanf"),
        ("res_query", "GLIBC_2.34", "__res_query"),
        ("fcntl64", "GLIBC_2.28", "fcntl"),
        ("acosf64", "GLIBC_2.27", "acos"),
        ("acosf32", "GLIBC_2.27", "acosf"),
        ("acosf64x", "GLIBC_2.27", "acosl"),
        ("lgammaf32x_r", "GLIBC_2.27", "lgamma_r"),
        ("strtof64x_l", "GLIBC_2.27", "strtold_l"),
        ("strfromf64x", "GLIBC_2.27", "strfroml"),
        ("logp1f32", "GLIBC_2.40", "log1pf"),
    ],
)
def test_function_is_found_under_its_older_name(symbol, version, old):
    family = forge.family(libc=f"{BASE}{old}@@GLIBC_2.17")
    found = only(plan(family, forge.needs(f"libc.so.6:{symbol}@{version}")))
    assert (found.kind, found.target) == ("moved", old)


def test_new_function_is_led_to_the_implementation_with_what_that_needs():
    family = forge.family(libc=BASE)
    found = plan(family, forge.needs("libc.so.6:stat@GLIBC_2.33"))
    assert only(found) == binding.Binding("stat", "GLIBC_2.33", "new", "fairlead_new_stat")
    (errno,) = found.imports  # dladdr1 is not there, and need not be
    assert (errno.symbol, errno.version) == ("fairlead_old___errno_location", "")
    assert errno.target == "__errno_location"


def test_image_without_what_an_implementation_needs_is_impossible():
    family = forge.family(libc="printf@@GLIBC_2.2.5")
    found = plan(family, forge.needs("libc.so.6:stat@GLIBC_2.33"))
    assert found.action == "impossible"
    assert found.obstacles[0].symbol == "__errno_location"


def test_older_version_with_another_meaning_is_no_stand_in():
    family = forge.family(libm="totalorder@@GLIBC_2.25", libc=BASE)
    found = only(plan(family, forge.needs("libm.so.6:totalorder@GLIBC_2.31")))
    assert (found.kind, found.target) == ("new", "fairlead_new_totalorder__2_31")
    family = forge.family(libm="fromfp@@GLIBC_2.25", libc=BASE)
    found = plan(family, forge.needs("libm.so.6:fromfp@GLIBC_2.43"))
    assert found.action == "impossible"
    assert found.reasons[0] == (
        "fromfp@GLIBC_2.43 (libhost.so) cannot be had on GLIBC_2.31: "
        "returns a floating-point number since 2.43, an integer before"
    )


@pytest.mark.parametrize("version", ["GLIBC_2.31", "GLIBC_2.40"])
def test_newer_meaning_is_implemented_whatever_its_label(version):
    for family in (forge.family(libc=BASE), forge.family(libm="totalorder@@GLIBC_2.25", libc=BASE)):
        found = only(plan(family, forge.needs(f"libm.so.6:totalorder@{version}")))
        assert found.target == "fairlead_new_totalorder__2_31"


def test_data_that_an_implementation_sets_has_a_name_for_it():
    family = forge.family(libc=BASE)
    found = plan(
        family,
        forge.needs("libc.so.6:__libc_single_threaded@GLIBC_2.32", "libc.so.6:stat@GLIBC_2.33"),
    )
    (alias,) = [item for item in found.imports if item.kind == "alias"]
    assert (alias.symbol, alias.target) == (
        "fairlead_data___libc_single_threaded",
        "__libc_single_threaded",
    )


def test_meaning_that_the_image_has_already_is_moved():
    family = forge.family((2, 36), libc=BASE + "__libc_start_main@@GLIBC_2.34")
    found = only(plan(family, forge.needs("libc.so.6:__libc_start_main@GLIBC_2.40")))
    assert found.kind == "moved"


def test_data_is_the_polyfills_own():
    family = forge.family(libc=BASE)
    found = plan(family, forge.needs("libc.so.6:__libc_single_threaded@GLIBC_2.32"))
    assert only(found).kind == "data"
    assert only(found).size == 1
    assert found.imports == ()


def test_data_under_an_older_version_cannot_be_jumped_to():
    family = forge.family(libc=BASE + "table#@@GLIBC_2.2.5")
    found = plan(family, forge.needs("libc.so.6:table@GLIBC_2.40"))
    assert found.action == "impossible"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("libc.so.6:__internal@GLIBC_PRIVATE", "internal to one release of glibc"),
        ("libc.so.6:h_errno!@GLIBC_2.40", "a thread-local variable of glibc"),
        ("libc.so.6:sinf128@GLIBC_2.40", "128-bit floating point, which nothing here computes"),
        ("libm.so.6:_ZGVbN2v_acos@GLIBC_2.35", "vector function of libmvec, made for the compiler"),
        ("libc.so.6:unheard_of@GLIBC_2.99", "new, and not implemented here"),
        ("libc.so.6:@GLIBC_ABI_GNU2_TLS", "a mark for linkers and loaders, no function"),
    ],
)
def test_impossible_names_the_symbol_who_asks_and_why(text, reason):
    found = plan(forge.family(libc=BASE), forge.needs(text, file="libasks.so"))
    assert found.action == "impossible"
    (obstacle,) = found.obstacles
    assert (obstacle.by, obstacle.reason) == ("libasks.so", reason)
    assert "libasks.so" in found.reasons[0]


def test_weak_reference_may_stay_undefined_and_a_strong_one_not():
    family = forge.family(libc=BASE)
    weak = forge.needs("libc.so.6:unheard_of?@GLIBC_2.99", file="libweak.so")
    found = plan(family, weak)
    assert found.action == "down-bind"
    assert [item.symbol for item in found.absent] == ["unheard_of"]
    assert found.redirect == {("libc.so.6", "GLIBC_2.99")}
    strong = forge.needs("libc.so.6:unheard_of@GLIBC_2.99", file="libstrong.so")
    found = plan(family, weak, strong)
    assert found.action == "impossible"
    assert found.obstacles[0].by == "libstrong.so"


def test_symbol_absent_from_a_version_that_the_image_has_is_moved_out_of_it():
    family = forge.family(libc=BASE + "gettid@@GLIBC_2.30 g@@GLIBC_2.2.5")
    found = plan(family, forge.needs("libc.so.6:g@GLIBC_2.30"))
    assert found.redirect == frozenset()
    assert found.remap == {("libc.so.6", "GLIBC_2.30", "g")}


def test_symbol_that_another_file_has_in_that_very_version_only_needs_the_file():
    """sem_clockwait@GLIBC_2.30 is asked of libc.so.6, and lies in libpthread until 2.34."""
    family = forge.family(libc=BASE + "@@GLIBC_2.30", libpthread="sem_clockwait@@GLIBC_2.30")
    found = plan(family, forge.needs("libc.so.6:sem_clockwait@GLIBC_2.30"))
    assert found.action == "down-bind"
    assert (found.bindings, found.remap) == ((), frozenset())
    assert found.elsewhere == {("sem_clockwait", "GLIBC_2.30")}
    assert "libpthread.so.0" in found.libraries


def test_version_that_is_only_named_is_enough_to_act():
    found = plan(forge.family(libc=BASE), forge.needs("libc.so.6:@GLIBC_2.38"))
    assert found.action == "down-bind"
    assert found.redirect == {("libc.so.6", "GLIBC_2.38")}
    assert found.bindings == ()


def test_relative_relocations_are_expanded_for_loaders_that_do_not_know_them():
    old = forge.family(libc=BASE)
    asked = forge.needs("libc.so.6:@GLIBC_ABI_DT_RELR", relative=True)
    found = plan(old, asked)
    assert found.expand
    assert found.dropped == {("libc.so.6", "GLIBC_ABI_DT_RELR")}
    knows = forge.family((2, 36), libc=BASE + "@@GLIBC_ABI_DT_RELR")
    assert plan(knows, asked).action == "nothing"
    assert plan(old, forge.needs(relative=True)).expand


def test_library_that_the_image_lacks_is_not_needed_any_more():
    family = forge.family(libc=BASE + "f@@GLIBC_2.2.5")
    asked = forge.needs("libutil.so.1:f@GLIBC_2.34", libraries=("libc.so.6", "libutil.so.1"))
    found = plan(family, asked)
    assert found.unneeded == {"libutil.so.1"}
    assert found.redirect == {("libutil.so.1", "GLIBC_2.34")}


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (forge.family((2, 12), libc=BASE), "the image has GLIBC_2.12, down-binding starts at 2.17"),
        (forge.family(()), "the image has no glibc, down-binding starts at 2.17"),
        (forge.family(machine=243, libc=BASE), "does not know the image's machine 243"),
        (forge.family(machine=183, libc=BASE), "libhost.so is for another machine than the image"),
    ],
)
def test_image_that_cannot_be_served_is_refused_in_one_line(family, words):
    found = plan(family, forge.needs("libc.so.6:stat@GLIBC_2.33"))
    assert found.action == "impossible"
    assert words in found.reasons[0]


def test_decision_does_not_depend_on_the_order_of_files():
    family = forge.family(libc=BASE, libpthread="pthread_create@@GLIBC_2.2.5")
    files = [
        forge.needs("libc.so.6:stat@GLIBC_2.33", file="a"),
        forge.needs("libc.so.6:pthread_create@GLIBC_2.34", file="b"),
        forge.needs("libc.so.6:gettid@GLIBC_2.30", file="c"),
    ]
    assert plan(family, *files) == plan(family, *reversed(files))


def test_each_changed_meaning_is_of_a_symbol_that_has_two_versions():
    own = forge.own()
    for symbol, (since, _) in rules.CHANGED.items():
        found = {versions.number(item.version) for item in own.symbols.get(symbol, ())}
        if since <= own.release and found:
            assert since in found or max(found) >= since, symbol
