"""Checkpoints are whole, whenever a run ends."""

import pytest
import torch

from callbacks.saving import Last, WholeFiles


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints/last.ckpt"
    WholeFiles().save_checkpoint({"step": 1}, path)

    def fail(checkpoint, file):
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        WholeFiles().save_checkpoint({"step": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"step": 1}
    WholeFiles().save_checkpoint({"step": 3}, path)
    assert torch.load(path, weights_only=True) == {"step": 3}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_step_is_the_least_that_is_waited_for(tmp_path):
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        Last(tmp_path, every_n_steps=0)
