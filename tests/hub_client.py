"""The real client in fresh processes: it reads its environment variables when it is imported, so each gets its own."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Forks of a process that has imported torch and the HTTP library (where it is that one), but not the client.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["posefix.inference.refiner", "posefix.cli.weights", "httpx2"])


@dataclass
class Outcome:
    """What a function in a fresh process did.

    Attributes:
        value: what it returned.
        error: message of a ``WeightsError`` that it raised; any other exception fails the test.
        printed: its standard output and error.
        seconds: that it took, without imports.
    """

    value: Any
    error: str | None
    printed: str
    seconds: float


def run(function: Callable[..., Any], *args: Any, environment: dict[str, str], **kwargs: Any) -> Outcome:
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_child, args=(sender, environment, function, args, kwargs))
    process.start()
    sender.close()
    try:
        assert receiver.poll(120), f"{function.__name__} hangs"
        kind, *rest = receiver.recv()
    finally:
        process.join(5)
        process.kill()
    assert kind == "done", rest[0]
    return Outcome(*rest)


def run_and_kill(
    function: Callable[..., Any], *args: Any, environment: dict[str, str], after: float, **kwargs: Any
) -> bool:
    """Kill the process with SIGKILL ``after`` seconds; whether it was still at work."""
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_child, args=(sender, environment, function, args, kwargs))
    process.start()
    sender.close()
    done = receiver.poll(after)
    process.kill()
    process.join(5)
    return not done


def _child(sender: Any, environment: dict[str, str], function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    for name in [n for n in os.environ if n.startswith(("HF_", "TRANSFORMERS_")) or n.lower().endswith("_proxy")]:
        del os.environ[name]
    # Without telemetry (the client's list of coding agents, once a day) every request is one that posefix caused.
    os.environ.update({"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **environment})
    assert "huggingface_hub" not in sys.modules
    warnings.simplefilter("error")
    # The client's own, of its HTTP library, at every upload.
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
    printed = Path(os.environ["HF_HOME"]).parent / f"printed-{os.getpid()}"
    descriptor = os.open(printed, os.O_RDWR | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import huggingface_hub  # noqa: F401

    from posefix.exceptions import WeightsError

    value, error, start = None, None, time.perf_counter()
    try:
        value = function(*args, **kwargs)
    except WeightsError as caught:
        error = str(caught)
    except BaseException:
        sender.send(("failed", traceback.format_exc()))
        return
    seconds = time.perf_counter() - start
    sys.stdout.flush()
    sys.stderr.flush()
    sender.send(("done", value, error, printed.read_text(), seconds))


# What the tests run there.


def load(source: str, **options: Any) -> tuple[str, float]:
    """Origin of weights, and a number that tells them apart."""
    from posefix.weights.weights import load_weights

    weights = load_weights(source, **options)
    return weights.origin, float(weights.state["head.2.bias"].double().sum())


def load_with_full_disk(number: int, source: str) -> tuple[str, float]:
    """As ``load`` where the operating system refuses to write."""
    from huggingface_hub import file_download

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    assert hasattr(file_download, "http_get")
    file_download.http_get = refuse
    return load(source)


def load_without_patience(source: str) -> tuple[str, float]:
    """As ``load``; the client's pauses before it resumes take no time."""
    time.sleep = lambda seconds: None
    return load(source)


def describe(source: str, **options: Any) -> str:
    """What a refiner says of itself."""
    from posefix import Refiner

    return repr(Refiner.from_pretrained(source, device="cpu", precision="float32", **options))


def refuse_poses(source: str) -> str:
    """The message for people with 16 keypoints."""
    import numpy as np

    from posefix import InputError, Refiner

    try:
        Refiner.from_pretrained(source, device="cpu").refine(np.zeros((9, 9, 3), np.uint8), np.zeros((1, 16, 3)))
    except InputError as error:
        return str(error)
    raise AssertionError("poses of another skeleton were taken")


def push(folder: str, repository: str, **options: Any) -> dict[str, Any]:
    """Publish a folder's weights; the commit."""
    from posefix import Refiner

    commit = Refiner.from_pretrained(folder, device="cpu", precision="float32").push_to_hub(repository, **options)
    return {"url": str(commit), "oid": commit.oid, "pr": commit.pr_url}


def command(*arguments: str) -> tuple[int, str]:
    """Exit status and output of ``posefix weights …``."""
    from click.testing import CliRunner

    from posefix.cli.weights import weights

    result = CliRunner().invoke(weights, list(arguments), catch_exceptions=False)
    return result.exit_code, result.output


NO_SPACE, NO_PERMISSION = errno.ENOSPC, errno.EACCES
