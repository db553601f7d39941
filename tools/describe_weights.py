"""Put the facts of a YAML file on record in a weights folder, and write its model card.

python tools/describe_weights.py WEIGHTS FACTS.yaml
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import yaml

from posefix.weights.model_card import write_card
from posefix.weights.weights import load_weights, save_weights


def main(folder: str, facts: str) -> None:
    """Merge and write."""
    weights = load_weights(folder)
    about = yaml.safe_load(Path(facts).read_text()) | {"recipe": weights.about["recipe"]}
    described = replace(weights, about=about)
    save_weights(folder, described, half=True)
    write_card(folder, described)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
