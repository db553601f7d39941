"""Values of frozen dataclasses against their annotations, for what is read from files and given by users."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from posefix.exceptions import PosefixError
from posefix.messages import shown

_NAMES: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a finite number", str: "text"}


def check_fields(instance: Any, where: str, error: type[PosefixError]) -> None:
    """Check every field of a frozen dataclass from its ``__post_init__``; lists become tuples, integers floats.

    Args:
        instance: a dataclass whose annotations are bool, int, float, str, tuples of these, other dataclasses, or
            unions; fields of other types are not checked.
        where: named in messages before the field, with its dot: ``"model."``.
        error: what to raise.

    Raises:
        PosefixError: ``error``, for a value of another type, NaN or infinity.
    """
    hints = _hints(instance.__class__)
    for each in fields(instance):
        value = checked(getattr(instance, each.name), hints[each.name], f"{where}{each.name}", error)
        object.__setattr__(instance, each.name, value)


def check_ranges(instance: Any, where: str, error: type[PosefixError], **ranges: tuple[float, float]) -> None:
    """Check numbers, and every number of tuples, against bounds that both are allowed themselves.

    Args:
        instance: whose fields; ``check_fields`` has seen them.
        where: as for ``check_fields``.
        error: what to raise.
        **ranges: lowest and highest value by name of the field.

    Raises:
        PosefixError: ``error``, for a number outside.
    """
    for name, (low, high) in ranges.items():
        value = getattr(instance, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:
                kind = "an integer" if isinstance(number, int) else "a number"
                least, most = (f"{bound:,}" if isinstance(bound, int) else f"{bound:g}" for bound in (low, high))
                bounds = f"in {least}…{most}" if math.isfinite(high) else f"of at least {least}"
                raise error(f"{where}{name}: expected {kind} {bounds}, got {shown(number)}")


def checked(value: Any, hint: Any, name: str, error: type[PosefixError]) -> Any:
    """A value of a type.

    Args:
        value: as given.
        hint: the annotation.
        name: of the value, for messages.
        error: what to raise.

    Raises:
        PosefixError: ``error``, where the value does not fit.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return checked(value, next(o for o in options if o is not type(None)), name, error)
    if origin is tuple:
        return _tuple(value, typing.get_args(hint), name, error)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    elif hint not in _NAMES:
        if not is_dataclass(hint) or isinstance(value, typing.cast(type, hint)):
            return value
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise error(f"{name}: expected {_NAMES.get(hint) or getattr(hint, '__name__', hint)}, got {shown(value)}")


def _tuple(value: Any, hints: tuple[Any, ...], name: str, error: type[PosefixError]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise error(f"{name}: expected a list, got {shown(value)}")
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(value) != len(hints):
        raise error(f"{name}: expected {len(hints)} values, got {len(value)}")
    return tuple(checked(v, h, name, error) for v, h in zip(value, hints, strict=True))


def refuse_unknown(data: Any, cls: type, where: str, error: type[PosefixError]) -> None:
    """Raise ``error`` unless ``data`` is an object whose keys are fields of ``cls``."""
    if not isinstance(data, Mapping):
        raise error(f"{where}: expected an object with keys, got {shown(data)}")
    known = {f.name for f in fields(cls)}
    unknown = sorted(shown(key) for key in data if key not in known)
    if unknown:
        raise error(f"{where}: unknown key {unknown[0]}; known are {', '.join(sorted(known))}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)
