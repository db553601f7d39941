"""Weights ready to compute: from images with their people to refined people."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posefix.exceptions import InputError
from posefix.inference.backends import load_model
from posefix.inference.batching import ahead
from posefix.inference.crops import CROWD, Prediction, Prepared, Refined, paste_back, prepare
from posefix.inference.options import Options
from posefix.inference.reliability import Reliability
from posefix.inference.runner import Model, Piece, Runner
from posefix.inference.streams import check_threads
from posefix.io.images import load_image
from posefix.keypoints.mapping import SharedKeypoints, share_keypoints
from posefix.keypoints.poses import NORMALISED, normalised, read_poses
from posefix.keypoints.skeleton import Skeleton, skeleton_of
from posefix.messages import shown
from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput
from posefix.weights.hub import upload
from posefix.weights.model_card import CARD_NAME, model_card, save_with_card
from posefix.weights.weights import Weights, load_weights, weights_files, with_image_model

if TYPE_CHECKING:
    import torch
    from huggingface_hub import CommitInfo
    from typing_extensions import Self

    from posefix.network.model import RefinementNetwork
    from posefix.weights.weights import ImageModelLike


#: On a CPU, people who are decoded one after another (see ``Runner``), as far as so many wait.
_TOGETHER = 8


@dataclass(frozen=True)
class Measured:
    """Images on which an estimator was measured.

    Attributes:
        prepared: the images, people moved by the offset.
        pieces: what the network says of them.
        reliability: of their estimator.
    """

    prepared: list[Prepared]
    pieces: list[Piece]
    reliability: Reliability

    def chosen(self, options: Options) -> Options:
        """``options`` with what was measured."""
        return replace(options, prior_weight=self.reliability.prior_weight, offset=self.reliability.offset)


class Engine:
    """The parts of a refiner that compute; ``Refiner`` is the same with the calls that users make.

    Attributes:
        weights: what it was made from: model, skeleton, calibration, origin.
        model: the network as its backend runs it.
        runner: runs it and reads its output.
        threads: people that a CPU works on at the same time, each on one core; 0 on a GPU.
    """

    def __init__(
        self,
        weights: Weights | None = None,
        *,
        image_model: ImageModelLike | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
        backend: str = "torch",
        threads: int | None = None,
    ) -> None:
        """Build from weights.

        Args:
            weights: from ``load_weights``; None takes those in the package.
            image_model: another top-down network that sees the crops too: an ``ImageModel``, or a function of
                (B, 256, 192, 3) uint8 RGB crops that gives (B, 17, h, w) heatmaps, about 1 where COCO's keypoint is
                surely seen. See ``docs/image-models.md``.
            device: as for ``from_pretrained``.
            precision: as for ``from_pretrained``.
            backend: as for ``from_pretrained``; other ones than torch write a copy of the network into the cache.
            threads: as for ``from_pretrained``.

        Raises:
            InputError: no such device, precision or backend, or a combination that there is not.
            MissingDependencyError: the backend is not installed.
            WeightsError: weights that do not fit their configuration.
        """
        weights = load_weights() if weights is None else weights
        if not isinstance(weights, Weights):
            raise InputError(f"weights: expected what load_weights gives, got {shown(weights)}; see from_pretrained")
        weights = weights if image_model is None else with_image_model(weights, image_model)
        self.weights = weights
        self.precision, self.backend = precision, backend
        cores = check_threads(threads)
        #: Next to a GPU more threads that cut crops wait for the interpreter's lock (docs/performance.md).
        self._cutters = 1 if threads is None else cores
        self.model: Model = load_model(weights, backend=backend, device=device, precision=precision)
        self._torch_model = self.model if self.model.backend == "torch" else None
        on_cpu = str(self.device).partition(":")[0] == "cpu"
        # Image models have threads of their own, and may bear one call at a time only.
        self.threads = cores if on_cpu and weights.image_model is None else 0
        self.runner = Runner(self.model, weights, self.threads)
        self._own_keypoints = share_keypoints(weights.skeleton, weights.skeleton)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to other processes as one piece of bytes: hundreds of tensors are more shared files than some bear."""
        if self.weights.exported is not None:
            state = b""
        else:
            from safetensors.torch import save

            state = save({k: v.detach().cpu().contiguous() for k, v in self.weights.state.items()})
        bare = replace(self.weights, state={})
        return _rebuilt, (type(self), bare, state, str(self.device), self.precision, self.backend, self.threads or None)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        family: str | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Load a refiner.

        Args:
            source: None for the weights in the package (no network access), a folder, or a repository
                ``user/name`` on the Hugging Face hub. Or another image network, which is added to the package's
                weights: an ``.onnx`` or ``.xml`` file, or a ViTPose of the transformers library (folder or repository).
            family: of such a file, where it is not recognised: ``"vitpose"``, ``"rtmpose"``, ``"tinypose"``,
                ``"hrnet"``.
            device: ``"auto"`` (CUDA, else MPS, else CPU) or a torch device.
            precision: ``"auto"`` computes in bfloat16 where device and backend are fast at it, ``"float32"`` never.
            backend: ``"torch"``, ``"openvino"`` or ``"onnx"`` (ONNX Runtime), the latter two on a CPU. ``"auto"`` takes
                on a CPU the first of OpenVINO, ONNX Runtime and torch that is installed, or what the environment
                variable ``POSEFIX_BACKEND`` says; elsewhere torch.
            threads: people that a CPU works on at the same time, each on one core; next to a GPU, images whose crops
                ``refine_batch`` cuts at the same time. None is one per usable
                core, next to a GPU one image.
            revision: branch, tag or commit on the hub; default the main branch.
            cache_dir: folder of downloads; default that of the Hugging Face client.
            token: for private repositories; default the stored one, False sends none.
            local_files_only: use the cache alone, without network access.
            force_download: download again, even if the cache has it.

        Raises:
            WeightsError: weights that cannot be found, read or do not fit.
            InputError: no such device, precision or backend, or a combination that there is not.
            MissingDependencyError: the backend is not installed.

        Examples:
            >>> refiner = Refiner.from_pretrained()
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
        return cls(weights, device=device, precision=precision, backend=backend, threads=threads)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, ``config.json`` and a model card into a folder for ``from_pretrained``.

        A ``README.md`` that posefix did not write stays as it is.

        Examples:
            >>> refiner.save_pretrained("weights/")
            >>> refiner = Refiner.from_pretrained("weights/")
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
            private: whether a new repository is private.
            token: one with write permission; default the stored one.
            revision: existing branch to write to; default ``main``.
            commit_message: the commit's message.
            create_pr: open a pull request instead.

        Returns:
            the commit's URL, a ``str`` with ``oid`` (for ``revision=``) and ``pr_url``.

        Raises:
            WeightsError: no permission, no such branch, or the hub cannot be reached.

        Examples:
            >>> commit = refiner.push_to_hub("USER/REPO")  # doctest: +SKIP
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

    @property
    def device(self) -> Any:
        """Where the network computes: a torch device, or ``"cpu"`` for other backends."""
        return getattr(self.model, "device", "cpu")

    @property
    def network(self) -> RefinementNetwork:
        """The torch network, on its device, in the precision it computes in; built at first use for other backends."""
        if self._torch_model is None:
            self._torch_model = load_model(self.weights, backend="torch", device="cpu", precision="auto")
        return self._torch_model.network  # type: ignore[no-any-return, attr-defined]

    @property
    def computed_by(self) -> str:
        """Backend, precision and device in words, for reports."""
        where = f"{self.threads} thread{'s' * (self.threads > 1)}" if self.threads else str(self.device)
        return f"{self.model.backend}, {self.model.precision}, {where}"

    def shared(self, skeleton: Skeleton | str | None) -> SharedKeypoints:
        """What a keypoint set, or that of this name, has in common with the refiner's; None is the refiner's own."""
        if skeleton is None:
            return self._own_keypoints
        return share_keypoints(skeleton_of(skeleton), self.skeleton)

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
        shared = shared or self._own_keypoints
        poses = read_poses(keypoints, shared.source)  # before the image: a mistake costs no reading
        return prepare(load_image(image, color=color), poses, boxes_xyxy, shared, self.config)

    def prepare_images(
        self,
        images: Sequence[Any],
        keypoints: Sequence[Any],
        boxes_xyxy: Sequence[Any] | None,
        *,
        color: str,
        skeleton: Skeleton | str | None,
    ) -> Iterator[Prepared]:
        """Several images and their people, prepared as they are asked for; arguments as for ``refine_batch``."""
        if isinstance(images, np.ndarray | str | Path) or not hasattr(images, "__len__"):
            kind = {np.ndarray: "one array"}.get(type(images), "one path")
            got = kind if isinstance(images, np.ndarray | str | Path) else type(images).__name__
            hint = "" if hasattr(images, "__len__") else "; refine_stream takes images one after another"
            raise InputError(f"expected as many images as arrays of keypoints, got {got} and {_count(keypoints)}{hint}")
        if len(images) != _count(keypoints):
            raise InputError(
                f"expected as many images as arrays of keypoints, got {len(images)} and {_count(keypoints)}"
            )
        boxes = [None] * len(images) if boxes_xyxy is None else boxes_xyxy
        if isinstance(boxes, str) or _count(boxes) != len(images):
            raise InputError(f"boxes_xyxy: expected one array or None per image, got {_count(boxes)}")
        if normalised(keypoints):
            raise InputError(f"keypoints: {NORMALISED}")
        shared = self.shared(skeleton)

        def make(of: tuple[Any, Any, Any]) -> Prepared:
            return self.prepare(*of, color=color, shared=shared)

        each = zip(images, keypoints, boxes, strict=True)
        if self.threads or len(images) < 2:
            return map(make, each)
        # A GPU is faster than one core that cuts its crops.
        return (done.result() for _, done in ahead(make, each, self._cutters))

    def refine_images(self, prepared: Iterable[Prepared], options: Options) -> Iterator[Refined]:
        """Refine images from ``prepare`` as they come; one result per image, in order.

        While about ``options.batch_size`` people go through the network, the next ones are prepared. On a GPU they go
        together; on a CPU each image begins as soon as it is there.
        """
        in_work: deque[tuple[list[Prepared], list[Piece]]] = deque()
        together = min(_TOGETHER, options.batch_size)

        def finish(stay: int) -> Iterator[Refined]:
            """Those who came first, several images at once, but for the last ``stay`` people."""
            group: list[Prepared] = []
            pieces: list[Piece] = []
            while in_work and _people(islice(in_work, 1, None)) >= stay:
                begun = in_work.popleft()
                group, pieces = group + begun[0], pieces + begun[1]
                if len(pieces) >= together or not self.threads:
                    yield from self._finish(group, pieces, options)
                    group, pieces = [], []
            if group:
                yield from self._finish(group, pieces, options)

        prepared = (image.moved(options.offset) for image in prepared)
        for group in _groups(prepared, 1 if self.threads else options.batch_size):
            if len(group[0].rows) > CROWD:
                yield from finish(0)
                yield self._refine_crowd(group[0], options)
                continue
            in_work.append((group, self._start(group, options)))
            if _people(in_work) >= options.batch_size + together:
                yield from finish(options.batch_size)
        yield from finish(0)

    def refine_prepared(self, prepared: Sequence[Prepared], options: Options) -> list[Refined]:
        """Network, decoding and the way back for images from ``prepare``."""
        return list(self.refine_images(prepared, options))

    def refine_measured(self, image: Prepared, options: Options) -> tuple[Refined, Reliability]:
        """Refine one image, and tell the reliability with which this was done."""
        if options.prior_weight is not None or not self.measures_reliability:
            (refined,) = self.refine_prepared([image], options)
            weight = 1.0 if options.prior_weight is None else options.prior_weight
            return refined, Reliability(weight, offset=options.offset or (0.0, 0.0))
        if len(image.rows) > CROWD:
            found = self.measure_prepared([image], options)
            (refined,) = self.refine_prepared([image], replace(options, prior_weight=found.prior_weight))
            return refined, replace(found, offset=options.offset or (0.0, 0.0))
        image = image.moved(options.offset)
        pieces = self._start([image], options)
        found = self.runner.reliability(self.runner.counts(pieces))
        (refined,) = self._finish([image], pieces, replace(options, prior_weight=found.prior_weight))
        return refined, replace(found, offset=options.offset or (0.0, 0.0))

    def _refine_crowd(self, image: Prepared, options: Options) -> Refined:
        """One image of many people, ``CROWD`` of them at a time."""
        count = len(image.rows)
        if options.prior_weight is None and self.measures_reliability:
            options = replace(options, prior_weight=self.measure_prepared([image], options).prior_weight)
        done = []
        for start in range(0, count, CROWD):
            inputs = image.inputs.take(slice(start, start + CROWD))
            done.append(
                self.runner.finish(self.runner.start(inputs, options), options, np.zeros(len(inputs), np.int64))
            )
        return self.paste_back([image], Prediction.join(done, self.config.num_keypoints), options)[0]

    def _start(self, group: Sequence[Prepared], options: Options) -> list[Piece]:
        return self.runner.start(NetworkInput.join([p.inputs for p in group]), options) if group else []

    def _finish(self, group: Sequence[Prepared], pieces: list[Piece], options: Options) -> list[Refined]:
        image_index = np.repeat(np.arange(len(group)), [len(p.rows) for p in group])
        return self.paste_back(group, self.runner.finish(pieces, options, image_index), options)

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
        return self.runner.measures_reliability

    def measure_prepared(self, prepared: Iterable[Prepared], options: Options) -> Reliability:
        """The reliability of the estimator of images from ``prepare``, in the memory of ``CROWD`` people.

        Of an image of more people it is measured on so many of them, evenly spread.
        """
        options = replace(options, prior_weight=None)
        counts = np.zeros((3, 0))
        for group in _groups((image.moved(options.offset) for image in prepared), CROWD):
            inputs = NetworkInput.join([p.inputs for p in group])
            if len(inputs) > CROWD:
                inputs = inputs.take(np.linspace(0, len(inputs) - 1, CROWD).astype(np.int64))
            pieces = self.runner.start(inputs, options)
            counts = np.concatenate([counts, self.runner.counts(pieces)], axis=1)
        return self.runner.reliability(counts)

    def forward(self, prepared: Sequence[Prepared], options: Options) -> Measured:
        """People of many images from ``prepare`` through the network, and the reliability of their estimator.

        Where ``options.offset`` is None, it is measured too, and they go through the network again if there is one. Not
        with an image model: what it shows may have an offset of its own.
        """
        options = replace(options, prior_weight=None)
        prepared = [image.moved(options.offset) for image in prepared]
        pieces = self._start(prepared, options)
        offset = options.offset or (0.0, 0.0)
        if options.offset is None and pieces and self.weights.image_model is None:
            offset = self.runner.offset(pieces)
            if any(offset):
                prepared = [image.moved(offset) for image in prepared]
                pieces = self._start(prepared, options)
        return Measured(prepared, pieces, replace(self.runner.reliability(self.runner.counts(pieces)), offset=offset))

    def decode(self, measured: Measured, options: Options) -> list[Refined]:
        """What came out of ``forward`` → the people of each image, with ``options.prior_weight``."""
        return self._finish(measured.prepared, measured.pieces, options)


def _count(values: Any) -> Any:
    try:
        return len(values)
    except TypeError:
        return type(values).__name__


def _people(in_work: Iterable[tuple[list[Prepared], list[Piece]]]) -> int:
    return sum(len(p.rows) for group, _ in in_work for p in group)


def _groups(prepared: Iterable[Prepared], people: int) -> Iterator[list[Prepared]]:
    """Images in order, together as many as have at most ``people``, at least one image."""
    group: list[Prepared] = []
    count = 0
    for one in prepared:
        if group and count + len(one.rows) > people:
            yield group
            group, count = [], 0
        group.append(one)
        count += len(one.rows)
    if group:
        yield group


def _rebuilt(cls: type[Engine], bare: Weights, state: bytes, device: str, *options: Any) -> Engine:
    """What ``Engine.__reduce__`` took apart."""
    precision, backend, threads = options
    if state:
        from safetensors.torch import load

        bare = replace(bare, state=load(state))
    return cls(bare, device=device, precision=precision, backend=backend, threads=threads)
