"""The HTML file itself.

The page is three files next to this one, which a template engine would not make shorter: everything that varies is one
block of JSON, and the script puts it into the page as text, never as markup. A content security policy allows this
script and this style alone and no connection, so that a name in a results file can do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from posefix.html_report.charts import figures_of
from posefix.html_report.people import Source, people_of
from posefix.io.atomic import write_file
from posefix.io.json import PathLike
from posefix.pose_errors.diagnosis import KINDS
from posefix.pose_errors.plots import KIND_COLOURS

#: Inside a script element, these could end it or begin a comment.
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_html_report(
    path: PathLike, source: Source, *, title: str = "posefix", notes: Sequence[str] = (), most: int = 500
) -> int:
    """Write the report of a results file.

    >>> write_html_report("report.html", Source(before, after, COCO, images="val2017/"))  # doctest: +SKIP
    500

    Args:
        path: the file.
        source: poses, images and, where people are labelled, their diagnosis.
        title: first line of the page.
        notes: sentences for the top of the page.
        most: how many people are shown; figures and charts speak of all.

    Returns:
        how many people are shown.

    Raises:
        InputError: the file cannot be written, or not as many people after as before.
    """
    people = people_of(source, most)
    data = {
        "title": title,
        "notes": list(notes),
        "skeleton": {
            "keypoints": list(source.skeleton.keypoints),
            "edges": source.skeleton.edge_indices.tolist(),
        },
        "kinds": [
            {"name": kind.name.lower(), "colour": colour} for kind, colour in zip(KINDS, KIND_COLOURS, strict=True)
        ],
        "refined": source.after is not None,
        "figures": figures_of(source),
        "people": people,
    }
    write_file(path, render(title, data))
    return len(people)


def render(title: str, data: dict[str, Any]) -> str:
    """The page with its data."""
    style, script, page = (_asset(name) for name in ("style.css", "script.js", "page.html"))
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character, escaped in _UNSAFE.items():
        text = text.replace(character, escaped)
    parts = {
        "STYLE_HASH": _digest(style),
        "SCRIPT_HASH": _digest(script),
        "TITLE": html.escape(title),
        "STYLE": style,
        "DATA": text,
        "SCRIPT": script,
    }
    # In the page's order, from the left: nothing that is filled in is searched for the next mark.
    pieces, rest = [], page
    for name, value in parts.items():
        head, _, rest = rest.partition("{{" + name + "}}")
        pieces += [head, value]
    return "".join([*pieces, rest])


def _asset(name: str) -> str:
    return (resources.files("posefix.html_report") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
