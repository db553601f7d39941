"""The refiner: image and keypoints in, better keypoints out. Stateless between calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from posefix.adapters.base import like
from posefix.adapters.registry import Extract, adapt
from posefix.adapters.tracked import is_numbers, tracked_output
from posefix.deprecation import warn_renamed
from posefix.exceptions import InputError
from posefix.inference.engine import Engine
from posefix.inference.options import Color, Decoder, Options, Policy, choose_options
from posefix.inference.refined_poses import RefinedPoses, make_refined_poses
from posefix.inference.stream import measured_weight, prepare_output, put_together, stream
from posefix.keypoints.poses import NORMALISED, normalised
from posefix.keypoints.skeleton import Skeleton
from posefix.tensors import is_tensor, require_torch
from posefix.video.frames import read_frames
from posefix.video.options import make_video_options
from posefix.video.tracks import read_tracks

if TYPE_CHECKING:
    import torch

    from posefix.inference.track_refinement import RefinedFrames

Floats = npt.NDArray[np.floating]


class Refiner(Engine):
    """Refines the keypoints of any 2D pose estimator.

    Attributes:
        weights: what it was made from: model, skeleton, calibration, origin.
        model: the network as its backend runs it.
        device: where it computes.
        threads: people that a CPU works on at the same time.

    Examples:
        >>> refiner = Refiner.from_pretrained()
        >>> refined = refiner.refine(image, keypoints)
    """

    def __repr__(self) -> str:
        height, width = self.config.input_hw
        return (
            f"Refiner({self.config.backbone} {height}x{width}, skeleton {self.skeleton.name!r}, "
            f"weights {self.weights.origin or 'in memory'}, backend {self.model.backend!r}, "
            f"{self.model.precision}, device {str(self.device)!r}, threads {self.threads})"
        )

    def refine(
        self,
        image: Any,
        keypoints: Any,
        *,
        boxes_xyxy: Any = None,
        color: Color = "rgb",
        skeleton: Skeleton | str | None = None,
        policy: Policy | None = None,
        decoder: Decoder | None = None,
        flip_test: bool = False,
        fill_missing: bool = True,
        batch_size: int = 32,
        prior_weight: float | None = None,
        offset: tuple[float, float] | None = None,
        options: Options | None = None,
        trust: float | None = None,
    ) -> Any:
        """Refine the people of one image.

        Args:
            image: (H, W, 3) uint8 array or anything ``posefix.load_image`` takes: path, bytes, PIL image, tensor.
            keypoints: (N, K, 3) [x, y, score] or (N, K, 2), pixels of the image, pixel centre = integer.
                Missing are: score ≤ 0, NaN, and (0, 0). Scores tell which to doubt; each is compared with the
                person's best, so their unit does not matter.
            boxes_xyxy: (N, 4) person boxes; default the keypoints' extent × 1.2. Rows of NaN or None, and boxes
                without area or away from the keypoints, take the default.
            color: channel order of an array: ``"rgb"`` or ``"bgr"``.
            skeleton: the keypoints' set where it is not the refiner's: a ``Skeleton`` or the name of a built-in one.
                Keypoints that both have by name are refined, the others stay.
            policy: ``"safe"`` leaves a keypoint exactly where it is unless the image clearly contradicts it,
                ``"always"`` takes the network's output; None is what the weights recommend.
            decoder: ``"expected_similarity"`` or the paper's ``"soft_argmax"``; None is what the weights recommend.
            flip_test: also run the network on the mirrored image and average; twice the time.
            fill_missing: give missing keypoints a place where the image supports one; else they stay missing.
            batch_size: people per pass through the network.
            prior_weight: weight of the given pose against the image, below 1 for weak estimators, above 1 for strong
                ones; None measures it on this image's people.
            offset: (x, y) pixels of a person's crop by which all keypoints are moved first; None is (0, 0).
            options: all of the above from ``policy`` on in one object; keywords that differ from their default win.
            trust: old name of ``prior_weight``.

        Returns:
            a new float32 array (float64 for float64 input; a tensor for a tensor), same people, same order: (N, K, 3)
            [x, y, confidence] where the confidence is the expected keypoint similarity in (0, 1]; (N, K, 2) for
            (N, K, 2). People without box and without a valid keypoint come back as they were.

        Raises:
            InputError: shapes or options that do not fit.
            SkeletonError: a keypoint set that shares no keypoint with the refiner's.
            ImageError: the image cannot be read.

        Examples:
            >>> refiner.refine("photo.jpg", keypoints).shape
            (2, 17, 3)
        """
        boxes = None if boxes_xyxy is None else [boxes_xyxy]
        chosen = choose_options(
            options,
            policy=policy,
            decoder=decoder,
            flip_test=flip_test,
            fill_missing=fill_missing,
            batch_size=batch_size,
            prior_weight=prior_weight,
            offset=offset,
            trust=trust,
        )
        return self.refine_batch(
            [image], [keypoints], boxes_xyxy=boxes, color=color, skeleton=skeleton, options=chosen
        )[0]

    def refine_batch(
        self,
        images: Sequence[Any],
        keypoints: Sequence[Any],
        *,
        boxes_xyxy: Sequence[Any] | None = None,
        color: Color = "rgb",
        skeleton: Skeleton | str | None = None,
        policy: Policy | None = None,
        decoder: Decoder | None = None,
        flip_test: bool = False,
        fill_missing: bool = True,
        batch_size: int = 32,
        prior_weight: float | None = None,
        offset: tuple[float, float] | None = None,
        options: Options | None = None,
        trust: float | None = None,
    ) -> list[Any]:
        """Refine the people of several images; people are batched across images.

        Keywords that are not listed here are those of ``refine``.

        Args:
            images: images, as for ``refine``.
            keypoints: one array per image.
            boxes_xyxy: one (N, 4) array or None per image.
            prior_weight: a number for all images; None measures it on each image's people.
            trust: old name of ``prior_weight``.

        Returns:
            one array per image, as ``refine`` gives.

        Raises:
            InputError: shapes, lengths or options that do not fit.
            ImageError: an image cannot be read.

        Examples:
            >>> refined = refiner.refine_batch([image, "photo.jpg"], [keypoints, keypoints[:1]])
            >>> [len(people) for people in refined]
            [2, 1]
        """
        chosen = choose_options(
            options,
            policy=policy,
            decoder=decoder,
            flip_test=flip_test,
            fill_missing=fill_missing,
            batch_size=batch_size,
            prior_weight=prior_weight,
            offset=offset,
            trust=trust,
        )
        prepared = self.prepare_images(images, keypoints, boxes_xyxy, color=color, skeleton=skeleton)
        refined = self.refine_images(prepared, chosen)
        return [
            like(r.keypoints, own) if is_tensor(own) else r.keypoints for r, own in zip(refined, keypoints, strict=True)
        ]

    def predict(
        self,
        image: Any,
        keypoints: Any,
        *,
        boxes_xyxy: Any = None,
        person_scores: Any = None,
        color: Color = "rgb",
        skeleton: Skeleton | str | None = None,
        policy: Policy | None = None,
        decoder: Decoder | None = None,
        flip_test: bool = False,
        fill_missing: bool = True,
        batch_size: int = 32,
        prior_weight: float | None = None,
        offset: tuple[float, float] | None = None,
        options: Options | None = None,
    ) -> RefinedPoses:
        """Refine the people of one image, and tell what happened to them.

        Keywords that are not listed here are those of ``refine``.

        Args:
            image: as for ``refine``.
            keypoints: as for ``refine``.
            boxes_xyxy: as for ``refine``.
            person_scores: (N,) the estimator's score of each person; default the mean of their keypoints' scores.

        Returns:
            refined keypoints with confidence, what moved and how far, what was filled, and person scores as
            ``posefix refine`` writes them.

        Raises:
            InputError, SkeletonError, ImageError: as ``refine``.

        Examples:
            >>> poses = refiner.predict(image, keypoints)
        """
        chosen = choose_options(
            options,
            policy=policy,
            decoder=decoder,
            flip_test=flip_test,
            fill_missing=fill_missing,
            batch_size=batch_size,
            prior_weight=prior_weight,
            offset=offset,
        )
        if normalised([keypoints]):
            raise InputError(f"keypoints: {NORMALISED}")
        prepared = self.prepare(image, keypoints, boxes_xyxy, color=color, shared=self.shared(skeleton))
        return make_refined_poses(prepared, *self.refine_measured(prepared, chosen), person_scores)

    def refine_output(
        self,
        image: Any,
        output: Any,
        *,
        use_boxes: bool = False,
        adapter: Extract | None = None,
        color: Color = "rgb",
        skeleton: Skeleton | str | None = None,
        policy: Policy | None = None,
        decoder: Decoder | None = None,
        flip_test: bool = False,
        fill_missing: bool = True,
        batch_size: int = 32,
        prior_weight: float | None = None,
        offset: tuple[float, float] | None = None,
        options: Options | None = None,
        trust: float | None = None,
    ) -> Any:
        """Refine what an estimator hands over, in its own format: the line after any estimator.

        Keywords that are not listed here are those of ``refine``.

        Args:
            image: the image, as for ``refine``; a list of images for a list of outputs; a dict by image id for
                results of several images; None where the output brings its own (ultralytics, SLEAP labels).
            output: of supervision, ultralytics, torchvision, transformers, mmpose, detectron2, rtmlib, MediaPipe,
                OpenPose, AlphaPose, DeepLabCut, SLEAP, COCO results, an array or tensor, or a list of one of these
                with one element per image. See ``docs/adapters.md``.
            use_boxes: crop around the output's person boxes where it has them, not around the keypoints.
            adapter: a function that takes another kind of output apart; default ``posefix.adapters.ADAPTERS``.
            trust: old name of ``prior_weight``.

        Returns:
            a new object of the same kind with refined keypoints and their confidence, all else as it was; what did
            not move keeps its numbers to the bit. Keypoints that the skeleton does not have stay.

        Raises:
            InputError: an unknown kind of output, images that do not fit it, or wrong options.
            SkeletonError: an output without the refiner's keypoints.
            ImageError: an image cannot be read.

        Examples:
            >>> refined = refiner(image, keypoints)  # or what ultralytics, mmpose, … return
        """
        chosen = choose_options(
            options,
            policy=policy,
            decoder=decoder,
            flip_test=flip_test,
            fill_missing=fill_missing,
            batch_size=batch_size,
            prior_weight=prior_weight,
            offset=offset,
            trust=trust,
        )
        found = adapt(output, self.shared(skeleton).source, image, adapter)
        order = "rgb" if image is None else color
        prepared = prepare_output(self, found, use_boxes=use_boxes, color=order, skeleton=skeleton)
        return put_together(found, self.refine_images(prepared, chosen))

    def refine_video(
        self,
        frames: Any,
        tracks: Any,
        *,
        color: str = "rgb",
        progress: bool = False,
        **options: Any,
    ) -> Any:
        """Refine the tracks of a video, by the frames and by motion together.

        The network's distribution over the place of a keypoint in each frame is combined with a model of its motion.
        So the image corrects misplaced keypoints, and time removes jitter. Where an estimator exchanged left and
        right, they are exchanged back. Short gaps are filled where the frames show the keypoints.

        Args:
            frames: path of a video or of a folder of images, array (T, H, W, 3), or an iterable of images; read once.
            tracks: (T, N, K, 3) [x, y, score] or (T, N, K, 2): N people over T frames, each in its own column, NaN
                where a person or a keypoint is not there. Or any other output with one element per frame
                (``adapters.tracked.tracked_output``): a list of supervision ``KeyPoints`` or ultralytics ``Results``
                with track ids, mmpose's people with ``track_id``, a DeepLabCut table.
            color: channel order of array frames: ``"rgb"`` or ``"bgr"``.
            progress: show a bar on standard error.
            **options: the fields of ``VideoOptions``: ``online``, ``delay``, ``max_gap``, ``repair_sides``,
                ``fill_missing``, ``prior_weight``, ``batch_size``, ``workers``.

        Returns:
            a new array as ``tracks`` (a new object of its kind); what no frame shows stays as it was. Keypoints
            in gaps of at most ``max_gap`` frames are filled, with half their confidence.

        Raises:
            InputError: shapes or options that do not fit, or frames for less than half of the tracks.
            ImageError: a frame cannot be read.

        Examples:
            >>> refiner.refine_video(frames, tracks).shape
            (4, 1, 17, 3)
        """
        if not is_numbers(tracks):
            found = tracked_output(tracks, self.skeleton)
            refined = self.refine_video(frames, found.tracks, color=color, progress=progress, **options)
            return found.rebuild(refined)
        parts = list(self.refine_tracks(frames, tracks, color=color, progress=progress, **options))
        return np.concatenate([p.keypoints for p in parts]) if parts else np.array(tracks)

    def refine_tracks(
        self, frames: Any, tracks: Any, *, color: str = "rgb", progress: bool = False, **options: Any
    ) -> Iterator[RefinedFrames]:
        """``refine_video`` as the frames come, some at a time, with what was filled and exchanged.

        Online (``online=True``) each frame comes ``delay`` frames late; else as soon as the frames that matter for it
        are known. Memory does not grow with the length of the video.

        Examples:
            >>> sum(len(part) for part in refiner.refine_tracks(frames, tracks, online=True))
            4
        """
        require_torch("refine_video")
        from posefix.inference.track_observation import Observer
        from posefix.inference.track_refinement import refine_tracks

        chosen = make_video_options(**options)
        observer = Observer(self.runner, self.network, self.weights.calibration, self.skeleton)
        read = read_tracks(tracks, self.skeleton, chosen.max_gap, causal=chosen.online)
        with tqdm(total=len(read.valid), unit="frame", disable=not progress) as bar:
            for part in refine_tracks(observer, read_frames(frames, color=color), read, chosen):
                bar.update(len(part))
                yield part

    __call__ = refine_output

    def refine_stream(
        self,
        pairs: Iterable[Any],
        *,
        use_boxes: bool = False,
        adapter: Extract | None = None,
        workers: int = 2,
        color: Color = "rgb",
        skeleton: Skeleton | str | None = None,
        policy: Policy | None = None,
        decoder: Decoder | None = None,
        flip_test: bool = False,
        fill_missing: bool = True,
        batch_size: int = 32,
        prior_weight: float | None = None,
        offset: tuple[float, float] | None = None,
        options: Options | None = None,
    ) -> Iterator[Any]:
        """Refine an endless sequence, image by image, with memory that does not grow.

        Keywords that are not listed here are those of ``refine_output``.

        Args:
            pairs: (image, keypoints or an estimator's output) one after another, or outputs that bring their own
                image, as ultralytics' ``stream=True`` gives. Consumed a little ahead of what comes out.
            workers: threads that read images and cut crops while the network computes.
            batch_size: people per pass, who are batched across images.
            prior_weight, offset: None measures them on the first 256 people, and keeps them.

        Yields:
            one refined array or output per pair, in order, as ``refine_output`` gives.

        Raises:
            InputError, SkeletonError, ImageError: as ``refine_output``, when their turn comes.

        Examples:
            >>> [refined.shape for refined in refiner.refine_stream([(image, keypoints), ("photo.jpg", keypoints)])]
            [(2, 17, 3), (2, 17, 3)]
        """
        chosen = choose_options(
            options,
            policy=policy,
            decoder=decoder,
            flip_test=flip_test,
            fill_missing=fill_missing,
            batch_size=batch_size,
            prior_weight=prior_weight,
            offset=offset,
        )
        return stream(
            self, pairs, chosen, use_boxes=use_boxes, adapter=adapter, color=color, skeleton=skeleton, workers=workers
        )

    def to(self, device: str | torch.device) -> Refiner:
        """The same weights on another device.

        Examples:
            >>> refiner.to("cpu").device.type
            'cpu'
        """
        backend = self.backend if str(device) in ("auto", "cpu") else "torch"
        return Refiner(
            self.weights, device=device, precision=self.precision, backend=backend, threads=self.threads or None
        )

    def measure_reliability(
        self,
        images: Sequence[Any],
        keypoints: Sequence[Any],
        *,
        boxes_xyxy: Sequence[Any] | None = None,
        color: Color = "rgb",
        skeleton: Skeleton | str | None = None,
        batch_size: int = 32,
    ) -> float:
        """An estimator's reliability, from arrays as ``refine_batch`` takes them; else as ``measure``.

        Examples:
            >>> prior_weight = refiner.measure_reliability([image, image], [keypoints, keypoints])
            >>> refined = refiner.refine(image, keypoints, prior_weight=prior_weight)
        """
        prepared = self.prepare_images(images, keypoints, boxes_xyxy, color=color, skeleton=skeleton)
        return measured_weight(self, prepared, Options(batch_size=batch_size))

    def measure(
        self,
        images: Any,
        outputs: Any,
        *,
        color: Color = "rgb",
        use_boxes: bool = False,
        adapter: Extract | None = None,
        skeleton: Skeleton | str | None = None,
        batch_size: int = 32,
    ) -> float:
        """An estimator's reliability, from what ``refine_output`` takes, as a value for ``prior_weight``.

        About 200 people of many images give a better measure than the people of one. ``posefix refine`` and
        ``refine_stream`` measure by themselves. Keywords are those of ``refine_output``.

        Args:
            images: as for ``refine_output``.
            outputs: as for ``refine_output``. With few people the result is near 1, and the log has a warning.

        Returns:
            about 0.4 for weak estimators, 1.5 for strong ones; 1 without people, and for weights without a pose prior.

        Raises:
            InputError, SkeletonError, ImageError: as ``refine_output``.

        Examples:
            >>> prior_weight = refiner.measure([image, image], [keypoints, keypoints])
            >>> refined = refiner(image, keypoints, prior_weight=prior_weight)
        """
        found = adapt(outputs, self.shared(skeleton).source, images, adapter)
        order = "rgb" if images is None else color
        prepared = prepare_output(self, found, use_boxes=use_boxes, color=order, skeleton=skeleton)
        return measured_weight(self, prepared, Options(batch_size=batch_size))

    def measure_trust(self, *args: Any, **kwargs: Any) -> float:
        """Old name of ``measure_reliability``."""
        warn_renamed("Refiner.measure_trust", "measure_reliability")
        return self.measure_reliability(*args, **kwargs)
