"""Publishing by the real client, and loading what was published; every refusal told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import hub_client
from factories import make_weights
from hub_server import TOKEN, Hub
from posefix.weights.model_card import CARD_NAME, MARKER
from posefix.weights.weights import CONFIG_NAME, WEIGHTS_NAME, load_weights, save_weights

pytestmark = pytest.mark.slow  # a server, and processes of their own


NAME = "ann/mine"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub().running() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> str:
    save_weights(tmp_path / "weights", replace(make_weights(), about={"licence": "MIT"}), half=True)
    return str(tmp_path / "weights")


def push(hub: Hub, folder: str, name: str = NAME, **options: Any) -> hub_client.Outcome:
    environment = options.pop("environment", {})
    environment = {"HF_HOME": f"{folder}-home", "HF_ENDPOINT": hub.url, **environment}
    return hub_client.run(hub_client.push, folder, name, environment=environment, **options)


def test_pushed_weights_load_again(hub: Hub, folder: str, tmp_path: Path) -> None:
    outcome = push(hub, folder, token=TOKEN, commit_message="first weights")
    assert outcome.error is None
    assert outcome.printed == ""
    repository = hub.repositories[NAME]
    head = repository.refs["main"]
    assert outcome.value == {"url": f"{hub.url}/{NAME}/commit/{head}", "oid": head, "pr": None}
    assert repository.messages == ["initial commit", "first weights"], "weights and configuration in one commit"
    assert not repository.private
    pushed = repository.commits[head]
    assert set(pushed) == {".gitattributes", CONFIG_NAME, WEIGHTS_NAME, CARD_NAME}
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        assert pushed[name] == (Path(folder) / name).read_bytes()
    assert f'Refiner.from_pretrained("{NAME}")' in pushed[CARD_NAME].decode()
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}
    loaded = hub_client.run(hub_client.load, NAME, environment=environment, revision=head)
    bias = float(load_weights(folder).state["head.2.bias"].double().sum())
    assert loaded.value == (f"{NAME}@{head}", bias)


def test_push_again_private_branch_and_pull_request(hub: Hub, folder: str) -> None:
    stored = {"HF_TOKEN": TOKEN}
    assert push(hub, folder, environment=stored, private=True).error is None
    repository = hub.repositories[NAME]
    first = repository.refs["main"]
    assert repository.private
    save_weights(folder, replace(make_weights(), about={"title": "Better"}), half=True)
    assert push(hub, folder, environment=stored).value["oid"] == repository.refs["main"] != first
    repository.refs["dev"] = first
    second = repository.refs["main"]
    assert push(hub, folder, environment=stored, revision="dev").value["oid"] == repository.refs["dev"]
    assert repository.refs["main"] == second
    proposal = push(hub, folder, environment=stored, create_pr=True)
    assert proposal.value["pr"] == f"{hub.url}/{NAME}/discussions/1"
    assert repository.refs["main"] == second
    assert b"# Better" in repository.commits[proposal.value["oid"]][CARD_NAME]


def test_name_without_owner_is_the_tokens_owner(hub: Hub, folder: str) -> None:
    assert push(hub, folder, "mine", token=TOKEN).value["url"].startswith(f"{hub.url}/me/mine/commit/")


def test_refusals(hub: Hub, folder: str) -> None:
    def refused(name: str = NAME, **options: Any) -> str:
        outcome = push(hub, folder, name, **options)
        assert outcome.error is not None
        assert "\n" not in outcome.error
        return outcome.error

    login = "pass token=… or run 'hf auth login'"
    assert refused() == f"push_to_hub: {hub.url} wants a token that may write; {login}"
    assert "wants a token that may write" in refused(token="hf_bad")
    assert "'a/b/c' is not a repository name; expected 'user/name'" in refused("a/b/c", token=TOKEN)
    assert "a pull request is always against 'main'" in refused(token=TOKEN, create_pr=True, revision="dev")
    assert f"{NAME} has no branch 'dev'; make it first ('hf repos branch create {NAME} dev')" in refused(
        token=TOKEN, revision="dev"
    )
    hub.read_only = True
    assert f"this token may not write to {NAME}; take one with write permission" in refused(token=TOKEN)
    hub.status = 400
    assert "was not written" in refused(token=TOKEN)
    offline = refused(token=TOKEN, environment={"HF_HUB_OFFLINE": "1"})
    assert "is as it was, HF_HUB_OFFLINE forbids asking the hub (unset it)" in offline
    dead = refused(token=TOKEN, environment={"HF_ENDPOINT": "http://127.0.0.1:1"})
    assert "cannot be reached (check the network, HTTPS_PROXY and HF_ENDPOINT); try again" in dead


def test_front_matter_is_what_the_hub_reads(hub: Hub, folder: str) -> None:
    push(hub, folder, token=TOKEN)
    card = hub.repositories[NAME].commits[hub.repositories[NAME].refs["main"]][CARD_NAME].decode()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "posefix"
    assert MARKER in card
    assert "/api/validate-yaml" in hub.paths("POST")
