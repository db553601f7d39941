"""The Hugging Face hub: fetching, publishing, and what its cache holds. Failures are described in ``hub_errors``."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from posefix.exceptions import WeightsError
from posefix.weights.hub_errors import (
    cache_may_answer,
    explain_download,
    explain_missing_file,
    explain_not_cached,
    explain_upload,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

_log = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIBRARY = "posefix"


@dataclass(frozen=True)
class HubSource:
    """A repository at a revision, and how it may be fetched.

    Attributes:
        repository: ``user/name``.
        revision: branch, tag or commit; None is the main branch.
        cache_dir: of downloads; None is the hub's (``HF_HOME``).
        token: for private and gated repositories; None takes the stored one, if any.
        local_files_only: do not ask the network.
        force_download: do not use the cache.
    """

    repository: str
    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False


@dataclass(frozen=True)
class Snapshot:
    """Files of one commit in the cache.

    Attributes:
        repository: ``user/name``.
        commit: 40 hexadecimal digits.
        folder: holds the files.
    """

    repository: str
    commit: str
    folder: Path

    @property
    def origin(self) -> str:
        """``user/name@commit``."""
        return f"{self.repository}@{self.commit}"


def download(
    source: HubSource, names: tuple[str, str], accept: Callable[[Snapshot], None] = lambda snapshot: None
) -> Snapshot:
    """Fetch two files of one commit, from the cache where that is enough.

    The hub is asked once which commit the revision is; a commit that is in the cache asks nothing. Where the hub
    cannot be reached, a cached copy of the same revision serves, and without one the failure is immediate: the
    client's own first request would be repeated for minutes.

    Args:
        source: what to fetch.
        names: two files.
        accept: called when the first file is there, before the second is fetched; raises if it is of no use.

    Raises:
        WeightsError: no such repository, revision or file, no access, no room, or no network and no cached copy.
    """
    if source.local_files_only and source.force_download:
        raise WeightsError(
            "weights: local_files_only=True and force_download=True exclude each other; leave one of them away"
        )
    have = None if source.force_download else cached(source, names)
    if have is not None and (source.local_files_only or _COMMIT.fullmatch(source.revision or "")):
        return have
    if source.local_files_only:
        raise WeightsError(explain_not_cached(source.repository, source.revision, source.cache_dir))
    try:
        return _fetch(source, names, accept)
    except WeightsError:
        raise
    except Exception as error:  # the client's exceptions, and its HTTP library's, differ from version to version
        if have is not None and cache_may_answer(error):
            _log.info("%s: using %s from the cache (%s)", source.repository, have.commit, error)
            return have
        raise WeightsError(
            explain_download(
                source.repository,
                error,
                revision=source.revision,
                cache_dir=source.cache_dir,
                force_download=source.force_download,
            )
        ) from error


def _fetch(source: HubSource, names: tuple[str, str], accept: Callable[[Snapshot], None]) -> Snapshot:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, FileMetadataError, LocalEntryNotFoundError

    name = names[0]
    try:
        url = hf_hub_url(source.repository, name, revision=source.revision)
        commit = get_hf_file_metadata(url, token=source.token, library_name=_LIBRARY).commit_hash
        if commit is None:
            raise FileMetadataError("no commit in the answer")
        fetch = functools.partial(
            hf_hub_download,
            source.repository,
            cache_dir=source.cache_dir,
            token=source.token,
            library_name=_LIBRARY,
        )
        # Both by the commit, so that they belong together whatever happens to the branch meanwhile.
        config = Path(fetch(name, revision=commit, force_download=source.force_download))
        snapshot = Snapshot(source.repository, commit, config.parent)
        accept(snapshot)
        name = names[1]
        fetch(name, revision=commit, force_download=source.force_download)
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError as error:
        raise WeightsError(explain_missing_file(source.repository, source.revision, source.token, name)) from error
    if cached(source, names) != snapshot:
        # The client notes on disk which commit a branch or tag is at: that is what finds it without a network.
        try:
            fetch(names[0], revision=source.revision)
        except Exception as error:
            _log.info("%s: %s", source.repository, error)
    return snapshot


def cached(source: HubSource, names: tuple[str, str]) -> Snapshot | None:
    """What the cache holds of a revision, without asking the network; None unless both files are there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    revision, paths = source.revision, []
    for name in names:
        try:
            found = try_to_load_from_cache(source.repository, name, cache_dir=source.cache_dir, revision=revision)
        except HFValidationError:
            return None
        if not isinstance(found, str):
            return None
        paths.append(Path(found))
        revision = paths[0].parent.name
    return Snapshot(source.repository, paths[0].parent.name, paths[0].parent)


def refuse_damaged(path: Path, content: bytes) -> None:
    """Compare a file of the cache with its hash, which is the name that the hub's client stored it under.

    Large files are stored under their SHA-256, small ones under git's hash of them. Where the client stores copies
    instead of links, as on Windows, there is nothing to compare with.

    Raises:
        WeightsError: the file is not what the hub sent.
    """
    # One link only: the hash is the blob's name, and the blob may itself be a link into a store of other names.
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}", name):
        same = hashlib.sha256(content).hexdigest() == name
    elif _COMMIT.fullmatch(name):
        # Mirrors name small files by the plain SHA-1.
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        same = name in (git, hashlib.sha1(content, usedforsecurity=False).hexdigest())
    else:
        same = True
    if not same:
        raise WeightsError(
            f"weights: the cached file {path} is damaged ({len(content)} bytes that do not have the hub's hash); "
            "pass force_download=True (posefix weights download --force) to fetch it again"
        )


def upload(
    files: Mapping[str, bytes],
    repository: str,
    *,
    private: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str,
    create_pr: bool = False,
) -> CommitInfo:
    """Write files into a repository as one commit; the repository is made where it does not exist.

    Args:
        files: name → content.
        repository: ``user/name``, or ``name`` for the token's owner.
        private: only where the repository is made.
        token: with the right to write; None takes the stored one.
        revision: branch, which must exist; None is the main branch.
        commit_message: of the commit.
        create_pr: as a pull request instead.

    Returns:
        what the hub's client returns for a commit: its URL, a ``str`` with the attributes ``oid`` and ``pr_url``.

    Raises:
        WeightsError: no permission, no such branch, or the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if create_pr and revision not in (None, "main"):
        raise WeightsError(
            f"push_to_hub: a pull request is always against 'main'; leave revision={revision!r} or create_pr away"
        )
    api = HfApi(token=token, library_name=_LIBRARY)
    try:
        # create_repo, then a single commit: the client's upload_folder may split a folder into several, and
        # weights without their configuration must never be the newest state of a repository.
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
        return api.create_commit(
            name,
            [CommitOperationAdd(path_in_repo=k, path_or_fileobj=v) for k, v in files.items()],
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    except Exception as error:  # as in download
        raise WeightsError(explain_upload(repository, error, revision=revision)) from error


def cached_snapshots(names: tuple[str, str], cache_dir: str | Path | None = None) -> list[Snapshot]:
    """Every commit in the cache that has both files, by repository; other repositories are not opened."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(cache_dir).repos
    except CacheNotFound:
        return []
    return [
        Snapshot(repository.repo_id, revision.commit_hash, Path(revision.snapshot_path))
        for repository in sorted(repositories, key=lambda r: r.repo_id)
        if repository.repo_type == "model"
        for revision in sorted(repository.revisions, key=lambda r: r.last_modified)
        if set(names) <= {f.file_name for f in revision.files}
    ]
