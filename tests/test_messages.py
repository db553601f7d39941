"""What files bring into messages does no harm there."""

from __future__ import annotations

import pytest

from posefix.exceptions import FileFormatError, MissingDependencyError, PosefixError
from posefix.messages import MESSAGE_LENGTH, VALUE_LENGTH, one_line, printable, shown, without_credentials


@pytest.mark.parametrize(
    "value",
    ["a" * 10**6, [0.25] * 10**6, 10**5000, {"k": "v" * 1000}, "\ud800\x1b]0;\x07", {str(i): i for i in range(999)}],
    ids=lambda value: type(value).__name__,
)
def test_values_are_short_and_printable(value: object) -> None:
    text = shown(value)
    assert 0 < len(text) <= VALUE_LENGTH
    assert text.isprintable()
    text.encode()  # no half characters


def test_short_values_are_shown_whole() -> None:
    assert [shown(v) for v in (None, "año", -1.5, [1, "b"], 10**30)] == [
        "None",
        "'año'",
        "-1.5",
        "[1, 'b']",
        str(10**30),
    ]


def test_a_value_that_contains_itself() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "<list>"
    while deep:  # so that the interpreter need not recurse either
        deep = deep[0]  # type: ignore[assignment]


def test_control_characters_become_escapes() -> None:
    assert printable("a\x1b[31m\x9b\u202eb\nc") == "a\\x1b[31m\\x9b\\u202eb\nc"
    assert one_line("a\nb\r") == "a\\nb\\x0d"
    assert printable("名前 é 👩") == "名前 é 👩"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cannot reach https://user:pa-ss@host:8080/x: no", "cannot reach https://***@host:8080/x: no"),
        ("s3://KEY:SECRET@bucket/a", "s3://***@bucket/a"),
        ("https://token@host", "https://***@host"),
        ("https://h/f?X-Amz-Signature=abc&b=1", "https://h/f?X-Amz-Signature=***&b=1"),
        ("https://h/f?a=1&access_token=abc", "https://h/f?a=1&access_token=***"),
        ("with hf_abcdefghijklmnopqrstuv1234", "with hf_***"),
        ("https://u:p@ss@host/x", "https://***@host/x"),
        ("https://h/f;sig=abc#access_token=def", "https://h/f;sig=***#access_token=***"),
        ("https://h/f?key=abc&keypoints=17", "https://h/f?key=***&keypoints=17"),
        ("Authorization: Bearer abcdef.ghijkl-mn", "Authorization: Bearer ***"),
        ("https://h/a?mail=a@b", "https://h/a?mail=a@b"),
        ("user/name@v1.0 and https://h/a@b", "user/name@v1.0 and https://h/a@b"),
    ],
)
def test_credentials_go(text: str, left: str) -> None:
    assert without_credentials(text) == left


@pytest.mark.parametrize("kind", [PosefixError, FileFormatError, MissingDependencyError])
def test_every_exception_is_made_harmless(kind: type[PosefixError]) -> None:
    error = kind("\x1b[2J https://a:b@c/ " + "x" * 10_000)
    assert str(error).startswith("\\x1b[2J https://***@c/ xxx")
    assert len(str(error)) == MESSAGE_LENGTH
