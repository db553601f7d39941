"""Options and error handling that commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from posefix.exceptions import InputError, PosefixError, SkeletonError
from posefix.keypoints.skeleton import COCO, SKELETONS, Skeleton

_F = TypeVar("_F", bound=Callable[..., Any])


def speaks_plainly(command: _F) -> _F:
    """A user's mistake becomes one line on standard error and exit status 1, without a traceback.

    Ctrl-C ends with status 130, as shells expect.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except PosefixError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise  # click ends quietly, as when piped into head
        except OSError as error:
            named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
            raise click.ClickException(f"{named}{error.strerror or error}") from error
        except torch.OutOfMemoryError as error:
            raise click.ClickException(
                "the device is out of memory; lower the batch size or use --device cpu"
            ) from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted.", err=True)
            raise click.exceptions.Exit(130) from None

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


def check_output(path: str, *, folder: bool = False) -> None:
    """Tell that an output cannot be written before the work, not after it.

    Args:
        path: where it goes.
        folder: whether it is a folder, which is made where it does not exist.

    Raises:
        InputError: its folder does not exist or cannot be written to, or something else is there.
    """
    target = Path(os.path.realpath(path))
    if folder:
        if target.exists() and not target.is_dir():
            raise InputError(f"{path}: expected a folder to write to, got a file")
        return
    if target.is_dir():
        raise InputError(f"{path}: expected a file to write, got a folder")
    if not target.parent.is_dir():
        raise InputError(f"{path}: the folder {target.parent} does not exist; create it first")
    if not os.access(target.parent if target.is_file() or not target.exists() else target, os.W_OK):
        raise InputError(f"{path}: cannot be written: permission denied")


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


def split_revision(where: str) -> tuple[str, str | None]:
    """``USER/REPO@REVISION`` in two; a folder may have an @ in its name."""
    name, at, revision = where.partition("@")
    return (where, None) if Path(where).exists() or not at else (name, revision)


def load_refiner(weights: str | None, device: str, precision: str = "auto") -> Any:
    """A refiner from the options ``--weights`` and ``--device``."""
    from posefix.inference.refiner import Refiner

    source, revision = split_revision(weights) if weights else (None, None)
    return Refiner.from_pretrained(source, revision=revision, device=device, precision=precision)
