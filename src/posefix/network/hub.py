"""Downloads from the Hugging Face hub, every failure one sentence with the way out."""

from __future__ import annotations

from pathlib import Path

from posefix.exceptions import WeightsError


def download(
    repository: str,
    *,
    names: tuple[str, str],
    revision: str | None,
    cache_dir: str | Path | None,
    token: str | bool | None,
    local_files_only: bool,
    force_download: bool,
) -> tuple[Path, Path, str]:
    """Fetch two files of one commit.

    Returns:
        both paths in the cache and the commit that they belong to.

    Raises:
        WeightsError: no such repository, revision or file, no access, or no network and no cached copy.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    where = repository if revision is None else f"{repository}@{revision}"
    paths: list[Path] = []
    for name in names:
        try:
            # The second file is asked for by the first one's commit, so that both belong together.
            commit = paths[0].parent.name if paths else revision
            paths.append(
                Path(
                    hf_hub_download(
                        repository,
                        name,
                        revision=commit,
                        cache_dir=cache_dir,
                        token=token,
                        local_files_only=local_files_only,
                        force_download=force_download,
                        library_name="posefix",
                    )
                )
            )
        except hub.GatedRepoError as error:
            raise WeightsError(
                f"weights: {repository} is gated; accept its terms on the hub and pass token=… or run 'hf auth login'"
            ) from error
        except hub.RevisionNotFoundError as error:
            raise WeightsError(f"weights: {repository} has no revision {revision!r}") from error
        except hub.RepositoryNotFoundError as error:
            raise WeightsError(
                f"weights: no repository {repository!r} on the hub, or it is private and needs token=…"
            ) from error
        except hub.LocalEntryNotFoundError as error:
            raise WeightsError(
                f"weights: {where} is not in the cache and the hub cannot be reached; connect once, "
                "or use Refiner.from_pretrained() for the weights in the package"
            ) from error
        except hub.EntryNotFoundError as error:
            raise WeightsError(f"weights: {where} has no {name}; it is not a posefix repository") from error
        except hub.HFValidationError as error:
            raise WeightsError(f"weights: {repository!r} is not a repository name: {error}") from error
        except (hub.HfHubHTTPError, OSError) as error:
            raise WeightsError(f"weights: cannot download {name} of {where}: {error}") from error
    return paths[0], paths[1], paths[0].parent.name
