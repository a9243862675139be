import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from callbacks.examples import Examples, escaped, markdown
from callbacks.timing import Timing
from datamodules.records import Probe, Record, Request
from editors.checkpoint_file import saved
from editors.editor import Editor
from edits import Dense, WeightEdit

REQUEST = Request("Lagos is in", "Lagos", "Sweden")
RECORDS = [
    Record("full", (REQUEST,), (
        Probe("neighborhood", "Tokyo is in", "Japan"),
        Probe("generalization", "Where is Lagos?", "Sweden"),
        Probe("generalization", "not shown", "Sweden"),
    )),
    Record("bare", (Request("Paris | is in", "Paris", "Japan"),)),
    Record("third", (REQUEST,)),
]  # fmt: skip


class Learner(Editor, L.LightningModule):
    """A trained editor, as far as callbacks can tell."""

    def __init__(self, language_model):
        super().__init__()
        self.language_model = language_model
        self.weight = torch.nn.Parameter(torch.ones(()))

    def compute(self, groups, after):
        layer = self.language_model.layer("mlp_out", 0)
        shape = (len(groups), *self.language_model.shape(layer))
        noise = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
        update = {layer: Dense(noise * self.weight.detach(), None)}
        return WeightEdit(update, self.name, self.language_model.fingerprint)

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.1)

    def training_step(self, records, index):
        return self.weight * len(records)

    def validation_step(self, records, index):
        pass

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


@pytest.fixture
def events(language_model, tmp_path):
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=TensorBoardLogger(tmp_path, name="", version=""),
        callbacks=[Examples(count=2, max_new_tokens=4), Timing()],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(RECORDS, batch_size=2, collate_fn=list)
    trainer.fit(Learner(language_model), loader, loader)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    return events


def test_examples_are_written_after_each_validation(events, language_model):
    written = events.Tensors("val/examples/text_summary")
    assert [event.step for event in written] == [1, 3]  # as the scores beside them
    text = written[0].tensor_proto.string_val[0].decode()
    assert text.splitlines()[0].startswith("| prompt | new target | before | after |")
    assert len(text.splitlines()) == 2 + 2


def test_edits_per_second_are_logged(events):
    values = [event.value for event in events.Scalars("train/edits_per_second")]
    assert len(values) == 4
    assert all(value > 0 for value in values)


def test_a_row_shows_the_answers_of_its_own_edit(language_model):
    learner = Learner(language_model)
    lines = markdown(learner, RECORDS[:2], max_new_tokens=4).splitlines()
    edit = learner.edit_each([record.requests[0] for record in RECORDS[:2]])
    for at, (record, line) in enumerate(zip(RECORDS, lines[2:], strict=False)):
        [before] = language_model.generate([record.requests[0].prompt], max_new_tokens=4)
        edited = edit.edited(language_model)
        [after] = edited.generate([record.requests[0].prompt], rows=[at], max_new_tokens=4)
        assert before != after
        for text in (before, f"**{after.strip()}**".split(chr(10))[0], record.requests[0].target):
            assert escaped(text.strip().split(chr(10))[0]) in line
    assert "Where is Lagos? **" in lines[2]
    assert "Tokyo is in " in lines[2]
    assert "not shown" not in lines[2]
    assert lines[3].startswith("| Paris \\| is in | Japan |")
    assert lines[3].endswith("|  |  |")


@pytest.mark.parametrize("name", ["count", "max_new_tokens"])
def test_numbers_that_cannot_be(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Examples(**{name: 0})


def test_what_training_cost_stands_in_the_checkpoint_and_goes_on(language_model, tmp_path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    loader, costs = DataLoader(RECORDS, batch_size=2, collate_fn=list), []
    for epochs, path in ((1, None), (2, tmp_path / "0.ckpt")):
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[Timing()],
            enable_checkpointing=False,
            limit_val_batches=0,
            **quiet,
        )
        trainer.fit(Learner(language_model), loader, loader, ckpt_path=path, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{len(costs)}.ckpt")
        costs.append(saved(tmp_path / f"{len(costs)}.ckpt")["training_cost"])
    assert [cost["records"] for cost in costs] == [3, 6]
    assert 0 < costs[0]["seconds"] < costs[1]["seconds"]
    assert 0 < costs[0]["peak_gib"] <= costs[1]["peak_gib"]
