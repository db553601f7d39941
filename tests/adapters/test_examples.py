"""Every example runs without network and images, as far as that goes: random weights, drawn images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checks import needs

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {
    "coco_json": (),
    "ultralytics_pose": ("ultralytics",),
    "supervision_video": ("supervision", "ultralytics"),
    "torchvision_keypoint_rcnn": ("torchvision",),
    "transformers_vitpose": ("transformers",),
    "rtmlib_body": ("rtmlib",),
}
_RUN = "import runpy, sys, torchvision_operators as t; t.register(); runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example(name: str, tmp_path: Path) -> None:
    for package in EXAMPLES[name]:
        needs(package)
    script = ROOT / "examples" / f"{name}.py"
    code = f"import sys; sys.argv = [{str(script)!r}, '--random-weights']; {_RUN}"
    paths = os.pathsep.join([str(Path(__file__).parent), str(script.parent)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
