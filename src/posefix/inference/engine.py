"""Weights ready to compute: from images with their people to refined people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from posefix.exceptions import InputError
from posefix.inference.crops import Prediction, Prepared, Refined, paste_back, prepare
from posefix.inference.forward import forward_batches
from posefix.inference.options import Options
from posefix.inference.predictor import (
    Outputs,
    Reliability,
    can_measure_reliability,
    decode,
    measure_reliability,
    predict,
)
from posefix.io.images import load_image
from posefix.keypoints.mapping import SharedKeypoints, share_keypoints
from posefix.keypoints.poses import read_poses
from posefix.keypoints.skeleton import Skeleton, skeleton_of
from posefix.network.config import ModelConfig
from posefix.network.devices import autocast_dtype, pick_device
from posefix.network.inputs import NetworkInput
from posefix.weights.hub import upload
from posefix.weights.model_card import CARD_NAME, model_card, save_with_card
from posefix.weights.weights import (
    ImageModelLike,
    Weights,
    fold_batch_norm,
    load_weights,
    weights_files,
    with_image_model,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from typing_extensions import Self


class Engine:
    """The parts of a refiner that compute; ``Refiner`` is the same with the calls that users make.

    Attributes:
        weights: what it was made from: model, skeleton, calibration, origin.
        network: on its device, in the precision it computes in.
        device: where it computes.
    """

    def __init__(
        self,
        weights: Weights | None = None,
        *,
        image_model: ImageModelLike | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
    ) -> None:
        """Build from weights.

        Args:
            weights: from ``load_weights``; None takes those in the package.
            image_model: another top-down network that sees the crops too: an ``ImageModel``, or a function of
                (B, 256, 192, 3) uint8 RGB crops that gives (B, 17, h, w) heatmaps, about 1 where COCO's keypoint is
                surely seen. See ``docs/image-models.md``.
            device: ``"auto"`` (CUDA, else MPS, else CPU) or a torch device.
            precision: ``"auto"`` computes in bfloat16 where the device is fast at it, ``"float32"`` never.

        Raises:
            InputError: no such device or precision.
            WeightsError: weights that do not fit their configuration.
        """
        if precision not in ("auto", "float32", "bfloat16"):
            raise InputError(f"precision: expected 'auto', 'float32' or 'bfloat16', got {precision!r}")
        weights = load_weights() if weights is None else weights
        self.weights = weights if image_model is None else with_image_model(weights, image_model)
        self.precision = precision
        self.device = pick_device(device)
        choice = {"auto": "auto", "float32": "off", "bfloat16": "on"}[precision]
        network = self.weights.build()
        fold_batch_norm(network)
        network = network.to(self.device, autocast_dtype(self.device, choice) or torch.float32)
        if network.prior is not None:
            network.prior.float()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        family: str | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Load a refiner.

        Args:
            source: None for the weights in the package (no network access), a folder, or a repository
                ``user/name`` on the Hugging Face hub. Also another network for the package's weights to see with: an
                ``.onnx`` or ``.xml`` file, or a ViTPose of the transformers library as a folder or repository.
            family: of such a file where it does not tell: ``"vitpose"``, ``"rtmpose"``, ``"tinypose"``, ``"hrnet"``.
            device: ``"auto"`` (CUDA, else MPS, else CPU) or a torch device.
            precision: ``"auto"`` computes in bfloat16 where the device is fast at it, ``"float32"`` never.
            revision: branch, tag or commit on the hub.
            cache_dir: of downloads.
            token: for private repositories.
            local_files_only: do not ask the network.
            force_download: do not use the cache.

        Raises:
            WeightsError: weights that cannot be found, read or do not fit.
            InputError: no such device or precision.
        """
        weights = load_weights(
            source,
            family=family,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        return cls(weights, device=device, precision=precision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, ``config.json`` and a model card into a folder for ``from_pretrained``.

        A ``README.md`` that posefix did not write stays as it is.
        """
        save_with_card(folder, self.weights)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload posefix weights",
        create_pr: bool = False,
    ) -> CommitInfo:
        """Publish on the Hugging Face hub: weights, configuration and model card, as one commit.

        Args:
            repo_id: ``user/name``, made where it does not exist.
            private: only where the repository is made.
            token: with the right to write; default the stored one.
            revision: branch, which must exist; default ``main``.
            commit_message: of the commit.
            create_pr: as a pull request instead.

        Returns:
            the commit's URL, a ``str`` with ``oid`` (for ``revision=``) and ``pr_url``.

        Raises:
            WeightsError: no permission, no such branch, or the hub cannot be reached.
        """
        files = {**weights_files(self.weights), CARD_NAME: model_card(self.weights, repo_id).encode()}
        return upload(
            files,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
        )

    @property
    def skeleton(self) -> Skeleton:
        """The keypoint set that this refiner reads and writes."""
        return self.weights.skeleton

    @property
    def config(self) -> ModelConfig:
        """The network's configuration."""
        return self.weights.config

    def shared(self, skeleton: Skeleton | str | None) -> SharedKeypoints:
        """What a keypoint set, or that of this name, has in common with the refiner's; None is the refiner's own."""
        return share_keypoints(self.skeleton if skeleton is None else skeleton_of(skeleton), self.skeleton)

    def prepare(
        self,
        image: Any,
        keypoints: Any,
        boxes_xyxy: Any = None,
        *,
        color: str = "rgb",
        shared: SharedKeypoints | None = None,
    ) -> Prepared:
        """Load one image, check its people and cut their crops: the part that needs no network (thread-safe).

        Args:
            image: as for ``refine``.
            keypoints: as for ``refine``.
            boxes_xyxy: as for ``refine``.
            color: as for ``refine``.
            shared: where the keypoints are of another set, what it has in common with the refiner's.
        """
        shared = shared or share_keypoints(self.skeleton, self.skeleton)
        poses = read_poses(keypoints, shared.source)  # before the image: a mistake costs no reading
        return prepare(load_image(image, color=color), poses, boxes_xyxy, shared, self.config)

    def refine_images(self, prepared: Iterable[Prepared], options: Options) -> Iterator[Refined]:
        """Refine images from ``prepare`` as they come, people batched across them; one result per image, in order."""
        waiting: list[Prepared] = []
        people = 0
        for one in prepared:
            waiting.append(one)
            people += len(one.rows)
            if people >= options.batch_size:
                yield from self.refine_prepared(waiting, options)
                waiting, people = [], 0
        yield from self.refine_prepared(waiting, options)

    def refine_prepared(self, prepared: Sequence[Prepared], options: Options) -> list[Refined]:
        """Network, decoding and the way back for images from ``prepare``."""
        if not prepared:
            return []
        inputs = NetworkInput.join([p.inputs for p in prepared])
        counts = [len(p.rows) for p in prepared]
        image_index = np.repeat(np.arange(len(prepared)), counts)
        calibration, flips = self.weights.calibration, self.skeleton.flip_indices
        prediction = predict(self.network, calibration, flips, inputs, options, image_index)
        return self.paste_back(prepared, prediction, options)

    def paste_back(self, prepared: Sequence[Prepared], prediction: Prediction, options: Options) -> list[Refined]:
        """A prediction for the people of several images, put back into each."""
        calibration = self.weights.calibration
        margin = np.array(calibration.margin or (0.0,)) if (options.policy or calibration.policy) == "safe" else None
        ends = np.cumsum([len(p.rows) for p in prepared]).tolist()
        return [
            paste_back(
                one,
                prediction.take(slice(end - len(one.rows), end)),
                margin,
                fill_missing=options.fill_missing,
                fill_threshold=calibration.fill_threshold,
            )
            for one, end in zip(prepared, ends, strict=True)
        ]

    @property
    def measures_reliability(self) -> bool:
        """Whether the weights know how to measure it."""
        return can_measure_reliability(self.network, self.weights.calibration)

    def forward(self, prepared: Sequence[Prepared], options: Options) -> tuple[list[Outputs], Reliability]:
        """People of images from ``prepare`` through the network: outputs for ``decode``, and their reliability."""
        if not prepared:
            return [], Reliability()
        inputs = NetworkInput.join([p.inputs for p in prepared])
        flips = torch.from_numpy(self.skeleton.flip_indices).to(self.device) if options.flip_test else None
        outputs = list(forward_batches(self.network, inputs, options.batch_size, flips))
        return outputs, measure_reliability([o[0] for o in outputs], self.network, self.weights.calibration)

    def decode(self, prepared: Sequence[Prepared], outputs: Sequence[Outputs], options: Options) -> list[Refined]:
        """Outputs of ``forward`` → the people of each image, with ``options.prior_weight``."""
        assert options.prior_weight is not None, "it is measured or given by now"
        weight = np.full(sum(len(p.rows) for p in prepared), options.prior_weight)
        order = torch.from_numpy(self.skeleton.flip_indices).to(self.device)
        prediction = decode(outputs, weight, self.weights.calibration, self.config, order, options)
        return self.paste_back(prepared, prediction, options)
