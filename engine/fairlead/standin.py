"""A stand-in for ``typing`` while the engine's launch path is imported: 12 ms of its 23.

``typing`` brings re, enum, functools and more, and makes each NamedTuple by compiling source text.
The launch path needs of it NamedTuple and a few names that only annotations mention. So the
engine's door (``spank_shim/engine.py.in``) imports ``run.step`` inside ``typing_stand_in``; what is
imported later, on the way to a registry or to the host's MPI, gets the real module.

Rules:
- Nothing but the launch path may be imported inside ``with``; a test holds the list.
- A NamedTuple made here is one in all that this program does with it: fields, defaults, keywords,
  ``_fields``, ``_asdict``, ``_replace``, comparison, unpacking, methods and properties.
"""

from __future__ import annotations

import _collections_abc
import sys
from _collections import _tuplegetter  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType, TracebackType
    from typing import Any


class _Anything:
    """What a name that only annotations use may be."""

    def __class_getitem__(cls, item: object) -> type:
        return cls


def _type_variable(name: str, *bounds: object, **more: object) -> type:
    return _Anything


def _as_dict(self: Any) -> dict[str, object]:
    return dict(zip(self._fields, self, strict=True))


def _replaced(self: Any, **changes: object) -> object:
    if changes.keys() - set(self._fields):
        raise ValueError(f"unexpected field names: {sorted(changes)}")
    return self.__class__(**(_as_dict(self) | changes))


def _shown(self: Any) -> str:
    fields = ", ".join(f"{name}={value!r}" for name, value in _as_dict(self).items())
    return f"{self.__class__.__name__}({fields})"


class _Maker(type):
    """Turns the body of a class below NamedTuple into a tuple's subclass."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
        if not bases:
            return type.__new__(cls, name, bases, body)
        fields = tuple(body.get("__annotations__", ()))
        defaults = {field: body[field] for field in fields if field in body}

        def new(made: type, *values: object, **named: object) -> object:
            if named or len(values) != len(fields):
                rest = fields[len(values) :]
                missing = [f for f in rest if f not in named and f not in defaults]
                if missing or len(values) > len(fields) or named.keys() - set(rest):
                    raise TypeError(f"{name}: wrong fields: {missing or sorted(named)}")
                values += tuple([named[f] if f in named else defaults[f] for f in rest])
            return tuple.__new__(made, values)

        body.update({field: _tuplegetter(at, "") for at, field in enumerate(fields)})
        body.update(_fields=fields, _field_defaults=defaults, __new__=new, __slots__=())
        for key, function in (("_asdict", _as_dict), ("_replace", _replaced), ("__repr__", _shown)):
            body.setdefault(key, function)
        return type(name, (tuple,), body)


class _NamedTuple(metaclass=_Maker):
    pass


class _Protocol:
    pass


class typing_stand_in:  # noqa: N801 - a context manager, used like a function
    """Let ``import typing`` give the stand-in inside ``with``."""

    def __enter__(self) -> None:
        self._real = sys.modules.get("typing")
        module: ModuleType = type(sys)("typing")
        module.__dict__.update(
            TYPE_CHECKING=False,
            NamedTuple=_NamedTuple,
            Protocol=_Protocol,
            TypeVar=_type_variable,
            **dict.fromkeys(("Any", "IO", "Literal", "NoReturn", "Self", "TypeGuard"), _Anything),
        )
        sys.modules["typing"] = module
        # The same classes without the package collections, which costs a millisecond.
        self._abc = sys.modules.get("collections.abc")
        sys.modules.setdefault("collections.abc", _collections_abc)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del sys.modules["typing"]
        if self._real is not None:
            sys.modules["typing"] = self._real
        if self._abc is None:
            del sys.modules["collections.abc"]
