"""Options and error handling that commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from posefix.exceptions import PosefixError, SkeletonError
from posefix.skeleton import COCO, SKELETONS, Skeleton

_F = TypeVar("_F", bound=Callable[..., Any])


def speaks_plainly(command: _F) -> _F:
    """A user's mistake becomes one line on standard error and exit status 1, without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except PosefixError as error:
            raise click.ClickException(str(error)) from error

    return wrapper  # type: ignore[return-value]


def skeleton_named(name: str) -> Skeleton:
    """A built-in keypoint set.

    Raises:
        SkeletonError: there is none of that name.
    """
    try:
        return SKELETONS[name]
    except KeyError:
        raise SkeletonError(f"skeleton: expected one of {', '.join(SKELETONS)}, got {name!r}") from None


skeleton_option = click.option(
    "--skeleton",
    "skeleton_name",
    type=click.Choice(sorted(SKELETONS)),
    default=COCO.name,
    show_default=True,
    help="Keypoint set of the files.",
)
weights_option = click.option(
    "--weights",
    metavar="WHERE",
    help="A weights folder or a hub repository user/name[@revision]; default: those in the package.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")


def load_refiner(weights: str | None, device: str, precision: str = "auto") -> Any:
    """A refiner from the options ``--weights`` and ``--device``."""
    from posefix.refiner import Refiner

    source, _, revision = (weights or "").partition("@")
    return Refiner.from_pretrained(source or None, revision=revision or None, device=device, precision=precision)
