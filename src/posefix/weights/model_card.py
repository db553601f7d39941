"""A model card in the hub's format, from the weights' configuration and their recorded results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from posefix.io.atomic import write_files
from posefix.messages import printable, without_credentials
from posefix.weights.weights import Weights, weights_files

CARD_NAME = "README.md"
#: Stands in every card; a README.md without it was written by hand and is left alone.
MARKER = "<!-- Written by posefix from config.json. Without this line, posefix leaves the file alone. -->"

#: Of the identifiers that the hub accepts, those that weights are likely to have.
_LICENCES = (
    *("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "unlicense", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "openrail"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "unknown"),
)
_TAGS = ("pose-estimation", "pose-refinement", "human-pose", "keypoints")
_OWN_PLACE = ("title", "description", "licence", "license", "results", "data", "limits", "citation", "recipe")


_MARKUP = str.maketrans({"<": "&lt;", ">": "&gt;", "`": "\\`"})


def licence(weights: Weights) -> str:
    """The licence on record, or ``"unknown"``; ``about`` may spell its key either way."""
    return str(weights.about.get("licence") or weights.about.get("license") or "unknown")


def model_card(weights: Weights, repository: str = "USER/NAME") -> str:
    """A model card: YAML front matter and Markdown.

    Of ``weights.about`` these keys have a place of their own, the others follow as they are: ``title``,
    ``description``, ``licence``, ``results`` (rows as a list of dictionaries, or a dictionary), ``data``,
    ``limits``, ``citation`` (texts, lists or dictionaries) and ``recipe``. Nothing is said that is not on record.

    Args:
        weights: what the card is about.
        repository: where it will be found, for the lines on use.
    """
    about = weights.about
    height, width = weights.config.input_hw
    title = about.get("title") or f"posefix {weights.config.backbone} {height}x{width}, {weights.skeleton.name}"
    parts = [_front_matter(weights), MARKER, f"# {_line(title)}"]
    parts.append(
        _text(about.get("description") or "")
        or "Refines the keypoints of any 2D human pose estimator: image and keypoints in, better keypoints out "
        "([PoseFix](https://arxiv.org/abs/1812.03595), CVPR 2019, and beyond)."
    )
    parts += ["## Use", _usage(repository), "## Model", _model(weights)]
    parts += [f"Keypoints, in order: {', '.join(map(_line, weights.skeleton.keypoints))}."]
    parts += _section("Results", about.get("results"), "No results are on record.")
    parts += _section("Data", about.get("data"), "No data are on record.")
    parts += _section("Limits", about.get("limits"))
    parts += ["## Licence", f"{_line(licence(weights))}."]
    parts += _section("Citation", about.get("citation"))
    parts += _section("Also on record", {k: v for k, v in about.items() if k not in _OWN_PLACE})
    if about.get("recipe"):
        recipe = yaml.safe_dump(_plain(about["recipe"]), sort_keys=False, allow_unicode=True)
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", recipe)), default=0))
        parts += ["## Recipe", f"{fence}yaml\n{printable(recipe)}{fence}"]
    return without_credentials("\n\n".join(parts) + "\n")


def save_with_card(folder: str | Path, weights: Weights) -> None:
    """``save_weights``, and the card as ``README.md`` unless one is there that posefix did not write.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = Path(folder) / CARD_NAME
    files = weights_files(weights)
    if not path.exists() or MARKER in path.read_text(encoding="utf-8", errors="replace"):
        files[CARD_NAME] = model_card(weights).encode()
    write_files(folder, files)


def _front_matter(weights: Weights) -> str:
    name = licence(weights)
    known = name.lower() in _LICENCES
    data: dict[str, Any] = {"license": name.lower() if known else "other"}
    if not known:
        data["license_name"] = " ".join(printable(name).split())
    data["library_name"] = "posefix"
    data["pipeline_tag"] = "keypoint-detection"
    data["tags"] = ["posefix", *_TAGS, weights.skeleton.name]
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---"


def _usage(repository: str) -> str:
    return (
        "```\npip install posefix\n```\n\n```python\nfrom posefix import Refiner\n\n"
        f'refiner = Refiner.from_pretrained("{repository}")\n'
        "refined = refiner.refine(image, keypoints)  # (N, K, 3) [x, y, score], pixels of the image\n```"
    )


def _model(weights: Weights) -> str:
    config, calibration = weights.config, weights.calibration
    height, width = config.input_hw
    count = sum(t.numel() for t in weights.state.values() if t.is_floating_point())
    rows = {
        "Network": f"{config.backbone}, pose enters as {config.pose_entry}",
        "Input": f"{height} × {width} (height × width)",
        "Keypoints": f"{len(weights.skeleton)} ({weights.skeleton.name})",
        "Numbers stored": f"{count / 1e6:.2f} million",
        "Decoder": calibration.decoder,
        "Policy": calibration.policy,
    }
    return _table(["", "value"], rows.items())


def _section(title: str, content: Any, otherwise: str = "") -> list[str]:
    """Heading and content; nothing where there is neither content nor anything to say otherwise."""
    text = _render(content) if content else otherwise
    return [f"## {title}", text] if text else []


def _render(content: Any) -> str:
    """Anything on record as Markdown: rows become tables, texts stay."""
    if isinstance(content, Mapping):
        if all(isinstance(v, Mapping) for v in content.values()):
            return _render([{"": name, **row} for name, row in content.items()])
        return _table(["", "value"], content.items())
    if isinstance(content, list | tuple):
        if all(isinstance(row, Mapping) for row in content):
            columns = list(dict.fromkeys(key for row in content for key in row))
            return _table(columns, ([row.get(c, "") for c in columns] for row in content))
        return "\n".join(f"- {_table_cell(item)}" for item in content)
    return _text(content)


def _table(columns: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    head = [_table_cell(c) for c in columns]
    lines = [head, ["---"] * len(head), *([_table_cell(v) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping | list | tuple):
        value = json.dumps(_plain(value), ensure_ascii=False)
    return _line(value).replace("|", "\\|")


def _line(value: Any) -> str:
    return " ".join(_text(value).split())


def _text(value: Any) -> str:
    """What is on record as text that stays text: no HTML, no code that begins or ends, no images from elsewhere."""
    return printable(str(value)).strip().translate(_MARKUP).replace("![", "!\\[")


def _plain(value: Any) -> Any:
    """Only what JSON and YAML have."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
