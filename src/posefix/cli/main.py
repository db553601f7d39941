"""The command line: ``posefix COMMAND``."""

from __future__ import annotations

import difflib
import importlib

import click

import posefix


class Commands(click.Group):
    """Commands whose modules, ``posefix.cli.NAME``, are imported when they are asked for: each needs others."""

    names = (
        *("calibrate", "convert", "convert-results", "demo", "diagnose", "evaluate", "export", "merge-results"),
        *("refine", "refine-video", "train", "weights"),
    )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return sorted(self.names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None where there is none."""
        if cmd_name not in self.names:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"posefix.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names; where there is none, the message names those like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.names, cutoff=0.7)
            if not close:
                raise
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {' or '.join(close)}?", ctx) from error


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(posefix.__version__, prog_name="posefix")
def main() -> None:
    """Better keypoints from any 2D human pose estimator.

    \b
    Examples:
      posefix demo
      posefix refine results.json --images val2017/ --out refined.json
      posefix evaluate val.json results.json refined.json

    \b
    Completion, in your shell's start-up file:
      eval "$(_POSEFIX_COMPLETE=bash_source posefix)"           (bash)
      eval "$(_POSEFIX_COMPLETE=zsh_source posefix)"            (zsh)
      _POSEFIX_COMPLETE=fish_source posefix | source            (fish)
    """
