"""The refiner: image and keypoints in, better keypoints out. Stateless between calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from posefix.adapters import Extract, refine_output
from posefix.deprecation import warn_renamed
from posefix.exceptions import InputError
from posefix.inference.crops import Answer, Crops, Prepared, Refined, cut_crops, paste_back, pose_consistency_of
from posefix.inference.forward import answer, can_measure_reliability, outliers
from posefix.inference.options import Options, make_options
from posefix.inference.reliability import prior_weight_from_outliers
from posefix.io.images import load_image
from posefix.keypoints.poses import read_poses
from posefix.keypoints.skeleton import Skeleton
from posefix.network.config import ModelConfig
from posefix.network.devices import autocast_dtype, pick_device
from posefix.weights.hub import upload
from posefix.weights.model_card import CARD_NAME, model_card, write_card
from posefix.weights.weights import Weights, fold_batch_norm, load_weights, save_weights, weights_files

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

Floats = npt.NDArray[np.floating]


class Refiner:
    """Refines the keypoints of any 2D pose estimator.

    Attributes:
        weights: what it was made from: model, skeleton, calibration, origin.
        network: on its device, in the precision it computes in.
        device: where it computes.
    """

    def __init__(self, weights: Weights, *, device: str | torch.device = "auto", precision: str = "auto") -> None:
        """Build from weights.

        Args:
            weights: from ``load_weights``.
            device: ``"auto"`` (CUDA, else MPS, else CPU) or a torch device.
            precision: ``"auto"`` computes in bfloat16 where the device is fast at it, ``"float32"`` never.

        Raises:
            InputError: no such device or precision.
            WeightsError: weights that do not fit their configuration.
        """
        if precision not in ("auto", "float32", "bfloat16"):
            raise InputError(f"precision: expected 'auto', 'float32' or 'bfloat16', got {precision!r}")
        self.weights = weights
        self.device = pick_device(device)
        choice = {"auto": "auto", "float32": "off", "bfloat16": "on"}[precision]
        network = weights.build()
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
        device: str | torch.device = "auto",
        precision: str = "auto",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Refiner:
        """Load a refiner.

        Args:
            source: None for the weights in the package (no network access), a folder, or a repository
                ``user/name`` on the Hugging Face hub.
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
        save_weights(folder, self.weights)
        write_card(folder, self.weights)

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

    def __repr__(self) -> str:
        height, width = self.config.input_hw
        return (
            f"Refiner({self.config.backbone} {height}x{width}, skeleton {self.skeleton.name!r}, "
            f"weights {self.weights.origin or 'in memory'}, device {str(self.device)!r})"
        )

    def refine(
        self, image: Any, keypoints: Any, *, boxes_xyxy: Any = None, color: str = "rgb", **options: Any
    ) -> Floats:
        """Refine the people of one image.

        Args:
            image: (H, W, 3) uint8 array or anything ``posefix.load_image`` takes: path, PIL image, tensor.
            keypoints: (N, K, 3) [x, y, score] or (N, K, 2), pixels of the image, pixel centre = integer.
                Missing are: score ≤ 0, NaN, and (0, 0) where no scores are given. Scores tell which to doubt; each is
                compared with the person's best, so their unit does not matter.
            boxes_xyxy: (N, 4) person boxes; default the keypoints' extent × 1.2. NaN rows take the default.
            color: channel order of an array: ``"rgb"`` or ``"bgr"``.
            **options: the fields of ``Options``: ``policy``, ``decoder``, ``flip_test``, ``fill_missing``,
                ``batch_size``, ``prior_weight``.

        Returns:
            a new float32 array (float64 for float64 input), same people, same order: (N, K, 3)
            [x, y, confidence] where the confidence is the expected keypoint similarity in [0, 1]; (N, K, 2) for
            (N, K, 2). People without box and without a valid keypoint come back as they were.

        Raises:
            InputError: shapes or options that do not fit.
            ImageError: the image cannot be read.
        """
        boxes = None if boxes_xyxy is None else [boxes_xyxy]
        return self.refine_batch([image], [keypoints], boxes_xyxy=boxes, color=color, **options)[0]

    def refine_batch(
        self,
        images: Sequence[Any],
        keypoints: Sequence[Any],
        *,
        boxes_xyxy: Sequence[Any] | None = None,
        color: str = "rgb",
        **options: Any,
    ) -> list[Floats]:
        """Refine the people of several images; people are batched across images.

        Args:
            images: images, as for ``refine``.
            keypoints: one array per image.
            boxes_xyxy: one (N, 4) array or None per image.
            color: as for ``refine``.
            **options: as for ``refine``.

        Returns:
            one array per image, as ``refine`` gives.

        Raises:
            InputError: shapes, lengths or options that do not fit.
            ImageError: an image cannot be read.
        """
        chosen = make_options(**options)
        prepared = self._prepare_all(images, keypoints, boxes_xyxy, color)
        return [r.keypoints for r in self.refine_prepared(prepared, chosen)]

    def __call__(self, image: Any, output: Any, **options: Any) -> Any:
        """``refine_output``: the line after any estimator."""
        return self.refine_output(image, output, **options)

    def refine_output(
        self,
        image: Any,
        output: Any,
        *,
        color: str = "rgb",
        use_boxes: bool = False,
        adapter: Extract | None = None,
        **options: Any,
    ) -> Any:
        """Refine what an estimator hands over, in its own format.

        Args:
            image: the image, as for ``refine``; a list of images for a list of outputs; a dict by image id for
                results of several images; None where the output brings its own (ultralytics, SLEAP labels).
            output: of supervision, ultralytics, torchvision, transformers, mmpose, detectron2, rtmlib, MediaPipe,
                OpenPose, AlphaPose, DeepLabCut, SLEAP, COCO results, an array or tensor, or a list of one of these
                with one element per image. See ``docs/adapters.md``.
            color: as for ``refine``.
            use_boxes: crop around the output's person boxes where it has them, not around the keypoints.
            adapter: a function that takes another kind of output apart; default ``posefix.adapters.ADAPTERS``.
            **options: as for ``refine``.

        Returns:
            a new object of the same kind with refined keypoints and their confidence, all else as it was; what did
            not move keeps its numbers to the bit. Keypoints that the skeleton does not have stay.

        Raises:
            InputError: an unknown kind of output, images that do not fit it, or wrong options.
            SkeletonError: an output without the refiner's keypoints.
            ImageError: an image cannot be read.
        """
        return refine_output(
            self, image, output, color=color, use_boxes=use_boxes, adapter=adapter, **asdict(make_options(**options))
        )

    def prepare(
        self,
        image: Any,
        keypoints: Any,
        boxes_xyxy: Any = None,
        *,
        color: str = "rgb",
        ignore_orientation: bool = False,
    ) -> Prepared:
        """Check one image's people and cut their crops: the part that needs no network (thread-safe)."""
        poses = read_poses(keypoints, self.skeleton)
        pixels = load_image(image, color=color, ignore_orientation=ignore_orientation)
        return cut_crops(
            pixels, poses, boxes_xyxy, self.skeleton.sigmas, self.config.input_hw, antialias=self.config.antialias
        )

    def refine_prepared(self, prepared: Sequence[Prepared], options: Options) -> list[Refined]:
        """Network, decoding and the way back for images from ``prepare``."""
        if not prepared:
            return []
        crops = Crops.join([p.crops for p in prepared])
        counts = [len(p.rows) for p in prepared]
        answer = self.answer(crops, options, np.repeat(np.arange(len(prepared)), counts))
        ends = np.cumsum(counts)
        policy = options.policy or self.weights.calibration.policy
        margin = np.array(self.weights.calibration.margin or (0.0,))
        results = []
        for part, end in zip(prepared, ends, strict=True):
            own = slice(end - len(part.rows), end)
            mine = Answer(*(getattr(answer, f.name)[own] for f in fields(Answer)))
            allowed = margin if policy == "safe" else None
            keypoints = paste_back(part, mine, allowed, fill_missing=options.fill_missing)
            results.append(Refined(keypoints, pose_consistency_of(part, mine)))
        return results

    def answer(self, crops: Crops, options: Options, images: npt.NDArray[np.int64]) -> Answer:
        """The network's answer for any number of people, ``options.batch_size`` at a time; ``images`` tells whose
        image each is in, in ascending order."""
        return answer(self.network, self.weights.calibration, self.skeleton.flip_indices, crops, options, images)

    def measure_reliability(
        self,
        images: Sequence[Any],
        keypoints: Sequence[Any],
        *,
        boxes_xyxy: Sequence[Any] | None = None,
        color: str = "rgb",
        batch_size: int = 32,
    ) -> float:
        """How far an estimator deserves to be trusted, measured on some of its results: give it as ``prior_weight``.

        One image's people tell less than two hundred people of many images, and an estimator does not change from
        one image to the next. ``posefix refine`` measures by itself.

        Args:
            images: images, as for ``refine``.
            keypoints: one array per image.
            boxes_xyxy: one (N, 4) array or None per image.
            color: as for ``refine``.
            batch_size: people per pass through the network.

        Returns:
            about 0.5 for weak estimators, 1.5 for strong ones; 1 for nobody, and for weights that cannot tell.

        Raises:
            InputError, ImageError: as ``refine_batch``.
        """
        chosen = make_options(batch_size=batch_size)
        prepared = self._prepare_all(images, keypoints, boxes_xyxy, color)
        return self.prior_weight_from(*self.outliers_in(prepared, chosen.batch_size))

    def measure_trust(self, *args: Any, **kwargs: Any) -> float:
        """Old name of ``measure_reliability``."""
        warn_renamed("Refiner.measure_trust", "measure_reliability")
        return self.measure_reliability(*args, **kwargs)

    @property
    def measures_reliability(self) -> bool:
        """Whether the weights know how to measure it."""
        return can_measure_reliability(self.network, self.weights.calibration)

    def outliers_in(self, prepared: Sequence[Prepared], batch_size: int = 32) -> tuple[int, int]:
        """Keypoints that images from ``prepare`` are sure of, and how many of them the people have elsewhere."""
        if not prepared:
            return 0, 0
        return outliers(self.network, Crops.join([p.crops for p in prepared]), batch_size)

    def prior_weight_from(self, confident: int, outliers: int) -> float:
        """Trust in an estimator with such departures; 1 where the weights cannot tell."""
        if not self.measures_reliability:
            return 1.0
        return float(prior_weight_from_outliers(confident, outliers, self.weights.calibration.reference_outlier_rate))

    def _prepare_all(
        self, images: Sequence[Any], keypoints: Sequence[Any], boxes_xyxy: Sequence[Any] | None, color: str
    ) -> list[Prepared]:
        if isinstance(images, np.ndarray | str | Path) or len(images) != len(keypoints):
            one = "one array" if isinstance(images, np.ndarray) else "one path"
            got = one if isinstance(images, np.ndarray | str | Path) else len(images)
            raise InputError(f"expected as many images as arrays of keypoints, got {got} and {len(keypoints)}")
        boxes = [None] * len(images) if boxes_xyxy is None else list(boxes_xyxy)
        if len(boxes) != len(images):
            raise InputError(f"boxes_xyxy: expected one array or None per image, got {len(boxes)}")
        return [
            self.prepare(image, pose, box, color=color)
            for image, pose, box in zip(images, keypoints, boxes, strict=True)
        ]
