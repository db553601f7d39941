"""Training: the same result after every resume, a clear stop when it breaks, and honest configurations."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factories import FOUR, shared_dir
from posefix.exceptions import PosefixError, TrainingError, WeightsError
from posefix.inference.refiner import Refiner
from posefix.keypoints.codec import HeatmapCodec
from posefix.keypoints.heatmaps import expected_similarity_argmax, heatmap_probabilities
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.training import trainer
from posefix.training.config import Optimisation, SetConfig, Start, read_config
from posefix.training.data.people import read_people
from posefix.training.initial_weights import start_from_imagenet
from posefix.training.losses import coordinate_loss, heatmap_loss
from posefix.training.schedule import learning_rate
from posefix.training.validation import finish
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights, load_weights, save_weights
from training_runs import make_config, stream_of, write_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def test_resumed_run_equals_unbroken_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trainer.train(make_config(data, "whole"), device="cpu", progress=False)
    broken = make_config(data, "broken")

    class KilledError(Exception):
        pass

    original = trainer.learning_rate

    def kill(step: int, optimisation: Optimisation) -> float:
        if step == 4:
            raise KilledError
        return original(step, optimisation)

    monkeypatch.setattr(trainer, "learning_rate", kill)
    with pytest.raises(KilledError):
        trainer.train(broken, device="cpu", progress=False)
    monkeypatch.setattr(trainer, "learning_rate", original)
    with pytest.raises(TrainingError, match="exists: continue with --resume"):
        trainer.train(broken, device="cpu", progress=False)
    resumed = trainer.train(broken, resume=True, device="cpu", progress=False)
    for (name, ours), theirs in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)


def test_infinite_loss_stops_and_keeps_the_checkpoint(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(data)
    monkeypatch.setattr(trainer, "heatmap_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(TrainingError, match=r"the loss of step 0 is nan.*--resume"):
        trainer.train(config, device="cpu", progress=False)
    assert not (Path(config.out) / "checkpoint.safetensors").exists()


def test_damaged_checkpoint(data: Path) -> None:
    config = make_config(data, steps=1)
    with pytest.raises(TrainingError, match="nothing to resume"):
        trainer.train(config, resume=True, device="cpu", progress=False)
    trainer.train(config, device="cpu", progress=False)
    path = Path(config.out) / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(TrainingError, match="cannot read the checkpoint"):
        trainer.train(config, resume=True, device="cpu", progress=False)


def test_loss_falls_and_weights_load(data: Path) -> None:
    config = make_config(data, steps=40, batch_size=4, learning_rate=1e-3, average=0.5)
    network = trainer.train(replace(config, checkpoint_minutes=10), device="cpu", progress=False)
    records = [json.loads(line) for line in (Path(config.out) / "log.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 40
    assert {"loss", "input_px", "output_px", "samples_per_s"} <= set(records[-1])
    save_weights(data / "weights", finish(network, config), half=True)
    about = load_weights(data / "weights").about
    assert str(data.parent) not in json.dumps(about)
    refined = Refiner.from_pretrained(data / "weights", device="cpu").refine(
        data / "001.jpg", np.random.default_rng(0).uniform(50, 200, (1, 17, 3))
    )
    assert np.isfinite(refined).all()


@pytest.mark.slow
def test_training_reduces_the_loss_on_one_batch(data: Path) -> None:
    config = make_config(data)
    network = trainer.build_network(config)
    batch = stream_of(config).batch(0).to("cpu")
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(80):
        logits = network(batch)
        loss = heatmap_loss(logits, config.model.codec.encode(batch.targets, batch.target_mask, config.model.map_hw))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_losses_follow_the_paper() -> None:
    logits = torch.zeros(1, 2, 4, 6)
    points, mask = torch.tensor([[[2.0, 1.0], [3.3, 2.6]]]), torch.tensor([[True, False]])
    # Uniform over 24 heatmap pixels: cross-entropy log 24; the invalid keypoint counts in the mean.
    target = HeatmapCodec(1, 0.0).encode(points, mask, (4, 6))
    torch.testing.assert_close(heatmap_loss(logits, target), torch.tensor(np.log(24) / 2, dtype=torch.float32))
    # The mean of a uniform map is (2.5, 1.5).
    torch.testing.assert_close(coordinate_loss(logits, points, mask), torch.tensor((0.5 + 0.5) / 4))
    sharp = torch.full((1, 1, 4, 6), -1e4)
    sharp[0, 0, 1, 2] = 0
    torch.testing.assert_close(heatmap_loss(sharp, target[:, :1]), torch.tensor(0.0))


def test_learning_rates() -> None:
    paper = Optimisation(learning_rate=5e-4, steps=140, warmup=0, schedule="steps")
    assert [learning_rate(s, paper) for s in (0, 89, 90, 119, 120, 139)] == pytest.approx(
        [5e-4, 5e-4, 5e-5, 5e-5, 5e-6, 5e-6]
    )
    for schedule in ("cosine", "trapezoid"):
        options = Optimisation(learning_rate=1.0, steps=100, warmup=10, schedule=schedule, cooldown=20)
        rates = [learning_rate(s, options) for s in range(100)]
        assert rates[0] == pytest.approx(0.1)
        assert max(rates) == pytest.approx(1.0)
        assert rates[-1] < 0.06
        assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("3", "expected a mapping"),
        ("sets: []", "at least one training set"),
        ("sets: [{annotations: a, images: b}]\nmodle: {}", "unknown key 'modle'"),
        ("sets: [{annotations: a, images: b, wieght: 1}]", "sets: unknown key 'wieght'"),
        (
            "sets: [{annotations: a, images: b}]\noptimisation: {steps: many}",
            "optimisation.steps: expected an integer",
        ),
        ("sets: [{annotations: a, images: b}]\noptimisation: {learning_rate: fast}", "expected a number, got 'fast'"),
        ("sets: [{annotations: a, images: b}]\noptimisation: {schedule: linear}", "expected one of cosine"),
        ("sets: [{annotations: $NOWHERE/a, images: b}]", "environment variable \\$NOWHERE"),
        ("sets: [{annotations: a}]", "images"),
        ("sets: [{annotations: a, images: b}]\nskeleton: dog", "skeleton: expected one of"),
        ("sets: [{annotations: a, images: b}]\nskeleton: mpii\nmodel: {num_keypoints: 17}", "num_keypoints is 17"),
        ("sets: [{annotations: a, images: b}]\nmodel: {input_hw: [100, 100]}", "divisible by 32"),
        ("sets: [", "is not YAML"),
    ],
)
def test_wrong_configurations(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=part):
        read_config(path)


def test_committed_configurations_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POSEFIX_DATA", "POSEFIX_RUNS", "POSEFIX_WEIGHTS", "COCO"):
        monkeypatch.setenv(name, "/somewhere")
    folder = Path(__file__).resolve().parents[2] / "configs"
    configs = {p.stem: read_config(p) for p in folder.glob("*.yaml")}
    assert configs["paper_resnet152_384x288"].model == ModelConfig.paper(152, (384, 288))
    assert {"embedded", "paper_resnet152_384x288"} <= set(configs)
    for config in configs.values():
        assert not any("val" in Path(s.annotations).name for s in config.sets)


def test_wrong_data(data: Path) -> None:
    config = make_config(data)
    (only,) = config.sets
    for change, part in (
        ({"annotations": str(data / "none.json")}, "no such file"),
        ({"annotations": str(data / "estimates.json")}, "this is a list, as results files are"),
        ({"min_keypoints": 18}, "no person has 18"),
    ):
        with pytest.raises(PosefixError, match=part):
            read_people([replace(only, **change)], COCO)
    (data / "001.jpg").write_bytes(b"")
    stream = stream_of(config)
    with pytest.raises(TrainingError, match="cannot read the training image"):
        list(stream.batches(0, 8))


def test_going_on_from_weights(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(data)
    first = trainer.build_network(config)
    state = first.state_dict()
    torch.nn.init.normal_(state["head.2.bias"])
    made = Weights(config.model, COCO, Calibration(), {k: v for k, v in state.items() if k != "prior.share_logit"})
    save_weights(tmp_path / "w", made)
    start = replace(config.start, weights=(str(tmp_path / "w"),))
    with caplog.at_level("INFO"):
        second = trainer.build_network(replace(config, start=start, seed=5))
    torch.testing.assert_close(second.state_dict()["head.2.bias"], state["head.2.bias"])
    assert "these start anew" in caplog.text
    assert "prior.share_logit" in caplog.text
    # Of several, the average.
    state["head.2.bias"] += 1
    save_weights(tmp_path / "v", replace(made, state=dict(state)))
    two = replace(start, weights=(str(tmp_path / "w"), str(tmp_path / "v")))
    third = trainer.build_network(replace(config, start=two))
    torch.testing.assert_close(third.state_dict()["head.2.bias"], state["head.2.bias"] - 0.5)
    with pytest.raises(WeightsError, match="holds another network"):
        trainer.build_network(replace(config, start=start, model=ModelConfig.paper(50, (64, 64))))


def test_a_frozen_trunk_stays_as_it_came(data: Path) -> None:
    config = make_config(data)
    made = Weights(config.model, COCO, Calibration(), trainer.build_network(config).state_dict())
    save_weights(data / "w", made)
    config = replace(make_config(data, freeze_trunk=True), start=Start(weights=(str(data / "w"),)))
    before = trainer.build_network(config).state_dict()
    after = trainer.train(config, device="cpu", progress=False).state_dict()
    same = {k for k, v in after.items() if torch.equal(v, before[k])}
    assert same == {k for k in after if k.startswith(("trunk.", "head."))}


def test_frozen_blocks_stay_as_they_came(data: Path) -> None:
    config = make_config(data)
    made = Weights(config.model, COCO, Calibration(), trainer.build_network(config).state_dict())
    save_weights(data / "w", made)
    config = replace(make_config(data, frozen_blocks=2), start=Start(weights=(str(data / "w"),)))
    before = trainer.build_network(config).state_dict()
    after = trainer.train(config, device="cpu", progress=False).state_dict()
    same = {k for k, v in after.items() if torch.equal(v, before[k])}
    assert same == {k for k in after if k.startswith(("trunk.stem.", "trunk.blocks.0.", "trunk.blocks.1."))}
    with pytest.raises(TrainingError, match=r"frozen_blocks in optimisation: trunk\.stem\.weight has no start"):
        trainer.build_network(make_config(data, frozen_blocks=2))
    with pytest.raises(TrainingError, match="frozen_blocks: expected an integer in"):
        make_config(data, frozen_blocks=-1)


def test_a_batch_in_parts_is_the_same_batch(data: Path) -> None:
    whole = make_config(data, batch_size=5, steps=2)
    parts = make_config(data, "other", batch_size=5, steps=2, micro_batch=2)
    one, other = (trainer.train(c, device="cpu", progress=False).state_dict() for c in (whole, parts))
    # Sums in another order; Adam's first steps are the signs of gradients.
    close = [torch.isclose(one[k], other[k], atol=1e-5).float().mean() for k in one]
    assert torch.stack(close).mean() > 0.99
    logs = [json.loads((Path(c.out) / "log.jsonl").read_text().splitlines()[0])["loss"] for c in (whole, parts)]
    assert logs[0] == pytest.approx(logs[1], abs=2e-3)


def test_nothing_random_is_frozen(data: Path) -> None:
    frozen = make_config(data, freeze_trunk=True)
    with pytest.raises(TrainingError, match=r"freeze_trunk in optimisation: trunk\.stem\.weight has no start weights"):
        trainer.build_network(frozen)
    # A head of another keypoint set starts anew, and must learn.
    config = make_config(data)
    made = Weights(config.model, COCO, Calibration(), trainer.build_network(config).state_dict())
    save_weights(data / "w", made)
    start = Start(weights=(str(data / "w"),))
    other = replace(frozen, start=start, skeleton=FOUR, model=replace(config.model, num_keypoints=4))
    with pytest.raises(TrainingError, match=r"freeze_trunk in optimisation: head\."):
        trainer.build_network(other)


def test_weights_of_another_network_say_what_to_set(data: Path) -> None:
    config = make_config(data)
    model = replace(config.model, width=0.5, pose_entry="none")
    network = trainer.build_network(replace(config, model=model))
    save_weights(data / "w", Weights(model, COCO, Calibration(), network.state_dict()))
    with pytest.raises(WeightsError, match=r"to go on from it, set model: \{width: 0\.5, pose_entry: none\}"):
        trainer.build_network(replace(config, start=Start(weights=(str(data / "w"),))))
    listening = replace(config.model, uses_scores=True)
    network = trainer.build_network(replace(config, model=listening))
    save_weights(data / "w", Weights(listening, COCO, Calibration(), network.state_dict()))
    going_on = replace(config, start=Start(weights=(str(data / "w"),)))
    with pytest.raises(WeightsError, match=r"set model: \{uses_scores: True\}"):
        trainer.build_network(going_on)
    trainer.build_network(replace(going_on, model=listening))


@torch.inference_mode()
def test_some_samples_come_again_with_the_networks_own_answer(data: Path) -> None:
    config = make_config(data)
    network = trainer.build_network(config).eval()
    batch = stream_of(config).batch(0)
    before = batch.to("cpu")
    after = trainer.with_own_output(network, before, 0.25)
    assert after.valid[:2].all()
    for name in ("crop_points", "valid", "scores"):
        torch.testing.assert_close(getattr(after, name)[2:], getattr(before, name)[2:])
    logits = network(before.take(slice(0, 2)))
    points, confidence = expected_similarity_argmax(heatmap_probabilities(logits), before.std[:2] / 4)
    torch.testing.assert_close(after.crop_points[:2], points * 4 + config.model.heatmap_offset)
    torch.testing.assert_close(after.scores[:2], confidence / confidence.amax(-1, keepdim=True))
    assert trainer.with_own_output(network, before, 0.0) is before


def test_the_prior_alone_may_learn(data: Path) -> None:
    config = make_config(data, network_rate=0.0)
    before = trainer.build_network(config).state_dict()
    after = trainer.train(config, device="cpu", progress=False).state_dict()
    changed = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert changed == {k for k in after if k.startswith("prior.")}


def test_imagenet_start_refuses_another_network(data: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    config = replace(make_config(data), model=ModelConfig.paper(50, (64, 64)))
    network = trainer.build_network(config)
    save_file({"conv1.weight": torch.ones(64, 3, 7, 7)}, tmp_path / "r.safetensors")
    start_from_imagenet(network, tmp_path / "r.safetensors")
    stem = network.state_dict()["trunk.stem.weight"]
    assert (stem[:, 3:] == 0).all()
    # torchvision's unit is its std × 255; the reference does not scale, and reads BGR.
    np.testing.assert_allclose(stem[0, :3, 0, 0], 1 / (np.array([0.225, 0.224, 0.229]) * 255), rtol=1e-6)
    save_file({"conv1.weight": torch.ones(64, 3, 3, 3)}, tmp_path / "r.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        start_from_imagenet(network, tmp_path / "r.safetensors")


def test_real_sets_load() -> None:
    shared = shared_dir()
    people = read_people([SetConfig(str(shared / "data/coco/train.json"), str(shared / "data/coco/train"))], COCO)
    assert len(people) == 616
    assert people.overlap.max() > 1
    assert people.share.sum() == pytest.approx(1)
