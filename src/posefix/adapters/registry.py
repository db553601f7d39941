"""Any estimator's output → arrays → a new output of the same kind; packages are recognised and never imported.

A new adapter is one function (``extract``), one that recognises its output, and one entry in ``ADAPTERS``; see
``docs/adapters.md``.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from posefix.adapters import (
    alphapose,
    arrays,
    coco_results,
    deeplabcut,
    detectron2,
    mediapipe,
    mmpose,
    openpose,
    rtmlib,
    sleap,
    supervision,
    torchvision,
    transformers,
    ultralytics,
)
from posefix.adapters.base import Doubles, Extracted, Floats, Images, is_array, nearly
from posefix.exceptions import InputError
from posefix.io.json import spelled_id
from posefix.keypoints.layouts import columns
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown

#: ``(output, images, skeleton) → Extracted``.
Extract = Callable[[Any, Images, Skeleton], Extracted]


class Adapter(NamedTuple):
    """How one package's output is recognised and taken apart."""

    name: str
    recognise: Callable[[Any], bool]
    extract: Extract


#: In the order in which they are tried.
ADAPTERS = (
    Adapter("supervision KeyPoints", supervision.recognise, supervision.extract),
    Adapter("ultralytics Results", ultralytics.recognise, ultralytics.extract),
    Adapter("detectron2 Instances", detectron2.recognise, detectron2.extract),
    Adapter("mmpose predictions", mmpose.recognise, mmpose.extract),
    Adapter("MediaPipe landmarks", mediapipe.recognise, mediapipe.extract),
    Adapter("DeepLabCut table", deeplabcut.recognise, deeplabcut.extract),
    Adapter("SLEAP labels or table", sleap.recognise, sleap.extract),
    Adapter("torchvision Keypoint R-CNN dict", torchvision.recognise, torchvision.extract),
    Adapter("OpenPose JSON", openpose.recognise, openpose.extract),
    Adapter("AlphaPose JSON", alphapose.recognise, alphapose.extract),
    Adapter("COCO results", coco_results.recognise, coco_results.extract),
    Adapter("transformers ViTPose people", transformers.recognise, transformers.extract),
    Adapter("rtmlib (keypoints, scores)", rtmlib.recognise, rtmlib.extract),
    Adapter("array or tensor", arrays.recognise, arrays.extract),
)


def adapt(output: Any, skeleton: Skeleton, image: Any = None, adapter: Extract | None = None) -> Extracted:
    """Take an estimator's output apart.

    Args:
        output: of a package in ``ADAPTERS``, or a list of such, one per image.
        skeleton: which keypoints are wanted; others in the output stay as they are.
        image: as for ``Refiner.refine_output``.
        adapter: a function to use instead of ``ADAPTERS``.

    Returns:
        arrays (N, len(skeleton), 3) with their images, one per array: the given ones, else the output's own.

    Raises:
        InputError: an output of no known kind, or images that are not one per element of it.
        SkeletonError: an output without the skeleton's keypoints.
    """
    if not (adapter is None or callable(adapter)):
        raise InputError(f"adapter: expected a function, got {shown(adapter)}")
    given = _images(image, output)
    found = _restricted(_extract(output, given, skeleton, adapter), skeleton)
    images = found.images
    if not found.keypoints:
        images = []
    elif isinstance(given, Mapping):
        key_of = {spelled_id(key): key for key in given} | {key: key for key in given}  # 139 and "139" are one
        keys = [key_of.get(i, key_of.get(spelled_id(i))) for i in found.ids or ()]
        missing = [i for i, key in zip(found.ids or (), keys, strict=True) if key not in given]
        if found.ids is None or missing:
            what = f"no image for image {shown(missing[0])}" if missing else "images by id, and this output has no ids"
            raise InputError(f"image: expected one image per image of the output, got {what}")
        counts = Counter(found.ids)
        if len(counts) < len(found.ids):
            twice = counts.most_common(1)[0][0]
            raise InputError(
                f"image: id {shown(twice)} is that of several images of the output (of several videos or folders?); "
                "refine one video or folder at a time, or pass a list of images"
            )
        images = [given[key] for key in keys]
    elif given is not None:
        if len(given) != len(found.keypoints):
            raise InputError(
                f"image: expected {len(found.keypoints)}, one per element of the output, got {len(given)}; "
                "pass a list (the same image several times if all show it), or for results a dict by image id"
            )
        images = list(given)
    if images is None:
        if any(len(poses) for poses in found.keypoints):
            raise InputError(
                "image: this output brings no image of its own, so pass the one that it was estimated from"
            )
        images = [None] * len(found.keypoints)
    return replace(found, images=images)


def restricted_output(output: Any, skeleton: Skeleton) -> Extracted:
    """As ``adapt``, for outputs whose images come later: ``images`` is what the output brings itself, or None."""
    return _restricted(_extract(output, None, skeleton, None), skeleton)


def _images(image: Any, output: Any) -> Images:
    if image is None or isinstance(image, Mapping):
        return image
    if isinstance(image, (list, tuple)) or (hasattr(image, "ndim") and image.ndim == 4):
        return list(image)
    if not (isinstance(image, Iterable) and hasattr(image, "__next__")):  # images themselves have no __next__
        return [image]
    if not isinstance(output, (list, tuple)):
        raise InputError(
            "image: expected images for one output, got a generator of frames; pass next(frames), or "
            "refine_stream(zip(frames, outputs))"
        )
    return list(itertools.islice(image, len(output)))  # a camera never ends: no more frames than there are outputs


def _extract(output: Any, images: Images, skeleton: Skeleton, adapter: Extract | None) -> Extracted:
    if adapter is not None:
        return adapter(output, images, skeleton)
    for each in ADAPTERS:
        with nearly(each.name, "output"):
            if each.recognise(output):
                return _checked(each.extract(output, images, skeleton), output, each.name)
    if isinstance(output, dict) and isinstance(output.get("predictions"), list):  # MMPoseInferencer's result
        inner = _extract(output["predictions"], images, skeleton, None)
        return _mapped(inner, lambda new: _with(output, predictions=new))
    if isinstance(output, (list, tuple)):
        return _joined(output, images, skeleton)
    raise InputError(
        f"output: expected {', '.join(a.name for a in ADAPTERS)}, or a list of these, got {_describe(output)}; "
        "or pass adapter=… (docs/adapters.md)"
    )


def _checked(found: Extracted, output: Any, name: str) -> Extracted:
    """Arrays of the promised shape; a frame without people comes back as it is, however its package writes that."""
    for poses in found.keypoints:
        if poses.ndim != 3 or poses.shape[-1] != 3:
            raise InputError(f"output: expected (N, K, 3) keypoints of {name}, got {poses.shape}")
    if found.keypoints and not any(poses.size for poses in found.keypoints) and not is_array(output):
        return replace(found, rebuild=lambda _: copy.copy(output), boxes=None)

    def rebuild(refined: list[Floats]) -> Any:
        with nearly(name, "output"):
            return found.rebuild(refined)

    return replace(found, rebuild=rebuild)


def _joined(outputs: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """A list with one element per image; an empty element is an image without people, an empty list no image."""
    many = images is not None and not isinstance(images, Mapping) and len(images) == len(outputs)
    parts = []
    for i, output in enumerate(outputs):
        if isinstance(output, (list, tuple)) and not output:
            parts.append(Extracted([np.zeros((0, 0, 3))], lambda _, output=output: type(output)()))  # type: ignore[misc]
            continue
        # Where the numbers differ, the caller says so with both.
        own = [images[i]] if many and images is not None else None
        parts.append(_extract(output, own if many else images, skeleton, None))
    ends = np.cumsum([len(p.keypoints) for p in parts]).tolist()
    own_images = [None if p.images is None else p.images for p in parts]
    return Extracted(
        keypoints=[k for p in parts for k in p.keypoints],
        rebuild=lambda refined: type(outputs)(
            p.rebuild(refined[end - len(p.keypoints) : end]) for p, end in zip(parts, ends, strict=True)
        ),
        names=next((p.names for p in parts if p.names is not None), None),
        boxes=[b for p in parts for b in (p.boxes or [None] * len(p.keypoints))],
        images=None if None in own_images else [i for images in own_images for i in images or ()],
    )


def _restricted(found: Extracted, skeleton: Skeleton) -> Extracted:
    """The skeleton's keypoints of each pose; the others come back as they were."""
    sizes = {k.shape[1] for k in found.keypoints if k.size}
    by_size = {size: columns(found.names, size, skeleton) for size in sizes}
    index = [by_size[k.shape[1]] if k.size else None for k in found.keypoints]

    def chosen(poses: Doubles, which: Any) -> Doubles:
        if which is None:
            return np.zeros((0, len(skeleton), 3))
        return np.where((which >= 0)[:, None], poses[:, which], 0.0)

    def rebuild(refined: list[Floats]) -> Any:
        full = [k.copy() for k in found.keypoints]
        for poses, which, new in zip(full, index, refined, strict=True):
            if which is not None:
                poses[:, which[which >= 0]] = new[:, which >= 0]
        return found.rebuild(list(full))

    poses = [chosen(k, which) for k, which in zip(found.keypoints, index, strict=True)]
    return replace(found, keypoints=poses, rebuild=rebuild, names=None)


def _mapped(found: Extracted, finish: Callable[[Any], Any]) -> Extracted:
    def rebuild(refined: list[Floats]) -> Any:
        return finish(found.rebuild(refined))

    return Extracted(found.keypoints, rebuild, found.names, found.boxes, found.images, found.ids)


def _with(old: Any, **fields: Any) -> Any:
    new = old.copy()
    new.update(fields)
    return new


def _describe(output: Any) -> str:
    kind = f"{type(output).__module__}.{type(output).__qualname__}".removeprefix("builtins.")
    return f"a dict with {', '.join(map(repr, output))}" if isinstance(output, dict) and output else kind
