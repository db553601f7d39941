"""The words of the code are the field's: old private ones stay only as aliases for users."""

from __future__ import annotations

import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "posefix"

#: Old word → the files that keep it, as an old name that still works.
OLD = {
    "pictures?|Pictures?": {"cli/diagnose.py"},
    "trust": {"cli/refine.py", "inference/options.py", "inference/refiner.py", "weights/calibration.py"},
    "measure_trust": {"inference/refiner.py"},
    "departures?|usual_departure": {"weights/calibration.py"},
    "evidence": set(),
    "agreement": {"cli/refine.py", "inference/results.py", "batch.py", "inference/rescoring.py"},
    "company|mended": {"training/config.py"},
    "retouch|befalls?|spoilt|hears|speaks_plainly": set(),
    "limbs?": {"keypoints/skeleton.py"},
    "cell_offset": {"network/config.py"},
    "annotated": {"training/data/shards.py"},
    r"REFERENCE §.*|\.\./shared.*": set(),
}


def test_old_words_are_aliases_only() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        text = path.read_text(encoding="utf-8")
        for words, allowed in OLD.items():
            if name not in allowed:
                found += [f"{name}: {m.group(0)}" for m in re.finditer(rf"\b(?:{words})\b", text)]
    assert found == []
