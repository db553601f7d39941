"""A video through supervision: estimate, refine, draw, write.

    pip install posefix supervision ultralytics
    python examples/supervision_video.py dance.mp4 refined.mp4

``--random-weights`` runs without network and video, on drawn images, with an untrained estimator.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import supervision as sv
from ultralytics import YOLO

from posefix import Refiner


def drawn_video(path: Path) -> str:
    """Four frames of stick figures."""
    from offline import drawn_image  # next to this script; only here

    with sv.VideoSink(str(path), sv.VideoInfo(width=320, height=240, fps=5)) as sink:
        for seed in range(4):
            sink.write_frame(drawn_image(seed=seed)[..., ::-1].copy())
    return str(path)


def main() -> None:
    """Estimate, refine, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?")
    parser.add_argument("target", nargs="?")
    parser.add_argument("--model", default="yolo11n-pose.pt")
    parser.add_argument("--random-weights", action="store_true")
    args = parser.parse_args()
    if not (args.target or args.random_weights):
        parser.error("give a video and where to write, or --random-weights")

    folder = Path(tempfile.mkdtemp())
    source = args.source or drawn_video(folder / "source.mp4")
    target = args.target or str(folder / "target.mp4")
    model = YOLO("yolo11n-pose.yaml" if args.random_weights else args.model)
    refiner = Refiner.from_pretrained()
    options = {"conf": 1e-12, "max_det": 2, "imgsz": 160} if args.random_weights else {}

    edges, vertices, people = sv.EdgeAnnotator(), sv.VertexAnnotator(), 0
    with sv.VideoSink(target, sv.VideoInfo.from_video_path(source)) as sink:
        for frame in sv.get_video_frames_generator(source):
            key_points = sv.KeyPoints.from_ultralytics(model(frame, verbose=False, **options)[0])
            key_points = refiner(frame, key_points, color="bgr")  # frames of a video are BGR
            sink.write_frame(vertices.annotate(edges.annotate(frame.copy(), key_points), key_points))
            people += len(key_points)
    print(f"{people} poses refined, written to {target}")


if __name__ == "__main__":
    main()
