"""Small changes of the code, each of which must make a test fail: ``python tests/mutants.py`` (about ten minutes).

With arguments, only those in files whose names have one of them: ``python tests/mutants.py typed rescoring``.

Every change is made in a copy of the package, so nothing here is touched. A change that no test notices is printed, and
one whose line is no longer there too: write the change anew then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
    """One change: in ``file`` below ``src/posefix``, ``old`` becomes ``new``; ``tests`` must notice."""

    file: str
    old: str
    new: str
    tests: str = "tests/test_small_changes.py"


CODEC, DECODING, INPUTS = "keypoints/codec.py", "inference/decoding.py", "network/inputs.py"
GOLDEN = "tests/network/test_golden.py"
MUTANTS = (
    Mutant(CODEC, "(self.stride - 1 - 2 * self.offset) / self.stride", "(self.stride - 2 * self.offset) / self.stride"),
    Mutant(CODEC, "(self.stride - 1 - 2 * self.offset) / self.stride", "1.0"),
    Mutant(DECODING, "heat = temperature[flip_indices]", "heat = temperature"),
    Mutant("geometry.py", "mirrored[..., 0] = width - 1 - mirrored", "mirrored[..., 0] = width - mirrored"),
    Mutant(INPUTS, "self.scores[:, flip_indices]", "self.scores"),
    Mutant(INPUTS, "self.std[:, flip_indices]", "self.std"),
    Mutant(INPUTS, "self.valid[:, flip_indices]", "self.valid"),
    Mutant("inference/reliability.py", "CONFIDENT = 0.7", "CONFIDENT = 0.6"),
    Mutant("inference/reliability.py", "OUTLIER_DISTANCE = 1.5", "OUTLIER_DISTANCE = 1.3"),
    Mutant("inference/reliability.py", "LIMITS = (0.2,", "LIMITS = (0.3,"),
    Mutant("inference/results.py", "MEASURED, MEASURED_PER_IMAGE = 256, 3", "MEASURED, MEASURED_PER_IMAGE = 128, 3"),
    Mutant("inference/results.py", 'ranking: str = "pose_consistency"', 'ranking: str = "estimator"'),
    Mutant("inference/rescoring.py", "DUPLICATE_OKS = 0.5", "DUPLICATE_OKS = 0.6"),
    Mutant("inference/rescoring.py", "0 <= score < _LARGEST", "0 < score < _LARGEST"),
    Mutant("inference/rescoring.py", "own * (pose_consistency if", "own * (1.0 if"),
    Mutant("inference/rescoring.py", "new[rows] *= 1 - repeated", "new[rows] *= 1 - 0.9 * repeated"),
    Mutant("inference/crops.py", "counts = valid.sum(-1)", "counts = np.full(len(valid), valid.shape[1])"),
    Mutant("keypoints/oks.py", "similarity = np.exp(-squared", "similarity = 0.9 * np.exp(-squared"),
    Mutant("keypoints/heatmaps.py", "std: Tensor, steps: int = 3) -> tuple[Tensor, Tensor]:",
           "std: Tensor, steps: int = 2) -> tuple[Tensor, Tensor]:"),
    Mutant("network/correction.py", "points = (heatmap_points - 0.5) / 2", "points = heatmap_points / 2", GOLDEN),
    Mutant("network/correction.py", "_DEPTH = 8.0", "_DEPTH = 7.0", GOLDEN),
    Mutant("network/prior.py", "_LIMIT = 3.0", "_LIMIT = 2.0", GOLDEN),
    Mutant("network/prior.py", "_LEAST_SCORE = 0.03", "_LEAST_SCORE = 0.3"),
    Mutant("network/model.py", "(images - self.mean) / self.std", "images / self.std - self.mean", GOLDEN),
    Mutant("keypoints/poses.py", "& (points != 0).any(-1)", "& (points != 0).all(-1)"),
    Mutant("inference/crops.py", "(boxes[:, 2:] < boxes[:, :2]).any(-1)", "(boxes[:, 2:] < boxes[:, :2]).all(-1)"),
    Mutant("io/orientation.py", 'self.upright if self.mode == "auto" else', 'True if self.mode == "auto" else',
           "tests/io/test_orientation.py"),
    Mutant("io/orientation.py", "upright: bool = False", "upright: bool = True", "tests/io/test_orientation.py"),
    Mutant("training/data/copy_paste.py", "if copy_paste.behind[i]:", "if not copy_paste.behind[i]:",
           "tests/training/data/test_batches.py"),
    Mutant("training/data/sampling.py", "< augmentation.noise_prob", "< 0 * augmentation.noise_prob",
           "tests/training/data/test_batches.py"),
    Mutant("inference/crops.py", "    prepared, prediction = _finite_only(prepared, prediction)\n", "",
           "tests/inference/test_torch_model.py"),
    Mutant("inference/torch_model.py", "if self._may_fail and", "if False and", "tests/inference/test_torch_model.py"),
    Mutant("io/json.py", "if len(found) < len(pairs):", "if False:", "tests/io/test_json_doors.py"),
    Mutant("weights/model_card.py", ".translate(_MARKUP)", "", "tests/weights/test_model_card.py"),
    Mutant("cli/options.py", "click.echo(without_credentials(printable(text))", "click.echo((text)",
           "tests/cli/test_escaping.py"),
    Mutant("training/trainer.py", "_PRIOR_RATE = 10.0", "_PRIOR_RATE = 1.0"),
    Mutant("training/trainer.py", "if parameter.ndim > 1 and not prior else 0.0", "if not prior else 0.0"),
    Mutant("training/schedule.py", "(1 + step) / (10 + step)", "1.0"),
    Mutant("pose_errors/diagnosis.py", "GOOD_SIMILARITY = 0.85", "GOOD_SIMILARITY = 0.8",
           "tests/pose_errors/test_diagnosis.py"),
    Mutant("io/image_names.py", "return target.startswith(root.rstrip(os.sep) + os.sep)", "return True",
           "tests/io/test_containment.py"),
    Mutant("io/json.py", "MAX_DEPTH = 64", "MAX_DEPTH = 10**9", "tests/io/test_json.py"),
    Mutant("io/images.py", "size[0] * size[1] > limit", "False", "tests/io/test_image_headers.py"),
    Mutant("messages.py", 'text = _CREDENTIALS.sub(r"\\g<scheme>***@", text)', "pass", "tests/test_messages.py"),
    Mutant("typed.py", "if math.isfinite(number):", "if True:", "tests/test_typed.py"),
    Mutant("adapters/registry.py", "sizes = {k.shape[1] for k in found.keypoints if k.size}",
           "sizes = {k.shape[1] for k in found.keypoints if len(k)}", "tests/adapters/test_odd_outputs.py"),
)  # fmt: skip


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether the tests pass although the change is there."""
    source = folder / "src" / "posefix" / mutant.file
    before = source.read_text(encoding="utf-8")
    source.write_text(before.replace(mutant.old, mutant.new, 1), encoding="utf-8")
    try:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", mutant.tests],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=False,
        )
        return run.returncode == 0
    finally:
        source.write_text(before, encoding="utf-8")


def main() -> int:
    gone, survivors = [], []
    chosen = [m for m in MUTANTS if not sys.argv[1:] or any(part in m.file for part in sys.argv[1:])]
    with tempfile.TemporaryDirectory(prefix="posefix-mutants-") as name:
        folder = Path(name)
        for part in ("src", "tests", "tools", "examples"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / file, folder / file)
        for mutant in chosen:
            if mutant.old not in (folder / "src" / "posefix" / mutant.file).read_text(encoding="utf-8"):
                gone.append(mutant)
            elif survives(mutant, folder):
                survivors.append(mutant)
            print("s" if mutant in survivors else "?" if mutant in gone else ".", end="", flush=True)
    print(f"\n{len(chosen) - len(gone) - len(survivors)} of {len(chosen)} changes noticed")
    for kind, found in (("no longer there", gone), ("not noticed", survivors)):
        for mutant in found:
            print(f"{kind}: {mutant.file}: {mutant.old} → {mutant.new}")
    return 1 if gone or survivors else 0


if __name__ == "__main__":
    sys.exit(main())
