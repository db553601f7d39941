"""Commands that only tell something start at once: what is large is imported by the work, not by the help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from factories import annotation_file, results_of
from posefix.cli.main import Commands

#: Each costs a tenth of a second to two seconds.
LARGE = (
    *("torch", "numpy", "cv2", "pycocotools", "huggingface_hub"),
    *("safetensors", "yaml", "tqdm", "pyarrow", "matplotlib"),
)
_PROGRAM = """
import sys
from posefix.cli.main import main
try:
    main(sys.argv[1:], prog_name="posefix")
except SystemExit as done:
    assert not done.code, done
print("\\nmodules", *{name.split(".")[0] for name in sys.modules})
"""


def imported(*arguments: str) -> set[str]:
    """Packages that a command has imported when it ends."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("line", ["--version", "--help", *(f"{name} --help" for name in Commands.names)])
def test_help_imports_nothing_large(line: str) -> None:
    assert imported(*line.split()) & set(LARGE) == set()


def test_importing_the_package_imports_nothing_large() -> None:
    program = "import sys, posefix; dir(posefix); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} & set(LARGE) == set()


@pytest.mark.parametrize("command", ["evaluate", "diagnose"])
def test_what_needs_no_network_starts_without_torch(command: str, tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    data = annotation_file(rng, images=2, people=2)
    (tmp_path / "val.json").write_text(json.dumps(data))
    (tmp_path / "results.json").write_text(json.dumps(results_of(data, rng)))
    found = imported(command, str(tmp_path / "val.json"), str(tmp_path / "results.json"))
    assert found & {"torch", "huggingface_hub", "safetensors", "matplotlib", "pyarrow"} == set()
