"""Rows in, rows out: the one function that Ray Data, Spark, a SLURM job and a plain loop call.

    from posefix.batch import BatchRefiner, BatchSettings

    refine = BatchRefiner(BatchSettings(images="val2017/", prior_weight=1.0))
    refined = refine(table)                # pyarrow Table, pandas DataFrame or list of dicts; the same kind comes back

Every person keeps its row, and four columns are set: ``refined_keypoints``, ``refined_score``, ``status`` and
``error`` (see ``posefix.io.parquet``). An image that cannot be read, or a person that is no pose, is reported in its
rows and stops nothing. Only faults of the machine (no memory, a lost device) are raised: another process can redo them.

Results do not depend on how rows were put together, to the last bit, as long as all people of an image are in one
call: soft NMS compares them. The estimator's reliability belongs to the whole input: measure it once
(``measure_reliability``) and hand it on as ``prior_weight`` and ``offset``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.adapters.base import unchanged
from posefix.choices import EXIF_MODES, RANKINGS
from posefix.exceptions import FileFormatError, ImageError, InputError
from posefix.geometry import boxes_xywh_to_xyxy
from posefix.inference.batching import ahead, check_workers
from posefix.inference.crops import Prepared, Refined
from posefix.inference.full_batches import refine_in_full_batches
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.reliability import Reliability
from posefix.inference.rescoring import rescore
from posefix.inference.results import MEASURED, MEASURED_PER_IMAGE
from posefix.io.coco import image_name, rounded_keypoints
from posefix.io.image_store import ImageStore
from posefix.io.orientation import ExifRule
from posefix.io.parquet import entries_to_table, is_int64, people_schema, pose_column, poses_of, table_to_entries
from posefix.io.storage import require_pyarrow
from posefix.keypoints.mapping import share_keypoints
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import SKELETONS
from posefix.messages import shown

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BatchSettings:
    """Everything a worker needs to know; plain values, so it travels to other machines and into files.

    Attributes:
        images: where images lie, see ``ImageStore``; None where rows bring encoded bytes in a column ``image``.
        weights: folder or hub repository, which every worker must reach; None for those in the package.
        revision: of a hub repository.
        skeleton: name of the rows' keypoint set; None is that of the weights.
        device, precision, backend, threads: as for ``Refiner.from_pretrained``.
        policy, decoder, flip_test, fill_missing, batch_size, offset: as in ``Options``.
        prior_weight: as in ``Options``, but None is 1: a worker does not see the whole input, on which it is to be
            measured.
        ranking: one of ``RANKINGS``. People without a usable score keep the one they have.
        soft_nms: lower the score of people who repeat a better-scored one of the image.
        use_boxes: crop around ``bbox`` where a row has one.
        workers: threads that read images while the network computes.
        exif: ``"apply"`` turns images as their EXIF orientation says, as ``cv2.imread`` does, ``"ignore"`` does not, as
            in COCO. With ``"auto"`` the columns ``image_width`` and ``image_height`` decide; ``error`` tells a guess.
    """

    images: str | None = None
    weights: str | None = None
    revision: str | None = None
    skeleton: str | None = None
    device: str = "auto"
    precision: str = "auto"
    backend: str = "auto"
    threads: int | None = None
    policy: str | None = None
    decoder: str | None = None
    flip_test: bool = False
    fill_missing: bool = True
    batch_size: int = 32
    prior_weight: float | None = None
    offset: tuple[float, float] | None = None
    ranking: str = "pose_consistency"
    soft_nms: bool = True
    use_boxes: bool = False
    workers: int = 2
    exif: str = "auto"

    def __post_init__(self) -> None:
        self.options  # noqa: B018, checks its fields
        check_workers(self.workers)
        if self.ranking not in RANKINGS:
            raise InputError(f"ranking: expected one of {', '.join(RANKINGS)}, got {shown(self.ranking)}")
        if self.exif not in EXIF_MODES:
            raise InputError(f"exif: expected one of {', '.join(EXIF_MODES)}, got {shown(self.exif)}")
        if self.skeleton is not None and self.skeleton not in SKELETONS:
            raise InputError(f"skeleton: expected one of {', '.join(SKELETONS)}, got {shown(self.skeleton)}")

    @property
    def options(self) -> Options:
        """The part that the network uses."""
        return Options(**{f.name: getattr(self, f.name) for f in fields(Options) if hasattr(self, f.name)})

    def load_refiner(self) -> Refiner:
        """The refiner they name."""
        return Refiner.from_pretrained(
            self.weights,
            revision=self.revision,
            device=self.device,
            precision=self.precision,
            backend=self.backend,
            threads=self.threads,
        )


class BatchRefiner:
    """Loads the weights once, then refines tables, frames and lists of rows.

    Attributes:
        settings: what it was made from.
        refiner: with the weights.
    """

    def __init__(self, settings: BatchSettings, *, refiner: Refiner | None = None) -> None:
        """Load the weights.

        Args:
            settings: how and from where.
            refiner: used instead of loading one.

        Raises:
            InputError: no such folder of images, or no such device.
            WeightsError: weights that cannot be found or read.
        """
        self.settings = settings
        self.refiner = refiner or settings.load_refiner()
        self._store = ImageStore(settings.images)
        source = SKELETONS[settings.skeleton] if settings.skeleton else self.refiner.skeleton
        self._shared = share_keypoints(source, self.refiner.skeleton)

    def __call__(self, batch: Any) -> Any:
        """Refine rows.

        Args:
            batch: a pyarrow ``Table`` or ``RecordBatch``, a pandas ``DataFrame``, or a list of dicts, one row per
                person: ``keypoints`` (3K numbers), ``file_name`` or ``image_id``; where present also ``score``,
                ``bbox``, and ``image`` (encoded bytes). All people of an image must be in it.

        Returns:
            the same kind with the same rows in the same order and the columns of refinement.

        Raises:
            FileFormatError: columns that are missing or of another type.
            MissingDependencyError: pyarrow is not installed.
        """
        pa = require_pyarrow()
        if isinstance(batch, pa.Table):
            return self.refine_table(batch)
        if isinstance(batch, pa.RecordBatch):
            table = self.refine_table(pa.Table.from_batches([batch])).combine_chunks()
            place = table.column_names.index("refined_keypoints")
            # Spark knows no lists of a fixed size.
            plain = table.column(place).cast(pa.list_(pa.float64()))
            return table.set_column(place, "refined_keypoints", plain).combine_chunks().to_batches()[0]
        if isinstance(batch, list):
            return self.refine_rows(batch)
        if hasattr(batch, "to_dict") and hasattr(batch, "columns"):
            frame = self.refine_table(pa.Table.from_pandas(batch, preserve_index=False)).to_pandas()
            # Spark cannot send text columns of the kind that pandas 3 makes.
            texts = [name for name in frame.columns if frame[name].dtype == "string"]
            return frame.astype(dict.fromkeys(texts, object)).set_axis(batch.index)
        raise InputError(f"batch: expected a pyarrow Table, a pandas DataFrame or a list, got {type(batch).__name__}")

    def refine_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Refine a list of rows, as ``__call__``."""
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                raise InputError(f"rows: expected a list of dicts, got {shown(row)} as row {index}")
        bytes_of = [row.get("image") for row in rows]
        plain = [{k: _plain(v) for k, v in row.items() if k != "image"} for row in rows]
        text_ids = not all(is_int64(row.get("image_id")) for row in plain)
        table = entries_to_table(plain, people_schema(len(self._shared.source), text_ids=text_ids))
        pa = require_pyarrow()
        if any(b is not None for b in bytes_of):
            table = table.append_column("image", pa.array(bytes_of, pa.binary()))
        refined = self.refine_table(table)
        new = table_to_entries(refined.select(["refined_keypoints", "refined_score", "status", "error"]))
        return [{**row, **values} for row, values in zip(rows, new, strict=True)]

    def refine_table(self, table: Any) -> Any:
        """Refine a pyarrow ``Table``, as ``__call__``."""
        pa = require_pyarrow()
        shared, settings = self._shared, self.settings
        poses, is_pose = poses_of(table, len(shared.source))
        names, image_of_row = image_of_rows(table)
        status = np.where(is_pose, "no_box", "no_pose").astype(object)
        error = np.full(len(poses), None, object)
        after, consistency = poses.copy(), np.ones(len(poses))
        groups = {names[i]: rows for i, rows in _grouped(image_of_row, is_pose)}

        def finish(rows: npt.NDArray[np.int64], prepared: Prepared, result: Refined) -> None:
            status[rows[prepared.rows]] = "refined"
            after[rows] = result.keypoints
            consistency[rows] = result.pose_consistency

        def tell(rows: npt.NDArray[np.int64], fault: Exception | str) -> None:
            if isinstance(fault, str):  # doubtful, and refined nevertheless
                error[rows] = fault
                return
            status[rows] = "unread" if isinstance(fault, ImageError) else "failed"
            error[rows] = str(fault) if isinstance(fault, ImageError) else f"{type(fault).__name__}: {fault}"

        waiting: deque[tuple[npt.NDArray[np.int64], Prepared]] = deque()
        boxes = _boxes(table) if settings.use_boxes else np.full((len(poses), 4), np.nan)

        def prepared_images() -> Iterator[Prepared]:
            for _, rows, prepared in self._prepare(table, groups, poses, boxes, tell):
                waiting.append((rows, prepared))
                yield prepared

        for result in refine_in_full_batches(self.refiner, prepared_images(), settings.options):
            finish(*waiting.popleft(), result)

        done = status == "refined"
        stays = present(poses) & (after[..., :2] == poses[..., :2]).all(-1)
        untouched = unchanged(poses, after).all(-1)
        new = rounded_keypoints(after)
        new[stays, :2] = poses[stays, :2]
        new[untouched] = poses[untouched]
        scores = self._scores(table, after, consistency, done, image_of_row)
        columns = {
            "refined_keypoints": pose_column(np.nan_to_num(new), done),
            "refined_score": pa.array(scores, pa.float64(), mask=~(done & np.isfinite(scores))),
            "status": pa.array(status, pa.string()),
            "error": pa.array(error, pa.string()),
        }
        for name, column in columns.items():
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, column)
            else:
                table = table.append_column(name, column)
        return table

    def refine_stream(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Refine batches of one partition whose rows are sorted by image, as Spark's ``mapInPandas`` hands them over.

        Args:
            batches: as for ``__call__``; the last image of one may go on in the next.

        Yields:
            refined batches of the same kind; together they have the same rows in the same order.
        """
        rest: Any = None
        for batch in batches:
            joined = _join(rest, batch)
            table = _as_table(joined)
            _, image_of_row = image_of_rows(table)
            if not len(image_of_row):
                continue
            cut = int(np.flatnonzero(image_of_row != image_of_row[-1])[-1]) + 1 if image_of_row.max() else 0
            if cut:
                yield self(_slice(joined, 0, cut))
            rest = _slice(joined, cut, len(image_of_row))
        if rest is not None:
            yield self(rest)

    def measure_reliability(self, table: Any) -> Reliability:
        """The estimator's reliability, for ``BatchSettings.prior_weight``.

        Args:
            table: a sample of the whole input with all people of each of its images; the best-scored of each image
                are measured, about 256 people in all.

        Returns:
            its ``prior_weight`` and what it was measured on; 1 where the weights cannot tell.

        Raises:
            ImageError: none of the sample's images can be read.
        """
        if not self.refiner.measures_reliability:
            return Reliability()
        options = replace(self.settings.options, flip_test=False)
        return self.refiner.forward(self._prepared(table, MEASURED), options).reliability

    def check_images(self, table: Any) -> None:
        """Tell that a sample's images are not where they are looked for, before all people are marked as unread.

        Raises:
            ImageError, FileFormatError: none of the sample's images can be read, or none of its rows is a pose.
        """
        self._prepared(table, 1)

    def _prepared(self, table: Any, enough: int) -> list[Prepared]:
        """The best-scored people of the first images, ``enough`` of them if there are."""
        poses, is_pose = poses_of(table, len(self._shared.source))
        if len(is_pose) and not is_pose.any():
            got = len(table.column("keypoints")[0].as_py() or ())
            raise FileFormatError(
                f"keypoints: expected poses of skeleton {self._shared.source.name!r}, got {got} numbers"
            )
        names, image_of_row = image_of_rows(table)
        scores = np.nan_to_num(score_array(table))
        groups = {}
        for image, rows in _grouped(image_of_row, is_pose):
            groups[names[image]] = rows[np.argsort(-scores[rows], kind="stable")[:MEASURED_PER_IMAGE]]
        boxes = _boxes(table) if self.settings.use_boxes else np.full((len(poses), 4), np.nan)
        sample, faults = list[Prepared](), list[Exception | str]()
        for _, _, prepared in self._prepare(table, groups, poses, boxes, lambda rows, error: faults.append(error)):
            sample.append(prepared)
            if sum(len(p.rows) for p in sample) >= enough:
                break
        if faults and not sample:
            raise ImageError(f"none of {len(faults)} images of a sample can be read; the first: {faults[0]}")
        return sample

    def _prepare(
        self,
        table: Any,
        groups: dict[str, npt.NDArray[np.int64]],
        poses: Doubles,
        boxes: Doubles,
        tell: Callable[[npt.NDArray[np.int64], Exception | str], None],
    ) -> Iterator[tuple[str, npt.NDArray[np.int64], Prepared]]:
        """Images read and crops cut by threads, in order; what goes wrong with one image is its own affair."""
        content = table.column("image") if "image" in table.column_names else None
        widths, heights = (
            table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows
            for name in ("image_width", "image_height")
        )
        exif = ExifRule(self.settings.exif)

        def prepare(item: tuple[str, npt.NDArray[np.int64]]) -> tuple[Prepared | Exception, str | None]:
            name, rows = item
            try:
                own = content[int(rows[0])].as_py() if content is not None else None
                source = own if own is not None else self._store.source(name)
                image, doubt = exif.load(source, (widths[rows[0]], heights[rows[0]]))
                remark = f"image {name!r}: {doubt}" if doubt else None
                return self.refiner.prepare(image, poses[rows], boxes[rows], shared=self._shared), remark
            except MemoryError:
                raise
            except Exception as error:  # one odd image or person must not stop ten million others
                return error, None

        for (name, rows), future in ahead(prepare, groups.items(), self.settings.workers):
            result, remark = future.result()
            if isinstance(result, Exception):
                tell(rows, result)
            else:
                if remark is not None:
                    tell(rows, remark)
                yield name, rows, result

    def _scores(
        self,
        table: Any,
        after: Doubles,
        consistency: Doubles,
        done: npt.NDArray[np.bool_],
        image_of_row: npt.NDArray[np.int64],
    ) -> Doubles:
        """(N,) new person scores, NaN where the old one stays."""
        settings, new = self.settings, np.full(len(after), np.nan)
        old = score_array(table)
        usable = done & (np.isfinite(old) & (old >= 0) if settings.ranking != "confidence" else True)
        rows = np.flatnonzero(usable)
        own = after[rows][:, self._shared.from_source]
        ranks, _ = rescore(
            old[rows].tolist(),
            own,
            consistency[rows],
            image_of_row[rows].tolist(),
            np.array(self._shared.source.sigmas)[self._shared.from_source],
            ranking=settings.ranking,
            soft_nms=settings.soft_nms,
        )
        if ranks is not None:
            new[rows] = np.round(ranks, 6)
        return new


def _plain(value: Any) -> Any:
    """Arrays as flat lists, which is what a column of keypoints or a box holds."""
    return np.ravel(value).tolist() if isinstance(value, np.ndarray | tuple) else value


def image_of_rows(table: Any) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Names of a table's images in the order of their first rows, and which one each row is in.

    Args:
        table: with ``file_name`` or ``image_id`` or both.

    Returns:
        M names; (N,) indices into them.

    Raises:
        FileFormatError: neither column is there, or a row has neither value.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [table.column(n).cast(pa.string()) for n in ("file_name", "image_id") if n in table.column_names]
    if not columns:
        raise FileFormatError(f"rows: expected a column file_name or image_id, got {', '.join(table.column_names)}")
    both = columns if len(columns) == 2 else columns * 2
    missing = pc.and_(pc.is_null(both[0]), pc.is_null(both[1]))
    if pc.any(missing).as_py():
        row = pc.index(missing, True).as_py()
        raise FileFormatError(f"row {row}: expected a file_name or an image_id, got neither")
    if "file_name" in table.column_names:
        named, keys = pc.is_valid(both[0]), pc.coalesce(both[0], both[1])
    else:
        named, keys = pa.chunked_array([pa.array(np.zeros(table.num_rows, bool))]), both[0]
    # An id and a name that look alike are told apart by the mark before them.
    marks = pc.if_else(named, "n", "i")
    coded = pc.binary_join_element_wise(marks, keys, "").combine_chunks().dictionary_encode()
    names = [k[1:] if k[0] == "n" else image_name({"image_id": k[1:]}) for k in coded.dictionary.to_pylist()]
    index: dict[str, int] = {}
    place = np.array([index.setdefault(name, len(index)) for name in names], np.int64)
    codes = np.asarray(coded.indices.to_numpy(zero_copy_only=False), np.int64)
    return list(index), place[codes] if len(codes) else np.zeros(0, np.int64)


def _grouped(
    image_of_row: npt.NDArray[np.int64], wanted: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Each image and its wanted rows, in order."""
    rows = np.flatnonzero(wanted)
    rows = rows[np.argsort(image_of_row[rows], kind="stable")]
    if len(rows):
        starts = np.flatnonzero(np.diff(image_of_row[rows], prepend=-1))
        for part in np.split(rows, starts[1:]):
            yield int(image_of_row[part[0]]), part


def score_array(table: Any) -> Doubles:
    """(N,) the column ``score``; NaN where a row has none."""
    import pyarrow as pa

    if "score" not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column = table.column("score").cast(pa.float64()).combine_chunks()
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def _boxes(table: Any) -> Doubles:
    """(N, 4) xyxy, NaN where a row has none."""
    import pyarrow as pa

    if "bbox" not in table.column_names:
        return np.full((table.num_rows, 4), np.nan)
    rows = table.column("bbox").cast(pa.list_(pa.float64())).to_pylist()
    given = [r if r is not None and len(r) == 4 and None not in r else [np.nan] * 4 for r in rows]
    return np.asarray(boxes_xywh_to_xyxy(np.array(given, np.float64).reshape(-1, 4)), np.float64)


def _as_table(batch: Any) -> Any:
    import pyarrow as pa

    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, pa.RecordBatch):
        return pa.Table.from_batches([batch])
    return pa.Table.from_pandas(batch, preserve_index=False)


def _join(rest: Any, batch: Any) -> Any:
    import pyarrow as pa

    if rest is None:
        return batch
    if isinstance(batch, pa.Table):
        return pa.concat_tables([rest, batch])
    if isinstance(batch, pa.RecordBatch):
        return pa.concat_tables(map(_as_table, (rest, batch))).combine_chunks().to_batches()[0]
    import pandas as pd

    return pd.concat([rest, batch], ignore_index=True)


def _slice(batch: Any, start: int, stop: int) -> Any:
    return batch.slice(start, stop - start) if hasattr(batch, "slice") else batch.iloc[start:stop]


def settings_from(values: dict[str, Any]) -> BatchSettings:
    """Settings from what ``dataclasses.asdict`` gives.

    Raises:
        InputError: an unknown or wrong field.
    """
    unknown = sorted(set(values) - {f.name for f in fields(BatchSettings)})
    if unknown:
        raise InputError(f"unknown setting {shown(unknown[0])}; known are {', '.join(asdict(BatchSettings()))}")
    return BatchSettings(**values)
