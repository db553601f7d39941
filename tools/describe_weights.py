"""Put the facts of a YAML file on record in a weights folder, and write its model card.

python tools/describe_weights.py WEIGHTS FACTS.yaml
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import yaml

from posefix.io.atomic import write_files
from posefix.weights.model_card import CARD_NAME, model_card
from posefix.weights.weights import load_weights, weights_files


def main(folder: str, facts: str) -> None:
    """Merge and write; the old card is replaced."""
    weights = load_weights(folder)
    about = yaml.safe_load(Path(facts).read_text(encoding="utf-8")) | {"recipe": weights.about["recipe"]}
    described = replace(weights, about=about)
    write_files(folder, weights_files(described, half=True) | {CARD_NAME: model_card(described).encode()})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
