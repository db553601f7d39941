"""``posefix evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from posefix.commands.common import skeleton_named, skeleton_option, speaks_plainly
from posefix.evaluation import compare, format_table, to_json
from posefix.jsonfile import write_json


@click.command()
@click.argument("annotations", type=click.Path(dir_okay=False))
@click.argument("results", type=click.Path(dir_okay=False), nargs=-1, required=True)
@skeleton_option
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Also write the table as JSON.")
@click.option("--samples", default=1000, show_default=True, help="Bootstrap samples of the pictures.")
@speaks_plainly
def evaluate(
    annotations: str, results: tuple[str, ...], skeleton_name: str, json_path: str | None, samples: int
) -> None:
    """AP of results files, and their change against the first one.

    The interval is a 95 % bootstrap over pictures: where it holds 0, the change may be chance.

    \b
    Example:
      posefix evaluate val.json before.json after.json
    """
    names = _short_names(results)
    rows = compare(annotations, list(results), skeleton_named(skeleton_name), names=names, samples=samples)
    click.echo(format_table(rows))
    if json_path:
        write_json(json_path, to_json(rows), indent=2)


def _short_names(paths: tuple[str, ...]) -> list[str]:
    """File names where they differ, else whole paths."""
    names = [Path(p).name for p in paths]
    return names if len(set(names)) == len(names) else list(paths)
