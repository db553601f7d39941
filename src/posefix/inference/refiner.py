"""The refiner: image and keypoints in, better keypoints out. Stateless between calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from posefix.adapters.registry import Extract, adapt
from posefix.deprecation import warn_renamed
from posefix.exceptions import InputError
from posefix.inference.crops import Prediction, Prepared, Refined, paste_back, prepare
from posefix.inference.forward import forward_batches
from posefix.inference.options import Options, make_options
from posefix.inference.predictor import (
    Outputs,
    Reliability,
    can_measure_reliability,
    decode,
    measure_reliability,
    predict,
)
from posefix.inference.track_observation import Observer
from posefix.inference.track_refinement import RefinedFrames, refine_tracks
from posefix.io.images import load_image
from posefix.keypoints.mapping import SharedKeypoints, share_keypoints
from posefix.keypoints.poses import read_poses
from posefix.keypoints.skeleton import Skeleton
from posefix.network.config import ModelConfig
from posefix.network.devices import autocast_dtype, pick_device
from posefix.network.inputs import NetworkInput
from posefix.video.frames import read_frames
from posefix.video.options import make_video_options
from posefix.video.tracks import read_tracks
from posefix.weights.hub import upload
from posefix.weights.model_card import CARD_NAME, model_card, save_with_card
from posefix.weights.weights import Weights, fold_batch_norm, load_weights, weights_files

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
        prepared = self._prepared(images, keypoints, boxes_xyxy, color)
        return [r.keypoints for r in self.refine_images(prepared, chosen)]

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
        chosen = make_options(**options)
        found = adapt(output, self.skeleton, image, adapter)
        busy = [i for i, poses in enumerate(found.keypoints) if len(poses)]
        prepared = (
            self.prepare(
                _loaded((found.images or ())[i]),
                found.keypoints[i],
                found.boxes[i] if use_boxes and found.boxes is not None else None,
                color="rgb" if image is None else color,
            )
            for i in busy
        )
        refined: list[Floats] = list(found.keypoints)
        for i, result in zip(busy, self.refine_images(prepared, chosen), strict=True):
            refined[i] = result.keypoints
        return found.rebuild(refined)

    def refine_video(
        self,
        frames: Any,
        tracks: Any,
        *,
        color: str = "rgb",
        progress: bool = False,
        **options: Any,
    ) -> Floats:
        """Refine the tracks of a video: each keypoint is pulled to the right place and calmed at once.

        The network's distribution over where a keypoint is in each frame meets a model of its motion, so that the
        image moves points to where they belong and time takes their jitter. Left and right are put right where an
        estimator exchanged them, and short gaps are filled by looking at the frames.

        >>> refiner = Refiner.from_pretrained()
        >>> frames = np.zeros((4, 64, 64, 3), np.uint8)
        >>> tracks = np.random.default_rng(0).uniform(8, 56, (4, 1, 17, 3))
        >>> refiner.refine_video(frames, tracks).shape
        (4, 1, 17, 3)

        Args:
            frames: path of a video or of a folder of images, array (T, H, W, 3), or an iterable of images; read once.
            tracks: (T, N, K, 3) [x, y, score] or (T, N, K, 2): N people over T frames, each in its own column, NaN
                where a person or a keypoint is not there.
            color: channel order of array frames: ``"rgb"`` or ``"bgr"``.
            progress: show a bar on standard error.
            **options: the fields of ``VideoOptions``: ``online``, ``delay``, ``max_gap``, ``repair_sides``,
                ``fill_missing``, ``prior_weight``, ``batch_size``, ``workers``.

        Returns:
            a new array as ``tracks``; where nobody could look it is what it was. Keypoints in gaps of at most
            ``max_gap`` frames are filled, with half their confidence.

        Raises:
            InputError: shapes or options that do not fit, or fewer frames than the tracks have.
            ImageError: a frame cannot be read.
        """
        parts = list(self.refine_tracks(frames, tracks, color=color, progress=progress, **options))
        return np.concatenate([p.keypoints for p in parts]) if parts else np.array(tracks)

    def refine_tracks(
        self, frames: Any, tracks: Any, *, color: str = "rgb", progress: bool = False, **options: Any
    ) -> Iterator[RefinedFrames]:
        """``refine_video`` as the frames come, some at a time, with what was filled and exchanged.

        Online (``online=True``) each frame comes ``delay`` frames late; else as soon as the frames that matter for it
        are known. Memory does not grow with the length of the video.
        """
        chosen = make_video_options(**options)
        observer = Observer(self.network, self.weights.calibration, self.skeleton)
        read = read_tracks(tracks, self.skeleton, chosen.max_gap, causal=chosen.online)
        with tqdm(total=len(read.valid), unit="frame", disable=not progress) as bar:
            for part in refine_tracks(observer, read_frames(frames, color=color), read, chosen):
                bar.update(len(part))
                yield part

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
        prepared = list(self._prepared(images, keypoints, boxes_xyxy, color))
        return self.forward(prepared, chosen)[1].prior_weight

    def measure_trust(self, *args: Any, **kwargs: Any) -> float:
        """Old name of ``measure_reliability``."""
        warn_renamed("Refiner.measure_trust", "measure_reliability")
        return self.measure_reliability(*args, **kwargs)

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

    def _prepared(
        self, images: Sequence[Any], keypoints: Sequence[Any], boxes_xyxy: Sequence[Any] | None, color: str
    ) -> Iterator[Prepared]:
        if isinstance(images, np.ndarray | str | Path) or len(images) != len(keypoints):
            one = "one array" if isinstance(images, np.ndarray) else "one path"
            got = one if isinstance(images, np.ndarray | str | Path) else len(images)
            raise InputError(f"expected as many images as arrays of keypoints, got {got} and {len(keypoints)}")
        boxes = [None] * len(images) if boxes_xyxy is None else list(boxes_xyxy)
        if len(boxes) != len(images):
            raise InputError(f"boxes_xyxy: expected one array or None per image, got {len(boxes)}")
        return (
            self.prepare(image, pose, box, color=color)
            for image, pose, box in zip(images, keypoints, boxes, strict=True)
        )


def _loaded(image: Any) -> Any:
    """An adapter's image, which may be a function that loads it."""
    return image() if callable(image) else image
