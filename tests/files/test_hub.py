"""What goes to the hub; only its answers are made up here."""

from pathlib import Path

import pytest
import requests as http
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from files import hub


@pytest.fixture
def uploads(monkeypatch):
    """What the hub is sent: repositories, and files by name."""
    sent = {}

    def create(self, repository, *, private, exist_ok):
        sent[repository] = {"private": private}
        return f"https://hub/{repository}"

    def commit(self, repository, operations, *, commit_message):
        files = {each.path_in_repo: Path(each.path_or_fileobj).read_bytes() for each in operations}
        sent[repository] |= {"files": files, "message": commit_message}

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "create_commit", commit)
    return sent


def test_a_folder_becomes_one_commit(uploads, tmp_path):
    (tmp_path / "edit.safetensors").write_bytes(b"tensors")
    (tmp_path / "README.md").write_text("card")
    assert hub.push(tmp_path, "me/tower", private=True) == "https://hub/me/tower"
    assert uploads["me/tower"]["files"] == {"README.md": b"card", "edit.safetensors": b"tensors"}
    assert uploads["me/tower"]["private"]


def test_nothing_else_is_uploaded(uploads, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=r"model.bin is not uploaded: only .safetensors, .json"):
        hub.push(tmp_path, "me/tower")
    assert uploads == {}


def test_what_the_hub_says_is_one_line(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise HfHubHTTPError("401 Unauthorized\nlog in", response=http.Response())

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(
        ValueError, match=r"me/tower cannot be written on the hub: 401 Unauthorized$"
    ):
        hub.push(tmp_path, "me/tower")


def test_an_id_that_is_none_and_a_hub_out_of_reach_are_said():
    with pytest.raises(FileNotFoundError, match="'no such/id/here' is neither a file nor"):
        hub.fetched("no such/id/here", "edit.safetensors")
    with pytest.raises(FileNotFoundError, match="'me/tower' is neither a file nor a repository"):
        hub.fetched("me/tower", "edit.safetensors")
