"""What all protocols share: editors, records, devices, a folder that a later run goes on in.

A protocol says how many requests meet one model. It cuts the work into units, which devices share,
and does one after another; answers of finished units lie in the run's folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.batches import as_dataset
from datamodules.records import GENERATED, KINDS, Record, Request, fingerprint
from editors.editor import Editor
from editors.settings import at_least, one_of
from edits.edit import NOTHING, Edit, EditedModel
from evaluation.costs import Cost, measured
from evaluation.folder import RunFolder
from evaluation.report import curves, page
from evaluation.report.lines import UNEDITED, answer_lines
from files import first_line
from models.language_model import LanguageModel
from models.rendering import Rendering
from scoring.questions import Questions
from scoring.scorers import SCORERS, Answer

LinAlgError = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage] documented so


@dataclass(frozen=True)
class Attempt:
    """An edit, or None and the reason why an editor could not make it; and what that cost."""

    edit: Edit | None
    reason: str
    cost: Cost


class Protocol(L.LightningModule, ABC):
    """Evaluates editors under ``Trainer(inference_mode=False).test``; devices share the work.

    The unedited model is asked once for all editors. What an editor refuses by a ``ValueError``, or
    its solver by a ``LinAlgError``, is counted and named in the results, and no answers are made up
    for it. Finished units of work are kept in ``folder``; a later run there goes on after them and
    ends with the same results as one that never stopped.

    Args:
        editors: The editors by the names that result rows show; all of one language model.
        records: What is edited and asked.
        folder: Where answers, costs and reports go; on a disk that all processes share.
        data: Name of the data set, for result rows.
        split: Name of the split, for result rows.
        generate: Probe kinds that are answered by free generation too; None: those of which `KINDS`
            says so.
        max_new_tokens: Tokens generated; more where an expected answer is as long as that.
        rendering: How questions are put to the models. Requests are put to an editor as its own
            language model has it, which may be another rendering of the same model.
        scorer: Whose values are logged and drawn; None: the first that all editors have.

    Raises:
        ValueError: no editor, editors of several language models, an editor called ``unedited``,
            unknown probe kinds, no such scorer, no token to generate, no record, ids that occur
            twice, or a tokenizer that lacks what the rendering takes.
    """

    name: str
    """The protocol's name; it stands in every result row."""

    def __init__(
        self,
        editors: Mapping[str, Editor],
        records: Sequence[Record],
        folder: str | Path,
        *,
        data: str = "",
        split: str = "test",
        generate: Sequence[str] | None = None,
        max_new_tokens: int = 16,
        rendering: Rendering | None = None,
        scorer: str | None = None,
    ):
        super().__init__()
        generate = GENERATED if generate is None else generate
        _check(editors, records, generate)
        if scorer is not None:
            one_of("scorer", scorer, tuple(SCORERS))
        at_least(1, max_new_tokens=max_new_tokens)
        self.editors = dict(editors)
        first = next(iter(editors.values())).language_model
        self.language_model = first.rendered(Rendering())
        self.rendering, self.scorer = rendering or Rendering(), scorer
        assert self.questioned  # a rendering that the tokenizer does not have is refused here
        # Lightning moves what is registered to the device.
        self.trained = nn.ModuleList(e for e in editors.values() if isinstance(e, nn.Module))
        self.records = records
        self.folder = RunFolder(folder)
        self.data, self.split = data, split
        self.generate, self.max_new_tokens = tuple(generate), max_new_tokens
        self.preparing: dict[str, Cost] = {}

    # what protocols differ in

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """What decides the answers beside editors, records and questions; JSON values."""

    @abstractmethod
    def units(self) -> list:
        """The units of work that are not finished."""

    @abstractmethod
    def finished(self, editor: str) -> bool:
        """Whether all work of an editor is done."""

    @abstractmethod
    def share(self, units: list, rank: int, devices: int) -> list:
        """The units that are one device's, in the order in which it is to do them."""

    @abstractmethod
    def do(self, unit) -> None:
        """Edit, ask, score and write a unit of work."""

    # what Lightning calls

    def setup(self, stage: str) -> None:
        """Claim the folder and see what is left to do; Lightning waits for all devices after it."""
        self.folder.claim(self.identity(), write=self.trainer.is_global_zero)
        self.unfinished = self.units()
        self.busy = [name for name in self.editors if not self.finished(name)]

    def test_dataloader(self) -> DataLoader:
        """This device's share of the units, one a step; one empty step if it has none."""
        share = self.share(self.unfinished, self.global_rank, self.trainer.world_size)
        steps = as_dataset([[unit] for unit in share] or [[]])
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

    def test_step(self, units: list) -> None:
        """Do a unit of work, for the editors that have not done it yet."""
        for unit in units:
            self.do(unit)

    def on_test_epoch_end(self) -> None:
        """Once all devices are through, write the report and the curves, and log the scores."""
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            rows = page.write(self.folder)
            for name, value in curves.final(rows, self.split, self.scorer).items():
                self.log(name, value, rank_zero_only=True)
            curves.write(rows, self.folder.path / "curves.png", self.scorer)
            for logger in self.loggers:
                for n, values in curves.scalars(rows, self.split, self.scorer).items():
                    logger.log_metrics(values, step=n)
        self.trainer.strategy.barrier()

    # what protocols do alike

    def identity(self) -> dict[str, object]:
        """What makes the answers in the folder comparable; see ``RunFolder.claim``."""
        return {
            "protocol": self.name,
            "model": self.language_model.fingerprint,
            "data": self.data,
            "split": self.split,
            "records": fingerprint(self.records),
            **self.settings(),
            "generate": sorted(self.generate),
            "max_new_tokens": self.max_new_tokens,
            "rendering": asdict(self.rendering),
            "editors": {UNEDITED: {}}
            | {
                name: {**editor.identity(), "rendering": asdict(editor.language_model.rendering)}
                for name, editor in self.editors.items()
            },
            "origins": {name: e.origin for name, e in self.editors.items() if e.origin},
        }

    @cached_property
    def questioned(self) -> LanguageModel:
        """The language model as questions are put to it."""
        return self.language_model.rendered(self.rendering)

    @property
    def unedited(self) -> EditedModel:
        """What answers questions before any edit."""
        return NOTHING.edited(self.questioned)

    def questions(self, records: Sequence[Record]) -> Questions:
        """The probes of some records, as this run asks them."""
        return Questions(records, self.generate, self.max_new_tokens)

    def attempt(self, make: Callable[[], Edit]) -> Attempt:
        """An edit, or the reason for which there is none."""
        with measured(self.device) as cost:
            try:
                edit, reason = make(), ""
            except (ValueError, LinAlgError) as error:
                edit, reason = None, first_line(str(error))
        return Attempt(edit, reason, cost)

    def run(self, editor: str, n: int, step: int, phase: str) -> dict[str, object]:
        """What stands in every line: whose answers these are, and to what.

        ``end`` and ``render`` say how the editor's requests were put to the model, ``asked`` how
        questions are; see `Rendering`.
        """
        of_edits = Rendering()
        if editor in self.editors:
            of_edits = self.editors[editor].language_model.rendering
        return {
            "editor": editor,
            "model": self.language_model.name,
            "data": self.data,
            "split": self.split,
            "protocol": self.name,
            "n": n,
            "step": step,
            "phase": phase,
            "end": of_edits.end,
            "render": of_edits.render,
            "asked": self.rendering.render,
        }

    def lines(
        self,
        run: Mapping[str, object],
        questions: Questions,
        before: Sequence[Answer],
        after: Sequence[Answer],
        requests: Iterable[Request] = (),
    ) -> list[dict[str, object]]:
        """The lines of one editor's answers; see ``answer_lines``."""
        tokenizer = self.language_model.tokenizer
        return list(answer_lines(run, questions, before, after, tokenizer, requests))


def _check(
    editors: Mapping[str, Editor], records: Sequence[Record], generate: Sequence[str]
) -> None:
    if not editors:
        raise ValueError("editors is empty: at least one is needed")
    for name in editors:
        if name == UNEDITED or Path(name).name != name:
            raise ValueError(
                f"no editor can be called {name!r}: names are folders, {UNEDITED!r} is the model's"
            )
    if len({id(editor.language_model.model) for editor in editors.values()}) > 1:
        raise ValueError(f"editors {', '.join(editors)} must share one language model object")
    if not records:
        raise ValueError("records is empty: there is nothing to evaluate")
    [(twice, count)] = Counter(record.id for record in records).most_common(1)
    if count > 1:
        raise ValueError(f"records: id {twice!r} occurs {count} times, ids are unique")
    unknown = sorted(set(generate) - set(KINDS))
    if unknown:
        raise ValueError(f"generate: {unknown} are none of {', '.join(KINDS)}")
