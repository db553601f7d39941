"""What goes wrong with the hub, each in one sentence with the way out.

The client's HTTP library changed twice (requests, httpx, httpx2), so its exceptions are known by their names.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

_EMBEDDED = "or use Refiner.from_pretrained() for the weights in the package"
_LOGIN = "pass token=… or run 'hf auth login'"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def cache_may_answer(error: Exception) -> bool:
    """Whether a cached copy may serve after this failure: the hub was not reached, or would not answer.

    Not where it said that the revision or the file does not exist, nor where this computer is at fault.
    """
    from huggingface_hub import errors as hub

    error = _innermost(error)
    if isinstance(error, hub.RevisionNotFoundError | hub.EntryNotFoundError):
        return False
    return isinstance(error, hub.OfflineModeIsEnabled | hub.FileMetadataError | _transport_error())


def explain_download(
    repository: str,
    error: Exception,
    *,
    revision: str | None,
    cache_dir: str | Path | None,
    force_download: bool,
) -> str:
    """The sentence for a failed download."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    error = _innermost(error)
    where, cache = _where(repository, revision), str(cache_dir or constants.HF_HUB_CACHE)
    page = f"{constants.ENDPOINT}/{repository}"
    status = _status(error)
    if isinstance(error, hub.GatedRepoError):
        return f"weights: {repository} is gated; accept its terms at {page}, then {_LOGIN}"
    if isinstance(error, hub.RevisionNotFoundError):
        return (
            f"weights: {repository} has no revision {revision!r}; leave it away for the newest, or take a branch, tag "
            f"or commit from {page}/commits/main"
        )
    if isinstance(error, hub.DisabledRepoError):
        return f"weights: {repository} has been disabled by the hub; {_other_weights()}"
    if status == 401 and "credentials" in str(error).lower():
        return f"weights: the hub does not accept the token for {repository}; pass a valid one as token=…, or False"
    if status == 403:
        return f"weights: this token may not read {repository}; take one that may: {_LOGIN}"
    if isinstance(error, hub.RepositoryNotFoundError) or status in (401, 404):
        return (
            f"weights: there is no folder {repository!r} and no such repository at {constants.ENDPOINT}, or it is "
            f"private; check the name, or {_LOGIN}"
        )
    if isinstance(error, hub.HFValidationError):
        return f"weights: {repository!r} is neither a folder nor a repository name; expected 'user/name'"
    if isinstance(error, hub.LocalTokenNotFoundError):
        return "weights: token=True, but no token is stored; run 'hf auth login' or pass token='hf_…'"
    reason = _connection(error)
    if reason and force_download:
        return f"weights: force_download=True needs the hub, and {reason}"
    if reason:
        return f"weights: {where} is not in the cache {cache}, and {reason}; connect once, {_EMBEDDED}"
    return _on_this_computer(where, error, cache)


def explain_not_cached(repository: str, revision: str | None, cache_dir: str | Path | None) -> str:
    """The sentence for ``local_files_only=True`` without a cached copy."""
    from huggingface_hub import constants

    return (
        f"weights: {_where(repository, revision)} is not in the cache {cache_dir or constants.HF_HUB_CACHE}; "
        f"load it once without local_files_only=True, {_EMBEDDED}"
    )


def explain_upload(repository: str, error: Exception, *, revision: str | None) -> str:
    """The sentence for a failed upload."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    error = _innermost(error)
    status = _status(error)
    if isinstance(error, hub.HFValidationError):
        return f"push_to_hub: {repository!r} is not a repository name; expected 'user/name'"
    if isinstance(error, hub.RevisionNotFoundError):
        return (
            f"push_to_hub: {repository} has no branch {revision!r}; make it first "
            f"('hf repos branch create {repository} {revision}'), or leave revision away for 'main'"
        )
    if isinstance(error, hub.LocalTokenNotFoundError) or status == 401:
        return f"push_to_hub: {constants.ENDPOINT} wants a token that may write; {_LOGIN}"
    if status in (403, 404):
        return (
            f"push_to_hub: this token may not write to {repository}; take one with write permission, another name, "
            "or create_pr=True"
        )
    reason = _connection(error)
    if reason:
        return f"push_to_hub: {repository} is as it was, {reason}; try again, or use save_pretrained(folder)"
    return f"push_to_hub: {repository} was not written: {_first_line(error)}"


def explain_missing_file(repository: str, revision: str | None, token: str | bool | None, name: str) -> str:
    """The sentence for a repository without one of the two files; tells if it has pickles instead."""
    from huggingface_hub import HfApi

    where = _where(repository, revision)
    try:
        files = HfApi().model_info(repository, revision=revision, token=token, timeout=10).siblings or []
        pickles = sorted(f.rfilename for f in files if f.rfilename.endswith(_PICKLES))
        safe = any(f.rfilename.endswith(".safetensors") for f in files)
    except Exception:  # the sentence below is right without it
        pickles, safe = [], True
    if pickles and not safe:
        return (
            f"weights: {where} has no {name}, only {pickles[0]}, and posefix never reads pickles; ask its author for "
            "posefix weights in safetensors"
        )
    return f"weights: {where} has no {name}, so it is not a posefix repository; {_other_weights()}"


def _where(repository: str, revision: str | None) -> str:
    return repository if revision is None else f"{repository}@{revision}"


def _other_weights() -> str:
    return f"name another one, {_EMBEDDED}"


def _connection(error: Exception) -> str:
    """Why the hub did not answer, as half a sentence; empty where it is something else."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    endpoint, status, names = constants.ENDPOINT, _status(error), {c.__name__ for c in type(error).__mro__}
    if isinstance(error, hub.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids asking the hub (unset it)"
    if status == 429:
        return f"{endpoint} limits the number of requests (wait, or {_LOGIN})"
    if status is not None:
        return f"{endpoint} answered {status} (try again later)" if status == 408 or status >= 500 else ""
    if isinstance(error, hub.FileMetadataError):
        return f"{endpoint} does not answer as a hub does (check HF_ENDPOINT, the proxy and login pages)"
    if not isinstance(error, _transport_error()):
        return ""
    if "ProxyError" in names:
        return f"the proxy refused the way to {endpoint} (check HTTPS_PROXY and NO_PROXY)"
    if "SSLError" in names or "certificate" in str(error).lower():
        return f"the certificate of {endpoint} is not trusted (check SSL_CERT_FILE and the proxy)"
    if names & {"TimeoutException", "Timeout"}:
        return f"{endpoint} did not answer in time (check the network, or raise HF_HUB_ETAG_TIMEOUT)"
    if names & {"ConnectError", "ConnectionError", "UnsupportedProtocol"}:
        return f"{endpoint} cannot be reached (check the network, HTTPS_PROXY and HF_ENDPOINT)"
    return f"the connection to {endpoint} broke off (run it again)"


def _on_this_computer(where: str, error: Exception, cache: str) -> str:
    number = getattr(error, "errno", None)
    elsewhere = "pass cache_dir=… or set HF_HOME to another place"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"weights: no room for {where} in the cache {cache}; free some, or {elsewhere}"
    if isinstance(error, OSError) and number is not None:
        return f"weights: cannot write {where} to the cache {cache} ({error.strerror}); {elsewhere}"
    if "Consistency check failed" in str(error):
        return f"weights: {where} came with the wrong size; run it again, or with force_download=True"
    return f"weights: cannot download {where}: {_first_line(error)}"


def _innermost(error: Exception) -> Exception:
    """The failure behind the client's 'not in the cache', 'force download failed' and 'error while uploading'."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error.__cause__, Exception) and (
        isinstance(error, LocalEntryNotFoundError) or type(error) in (ValueError, RuntimeError)
    ):
        error = error.__cause__
    return error


def _status(error: Exception) -> int | None:
    """The HTTP status that the hub answered with."""
    status: Any = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _transport_error() -> type[Exception]:
    """The base of the exceptions of the client's HTTP library."""
    from huggingface_hub.errors import HfHubHTTPError

    libraries = ("httpx2", "httpx", "requests")
    return [c for c in HfHubHTTPError.__mro__ if c.__module__.partition(".")[0] in libraries][-1]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
