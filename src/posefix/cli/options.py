"""Options and error handling that commands share."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any, TypeVar

import click

from posefix.choices import BACKENDS
from posefix.exceptions import InputError, PosefixError, SkeletonError
from posefix.io.atomic import check_writable
from posefix.io.image_names import ALLOW_OUTSIDE
from posefix.keypoints.skeleton import COCO, SKELETONS, Skeleton
from posefix.messages import message, printable, shown, without_credentials

_F = TypeVar("_F", bound=Callable[..., Any])


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print what may hold names, ids and URLs of files: they do nothing to the terminal, and no password is shown."""
    click.echo(without_credentials(printable(text)), err=err, nl=nl)


def report_errors(command: _F) -> _F:
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
            raise click.ClickException(message(f"{named}{error.strerror or error}")) from error
        except _out_of_memory() as error:
            raise click.ClickException(
                "the device is out of memory; lower the batch size or use --device cpu"
            ) from error
        except KeyboardInterrupt:
            say("\nInterrupted.", err=True)
            raise click.exceptions.Exit(130) from None

    return wrapper  # type: ignore[return-value]


def _out_of_memory() -> Any:
    """Torch's error, to be caught; none where torch was not needed so far."""
    return getattr(sys.modules.get("torch"), "OutOfMemoryError", ())


class SectionedCommand(click.Command):
    """A command whose ``--help`` lists the common options first and the rest under headings.

    ``sections`` maps a heading to the names of its parameters; what is in none of them comes last.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.sections = dict(sections)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, section by section."""
        rows: dict[str, tuple[str, str]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and parameter.name is not None and isinstance(parameter, click.Option):
                rows[parameter.name] = record
        listed = {name for names in self.sections.values() for name in names}
        sections = {**self.sections, "More": [name for name in rows if name not in listed]}
        for title, names in sections.items():
            found = [rows[name] for name in names if name in rows]
            if found:
                with formatter.section(title):
                    formatter.write_dl(found)


class RenamedOption(click.Option):
    """An option with old names, which work with a warning and are not listed by ``--help``.

    ``old`` maps each old spelling to the new one: ``old={"--flip": "--flip-test"}``.
    """

    def __init__(self, declarations: Sequence[str], *, old: Mapping[str, str], **attributes: Any) -> None:
        secondary = [name for name, new in old.items() if new.startswith("--no-")]
        primary = [name for name in old if name not in secondary]
        spelled = list(declarations)
        place = next((i for i, name in enumerate(spelled) if "/" in name), None)
        if place is None:
            spelled += primary
        else:
            on, off = spelled[place].split("/")
            spelled[place : place + 1] = [f"{on}/{off}"]
            spelled += [f"{a}/{b}" for a, b in zip(primary, secondary, strict=True)]
        super().__init__(spelled, **attributes)
        self.old = dict(old)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The row of ``--help``, without the old names."""
        names = self.opts, self.secondary_opts
        self.opts, self.secondary_opts = ([n for n in every if n not in self.old] for every in names)
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts, self.secondary_opts = names

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Warn where an old name was typed."""
        super().add_to_parser(parser, ctx)
        for name, new in self.old.items():
            if any(a == name or a.startswith(name + "=") for a in sys.argv[1:]):
                say(f"warning: {name} is now called {new}", err=True)


def skeleton_named(where: str) -> Skeleton:
    """A built-in keypoint set, or the one in a file or a weights folder.

    Args:
        where: a name; a JSON or YAML file of ``Skeleton.to_dict`` or with such a key ``skeleton``, as training
            configurations are; or a weights folder.

    Raises:
        SkeletonError: there is none of that name, or what is there is no keypoint set.
    """
    if where in SKELETONS:
        return SKELETONS[where]
    path = Path(where) / "config.json" if Path(where).is_dir() else Path(where)
    if not path.is_file():
        known = ", ".join(SKELETONS)
        raise SkeletonError(f"skeleton: expected one of {known}, a file or a weights folder, got {shown(where)}")
    from posefix.training.config import read_yaml  # JSON is YAML

    try:
        data = read_yaml(path)
        found = data.get("skeleton", data) if isinstance(data, dict) else data
        return SKELETONS[found] if isinstance(found, str) and found in SKELETONS else Skeleton.from_dict(found)
    except PosefixError as error:
        raise SkeletonError(f"{path}: {error}") from error


#: Endings of names that promise a certain content.
_KINDS = frozenset(
    f".{kind}"
    for kinds in (
        "json jsonl ndjson gz zip tar 7z parquet pq csv tsv txt md xlsx xls ods docx html htm pdf yaml yml xml",
        "svg eps png jpg jpeg webp bmp tif tiff gif mp4 avi mov mkv webm",
        "npy npz pkl pickle pt pth onnx safetensors mat h5 hdf5 slp trc c3d bvh",
    )
    for kind in kinds.split()
)
#: Endings of what commands write.
JSON, PACKED_JSON, HTML = (".json",), (".json", ".jsonl", ".ndjson", ".gz", ".zip"), (".html", ".htm")
PLOTS, VIDEO = (".png", ".pdf", ".svg", ".jpg", ".jpeg"), (".mp4",)
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def check_output(
    path: str, endings: Sequence[str] = (), *, folder: bool = False, inputs: Iterable[str | None] = ()
) -> None:
    """Tell that an output cannot be written before the work, not after it.

    Args:
        path: where it goes; ``-`` is standard output.
        endings: of a file's name; another one that promises another content is refused, and any at all for a folder.
            What is no JSON must have one of them, which is its format.
        folder: whether it is a folder, which is made where it does not exist.
        inputs: files that are read and not to be replaced; None is none.

    Raises:
        InputError: its folder does not exist or cannot be written to, something else is there, or the name promises
            what is not written.
    """
    from posefix.io.packed import STANDARD

    if path == STANDARD:
        return
    if not path:
        raise InputError("expected the name of a file or folder to write, got an empty one")
    ending = Path(path).suffix.lower()
    promised = ending in _KINDS or (bool(endings) and ".json" not in endings)
    if promised and (not Path(path).is_dir() if folder else ending not in endings):
        wanted = "a folder's name" if folder else f"a name that ends in {' or '.join(endings[:3])}"
        raise InputError(f"{path}: expected {wanted}, got one that ends in {ending or 'none'}")
    if any(other and _is_same(path, other) for other in inputs):
        raise InputError(f"{path}: would replace a file that is read; choose another name")
    check_writable(path, folder=folder)


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # one of them does not exist
        return False


def check_inputs(*paths: str | None) -> None:
    """Tell first of all that an input does not exist; None, URIs, patterns and ``-`` are not looked at.

    Raises:
        InputError: there is no such file or folder.
    """
    from posefix.io.packed import STANDARD
    from posefix.io.storage import is_uri

    for path in paths:
        if path == "":
            raise InputError("expected the name of a file or folder to read, got an empty one")
        if path and path != STANDARD and not is_uri(path) and not has_magic(path) and not os.path.exists(path):
            raise InputError(f"{path}: no such file or folder")


skeleton_option = click.option(
    "--skeleton",
    "skeleton_name",
    metavar="NAME|FILE",
    default=COCO.name,
    show_default=True,
    help=f"Keypoint set of the files: {', '.join(sorted(SKELETONS))}, a JSON or YAML file, or a weights folder.",
)
weights_option = click.option(
    "--weights",
    metavar="WHERE",
    help="A weights folder or a hub repository user/name[@revision]; default: those in the package.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="What runs the network. auto: on a CPU the first of OpenVINO, ONNX Runtime and torch that is installed.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="People that a CPU works on at the same time, each on one core; default: one per usable core.",
)


def _allow_outside(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    if value:
        before = os.environ.get(ALLOW_OUTSIDE)
        os.environ[ALLOW_OUTSIDE] = "1"
        ctx.call_on_close(lambda: _set_environment(ALLOW_OUTSIDE, before))
    return value


def _set_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


allow_outside_option = click.option(
    "--allow-outside",
    is_flag=True,
    expose_value=False,
    callback=_allow_outside,
    help="Also read images whose names lead out of the folder of images (../, absolute paths).",
)


def split_revision(where: str) -> tuple[str, str | None]:
    """``USER/REPO@REVISION`` in two; a folder may have an @ in its name, and a URL before it a password."""
    name, at, revision = where.partition("@")
    return (where, None) if not at or "://" in where or Path(where).exists() else (name, revision)


def load_refiner(weights: str | None, device: str, backend: str = "auto", threads: int | None = None) -> Any:
    """A refiner from the options ``--weights``, ``--device``, ``--backend`` and ``--threads``."""
    from posefix.inference.refiner import Refiner

    source, revision = split_revision(weights) if weights else (None, None)
    return Refiner.from_pretrained(source, revision=revision, device=device, backend=backend, threads=threads)
