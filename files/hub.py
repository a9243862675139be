"""Folders on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from files import first_line

SUFFIXES = (".safetensors", ".json", ".md")
"""Of what goes there: tensors, settings and texts, never a pickle."""


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload the files of a folder as one commit, and return the repository's address.

    Who uploads is what ``hf auth login`` or ``$HF_TOKEN`` says.

    Args:
        folder: files of `SUFFIXES`, and no other folder.
        repository: ``owner/name``; it is made where there is none.
        private: whether only its owner sees it, if it is made now.

    Raises:
        ValueError: the folder holds something else, or the hub does not take it.
    """
    files = sorted(folder.iterdir())
    for file in files:
        if file.suffix not in SUFFIXES:
            raise ValueError(f"{file} is not uploaded: only {', '.join(SUFFIXES)} are")
    operations = [CommitOperationAdd(file.name, file) for file in files]
    api = HfApi(library_name="errata")
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message=f"Upload {folder.name}")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = first_line(str(error))
        raise ValueError(f"{repository} cannot be written on the hub: {reason}") from error
    return str(url)


def fetched(repository: str, file: str) -> Path:
    """A file of a repository, in the hub's own cache.

    Raises:
        FileNotFoundError: there is none, or the hub cannot be reached.
    """
    try:
        return Path(hf_hub_download(repository, file))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"{repository!r} is neither a file nor a repository of the hub with {file}: "
            f"{first_line(str(error))}"
        ) from error
