"""Fields of dataclasses against their annotations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from posefix.exceptions import InputError
from posefix.typed import check_fields, check_ranges, refuse_unknown


@dataclass(frozen=True)
class Inner:
    number: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "inner.", InputError)


@dataclass(frozen=True)
class Outer:
    flag: bool = False
    count: int = 1
    share: float = 0.5
    name: str = "a"
    pair: tuple[int, int] = (1, 2)
    many: tuple[float, ...] = ()
    maybe: float | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        check_fields(self, "outer.", InputError)
        check_ranges(self, "outer.", InputError, share=(0, 1), many=(0, math.inf))


def test_what_fits_is_made_plain() -> None:
    made = Outer(True, 2, 1, "b", [3, 4], [1, 2.5], 3)  # type: ignore[arg-type]
    assert made == Outer(True, 2, 1.0, "b", (3, 4), (1.0, 2.5), 3.0)
    assert isinstance(made.share, float)
    assert isinstance(made.many[0], float)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"flag": "false"}, "outer.flag: expected true or false, got 'false'"),
        ({"flag": 1}, "outer.flag: expected true or false"),
        ({"count": True}, "outer.count: expected an integer, got True"),
        ({"count": 1.0}, "outer.count: expected an integer"),
        ({"share": math.nan}, "outer.share: expected a finite number, got nan"),
        ({"share": -math.inf}, "outer.share: expected a finite number"),
        ({"share": 10**400}, "outer.share: expected a finite number"),
        ({"share": True}, "outer.share: expected a finite number"),
        ({"share": "0.5"}, "outer.share: expected a finite number"),
        ({"share": 1.5}, "outer.share: expected a number in 0…1, got 1.5"),
        ({"name": 3}, "outer.name: expected text"),
        ({"pair": "12"}, "outer.pair: expected a list"),
        ({"pair": (1, 2, 3)}, "outer.pair: expected 2 values, got 3"),
        ({"pair": (1, 2.5)}, "outer.pair: expected an integer"),
        ({"many": (1.0, None)}, "outer.many: expected a finite number"),
        ({"many": (1.0, -1.0)}, "outer.many: expected a number of at least 0"),
        ({"maybe": "x"}, "outer.maybe: expected a finite number"),
        ({"inner": {"number": 1}}, "outer.inner: expected Inner"),
    ],
)
def test_what_does_not_fit(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        Outer(**values)
    assert words in str(caught.value)


def test_unknown_keys() -> None:
    refuse_unknown({"flag": 3}, Outer, "outer", InputError)
    with pytest.raises(InputError, match="outer: unknown key 'flog'; known are count, flag, inner"):
        refuse_unknown({"flog": 3, "flag": 1}, Outer, "outer", InputError)
    with pytest.raises(InputError, match="outer: unknown key 3"):
        refuse_unknown({3: 3, None: 1}, Outer, "outer", InputError)
    with pytest.raises(InputError, match="outer: expected an object with keys, got \\[\\]"):
        refuse_unknown([], Outer, "outer", InputError)
