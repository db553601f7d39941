"""Files of tracks: what a package writes is read, and written back so that it reads the refined numbers."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posefix.adapters.track_files import read_track_file
from posefix.adapters.track_tables import plain_pickle
from posefix.adapters.tracked import arrange
from posefix.exceptions import FileFormatError, InputError, MissingDependencyError
from posefix.keypoints.layouts import BODY_25, HALPE_26
from posefix.keypoints.skeleton import COCO

T, N, K = 6, 2, 17


def tracks() -> np.ndarray:
    """(T, N, 17, 3) two people; the second is not there in frames 2 and 3, one keypoint is missing once."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(10, 500, (T, N, K, 2)), rng.uniform(0.2, 0.9, (T, N, K, 1))], -1)
    values = np.round(values, 3)
    values[2:4, 1] = np.nan
    values[4, 0, 5] = 0
    return values


def people(t: int) -> list[tuple[int, np.ndarray]]:
    return [(n, tracks()[t, n]) for n in range(N) if np.isfinite(tracks()[t, n]).all()]


def write_coco(path: Path) -> None:
    rows = [
        {"image_id": t + 1, "category_id": 1, "track_id": 10 + n, "keypoints": p.reshape(-1).tolist(), "score": 0.5}
        for t in range(T)
        for n, p in people(t)
    ]
    path.write_text(json.dumps(rows))


def write_alphapose(path: Path) -> None:
    rows = [
        {
            "image_id": f"{t}.jpg",
            "category_id": 1,
            "idx": n,
            "keypoints": p.reshape(-1).tolist(),
            "score": 2.5,
            "box": [0, 0, 9, 9],
        }
        for t in range(T)
        for n, p in people(t)
    ]
    path.write_text(json.dumps(rows))


def instance(n: int, pose: np.ndarray) -> dict[str, Any]:
    return {
        "keypoints": pose[:, :2].tolist(),
        "keypoint_scores": pose[:, 2].tolist(),
        "bbox": [[0, 0, 9, 9]],
        "bbox_score": 0.9,
        "track_id": n,
    }


def write_inferencer(path: Path) -> None:
    path.write_text(json.dumps([{"frame_id": t, "instances": [instance(*p) for p in people(t)]} for t in range(T)]))


def write_demo(path: Path) -> None:
    frames = [{"frame_id": t + 1, "instances": [instance(*p) for p in people(t)]} for t in range(T)]
    names = {str(k): name for k, name in enumerate(COCO.keypoints)}
    path.write_text(json.dumps({"meta_info": {"keypoint_id2name": names}, "instance_info": frames}))


WRITERS: dict[str, Callable[[Path], None]] = {
    "coco": write_coco,
    "alphapose": write_alphapose,
    "mmpose": write_inferencer,
    "mmpose demo": write_demo,
}


@pytest.mark.parametrize("name", list(WRITERS))
def test_lists_come_back_as_they_went_in(name: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    WRITERS[name](source)
    opened = read_track_file(source)
    assert opened.format == name.split()[0]
    assert len(opened.ids) == N
    assert not opened.linked
    np.testing.assert_allclose(opened.tracks, tracks())
    opened.write(target, opened.tracks)
    assert json.loads(target.read_text()) == json.loads(source.read_text())

    moved = opened.tracks.copy()
    moved[0, 1, 3] = [1.5, 2.5, 0.25]
    opened.write(target, moved)
    np.testing.assert_allclose(read_track_file(target).tracks, moved)
    same = read_track_file(target, format=opened.format)
    assert same.ids == opened.ids


@pytest.mark.parametrize(
    ("name", "packing"),  # the demo's object has no lines
    [*((name, "t.json.gz") for name in WRITERS), *((name, "t.jsonl") for name in WRITERS if name != "mmpose demo")],
)
def test_packed_lists(name: str, packing: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "in.json")
    data = json.loads((tmp_path / "in.json").read_text())
    if packing.endswith("gz"):
        (tmp_path / packing).write_bytes(gzip.compress(json.dumps(data).encode()))
    else:
        (tmp_path / packing).write_text("".join(json.dumps(row) + "\n" for row in data))
    opened = read_track_file(tmp_path / packing)
    np.testing.assert_allclose(opened.tracks, tracks())
    opened.write(tmp_path / f"out.{packing}", opened.tracks)
    np.testing.assert_allclose(read_track_file(tmp_path / f"out.{packing}").tracks, tracks())


def openpose_folder(folder: Path, names: tuple[str, ...], first: int = 0) -> None:
    folder.mkdir()
    for t in range(T):
        flat = np.zeros((len(names), 3))
        pose = tracks()[t, 0]
        for k, name in enumerate(COCO.keypoints):
            if name in names:
                flat[names.index(name)] = pose[k]
        person = [] if t == 3 else [{"person_id": [-1], "pose_keypoints_2d": flat.reshape(-1).tolist()}]
        (folder / f"video_{t + first:012d}.json").write_text(json.dumps({"version": 1.3, "people": person}))


@pytest.mark.parametrize("names", [BODY_25, HALPE_26])
@pytest.mark.parametrize("first", [0, 1])
def test_openpose_and_pose2sim_folders(names: tuple[str, ...], first: int, tmp_path: Path) -> None:
    openpose_folder(tmp_path / "in", names, first)
    opened = read_track_file(tmp_path / "in")
    assert opened.tracks.shape == (T, 1, K, 3)
    assert np.isnan(opened.tracks[3]).all()
    known = [COCO.keypoints[k] in names for k in range(K)]
    expected = tracks()[:, :1, known]
    np.testing.assert_allclose(opened.tracks[[0, 1, 2, 4, 5]][:, :, known], expected[[0, 1, 2, 4, 5]])
    moved = opened.tracks.copy()
    moved[0, 0, 9] = [7.0, 8.0, 0.5]
    opened.write(tmp_path / "out", moved)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in (tmp_path / "in").iterdir())
    np.testing.assert_allclose(read_track_file(tmp_path / "out").tracks, moved)


def dlc_frame(individuals: bool) -> Any:
    pandas = pytest.importorskip("pandas")
    people = [f"mouse{n}" for n in range(N)] if individuals else ["mouse0"]
    columns, values = [], []
    for n, who in enumerate(people):
        for k, part in enumerate((*COCO.keypoints, "tail")):
            for axis, coord in enumerate(("x", "y", "likelihood")):
                columns.append(("DLC_net", who, part, coord) if individuals else ("DLC_net", part, coord))
                values.append(tracks()[:, n, k, axis] if k < K else np.full(T, 3.25))
    names = ["scorer", "individuals", "bodyparts", "coords"] if individuals else ["scorer", "bodyparts", "coords"]
    return pandas.DataFrame(np.stack(values, 1), columns=pandas.MultiIndex.from_tuples(columns, names=names))


@pytest.mark.parametrize("individuals", [False, True])
@pytest.mark.parametrize("kind", ["csv", "h5"])
def test_deeplabcut(individuals: bool, kind: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame, source, target = dlc_frame(individuals), tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"

    def read(path: Path) -> Any:
        if kind == "h5":
            return pandas.read_hdf(path)
        return pandas.read_csv(path, header=list(range(frame.columns.nlevels)), index_col=0)

    if kind == "h5":
        pytest.importorskip("tables")
        pytest.importorskip("h5py")
        frame.to_hdf(source, key="df_with_missing", mode="w", format="table")
    else:
        frame.to_csv(source)
    opened = read_track_file(source)
    assert opened.format == f"deeplabcut-{kind}"
    count = N if individuals else 1
    assert opened.tracks.shape == (T, count, K, 3)
    there = np.isfinite(tracks()[:, :count, :, 0]) & (tracks()[:, :count, :, 2] > 0)
    np.testing.assert_allclose(opened.tracks[there], tracks()[:, :count][there])
    opened.write(target, opened.tracks)
    np.testing.assert_array_equal(read(target).to_numpy(), read(source).to_numpy())
    moved = opened.tracks.copy()
    moved[1, 0, 2] = [11.5, 12.5, 0.75]
    opened.write(target, moved)
    after = read(target)
    assert after.columns.equals(read(source).columns)
    column = ("DLC_net", *(["mouse0"] if individuals else []), COCO.keypoints[2], "x")
    assert after[column].iloc[1] == 11.5
    assert (after.to_numpy() == read(source).to_numpy())[
        ~np.isnan(after.to_numpy())
    ].sum() >= after.notna().sum().sum() - 3


def test_pickles_are_taken_apart_and_never_run(tmp_path: Path) -> None:
    labels = [(1, [("scorer", "nose", "x"), ("scorer", "nose", "y")]), None]
    for protocol in range(5):
        assert plain_pickle(pickle.dumps(labels, protocol), tmp_path) == labels

    class Evil:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit",))

    for protocol in range(5):
        with pytest.raises(FileFormatError, match="executed"):
            plain_pickle(pickle.dumps([Evil()], protocol), tmp_path)
    with pytest.raises(FileFormatError):
        plain_pickle(b"\x80\x02](", tmp_path)


def test_sleap_analysis(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    source, target = tmp_path / "in.h5", tmp_path / "out.h5"
    values = tracks()
    values[4, 0, 5] = np.nan
    with h5py.File(source, "w") as file:
        file["tracks"] = values[..., :2].transpose(1, 3, 2, 0)
        file["point_scores"] = values[..., 2].transpose(1, 2, 0)
        file["node_names"] = np.array([k.encode() for k in COCO.keypoints])
        file["track_names"] = np.array([b"left fly", b"right fly"])
        file["track_occupancy"] = np.isfinite(values[..., 0]).any(-1).astype(np.uint8)
    opened = read_track_file(source)
    assert opened.format == "sleap-h5"
    assert opened.ids == ["left fly", "right fly"]
    there = np.isfinite(values[..., 0])
    np.testing.assert_allclose(opened.tracks[there], values[there])
    moved = opened.tracks.copy()
    moved[0, 0, 0] = [1, 2, 0.5]
    opened.write(target, moved)
    with h5py.File(target) as file:
        assert file["tracks"][0, :, 0, 0].tolist() == [1, 2]
        assert np.isnan(file["tracks"][0, 0, 5, 4])
        assert file["track_names"][0] == b"left fly"


def test_sleap_project(tmp_path: Path) -> None:
    sio = pytest.importorskip("sleap_io")
    skeleton = sio.Skeleton(nodes=list(COCO.keypoints))
    video = sio.Video(filename="absent.mp4", open_backend=False)
    names = [sio.Track("a"), sio.Track("b")]
    frames = []
    for t in range(T):
        instances = [
            sio.PredictedInstance.from_numpy(
                p[:, :2], skeleton=skeleton, point_scores=p[:, 2], score=0.9, track=names[n]
            )
            for n, p in people(t)
        ]
        frames.append(sio.LabeledFrame(video=video, frame_idx=t, instances=instances))
    labels = sio.Labels(labeled_frames=frames, videos=[video], skeletons=[skeleton], tracks=names)
    sio.save_slp(labels, str(tmp_path / "in.slp"))
    opened = read_track_file(tmp_path / "in.slp")
    assert opened.format == "sleap-slp"
    assert opened.ids == ["a", "b"]
    there = np.isfinite(tracks()[..., 0]) & (tracks()[..., 2] > 0)
    np.testing.assert_allclose(opened.tracks[there], tracks()[there], rtol=1e-5)
    moved = opened.tracks.copy()
    moved[5, 1, 0] = [1, 2, 0.5]
    opened.write(tmp_path / "out.slp", moved)
    after = read_track_file(tmp_path / "out.slp")
    np.testing.assert_allclose(after.tracks[there], moved[there], rtol=1e-5)
    assert after.ids == opened.ids


def test_trc_in_pixels(tmp_path: Path) -> None:
    names = ["RHip", "LHip", "Nose", *(n for n in COCO.keypoints if n not in ("right_hip", "left_hip", "nose")), "CHip"]
    pose = tracks()[:, 0]
    order = [COCO.index("right_hip"), COCO.index("left_hip"), 0]
    order += [COCO.index(n) for n in names[3:-1]]
    lines = [
        "PathFileType\t4\t(X/Y/Z)\tin.trc",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"60\t60\t{T}\t{len(names)}\tpx\t60\t0\t{T}",
        "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t",
        "\t\t" + "\t".join(f"{a}{i + 1}" for i in range(len(names)) for a in "XYZ"),
    ]
    for t in range(T):
        cells = [f"{v:.3f}" for k in order for v in (*pose[t, k, :2], 0.0)] + ["5.0", "6.0", "0.0"]
        lines.append("\t".join([str(t), f"{t / 60:.5f}", *cells]))
    source, target = tmp_path / "in.trc", tmp_path / "out.trc"
    source.write_text("\n".join(lines) + "\n")
    opened = read_track_file(source)
    assert opened.tracks.shape == (T, 1, K, 3)
    there = tracks()[:, 0, :, 2] > 0
    np.testing.assert_allclose(opened.tracks[:, 0][there][:, :2], pose[there][:, :2])
    opened.write(target, opened.tracks)
    assert target.read_text() == source.read_text()
    moved = opened.tracks.copy()
    moved[2, 0, 0] = [1.5, 2.5, 0.5]
    opened.write(target, moved)
    np.testing.assert_allclose(read_track_file(target).tracks[2, 0, 0, :2], [1.5, 2.5])
    changed = [a != b for a, b in zip(source.read_text().splitlines(), target.read_text().splitlines(), strict=True)]
    assert changed == [False] * 7 + [True] + [False] * 3
    source.write_text(source.read_text().replace("\tpx\t", "\tm\t"))
    with pytest.raises(FileFormatError, match="pixels"):
        read_track_file(source)


def test_first_frames(tmp_path: Path) -> None:
    write_coco(tmp_path / "a.json")
    rows = [r | {"image_id": r["image_id"] + 29} for r in json.loads((tmp_path / "a.json").read_text())]
    (tmp_path / "b.json").write_text(json.dumps(rows))
    late = read_track_file(tmp_path / "b.json", first_frame=1)
    assert len(late.tracks) == 29 + T
    assert np.isnan(late.tracks[:29]).all()
    with pytest.raises(InputError, match="before the first"):
        read_track_file(tmp_path / "b.json", first_frame=40)


def test_a_guessed_first_frame_is_told(tmp_path: Path) -> None:
    write_coco(tmp_path / "a.json")
    assert read_track_file(tmp_path / "a.json").remark == ""
    rows = [r | {"image_id": r["image_id"] + 29} for r in json.loads((tmp_path / "a.json").read_text())]
    (tmp_path / "b.json").write_text(json.dumps(rows))
    guessed = read_track_file(tmp_path / "b.json")
    assert len(guessed.tracks) == 29 + T
    assert "the first frame in b.json is 30; frames were counted from 1" in guessed.remark
    assert read_track_file(tmp_path / "b.json", first_frame=0).remark == ""


@pytest.mark.parametrize("first", [0, 1])
def test_frames_of_a_folder_count_from_its_first_file(first: int, tmp_path: Path) -> None:
    """Also where it has no people, and up to the last."""
    openpose_folder(tmp_path / "in", BODY_25, first)
    for t in (0, 1, T - 1):
        (tmp_path / "in" / f"video_{t + first:012d}.json").write_text(json.dumps({"version": 1.3, "people": []}))
    opened = read_track_file(tmp_path / "in")
    assert np.isfinite(opened.tracks).any((1, 2, 3)).tolist() == [False, False, True, False, True, False]
    assert opened.remark == ""


@pytest.mark.parametrize("nothing", [None, float("nan"), 0])
def test_missing_people_are_filled_and_stay_as_they_were_otherwise(nothing: float | None, tmp_path: Path) -> None:
    write_coco(tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())
    rows[1]["keypoints"] = [nothing] * 51
    (tmp_path / "a.json").write_text(json.dumps(rows))
    opened = read_track_file(tmp_path / "a.json")
    assert opened.rows is not None
    np.testing.assert_array_equal(opened.rows, np.isfinite(tracks()).all((2, 3)))
    filled = opened.tracks.copy()
    filled[0, 1, 4] = [7.0, 8.0, 0.5]
    opened.write(tmp_path / "b.json", filled)
    written = json.loads((tmp_path / "b.json").read_text())
    assert written[1]["keypoints"][12:15] == [7.0, 8.0, 0.5]
    assert repr(written[1]["keypoints"][:12]) == repr([nothing] * 12)
    assert written[2:] == rows[2:]


def test_ids_are_needed_for_everybody_once() -> None:
    poses = np.ones((3, K, 3))
    frame = np.array([0, 0, 1])
    with pytest.raises(InputError, match="twice in frame 0"):
        arrange(frame, [5, 5, 5], poses, "x")
    with pytest.raises(InputError, match="for every person or for none"):
        arrange(frame, [5, None, 5], poses, "x")
    assert arrange(np.array([0, 1, 4]), [None] * 3, poses, "x").ids == [0]


def test_people_without_ids_are_linked_by_a_tracker() -> None:
    pose = tracks()[0, 0]
    poses = np.stack([pose + np.array([dx + 3 * t, 0, 0]) for t in range(T) for dx in (0, 900)])
    frame = np.repeat(np.arange(T), 2)
    try:
        import trackers  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match=r"posefix\[tracking\]"):
            arrange(frame, [None] * len(frame), poses, "x")
        return
    rows = arrange(frame, [None] * len(frame), poses, "x")
    assert rows.linked
    columns = rows.person.reshape(T, 2)
    assert (columns[2:] == columns[2]).all()
    assert columns[2, 0] != columns[2, 1]


def test_what_is_no_track_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "a.trc").write_text("x\n")
    (tmp_path / "a.json").write_text('{"a": 1}')
    for name in ("a.csv", "a.trc", "a.json", "absent.json"):
        with pytest.raises(FileFormatError, match=name):
            read_track_file(tmp_path / name)
    with pytest.raises(InputError, match="format"):
        read_track_file(tmp_path / "a.csv", format="xml")
