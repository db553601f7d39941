"""Every place where posefix reads JSON or YAML goes through the doors that limit size and depth."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import posefix
from factories import make_weights
from posefix.exceptions import FileFormatError, PosefixError, TrainingError
from posefix.io.json import parse_json, parse_small_json
from posefix.io.json_stream import iterate_json_list
from posefix.io.packed import read_packed
from posefix.shards.run import parse_run
from posefix.training.checkpoint import load_checkpoint
from posefix.training.config import read_yaml
from posefix.weights.image_models import describe_image_model, is_vitpose_config
from posefix.weights.weights import load_weights, save_weights

SOURCES = Path(posefix.__file__).parent


def test_nothing_is_parsed_elsewhere() -> None:
    parsers = re.compile(
        r"json\.loads?\(|JSONDecoder|yaml\.\w*load|pickle\.|marshal\.|(?<![.\w])(eval|exec)\(|allow_pickle=True"
    )
    found = {
        f"{path.relative_to(SOURCES).as_posix()}: {line.strip()}"
        for path in SOURCES.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if parsers.search(line)
    }
    assert {f.partition(":")[0] for f in found} <= {
        "io/json.py",
        "io/json_stream.py",  # element by element, each measured
        "training/config.py",
    }, found
    assert not [f for f in found if re.search(r"pickle|eval|exec", f)]


ATTACKS = {
    "deep": b'{"a":' * 70 + b"1" + b"}" * 70,
    "deeper": b"[" * 200_000,
    "large": b'{"a": 1}' + b" " * 10**7,
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "binary": b"\xff\x00\xfe",
    "twice": b'{"format": "posefix", "format": "other"}',
    "a list": b"[]",
    "a string": b'"\\ud800"',
    "cut": b'{"a": ',
    "empty": b"",
    "escape": b'{"\x1b[2J": 1}',
}


def _weights(raw: bytes, folder: Path) -> None:
    save_weights(folder, make_weights(input_hw=(32, 32), width=0.35))
    (folder / "config.json").write_bytes(raw)
    load_weights(folder)


def _vitpose(raw: bytes, folder: Path) -> None:
    assert not is_vitpose_config(raw)
    (folder / "config.json").write_bytes(raw)
    describe_image_model(folder)


def _checkpoint(raw: bytes, folder: Path) -> None:
    save_file({"a": torch.zeros(1)}, folder / "c.safetensors", metadata={"facts": raw.decode("latin-1")})
    network = torch.nn.Linear(1, 1)
    load_checkpoint(folder / "c.safetensors", network, network, torch.optim.SGD(network.parameters()))


def _table(raw: bytes, folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from posefix.io.parquet import about_of

    about_of(pa.schema([], metadata={b"posefix": raw}))


def _extra(raw: bytes, folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from posefix.io.parquet import table_to_entries

    table_to_entries(pa.table({"extra": [raw.decode("latin-1")]}))


DOORS: dict[str, Callable[[bytes, Path], object]] = {
    "weights": _weights,
    "ViTPose": _vitpose,
    "checkpoint": _checkpoint,
    "table": _table,
    "extra column": _extra,
    "run.json": lambda raw, folder: parse_run(raw, "out"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("door", DOORS)
def test_small_files(door: str, attack: str, tmp_path: Path) -> None:
    with pytest.raises(PosefixError) as error:
        DOORS[door](ATTACKS[attack], tmp_path)
    said = str(error.value)
    assert said.isprintable()
    assert len(said) < 400, said


def test_a_key_that_stands_twice() -> None:
    with pytest.raises(FileFormatError, match=r"c: the key 'a' stands twice in one object"):
        parse_small_json(b'{"b": {"a": 1, "a": 2}}', source="c")
    assert parse_json(b'{"a": 1, "a": 2}', source="results of other programs") == {"a": 2}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{n}: &{n} [*{m}, *{m}, *{m}, *{m}, *{m}, *{m}, *{m}, *{m}, *{m}]\n"
    for m, n in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "an alias bomb": (BOMB, "aliases stand for more than"),
    "itself": ("a: &a [*a]", "nested too deeply or refers to itself"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "code": ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "a name of code": ("a: !!python/name:os.system", "could not determine a constructor"),
    "twice": ("seed: 1\nseed: 2", "the key 'seed' stands twice"),
    "twice inside": ("a: {b: 1, 'b': 2}", "the key 'b' stands twice"),
    "digits": ("a: " + "9" * 5000, "is not YAML"),
    "a list as key": ("? [a]\n: b", "is not YAML"),
    "a date": ("a: 2001-99-99", "is not YAML"),
    "large": ("a: 1\n" + "#" * 10**6, "at most 1 MB"),
    "control": ("a: \x07", "is not YAML"),
    "two documents": ("a: 1\n---\nb: 2", "is not YAML"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml(name: str, tmp_path: Path) -> None:
    text, words = YAML[name]
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TrainingError, match=words) as error:
        read_yaml(file)
    assert str(error.value).isprintable()


def test_yaml_merges_are_not_twice(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n", encoding="utf-8")
    assert read_yaml(file)["b"] == {"x": 3, "y": 2}


def test_a_small_archive_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip
    import zipfile

    monkeypatch.setattr("posefix.io.packed._SAFE", 10**6)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[" + b" " * 5 * 10**6 + b"]"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", b"[" + b" " * 5 * 10**6 + b"]")
    for name in ("a.json.gz", "a.zip"):
        with pytest.raises(FileFormatError, match="200 times its size"):
            read_packed(tmp_path / name)


@pytest.mark.parametrize("text", ['["' + "x" * 3000 + '"]', "[" + " " * 3000 + "]"])
def test_elements_of_a_stream_are_limited(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posefix.io.json_stream.MAX_ELEMENT", 1000)
    monkeypatch.setattr("posefix.io.json_stream._CHUNK", 100)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FileFormatError, match="expected elements of at most"):
        list(iterate_json_list(tmp_path / "a.json"))
