"""Training without a terminal says how it goes."""

import logging

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.watching import Watching
from watching import EVERY, Watch


class Line(L.LightningModule):
    """Learns one number."""

    def __init__(self, breaks=False):
        super().__init__()
        self.weight, self.breaks = torch.nn.Parameter(torch.zeros(())), breaks

    def training_step(self, batch, index):
        if self.breaks:
            raise ValueError("broken")
        return (self.weight - batch.float()).square().mean()

    def validation_step(self, batch, index):
        self.log("val/score", 0.75)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def fit(tmp_path, monkeypatch, caplog):
    """``fit(module)``: trains for 4 steps, each of which takes 20 seconds; the lines."""
    caplog.set_level(logging.INFO, "watching")

    class Slow(L.Callback):
        now = 0.0

        def on_train_batch_start(self, *arguments):
            Slow.now += 2 * EVERY / 3

    monkeypatch.setattr(Watch, "clock", lambda: Slow.now)

    def fit(module):
        loader = DataLoader(torch.arange(8), batch_size=2)
        trainer = L.Trainer(
            max_steps=4, val_check_interval=2, callbacks=[Slow(), Watching()], logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            default_root_dir=tmp_path, num_sanity_val_steps=0, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(module, loader, DataLoader(torch.arange(2)))
        return [r.getMessage() for r in caplog.records if r.name == "watching"]

    return fit


def test_steps_loss_and_score_are_said(fit):
    first, second = fit(Line())
    assert first.startswith("training: 2 of 4 steps, 20 seconds each, 0:40 left, loss ")
    assert second.startswith("training: 4 of 4 steps, 20 seconds each, 0:00 left, loss ")
    assert "val/score" not in first and second.endswith("val/score 0.75")


def test_a_training_that_fails_is_not_watched_any_more(fit):
    with pytest.raises(ValueError, match="broken"):
        fit(Line(breaks=True))
    assert Watch._open == []
