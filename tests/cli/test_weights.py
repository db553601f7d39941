"""``posefix weights``: what is here, whether it is whole; with the real client where the hub is meant."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

import hub_client
from factories import make_weights
from hub_server import Hub, Repository
from image_model_files import write_heatmap_onnx, write_simcc_onnx
from posefix.cli.weights import weights
from posefix.weights.weights import CONFIG_NAME, WEIGHTS_NAME, save_weights, weights_files

NAME = "ann/poses"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_weights(tmp_path / "weights", replace(make_weights(), about={"licence": "MIT"}), half=True)
    return tmp_path / "weights"


@pytest.fixture
def embedded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the package's own."""
    monkeypatch.setattr("posefix.weights.weights.embedded_folder", lambda: folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "no cache"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(folder / "no cache"))
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub().running() as hub:
        hub.repositories[NAME] = Repository()
        hub.repositories[NAME].commit(weights_files(replace(make_weights(), about={"licence": "MIT"}), half=True))
        yield hub


def run(*arguments: str) -> Result:
    return CliRunner().invoke(weights, list(arguments))


def refused(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    return result.output


def test_embedded(embedded: Path) -> None:
    result = run("list")
    assert result.exit_code == 0
    recorded = json.loads((embedded / CONFIG_NAME).read_text())["sha256"]
    size = (embedded / WEIGHTS_NAME).stat().st_size
    assert result.output.splitlines() == [
        "embedded",
        "  licence   MIT",
        "  network   mobilenet_v2, input 256x192",
        "  keypoints 17 (coco)",
        f"  size      {size / 1e6:.1f} MB",
        f"  sha256    {recorded}",
        "  folder    in the package",
    ]
    result = run("verify")
    assert result.exit_code == 0
    assert "million parameters, all finite; the recorded hash" in result.output
    assert run("card").output.startswith("---\nlicense: mit\n")


def test_list_goes_on_past_what_cannot_be_read(embedded: Path) -> None:
    (embedded / WEIGHTS_NAME).write_bytes(b"")
    result = run("list")
    assert result.exit_code == 0
    assert "embedded" in result.output
    assert "is damaged" in result.output


def test_verify_and_card_of_a_folder(folder: Path) -> None:
    result = run("verify", str(folder))
    assert result.exit_code == 0
    assert str(folder) in result.output
    assert "# posefix mobilenet_v2 256x192, coco" in run("card", str(folder)).output


def record(folder: Path) -> None:
    """Write the weights' hash into the configuration."""
    config = json.loads((folder / CONFIG_NAME).read_text())
    config["sha256"] = hashlib.sha256((folder / WEIGHTS_NAME).read_bytes()).hexdigest()
    (folder / CONFIG_NAME).write_text(json.dumps(config))


def test_verify_finds_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    assert "no such folder" in refused("verify", str(tmp_path / "nowhere"))
    path, state = folder / WEIGHTS_NAME, load_file(folder / WEIGHTS_NAME)
    save_file(state | {"head.2.bias": state["head.2.bias"] + 1}, path)
    assert "is not the file that config.json was written with" in refused("verify", str(folder))
    save_file(state | {"head.2.bias": torch.full((17,), torch.nan)}, path)
    record(folder)
    assert "head.2.bias has numbers that are not finite" in refused("verify", str(folder))
    save_file({k: v for k, v in state.items() if k != "head.2.bias"}, path)
    record(folder)
    assert "head.2.bias is missing" in refused("verify", str(folder))
    path.write_bytes(path.read_bytes()[:-10])
    record(folder)
    assert "damaged" in refused("verify", str(folder))


def test_weights_without_recorded_hash(folder: Path) -> None:
    data = json.loads((folder / CONFIG_NAME).read_text())
    del data["sha256"]
    (folder / CONFIG_NAME).write_text(json.dumps(data))
    result = run("verify", str(folder))
    assert result.exit_code == 0
    assert "no hash on record" in result.output


def test_download_wants_a_repository(folder: Path) -> None:
    assert "expected a hub repository USER/REPO, got the folder" in refused("download", str(folder))


@pytest.mark.slow
def test_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}

    def command(*arguments: str, **more: str) -> tuple[int, str]:
        outcome = hub_client.run(hub_client.command, *arguments, environment={**environment, **more})
        assert outcome.error is None
        return outcome.value  # type: ignore[no-any-return]

    repository = hub.repositories[NAME]
    first = repository.refs["v1"] = repository.refs["main"]
    status, output = command("download", NAME)
    assert status == 0
    assert output.startswith(f"{NAME}@{first}\n  licence   MIT\n")
    second = repository.commit(weights_files(replace(make_weights(), about={"licence": "CC0-1.0"}), half=True))
    assert f"{NAME}@{second}" in command("download", f"{NAME}@main", "--force")[1]
    assert command("download", NAME, "--revision", "v9")[0] == 1
    # Without a network from here on; another library's repository is in the cache, too.
    hub.repositories["bob/bert"] = Repository()
    hub.repositories["bob/bert"].commit({CONFIG_NAME: b"{}", WEIGHTS_NAME: b"x"})
    assert command("download", "bob/bert")[0] == 1
    other = tmp_path / "home/hub/models--bob--bert/snapshots"
    (next(other.iterdir()) / WEIGHTS_NAME).write_bytes(b"x")
    offline = {"HF_HUB_OFFLINE": "1"}
    status, output = command("list", **offline)
    assert status == 0
    assert f"{NAME}@{first}\n  licence   MIT" in output
    assert f"{NAME}@{second}\n  licence   CC0-1.0" in output
    assert "bert" not in output
    status, output = command("verify", f"{NAME}@{first}", **offline)
    assert status == 0
    assert "all finite" in output
    assert f'Refiner.from_pretrained("{NAME}")' in command("card", NAME, **offline)[1]
    path = tmp_path / "home/hub/models--ann--poses/snapshots" / first / WEIGHTS_NAME
    path.resolve().write_bytes(path.read_bytes()[:-1])
    status, output = command("verify", f"{NAME}@{first}", **offline)
    assert status == 1
    assert "is damaged" in output
    status, output = command("list", **offline)
    assert status == 0
    assert "is damaged" in output


def test_build_writes_weights_that_see_with_another_network(embedded: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx, out = write_heatmap_onnx(tmp_path / "mine.onnx", "corner"), tmp_path / "eyes"
    result = run(
        *("build", "--image-model", str(onnx), "--family", "hrnet", "--channels", "bgr", "--mean", "1", "2", "3"),
        *("--sharpness", "3", "--own-weight", "0", "--out", str(out)),
    )
    assert result.exit_code == 0, result.output
    assert "with mine.onnx (hrnet)" in result.output
    stored = json.loads((out / CONFIG_NAME).read_text())["image_model"]
    assert (stored["file"], stored["alignment"], stored["sharpness"], stored["own_weight"]) == (
        *("mine.onnx", "corner"),
        *(3.0, 0.0),
    )
    assert stored["normalisation"]["channels"] == "bgr"
    assert stored["normalisation"]["mean"] == [1.0, 2.0, 3.0]
    assert (out / "mine.onnx").read_bytes() == onnx.read_bytes()
    assert run("verify", str(out)).exit_code == 0


def test_build_names_what_is_wrong(embedded: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    simcc = str(write_simcc_onnx(tmp_path / "simcc.onnx"))
    out = str(tmp_path / "eyes")
    assert "HEIGHTxWIDTH" in run("build", "--image-model", simcc, "--input-size", "256", "--out", out).output
    assert "no such file" in run("build", "--image-model", str(tmp_path / "none.onnx"), "--out", out).output
    assert not Path(out).exists()
