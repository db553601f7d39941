"""``posefix merge-results``."""

from __future__ import annotations

import click

from posefix.cli.options import check_inputs, check_output, report_errors, say


@click.command("merge-results", short_help="Join the parts of a finished run into one file.")
@click.argument("run", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="A .json or .parquet file.")
@report_errors
def merge_results(run: str, out: str) -> None:
    """Join the parts of a finished run, RUN, into one file, in the order of the input.

    Checks that every part is there and every person is in exactly one of them.

    \b
    Examples:
      posefix merge-results run/ --out refined.json
    """
    from posefix.shards.merge import merge_parts

    check_inputs(run)
    check_output(out, (".json", ".parquet", ".pq"))
    say(f"{out} written: {merge_parts(run, out)} people")
