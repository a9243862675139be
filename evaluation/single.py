"""The protocol ``single``: each request is edited into the clean model, alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.records import PROBE_KINDS, Record
from editors.editor import Editor
from evaluation import identity, report
from evaluation.efficiency import Cost, chunk_costs, measured
from evaluation.folder import RunFolder
from evaluation.lines import answer_lines
from evaluation.questions import Questions
from evaluation.scorers import Answer

UNEDITED = "unedited"
"""The name under which the language model itself stands beside the editors."""


class Single(L.LightningModule):
    """Evaluates editors under ``Trainer(inference_mode=False).test``; devices share the records.

    Records are taken in chunks. The N requests of a chunk become N independent edits at once, and
    all probes of the chunk are answered in one batch in which each row sees its record's own edit.
    The unedited model is asked once for all editors. Finished chunks are kept in ``folder``; a
    later run there goes on behind them and ends with the same results as one that never stopped.

    Args:
        editors: The editors by the names that result rows show; all of one language model.
        records: What is edited and asked.
        folder: Where answers, costs and reports go; on a disk that all processes share.
        data: Name of the data set, for result rows.
        split: Name of the split, for result rows.
        records_per_chunk: N.
        generate: Probe kinds that are answered by free generation too.
        max_new_tokens: Tokens generated; more where an expected answer is as long as that.

    Raises:
        ValueError: no editor, editors of several language models, an editor called ``unedited``,
            unknown probe kinds, no record, ids that occur twice, or a chunk of no record.
    """

    def __init__(
        self,
        editors: Mapping[str, Editor],
        records: Sequence[Record],
        folder: str | Path,
        *,
        data: str = "",
        split: str = "test",
        records_per_chunk: int = 16,
        generate: Sequence[str] = PROBE_KINDS,
        max_new_tokens: int = 16,
    ):
        super().__init__()
        _check(editors, records, records_per_chunk, generate)
        self.editors = dict(editors)
        self.language_model = next(iter(editors.values())).language_model
        # Lightning moves what is registered to the device.
        self.trained = nn.ModuleList(e for e in editors.values() if isinstance(e, nn.Module))
        self.records = records
        self.folder = RunFolder(folder)
        self.data, self.split = data, split
        self.records_per_chunk = records_per_chunk
        self.generate, self.max_new_tokens = tuple(generate), max_new_tokens
        self.preparing: dict[str, Cost] = {}

    def setup(self, stage: str) -> None:
        """Claim the folder and see what is left to do; Lightning waits for all devices after it."""
        self.folder.claim(self.identity(), write=self.trainer.is_global_zero)
        chunks = range(ceil(len(self.records) / self.records_per_chunk))
        names = [UNEDITED, *self.editors]
        self.left = [c for c in chunks if not all(self.folder.has(name, c) for name in names)]
        self.busy = [n for n in self.editors if not all(self.folder.has(n, c) for c in self.left)]

    def test_dataloader(self) -> DataLoader:
        """This device's share of the chunks, one a step; one empty step if it has none."""
        share = self.left[self.global_rank :: self.trainer.world_size]
        steps = [[chunk] for chunk in share] or [[]]
        # Lightning would share them out once more, were it not for a sampler of this type.
        sampler = DistributedSampler(steps, num_replicas=1, rank=0, shuffle=False)
        return DataLoader(steps, batch_size=None, sampler=sampler)

    def on_test_start(self) -> None:
        """Prepare the editors: on all devices alike, since some let them share the work.

        Raises:
            ValueError: this is a trainer under which editors cannot take gradients.
        """
        if torch.is_inference_mode_enabled():
            raise ValueError("editors take gradients: use Trainer(inference_mode=False)")
        for name in self.busy:
            with measured(self.device) as self.preparing[name]:
                self.editors[name].prepare()

    def test_step(self, chunks: list[int]) -> None:
        """Edit, ask, score and write a chunk, for the editors that have not done it yet."""
        for chunk in chunks:
            start = chunk * self.records_per_chunk
            records = self.records[start : start + self.records_per_chunk]
            questions = Questions(records, self.generate, self.max_new_tokens)
            with measured(self.device) as asking:
                before = questions.ask(self.language_model)
            if not self.folder.has(UNEDITED, chunk):
                lines = self._lines(UNEDITED, questions, before, before)
                costs = chunk_costs(questions, self.device, asking)
                self.folder.add(UNEDITED, chunk, lines, costs)
            for name in self.editors:
                if not self.folder.has(name, chunk):
                    self._evaluate(name, chunk, questions, before)

    def on_test_epoch_end(self) -> None:
        """Once all devices are through, write the report and log the exact matches."""
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            for row in report.write(self.folder):
                if row["scorer"] == "exact_match":
                    name = f"{self.split}/{row['editor']}/{row['probe']}"
                    self.log(name, row["mean"], rank_zero_only=True)
        self.trainer.strategy.barrier()

    def identity(self) -> dict[str, object]:
        """What makes the answers in the folder comparable; see ``RunFolder.claim``."""
        return {
            "protocol": "single",
            "model": self.language_model.fingerprint,
            "data": self.data,
            "split": self.split,
            "records": identity.of_records(self.records),
            "records_per_chunk": self.records_per_chunk,
            "generate": sorted(self.generate),
            "max_new_tokens": self.max_new_tokens,
            "editors": {UNEDITED: {}}
            | {name: identity.of_editor(editor) for name, editor in self.editors.items()},
        }

    def _evaluate(
        self, name: str, chunk: int, questions: Questions, before: Sequence[Answer]
    ) -> None:
        editor, preparing = self.editors[name], self.preparing.pop(name, None)
        with measured(self.device) as editing:
            edit = editor.edit_each([record.request for record in questions.records])
        with measured(self.device) as asking:
            after = questions.ask(edit.edited(self.language_model), each=True)
        costs = chunk_costs(questions, self.device, asking, editing, preparing)
        self.folder.add(name, chunk, self._lines(name, questions, before, after), costs)

    def _lines(
        self, name: str, questions: Questions, before: Sequence[Answer], after: Sequence[Answer]
    ) -> list[dict[str, object]]:
        run = {
            "editor": name,
            "model": self.language_model.name,
            "data": self.data,
            "split": self.split,
            "protocol": "single",
            "n": 1,
        }
        tokenizer = self.language_model.tokenizer
        return list(answer_lines(run, questions, before, after, tokenizer))


def _check(
    editors: Mapping[str, Editor],
    records: Sequence[Record],
    records_per_chunk: int,
    generate: Sequence[str],
) -> None:
    if not editors:
        raise ValueError("editors is empty: at least one is needed")
    for name in editors:
        if name == UNEDITED or Path(name).name != name:
            raise ValueError(
                f"no editor can be called {name!r}: names are folders, {UNEDITED!r} is the model's"
            )
    if len({id(editor.language_model) for editor in editors.values()}) > 1:
        raise ValueError(f"editors {', '.join(editors)} must share one language model object")
    if not records:
        raise ValueError("records is empty: there is nothing to evaluate")
    [(twice, count)] = Counter(record.id for record in records).most_common(1)
    if count > 1:
        raise ValueError(f"records: id {twice!r} occurs {count} times, ids are unique")
    if records_per_chunk < 1:
        raise ValueError(f"records_per_chunk must be at least 1, got {records_per_chunk}")
    unknown = sorted(set(generate) - set(PROBE_KINDS))
    if unknown:
        raise ValueError(f"generate: {unknown} are none of {', '.join(PROBE_KINDS)}")
