"""The hub by its real client over HTTP on the loopback address: loading, the cache, and every failure told."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hub_client
from factories import make_weights
from hub_server import TOKEN, Hub, Repository
from posefix.exceptions import WeightsError
from posefix.weights.hub import refuse_damaged
from posefix.weights.weights import CONFIG_NAME, WEIGHTS_NAME, load_weights, weights_files

pytestmark = pytest.mark.slow  # a server, and processes of their own


NAME = "ann/poses"


def files(bias: float = 0.0, dtype: torch.dtype = torch.float16) -> dict[str, bytes]:
    """Weights that are told apart by the sum of one tensor, which is 17 times this."""
    weights = make_weights()
    state = {**weights.state, "head.2.bias": torch.full((17,), bias)}
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    return weights_files(replace(weights, state=state, about={"licence": "MIT"}))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub().running() as hub:
        hub.repositories[NAME] = Repository()
        hub.repositories[NAME].commit(files())
        yield hub


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}


def load(environment: dict[str, str], source: str = NAME, **options: Any) -> hub_client.Outcome:
    return hub_client.run(hub_client.load, source, environment=environment, **options)


def loaded(environment: dict[str, str], source: str = NAME, **options: Any) -> tuple[str, float]:
    """Commit and bias of weights that load without a word."""
    outcome = load(environment, source, **options)
    assert outcome.error is None
    assert outcome.printed == ""
    origin, total = outcome.value
    repository, _, commit = origin.partition("@")
    assert repository == source
    return commit, total / 17


def refused(environment: dict[str, str], source: str = NAME, **options: Any) -> str:
    """The sentence that a load ends with."""
    outcome = load(environment, source, **options)
    assert outcome.error is not None, f"loaded {outcome.value}"
    assert "\n" not in outcome.error
    assert outcome.printed == ""
    return outcome.error


def dead(environment: dict[str, str]) -> dict[str, str]:
    """An address without a server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return {**environment, "HF_ENDPOINT": f"http://127.0.0.1:{free.getsockname()[1]}"}


def snapshot(environment: dict[str, str], commit: str) -> Path:
    return Path(environment["HF_HOME"]) / "hub" / "models--ann--poses" / "snapshots" / commit


# Loading


def test_download_records_and_shows_the_commit(hub: Hub, environment: dict[str, str]) -> None:
    head = hub.repositories[NAME].refs["main"]
    outcome = hub_client.run(hub_client.describe, NAME, environment=environment)
    assert outcome.value.startswith(f"Refiner(mobilenet_v2 256x192, skeleton 'coco', weights {NAME}@{head}, ")
    assert outcome.printed == ""


def test_cached_copy_asks_once_and_downloads_nothing(hub: Hub, environment: dict[str, str]) -> None:
    first = loaded(environment)
    assert sum("/storage/" in p for p in hub.paths("GET")) == 1
    hub.requests.clear()
    assert loaded(environment) == first
    assert [r.method for r in hub.requests] == ["HEAD"]


def test_cached_copy_without_network(hub: Hub, environment: dict[str, str]) -> None:
    first = loaded(environment)
    hub.requests.clear()
    for other in (
        dead(environment),
        {**environment, "HF_HUB_OFFLINE": "1"},
        {**environment, "HF_HUB_OFFLINE": "1"},
        # A proxy that refuses: the client itself would raise in spite of its cache.
        {**environment, "HF_ENDPOINT": "https://hub.invalid", "HTTPS_PROXY": hub.url},
    ):
        assert loaded(other) == first
    assert loaded(environment, local_files_only=True) == first
    assert [r.method for r in hub.requests if r.method != "CONNECT"] == []
    hub.status = 503
    assert loaded(environment) == first
    hub.status = 401
    assert loaded(environment) == first


def test_revisions(hub: Hub, environment: dict[str, str]) -> None:
    repository = hub.repositories[NAME]
    old = repository.refs["v1"] = repository.refs["main"]
    new = repository.commit(files(1.0))
    branch = repository.commit(files(2.0), ref="next/try")
    assert loaded(environment, revision="v1") == (old, 0.0)
    assert loaded(environment) == (new, 1.0)
    assert loaded(environment, revision="next/try") == (branch, 2.0)
    hub.requests.clear()
    assert loaded(environment, revision=old) == (old, 0.0)
    assert hub.requests == [], "a commit never changes: there is nothing to ask"
    # All of them without a network, by the names that they were asked for.
    for revision, expected in (("v1", old), (None, new), ("main", new), ("next/try", branch), (branch, branch)):
        assert loaded({**environment, "HF_HUB_OFFLINE": "1"}, revision=revision)[0] == expected


def test_moved_branch_is_followed(hub: Hub, environment: dict[str, str]) -> None:
    repository = hub.repositories[NAME]
    loaded(environment)
    new = repository.commit(files(1.0))
    assert loaded(environment) == (new, 1.0)
    assert loaded(dead(environment)) == (new, 1.0)


def test_both_files_are_of_one_commit(hub: Hub, environment: dict[str, str]) -> None:
    repository = hub.repositories[NAME]
    old = repository.refs["main"]

    def push_meanwhile(request: Any) -> None:
        if request.method == "GET" and request.path.endswith(CONFIG_NAME):
            hub.before = lambda request: None
            repository.commit(files(1.0))

    hub.before = push_meanwhile
    assert loaded(environment) == (old, 0.0)
    assert loaded(environment) == (repository.refs["main"], 1.0)


def test_update_that_breaks_off_leaves_the_old_copy_in_use(hub: Hub, environment: dict[str, str]) -> None:
    old = loaded(environment)
    hub.repositories[NAME].commit(files(1.0))
    hub.cuts = [0] * 6
    outcome = hub_client.run(hub_client.load_without_patience, NAME, environment=environment)
    assert outcome.value[0] == f"{NAME}@{old[0]}"
    assert loaded({**environment, "HF_HUB_OFFLINE": "1"}) == old
    hub.cuts = []
    assert loaded(environment)[1] == 1.0


def test_interrupted_download_is_resumed(hub: Hub, environment: dict[str, str]) -> None:
    # The client counts whole pieces of 10 MiB; the file must be larger to be resumed rather than begun again.
    piece, content = 10 * 2**20, files(dtype=torch.float64)
    assert len(content[WEIGHTS_NAME]) > piece + 500
    hub.repositories[NAME].commit(content)
    hub.cuts = [piece + 500]
    outcome = hub_client.run(hub_client.load_without_patience, NAME, environment=environment)
    if outcome.error:  # clients before 1.0 resume when they are run again, as the message says
        assert "broke off (run it again)" in outcome.error
        outcome = hub_client.run(hub_client.load_without_patience, NAME, environment=environment)
    assert outcome.value[0].startswith(NAME)
    fetches = [r.headers.get("Range") for r in hub.requests if r.method == "GET" and "/storage/" in r.path]
    assert fetches == [None, f"bytes={piece}-"]


def test_kills_while_downloading(hub: Hub, environment: dict[str, str]) -> None:
    """Whenever a download is killed, the old weights or none load without network, and the next run has the new."""
    first = loaded(environment)
    rng = np.random.default_rng(0)
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    at_work = 0
    start = time.perf_counter()
    hub_client.run(hub_client.load, NAME, environment=environment)
    seconds = time.perf_counter() - start
    # Requests that take a little make the kills fall into the download too.
    hub.before = lambda request: time.sleep(0.05)
    for number in range(20):
        if number % 5 == 0:
            commit = hub.repositories[NAME].commit(files(bias=0.25 + number))
        at_work += hub_client.run_and_kill(
            hub_client.load, NAME, environment=environment, after=rng.uniform(0.3, 1.5) * seconds
        )
        old = loaded(offline)
        if old != first:
            assert old[0] == commit
        first = old
    assert at_work >= 5
    assert loaded(environment) == (commit, pytest.approx(15.25))


def test_token_goes_to_the_hub_only(hub: Hub, environment: dict[str, str]) -> None:
    hub.repositories[NAME].private = hub.repositories[NAME].gated = True
    loaded({**environment, "HF_TOKEN": TOKEN})
    assert {r.headers.get("Authorization") for r in hub.requests if "/storage/" not in r.path} == {f"Bearer {TOKEN}"}
    assert {r.headers.get("Authorization") for r in hub.requests if "/storage/" in r.path} == {None}
    loaded(environment, token=TOKEN, force_download=True)


# Failures


def test_unknown_private_and_gated(hub: Hub, environment: dict[str, str]) -> None:
    for options in ({}, {"token": TOKEN}):
        message = refused(environment, "bob/nothing", **options)
        assert f"no folder 'bob/nothing' and no such repository at {hub.url}, or it is private" in message
        assert "pass token=… or run 'hf auth login'" in message
    hub.repositories[NAME].private = True
    assert "or it is private; check the name, or pass token=…" in refused(environment)
    assert "does not accept the token" in refused(environment, token="hf_bad")
    assert "run 'hf auth login' or pass token=" in refused(environment, token=True)
    hub.repositories[NAME] = replace(hub.repositories[NAME], private=False, gated=True)
    assert f"{NAME} is gated; accept its terms at {hub.url}/{NAME}, then pass token=…" in refused(environment)


def test_no_such_revision(hub: Hub, environment: dict[str, str]) -> None:
    loaded(environment)
    for revision in ("v9", "f" * 40):
        message = refused(environment, revision=revision)
        assert f"{NAME} has no revision '{revision}'; leave it away for the newest" in message
    with pytest.raises(WeightsError, match=r"from_pretrained\('ann/poses', revision='v9'\)"):
        load_weights(f"{NAME}@v9")


def test_repository_of_something_else(hub: Hub, environment: dict[str, str]) -> None:
    names = {
        "a/empty": {"README.md": b""},
        "a/half": {CONFIG_NAME: files()[CONFIG_NAME]},
        "a/pickle": {"pytorch_model.bin": b"\x80"},
        "a/other": {CONFIG_NAME: b'{"model_type": "bert"}', WEIGHTS_NAME: b"x"},
        "a/words": {CONFIG_NAME: b"not JSON", WEIGHTS_NAME: b"x"},
    }
    for name, content in names.items():
        hub.repositories[name] = Repository()
        hub.repositories[name].commit(content)
    assert f"a/empty has no {CONFIG_NAME}, so it is not a posefix repository" in refused(environment, "a/empty")
    assert f"a/half has no {WEIGHTS_NAME}, so it is not a posefix repository" in refused(environment, "a/half")
    assert "only pytorch_model.bin, and posefix never reads pickles" in refused(environment, "a/pickle")
    assert "is not posefix's (expected format" in refused(environment, "a/other")
    assert "is not JSON" in refused(environment, "a/words")
    assert not [p for p in hub.paths("GET") if "/storage/" in p], "refused before the weights were fetched"


def test_wrong_skeleton(hub: Hub, environment: dict[str, str]) -> None:
    outcome = hub_client.run(hub_client.refuse_poses, NAME, environment=environment)
    assert "keypoints: expected (N, 17, 3) or (N, 17, 2) for skeleton 'coco', got (1, 16, 3)" in str(outcome.value)
    config = json.loads(files()[CONFIG_NAME])
    config["model"]["num_keypoints"] = 16
    commit = hub.repositories[NAME].commit({CONFIG_NAME: json.dumps(config).encode()})
    message = refused(environment)
    assert f"{NAME}@{commit}" in message
    assert "the model has 16 keypoints, its skeleton 'coco' has 17" in message


def test_no_network_and_no_copy(hub: Hub, environment: dict[str, str]) -> None:
    way_out = "connect once, or use Refiner.from_pretrained() for the weights in the package"
    nowhere = dead(environment)
    message = refused(nowhere)
    assert f"{NAME} is not in the cache {environment['HF_HOME']}/hub, and {nowhere['HF_ENDPOINT']}" in message
    assert message.endswith(f"cannot be reached (check the network, HTTPS_PROXY and HF_ENDPOINT); {way_out}")
    assert "HF_HUB_OFFLINE forbids asking the hub (unset it)" in refused({**environment, "HF_HUB_OFFLINE": "1"})
    assert "load it once without local_files_only=True" in refused(environment, local_files_only=True)
    proxied = {**environment, "HF_ENDPOINT": "https://hub.invalid", "HTTPS_PROXY": hub.url}
    assert "the proxy refused the way to https://hub.invalid (check HTTPS_PROXY and NO_PROXY)" in refused(proxied)
    hub.status = 503
    assert "answered 503 (try again later)" in refused(environment)
    hub.status = 429
    assert "limits the number of requests" in refused(environment)
    hub.status = 403
    assert f"this token may not read {NAME}; take one that may" in refused(environment)
    hub.status = 418
    assert re.search(f"cannot download {NAME}: .*418", refused(environment))
    hub.status, hub.login_page = None, True
    assert "does not answer as a hub does" in refused(environment)


def test_dead_host_is_asked_once(hub: Hub, environment: dict[str, str]) -> None:
    # Accepts connections and says nothing; the client by itself would ask six times, a minute each.
    loaded(environment)
    attempts = []
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def accept() -> None:
            try:
                while True:
                    attempts.append(silent.accept()[0])
            except OSError:
                pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        slow = {**environment, "HF_ENDPOINT": address, "HF_HUB_ETAG_TIMEOUT": "1"}
        assert "did not answer in time" in refused({**slow, "HF_HOME": environment["HF_HOME"] + "2"})
        assert len(attempts) == 1
        loaded(slow)
        assert len(attempts) == 2
        silent.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    for connection in attempts:
        connection.close()


def test_force_download_without_network(hub: Hub, environment: dict[str, str]) -> None:
    loaded(environment)
    assert "force_download=True needs the hub, and http" in refused(dead(environment), force_download=True)
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    assert "force_download=True needs the hub, and HF_HUB_OFFLINE" in refused(offline, force_download=True)
    assert "exclude each other" in refused(environment, force_download=True, local_files_only=True)


def test_download_that_keeps_breaking_off(hub: Hub, environment: dict[str, str]) -> None:
    hub.cuts = [0] * 6
    outcome = hub_client.run(hub_client.load_without_patience, NAME, environment=environment)
    assert "broke off (run it again)" in (outcome.error or "")
    hub.cuts = []
    loaded(environment)


def test_full_disk_and_no_permission(hub: Hub, environment: dict[str, str]) -> None:
    way_out = "pass cache_dir=… or set HF_HOME to another place"
    for number, part in ((hub_client.NO_SPACE, "no room for"), (hub_client.NO_PERMISSION, "Permission denied")):
        outcome = hub_client.run(hub_client.load_with_full_disk, number, NAME, environment=environment)
        assert part in (outcome.error or "")
        assert (outcome.error or "").endswith(way_out)
    (Path(environment["HF_HOME"]).parent / "file").write_text("")
    message = refused(environment, cache_dir=str(Path(environment["HF_HOME"]).parent / "file" / "cache"))
    assert "cannot write" in message
    assert "Not a directory" in message


@pytest.mark.parametrize("corruption", ["cut", "bit", "config"])
def test_damaged_copy(hub: Hub, environment: dict[str, str], corruption: str) -> None:
    commit, _ = loaded(environment)
    path = snapshot(environment, commit) / (CONFIG_NAME if corruption == "config" else WEIGHTS_NAME)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.resolve().write_bytes(bytes(content[:-1000] if corruption == "cut" else content))
    for revision in (None, commit):
        message = refused(environment, revision=revision)
        assert f"the cached file {path} is damaged" in message
        assert "pass force_download=True (posefix weights download --force)" in message
    assert loaded(environment, force_download=True) == (commit, 0.0)
    assert loaded({**environment, "HF_HUB_OFFLINE": "1"}) == (commit, 0.0)


def test_tensors_of_another_version_are_refused(hub: Hub, environment: dict[str, str]) -> None:
    """The transport is whole, the hub's own hashes agree, but the repository mixes two versions."""
    old, new = files(1.0), files(2.0)
    hub.repositories[NAME].commit({CONFIG_NAME: old[CONFIG_NAME], WEIGHTS_NAME: new[WEIGHTS_NAME]})
    assert f"is not the file that {CONFIG_NAME} was written with" in refused(environment)


def test_hash_is_the_name_of_the_first_link(tmp_path: Path) -> None:
    content = b"weights"
    store, good, bad = tmp_path / ("0" * 64), tmp_path / ("b" * 64), tmp_path / "not a hash"
    store.write_bytes(content)
    good.symlink_to(store)
    link = tmp_path / WEIGHTS_NAME
    for target, damaged in ((store, True), (good, True), (bad, False)):
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)
        if damaged:
            with pytest.raises(WeightsError, match="is damaged"):
                refuse_damaged(link, content)
        else:
            refuse_damaged(link, content)
    refuse_damaged(store, content)  # a plain file, as on Windows: nothing to compare with


def test_what_is_not_a_name() -> None:
    for source in ("weights", "./weights", "../weights/x", "a/b/c", "a b/c", ""):
        with pytest.raises(WeightsError, match=r"no such folder|expected a folder|has no config\.json"):
            load_weights(source)
