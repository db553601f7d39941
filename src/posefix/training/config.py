"""A training run as data: frozen dataclasses read strictly from YAML."""

from __future__ import annotations

import os
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from posefix.deprecation import rename_keys
from posefix.exceptions import FileFormatError, PosefixError, TrainingError
from posefix.io.json import MAX_DEPTH, read_bytes
from posefix.keypoints.skeleton import COCO, SKELETONS, Skeleton
from posefix.messages import shown
from posefix.network.config import RENAMED as MODEL_RENAMED
from posefix.network.config import ModelConfig
from posefix.pose_errors.synthesis import ErrorRates
from posefix.typed import check_fields, check_ranges, checked, refuse_unknown


@dataclass(frozen=True)
class SetConfig:
    """One COCO-format set, or the same packed by ``tools/pack_shards.py``.

    Attributes:
        annotations: COCO annotation file.
        images: folder of its images.
        weight: share of the samples (normalised over all sets).
        estimates: COCO results of real estimators on it; the first gives centres for keypoints that are not
            labelled, all may be drawn as input. Matched by ``annotation_id``, else by image and overlap.
        min_keypoints: people with fewer labelled keypoints are left out.
        shards: folder of packed ``.npz`` files, or a pattern of their names, in place of ``annotations``,
            ``images`` and ``estimates``.
    """

    annotations: str = ""
    images: str = ""
    weight: float = 1.0
    estimates: tuple[str, ...] = ()
    min_keypoints: int = 1
    shards: str = ""

    def __post_init__(self) -> None:
        check_fields(self, "sets.", TrainingError)
        check_ranges(self, "sets.", TrainingError, weight=(0.0, 1e9), min_keypoints=(0, 1024))
        if self.shards and (self.annotations or self.images or self.estimates):
            raise TrainingError("sets: shards hold annotations, images and estimates; give either shards or those")
        if not self.shards and not (self.annotations and self.images):
            raise TrainingError("sets: expected annotations and images, or shards")


@dataclass(frozen=True)
class Augmentation:
    """What happens to a sample in addition to the synthetic pose errors.

    Attributes:
        scale: crops grow or shrink by up to this share (paper: 0.3).
        rotation: degrees, drawn evenly within ± (paper: 40).
        rotation_share: share of samples that turn (paper: 0.6).
        shift: crops move by up to this share of their size.
        mirror: share of samples mirrored left to right.
        colour: strength of brightness, contrast, saturation and hue changes; 0 is none.
        degrade: share of samples blurred, lowered in resolution or made noisy.
        occlude: share of samples with a rectangle over part of the person.
        copy_paste: share of samples with a second person of the sets pasted next to, before or behind the first.
        keypoint_dropout: share of samples that lose keypoints; each then loses 1 in 5 of them.
        input_box: share of samples cropped around the input pose, as at test time; else the labelled box.
        real_pose_prob: share of samples whose input is a real estimate, where there is one.
        real_noise: share of those real estimates' keypoints that get a synthetic error instead.
        error_shrink_prob: share of those real estimates whose errors all shrink by one random factor. A stronger
            estimator errs on the same people in the same directions.
        error_fix_prob: share of those real estimates of which a random share of keypoints is replaced by the truth.
        score_prob: share of those real estimates that bring their scores, raised to a random power between 1/2 and 2.
        self_input_prob: share of samples whose input is the network's own output for them, as on a second pass, so
            that it learns to leave its own output alone.
        severity: each person's error rates are multiplied by a factor between 1 / (1 + this) and 1 + this.
        low_jitter_prob: share of people whose good keypoints lie closer to the truth than the reference's, as those of
            strong estimators do.
        noise_prob: share of people whose keypoints all shift by noise of one size in pixels, as those of estimators
            with coarse maps do.
        person_area: radii of synthetic errors from the person's area; false is the reference's box area.
    """

    scale: float = 0.3
    rotation: float = 40.0
    rotation_share: float = 0.6
    shift: float = 0.0
    mirror: float = 0.5
    colour: float = 0.0
    degrade: float = 0.0
    occlude: float = 0.0
    copy_paste: float = 0.0
    keypoint_dropout: float = 0.0
    input_box: float = 0.0
    real_pose_prob: float = 0.0
    real_noise: float = 0.0
    error_shrink_prob: float = 0.0
    error_fix_prob: float = 0.0
    score_prob: float = 0.0
    self_input_prob: float = 0.0
    severity: float = 0.0
    low_jitter_prob: float = 0.0
    noise_prob: float = 0.0
    person_area: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "augmentation.", TrainingError)
        shares = [
            f.name for f in fields(self) if f.name not in ("scale", "rotation", "colour", "severity", "person_area")
        ]
        check_ranges(
            self,
            "augmentation.",
            TrainingError,
            scale=(0.0, 0.95),
            rotation=(0.0, 180.0),
            colour=(0.0, 10.0),
            severity=(0.0, 100.0),
            **dict.fromkeys(shares, (0.0, 1.0)),
        )


@dataclass(frozen=True)
class Optimisation:
    """Optimiser, schedule and averaging.

    Attributes:
        optimiser: ``"adamw"`` or ``"adam"``.
        learning_rate: peak.
        weight_decay: of matrices and filters (Adam: L2 term, as in the paper; AdamW: decoupled).
        batch_size: per process.
        steps: in all.
        warmup: steps of linear warm-up.
        schedule: ``"cosine"``, ``"steps"`` (÷ 10 at each of ``milestones``) or ``"trapezoid"`` (constant, then
            linear to zero over the last ``cooldown`` steps).
        milestones: shares of all steps.
        cooldown: steps.
        average: decay of the weights' moving average that is evaluated and saved; 0 is none.
        clip: largest gradient norm; 0 is none.
        bfloat16: autocast, ``"auto"`` where the device has it.
        freeze_trunk: keep what sees the image alone, trunk and head, as it came (MobileNetV2 only): the
            correction and the prior are trained, which needs no gradients of the trunk.
        frozen_blocks: keep the stem and this many blocks of the trunk as they came (MobileNetV2 only; 6 is all up to
            stride 8): edges and textures are known, and the widest maps need no gradients.
        micro_batch: samples per backward pass, gradients being summed over the batch; 0 is all at once. On a CPU a few
            at a time are faster; batch norm then sees these few.
        network_rate: learning rate of all but the prior, as a share; 0 trains the prior alone.
        heatmap_loss: weight of the cross-entropy L_H (PoseFix eq. 2).
        coordinate_loss: weight of the soft-argmax distance L_C (PoseFix eq. 5), in heatmap pixels.
    """

    optimiser: str = "adamw"
    learning_rate: float = 5e-4
    weight_decay: float = 1e-5
    batch_size: int = 32
    steps: int = 10_000
    warmup: int = 200
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (90 / 140, 120 / 140)
    cooldown: int = 0
    average: float = 0.999
    clip: float = 1.0
    bfloat16: str = "auto"
    freeze_trunk: bool = False
    frozen_blocks: int = 0
    micro_batch: int = 0
    network_rate: float = 1.0
    heatmap_loss: float = 1.0
    coordinate_loss: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "optimisation.", TrainingError)
        _one_of("optimiser", self.optimiser, ("adamw", "adam"))
        _one_of("schedule", self.schedule, ("cosine", "steps", "trapezoid"))
        _one_of("bfloat16", self.bfloat16, ("auto", "on", "off"))
        check_ranges(
            self,
            "optimisation.",
            TrainingError,
            learning_rate=(1e-12, 100.0),
            weight_decay=(0.0, 100.0),
            batch_size=(1, 2**16),
            steps=(1, 10**9),
            warmup=(0, 10**9),
            milestones=(0.0, 1.0),
            cooldown=(0, 10**9),
            average=(0.0, 1 - 1e-9),
            clip=(0.0, 1e9),
            frozen_blocks=(0, 100),
            micro_batch=(0, 2**16),
            network_rate=(0.0, 1e3),
            heatmap_loss=(0.0, 1e6),
            coordinate_loss=(0.0, 1e6),
        )


@dataclass(frozen=True)
class Validation:
    """Real estimators' results that are refined and evaluated during training.

    Attributes:
        annotations: COCO annotation file.
        images: folder.
        results: COCO results files.
        every: steps between two validations; 0 is only at the end.
    """

    annotations: str = ""
    images: str = ""
    results: tuple[str, ...] = ()
    every: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "validation.", TrainingError)
        check_ranges(self, "validation.", TrainingError, every=(0, 10**9))


@dataclass(frozen=True)
class Start:
    """Where the weights come from, at most one of the three; else they are random.

    Attributes:
        movenet: MoveNet's weights in the layout of ``movenet_lightning.npz`` (MobileNetV2; tools/import_movenet.py).
        imagenet: torchvision ResNet state as safetensors.
        weights: posefix weights folders, or ``"embedded"``; of several, the average (Wortsman et al., ICML 2022).
    """

    movenet: str = ""
    imagenet: str = ""
    weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "start.", TrainingError)
        if sum(bool(v) for v in (self.movenet, self.imagenet, self.weights)) > 1:
            raise TrainingError("start: give at most one of movenet, imagenet, weights")


@dataclass(frozen=True)
class About:
    """What is on record about the weights, and stands in their model card.

    Attributes:
        title: of the model card.
        description: what the weights are for.
        licence: of the weights, as the hub spells it (``"mit"``, ``"cc-by-4.0"``) or in words.
        data: what they were trained on.
        limits: what they cannot do.
        citation: how to cite them.
    """

    title: str = ""
    description: str = ""
    licence: str = ""
    data: str = ""
    limits: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        check_fields(self, "about", TrainingError)


@dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes:
        sets: what to train on.
        out: folder for checkpoints, log and final weights.
        model: the network; in a file, ``num_keypoints`` need not be given, it is the skeleton's.
        skeleton: name of a built-in keypoint set, a JSON or YAML file of one, or its data.
        about: what the model card says of the weights, their licence first of all.
        rates: of the synthetic errors, as ``ErrorRates.to_dict`` writes them; default the reference's.
        seed: of everything random; sample i of step s is the same in every run and after every resume.
        checkpoint_minutes: between two checkpoints.
        cache_gb: memory for decoded images; with ``feeding: device``, the device's.
        workers: threads that prepare batches ahead.
        feeding: where crops are cut and augmented: ``"cpu"``; ``"device"``, all images decoded onto it once;
            ``"auto"``, on the device when training with CUDA and the images fit into ``cache_gb``.
    """

    sets: tuple[SetConfig, ...]
    out: str = "runs/posefix"
    model: ModelConfig = field(default_factory=ModelConfig)
    skeleton: Skeleton = COCO
    rates: ErrorRates | None = None
    start: Start = field(default_factory=Start)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimisation: Optimisation = field(default_factory=Optimisation)
    validation: Validation = field(default_factory=Validation)
    about: About = field(default_factory=About)
    seed: int = 0
    checkpoint_minutes: float = 5.0
    cache_gb: float = 4.0
    workers: int = 2
    feeding: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self, "", TrainingError)
        check_ranges(
            self,
            "",
            TrainingError,
            seed=(0, 2**63 - 1),
            checkpoint_minutes=(0.0, 1e6),
            cache_gb=(0.0, 1e5),
            workers=(0, 256),
        )
        _one_of("feeding", self.feeding, ("auto", "cpu", "device"))
        if not self.sets:
            raise TrainingError("sets: expected at least one training set, got none")
        if self.model.num_keypoints != len(self.skeleton):
            raise TrainingError(
                f"model.num_keypoints is {self.model.num_keypoints}, but skeleton {self.skeleton.name!r} "
                f"has {len(self.skeleton)}"
            )

        parts = list(dict.fromkeys(self.skeleton.parts))
        for part in self.rates.parts if self.rates else ():
            if part not in parts:
                raise TrainingError(
                    f"rates: {part!r} is no part of skeleton {self.skeleton.name!r}; "
                    f"known are {', '.join(parts)} and other"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the run's record."""
        data = asdict(replace(self, rates=None))
        data["skeleton"] = self.skeleton.to_dict()
        data["rates"] = self.rates.to_dict() if self.rates else None
        return data


_T = TypeVar("_T")

#: Of a configuration; the largest here has 3 kB and 150 values.
_MOST_BYTES, _MOST_VALUES = 10**6, 10**5


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            what = f"the key {shown(twice)} stands twice"
            raise yaml.constructor.ConstructorError(problem=what, problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file, of plain values only.

    Raises:
        TrainingError: it cannot be read, is not YAML, or is too large or too deep when its aliases are written out.
    """
    try:
        data = yaml.load(read_bytes(path, max_bytes=_MOST_BYTES).decode("utf-8-sig"), _Loader)
        _count(data, 0, [_MOST_VALUES])
        return data
    except FileFormatError as error:
        raise TrainingError(f"cannot read the training configuration {error}") from error
    except UnicodeDecodeError:
        raise TrainingError(f"{path}: expected YAML in UTF-8, got another encoding or binary data") from None
    except (yaml.YAMLError, ValueError) as error:  # dates that do not exist, integers of thousands of digits
        raise TrainingError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise TrainingError(f"{path}: the YAML is nested too deeply or refers to itself") from None


def _count(value: Any, depth: int, left: list[int]) -> None:
    """Raise where a few aliases of aliases stand for more values than any configuration has."""
    left[0] -= 1
    if left[0] < 0:
        raise yaml.YAMLError(f"its aliases stand for more than {_MOST_VALUES} values")
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _count(inner, depth + 1, left)


def read_config(path: str | Path) -> TrainingConfig:
    """Read a YAML training configuration; relative paths are relative to its folder, ``$NAME`` is expanded.

    Raises:
        TrainingError: the file cannot be read, a key is unknown or a value does not fit.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise TrainingError(f"{path}: expected a mapping with at least the key 'sets'")
    folder = Path(path).resolve().parent
    try:
        return _build(TrainingConfig, _with_count(_with_skeleton(_with_paths(data, folder), folder)), "")
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from error
    except PosefixError as error:
        raise TrainingError(f"{path}: {error}") from error


def _with_skeleton(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """With the keypoint set itself, where its file is given."""
    named = data.get("skeleton")
    if not isinstance(named, str) or named in SKELETONS or not (folder / named).is_file():
        return data
    return {**data, "skeleton": read_yaml(folder / named)}


def _with_count(data: dict[str, Any]) -> dict[str, Any]:
    """With ``model.num_keypoints`` as the skeleton has, where it is not given."""
    skeleton, model = data.get("skeleton", COCO.name), data.get("model") or {}
    if not isinstance(model, dict) or "num_keypoints" in model:
        return data
    names = skeleton.get("keypoints") if isinstance(skeleton, dict) else None
    known = SKELETONS.get(skeleton) if isinstance(skeleton, str) else None
    count = len(names) if isinstance(names, list) else len(known) if known else None
    return data if count is None else {**data, "model": {**model, "num_keypoints": count}}


#: Old names of keys.
_RENAMED: dict[Any, dict[str, str]] = {
    ModelConfig: MODEL_RENAMED,
    Augmentation: {
        "company": "copy_paste",
        "drop": "keypoint_dropout",
        "real": "real_pose_prob",
        "stronger": "error_shrink_prob",
        "mended": "error_fix_prob",
        "scored": "score_prob",
        "again": "self_input_prob",
        "precise": "low_jitter_prob",
        "coarse": "noise_prob",
    },
}
_SET_PATHS = {"annotations", "images", "estimates", "shards"}
_PATH_KEYS = {*_SET_PATHS, "results", "out", "movenet", "imagenet", "weights"}


def _with_paths(value: Any, folder: Path, key: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _with_paths(v, folder, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_paths(v, folder, key) for v in value]
    if key in _PATH_KEYS and isinstance(value, str) and value and value != "embedded":
        expanded = os.path.expandvars(os.path.expanduser(value))
        if "$" in expanded:
            name = expanded[expanded.index("$") :].split("/")[0]
            raise TrainingError(f"{key}: the environment variable {name} of {shown(value)} is not set")
        try:
            return str((folder / expanded).resolve())
        except (OSError, ValueError, RuntimeError) as error:  # a zero byte, a name too long, links in a circle
            raise TrainingError(f"{key}: {shown(value)} is no path: {error}") from None
    return value


def _build(cls: type[_T], data: Any, where: str) -> _T:
    """A frozen dataclass from plain data, refusing unknown keys and wrong types by their full name."""
    name = where.rstrip(".") or "configuration"
    if not isinstance(data, dict):
        raise TrainingError(f"{name}: expected a mapping, got {shown(data)}")
    data = rename_keys(data, _RENAMED.get(cls, {}), name)
    refuse_unknown(data, cls, name, TrainingError)
    hints = typing.get_type_hints(cls)
    values = {name: _convert(hints[name], value, f"{where}{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise TrainingError(f"{name}: {error}") from error


def _convert(hint: Any, value: Any, name: str) -> Any:
    if hint is Skeleton:
        if isinstance(value, str):
            _one_of(name, value, tuple(SKELETONS))
            return SKELETONS[value]
        return Skeleton.from_dict(value)
    if hint == (ErrorRates | None):
        return None if value is None else ErrorRates.from_dict(value)
    if is_dataclass(hint):
        return _build(typing.cast(type, hint), value, f"{name}.")
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise TrainingError(f"{name}: expected a list, got {shown(value)}")
        return tuple(_convert(args[0], v, name) for v in items)
    if hint is float and isinstance(value, str):
        try:
            value = float(value)  # YAML reads 1e-4 as text
        except ValueError:
            raise TrainingError(f"{name}: expected a number, got {shown(value)}") from None
    return checked(value, hint, name, TrainingError)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise TrainingError(f"{name}: expected one of {', '.join(known)}, got {shown(value)}")
