"""What NVIDIA's images and users say of the driver in variables: capabilities, requirements. Pure.

Rules:
- The user's and the job's word beats the image's. A word that nobody knows is an error of whoever
  typed it, and a note where the image has it.
- NVIDIA_DRIVER_CAPABILITIES chooses by name among the driver's files; one that no list knows comes
  along. Without the variable everything does.
- NVIDIA_REQUIRE_*: alternatives stand between blanks, conditions between commas, and all variables
  must hold. What cannot be known by reading (brand, arch) refuses nothing.

Source: NVIDIA Container Toolkit, "Environment Variables (OCI Spec)"; CUDA release notes, table of
toolkit and minimum driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fairlead import errors

CAPABILITIES = "NVIDIA_DRIVER_CAPABILITIES"
REQUIRE = "NVIDIA_REQUIRE_"
DISABLE_REQUIRE = "NVIDIA_DISABLE_REQUIRE"
EVERYTHING = frozenset(("compute", "utility", "graphics", "video", "display", "ngx", "compat32"))
COMPAT = "/usr/local/cuda/compat"
# Cards whose driver takes no newer user-mode half (CUDA Compatibility, "Forward Compatibility").
_NOT_COMPATIBLE = ("GeForce", "TITAN", "Quadro")

# By the beginning of a library's name, after "lib". What stands in no line is everybody's.
_OF = {
    "compute": (
        *("cuda", "cudadebugger", "nvidia-opencl", "nvidia-ptxjitcompiler", "nvidia-nvvm"),
        *("nvidia-fatbinaryloader", "nvidia-compiler", "nvidia-pkcs11"),
    ),
    "utility": ("nvidia-ml", "nvidia-cfg", "nvidia-nscq"),
    "video": ("nvcuvid", "nvidia-encode", "nvidia-opticalflow", "vdpau_nvidia"),
    "ngx": ("nvidia-ngx",),
    "graphics": (
        *("nvidia-eglcore", "nvidia-glcore", "nvidia-tls", "nvidia-glsi", "nvidia-fbc"),
        *("nvidia-ifr", "nvidia-rtcore", "nvoptix", "nvidia-glvkspirv", "nvidia-cbl"),
        *("nvidia-vulkan-producer", "nvidia-egl", "GLX_nvidia", "EGL_nvidia", "GLESv1_CM_nvidia"),
        *("GLESv2_nvidia", "nvidia-wayland", "nvidia_icd"),
    ),
}
_PROGRAMS = {
    "utility": ("nvidia-smi", "nvidia-debugdump"),
    "compute": ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server"),
}
_FILES = {"compute": ("/etc/OpenCL/",), "graphics": ("/vulkan/", "/egl", "/glvnd/", "/nvoptix")}

# The newest CUDA that a driver of this branch runs.
_BRANCHES = """
384 9.0   390 9.1   396 9.2   410 10.0  418 10.1  440 10.2  450 11.0  455 11.1  460 11.2
465 11.3  470 11.4  495 11.5  510 11.6  515 11.7  520 11.8  525 12.0  530 12.1  535 12.2
545 12.3  550 12.4  555 12.5  560 12.6  565 12.7  570 12.8  575 12.9  580 13.0
"""


class Told(NamedTuple):
    """Variables: the user's and the job's, and the image's."""

    own: Mapping[str, str]
    image: Mapping[str, str]

    def value(self, name: str) -> str | None:
        """Return what counts."""
        return self.own.get(name, self.image.get(name))


NOTHING = Told({}, {})


def capabilities(told: Told) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return which of the driver's capabilities are wanted, and notes.

    Raises:
        errors.DeviceError: a word of the user's is none.
    """
    text = told.value(CAPABILITIES)
    words = {word.strip() for word in (text or "").split(",")} - {""}
    if not words or "all" in words:
        return EVERYTHING, ()
    unknown = sorted(words - EVERYTHING)
    if unknown and CAPABILITIES in told.own:
        raise errors.DeviceError(
            f"{CAPABILITIES}: {unknown[0]!r} is not one of all, {', '.join(sorted(EVERYTHING))}"
        )
    known = frozenset(words & EVERYTHING)
    notes = tuple(f"the image's {CAPABILITIES}: {word!r} is not known" for word in unknown)
    return (known | {"graphics"} if "display" in known else known), notes


def has_library(name: str, wanted: frozenset[str]) -> bool:
    """Tell whether a library of the driver belongs to what is wanted."""
    stem = name.partition(".so")[0].removeprefix("lib")
    return _belongs(wanted, {c: any(map(stem.startswith, n)) for c, n in _OF.items()})


def has_program(path: str, wanted: frozenset[str]) -> bool:
    """Tell whether a program of the driver belongs to what is wanted."""
    name = path.rpartition("/")[2]
    return _belongs(wanted, {c: name in names for c, names in _PROGRAMS.items()})


def has_file(path: str, wanted: frozenset[str]) -> bool:
    """Tell whether a file of the driver belongs to what is wanted."""
    return _belongs(wanted, {c: any(part in path for part in p) for c, p in _FILES.items()})


def _belongs(wanted: frozenset[str], whose: Mapping[str, bool]) -> bool:
    owners = {capability for capability, is_its in whose.items() if is_its}
    return not owners or bool(owners & wanted)


def is_compatible(compat: str, version: str, models: tuple[str, ...]) -> bool:
    """Tell whether an image's own user-mode half is the newer one, on cards that take it.

    Args:
        compat: version of the libcuda that the image has in ``COMPAT``; empty: none.
        version: the driver's.
        models: of the cards.
    """
    if any(word in model for word in _NOT_COMPATIBLE for model in models):
        return False
    return bool(compat) and _numbers(compat)[:1] > _numbers(version)[:1]


def check_required(told: Told, version: str, compat: str = "") -> None:
    """Raise where the driver certainly is not what the image demands.

    Args:
        told: with the demands.
        version: the driver's.
        compat: version of the user-mode half that is used in its stead; empty: none.

    Raises:
        errors.DeviceError
    """
    if (told.value(DISABLE_REQUIRE) or "").lower() not in ("", "0", "false", "no"):
        return
    facts = {"driver": _numbers(version), "cuda": _cuda(compat or version)}
    for name in sorted({*told.own, *told.image}):
        text = told.value(name) or ""
        if not name.startswith(REQUIRE) or _any(text.split(), facts) is not False:
            continue
        has = f" (CUDA {'.'.join(map(str, facts['cuda']))})" if facts["cuda"] else ""
        raise errors.DeviceError(
            f"NVIDIA driver {version}{has} is not what {name} demands: {text.split()[0]}",
            hint=f"use an image for this driver, or set {DISABLE_REQUIRE}=1",
        )


def _any(alternatives: list[str], facts: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Return whether one of the alternatives holds, None where that cannot be known."""
    found = [_all(alternative.split(","), facts) for alternative in alternatives]
    return True if True in found else (None if None in found or not found else False)


def _all(conditions: list[str], facts: Mapping[str, tuple[int, ...]]) -> bool | None:
    found = [_holds(condition, facts) for condition in conditions]
    return False if False in found else (None if None in found else True)


def _holds(condition: str, facts: Mapping[str, tuple[int, ...]]) -> bool | None:
    for sign in (">=", "<=", "!=", ">", "<", "="):
        name, found, text = condition.partition(sign)
        if found:
            break
    else:
        return None
    has, wanted = facts.get(name.strip()), _numbers(text.strip())
    if not has or not wanted:
        return None
    # 12.4 is what 12.4 demands, and 470.82.01 what 470 does: as many numbers as were written.
    cut = has[: len(wanted)]
    return {
        ">=": has >= wanted,
        "<=": cut <= wanted,
        "!=": cut != wanted,
        ">": cut > wanted,
        "<": has < wanted,
        "=": cut == wanted,
    }[sign]


def _cuda(version: str) -> tuple[int, ...]:
    """Return the CUDA of a driver; empty: it is of no branch that is known, or newer than all."""
    words = _BRANCHES.split()
    known = {int(branch): _numbers(cuda) for branch, cuda in zip(*[iter(words)] * 2, strict=True)}
    numbers = _numbers(version)
    if not numbers or numbers[0] > max(known):
        return ()
    below = [branch for branch in known if branch <= numbers[0]]
    return known[max(below)] if below else ()


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        return ()
    return tuple(map(int, parts))
