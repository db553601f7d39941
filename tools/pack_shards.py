"""Pack a configuration's training sets into a few small files, to be carried to where the GPU is.

    python tools/pack_shards.py CONFIG.yaml OUT [--max-mb 60] [--side 640] [--density 1.4] [--quality 92]

Each person's surroundings are cut out as far as augmentation can reach (the image's border, and swaps with people
further away, excepted), shrunk where a crop needs fewer pixels, and kept as JPEG with the poses in their frame. OUT
gets a folder per set and config.yaml, the same run on them; paths in it that were relative now count from OUT.
Prints counts and sizes. OUT holds the sets' images: treat it as the sets themselves, and commit it nowhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import yaml

from posefix.exceptions import PosefixError, TrainingError
from posefix.geometry import boxes_around_points, crop_rectangles
from posefix.training.config import TrainingConfig, read_config
from posefix.training.data.people import Images, People, read_people
from posefix.training.data.shards import Shard, write_shard

#: What a shard needs in addition to images and arrays: names, headers.
_OVERHEAD = 16_384
#: How far a synthetic error moves a keypoint, in square roots of the person's area (similarity 0.1 at σ = 0.1).
_ERROR_REACH = 0.45


def reach(people: People, config: TrainingConfig) -> np.ndarray:
    """(N, 4) xyxy of all that crops of each person can show."""
    augmentation = config.augmentation
    boxes = [people.boxes_xyxy.astype(np.float64)]
    if augmentation.input_box:
        pad = _ERROR_REACH * np.sqrt(people.area)[:, None] * (-1, -1, 1, 1)
        boxes.append(boxes_around_points(people.ground_truth[..., :2], people.ground_truth[..., 2] > 0) + pad)
        for i in range(people.estimates.shape[1]):
            points = people.estimates[:, i, :, :2]
            boxes.append(boxes_around_points(points, np.isfinite(points).all(-1)))
    corners = []
    for box in boxes:
        rectangle = crop_rectangles(box, config.model.input_hw)
        centre, half = (rectangle[:, :2] + rectangle[:, 2:]) / 2, (rectangle[:, 2:] - rectangle[:, :2]) / 2
        half = half * (1 + augmentation.scale)
        angles = np.deg2rad(np.linspace(0, augmentation.rotation * (augmentation.rotation_share > 0), 10))
        turned = np.stack([half * np.cos(a) + half[:, ::-1] * np.sin(a) for a in angles]).max(0)
        far = turned + augmentation.shift * half + 2
        corners.append(np.concatenate([-(centre - far), centre + far], axis=1))
    furthest = np.nanmax(corners, axis=0)
    furthest[:, :2] *= -1
    return furthest


def cut(people: People, images: Images, row: int, region: np.ndarray, scale: float, options: argparse.Namespace):
    """One person as (arrays in the frame of the stored image, JPEG)."""
    image = images[int(people.image[row])]
    limit = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(region[:2]), 0, limit - 1).astype(int)
    high = np.clip(np.ceil(region[2:]) + 1, low + 1, limit).astype(int)
    size = high - low
    scale = min(scale, options.side / size.max(), 1.0)
    stored = np.maximum(np.rint(size * scale), 1).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    if (stored < size).any():
        part = cv2.resize(part, stored.tolist(), interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, options.quality]
    _, code = cv2.imencode(".jpg", cv2.cvtColor(part, cv2.COLOR_RGB2BGR), quality)
    ratio = size / stored

    def moved(points: np.ndarray) -> np.ndarray:
        # Pixel p of the stored image is the mean of a block whose centre lies at (p + 0.5) · ratio − 0.5.
        return (points - low + 0.5) / ratio - 0.5

    def poses(values: np.ndarray, there: np.ndarray) -> np.ndarray:
        xy = np.where(there[..., None], moved(values[..., :2]), values[..., :2])
        return np.concatenate([xy, values[..., 2:]], axis=-1).astype(np.float32)

    ground_truth, near = people.ground_truth[row], people.others[row]
    return {
        "ground_truth": poses(ground_truth, ground_truth[..., 2] > 0),
        "estimates": poses(people.estimates[row], np.isfinite(people.estimates[row]).all(-1)),
        "boxes_xyxy": moved(people.boxes_xyxy[row].reshape(2, 2)).reshape(4).astype(np.float32),
        "area": np.float32(people.area[row] / ratio.prod()),
        "others": poses(near, near[..., 2] > 0),
        "overlap": people.overlap[row],
    }, np.asarray(code, np.uint8).reshape(-1)


def shards(people: People, config: TrainingConfig, options: argparse.Namespace) -> Iterator[Shard]:
    """All people, in order, in shards that stay below the limit."""
    images, regions = Images(people.paths, 0.5), reach(people, config)
    rectangles = crop_rectangles(people.boxes_xyxy, config.model.input_hw)
    scales = options.density * config.model.input_hw[0] / (rectangles[:, 3] - rectangles[:, 1])
    limit, used, waiting = options.max_mb * 1_000_000 - _OVERHEAD, 0, []
    with ThreadPoolExecutor(2) as pool:
        jobs = range(len(people))
        for person in pool.map(lambda i: cut(people, images, i, regions[i], scales[i], options), jobs):
            size = sum(v.nbytes for v in person[0].values()) + len(person[1]) + 8
            if size > limit:
                raise TrainingError(f"--max-mb {options.max_mb} does not hold even one person; allow more")
            if waiting and used + size > limit:
                yield join(waiting)
                used, waiting = 0, []
            waiting.append(person)
            used += size
    yield join(waiting)


def join(people: list) -> Shard:
    """Single people → arrays."""
    arrays = {name: np.stack([arrays[name] for arrays, _ in people]) for name in people[0][0]}
    return Shard(**arrays, codes=tuple(code for _, code in people))


def main(arguments: list[str] | None = None) -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-mb", type=float, default=60.0, help="largest file, in 10^6 bytes")
    parser.add_argument("--side", type=int, default=640, help="longest side of a stored image, px")
    parser.add_argument("--density", type=float, default=1.4, help="stored pixels per pixel of an unscaled crop")
    parser.add_argument("--quality", type=int, default=92, help="of the JPEGs")
    options = parser.parse_args(arguments)
    try:
        pack(options)
    except PosefixError as error:
        sys.exit(f"error: {error}")


def pack(options: argparse.Namespace) -> None:
    """Write shards and configuration."""
    config, out = read_config(options.config), options.out
    if out.is_dir() and any(out.iterdir()):
        raise TrainingError(f"{out} is not empty; old shards would be read with the new ones")
    copy = yaml.safe_load(Path(options.config).read_text())
    for i, one in enumerate(config.sets):
        folder = out / f"set_{i}"
        folder.mkdir(parents=True)
        people = read_people([replace(one, weight=1.0)], config.skeleton)
        sizes = []
        for n, shard in enumerate(shards(people, config, options)):
            path = folder / f"{n:03d}.npz"
            sizes.append(write_shard(path, shard, config.skeleton))
            if sizes[-1] > options.max_mb * 1_000_000:
                raise TrainingError(f"{path} became larger than --max-mb {options.max_mb}")
        kept = {k: v for k, v in copy["sets"][i].items() if k in ("weight", "min_keypoints")}
        copy["sets"][i] = {"shards": folder.name, **kept}
        source = Path(one.shards or one.annotations).name
        print(f"{folder.name}: {len(people)} people of {source}, {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB")
    text = yaml.safe_dump(copy, sort_keys=False, allow_unicode=True)
    (out / "config.yaml").write_text(f"# {Path(options.config).name} on the shards next to this file.\n{text}")
    read_config(out / "config.yaml")
    print(f"{out / 'config.yaml'}: train with it; environment variables and relative paths must hold where it is read")


if __name__ == "__main__":
    main()
