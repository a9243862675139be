"""What an edit is to everyone who did not make it, and the edited model."""

# N edits, B prompts

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypedDict, final

import torch
from torch import Tensor

from edits import storage
from edits.history import History
from edits.rows import check_one_each, checked_rows
from models.language_model import LanguageModel
from models.passes import Around
from models.prefixes import Prefixed
from models.scores import TOKENS_PER_BATCH, Answer, Scores

State = tuple[dict[str, Any], dict[str, Tensor]]
"""What an edit's file holds: JSON values, and tensors by name."""


@dataclass(frozen=True)
class Route:
    """Some prompts as one model reads them.

    Attributes:
        index: which of the caller's prompts they are.
        prompts: as they are read; an edit may put something in front.
        around: what surrounds each forward pass; None: nothing.
        reader: who answers, also for texts that begin alike; None: the language model itself.
    """

    index: Sequence[int]
    prompts: Sequence[str]
    around: Around | None = None
    reader: LanguageModel | Prefixed | None = None


class Edit(ABC):
    """A value that changes what a language model says, never the model; it holds N edits.

    ``rows[i]`` says which of them prompt i sees, -1 for none.

    Attributes:
        editor: name of the editor that made it.
        model: fingerprint of the language model it was made for.
    """

    kind: ClassVar[str]
    """Its name in files."""
    dtypes: ClassVar[Mapping[str, torch.dtype]] = MappingProxyType({})
    """Of the tensors in its file that hold no floating-point numbers."""
    header: ClassVar[Any] = dict[str, Any]
    """What the JSON values of its `state` are; see `files.schema.check`."""
    scores: ClassVar[bool] = True
    """Whether it answers `EditedModel.score`; some only generate."""
    editor: str
    model: str

    @abstractmethod
    def __len__(self) -> int:
        """N, the number of edits that rows can choose from."""

    @final
    def __repr__(self) -> str:
        """What it is, without its tensors."""
        count = f"{len(self):,} edit{'s' * (len(self) != 1)}"
        where = f", in {', '.join(self.layers)}" if self.layers else ""
        return f"<{type(self).__name__} by {self.editor}: {count} of model {self.model}{where}>"

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it hooks; none where it does something else."""
        return ()

    @abstractmethod
    def select(self, index: Sequence[int]) -> Self:
        """The edits at ``index``, in that order."""

    @abstractmethod
    def routes(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[Route]:
        """Who answers which prompts, and how; of routes that share a prompt the last one counts.

        ``rows`` is as above, or None where there is one edit, which all prompts see.
        """

    @abstractmethod
    def state(self) -> State:
        """What `of_state` makes the edit of."""

    @classmethod
    @abstractmethod
    def of_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: storage.Source
    ) -> Self:
        """The edit that `state` was asked of.

        Raises:
            ValueError: it is none, or needs the editor that made it.
        """

    def check(self, language_model: LanguageModel) -> None:
        """Whether the edit is one of this model.

        Raises:
            ValueError: it is not.
        """
        if self.model != language_model.fingerprint:
            raise ValueError(
                f"this edit belongs to the model with fingerprint {self.model}, "
                f"not to {language_model.name!r} with {language_model.fingerprint}"
            )

    def generate(
        self,
        language_model: LanguageModel,
        prompts: Sequence[str],
        rows: Tensor | None,
        **options: Any,
    ) -> list[str]:
        """The edited model's texts; ``options`` are those of `LanguageModel.generate`."""
        texts = [""] * len(prompts)
        for route in _answering(self.routes(language_model, prompts, rows)):
            reader = route.reader or language_model
            answers = reader.generate(route.prompts, around=route.around, **options)
            for index, text in zip(route.index, answers, strict=True):
                texts[index] = text
        return texts

    def found(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[bool] | None:
        """Whether each question is one that the edit has something to say to, by looking it up.

        None where nothing is looked up, so that it would say nothing.
        """
        return None

    def to(self, device: torch.device) -> Self:
        """The same edits there."""
        return self

    def plus(self, other: Edit) -> Self:
        """Both at once, edit by edit.

        Raises:
            ValueError: edits of this kind cannot be added.
        """
        raise ValueError(f"an edit of {self.editor} cannot be added to another one")

    def without(self, prompts: Sequence[str]) -> Self:
        """The one edit without the requests that have these prompts.

        Raises:
            ValueError: single requests cannot be taken out of edits of this kind.
        """
        raise ValueError(
            f"single requests cannot be taken out of an edit of {self.editor}: make it again "
            "without them"
        )

    def merge(self, language_model: LanguageModel, folder: str | Path) -> None:
        """Write the edited model as a Hugging Face folder, whole or not at all.

        Raises:
            ValueError: edits of this kind change no weights.
        """
        raise ValueError(f"an edit of {self.editor} changes no weights, so it cannot be merged")

    def export(
        self, language_model: LanguageModel, folder: str | Path, rank: int | None = None
    ) -> None:
        """Write the edit as a LoRA adapter of ``peft``, whole or not at all, of a rank at most.

        Raises:
            ValueError: edits of this kind change no weights.
        """
        raise ValueError(
            f"an edit of {self.editor} changes no weights, so it cannot be exported as an adapter"
        )

    def hooks(
        self, language_model: LanguageModel, rows: Tensor | Sequence[int] | None = None
    ) -> AbstractContextManager[None]:
        """Until the block ends, whoever calls the model of transformers calls the edited one.

        Raises:
            ValueError: edits of this kind take more than hooks: they have to see the prompts.
        """
        raise ValueError(
            f"an edit of {self.editor} has to see the prompts; ask the model that edited() gives"
        )

    def norms(self) -> dict[str, Tensor]:
        """Frobenius norm of what each layer's weight grows by, ``[N]``; none where none does."""
        return {}

    def size(self, language_model: LanguageModel) -> dict[str, float]:
        """How large the change is, by name; nothing where there is no measure of it."""
        return {}

    @final
    def check_finite(self) -> None:
        """Refuse an edit that is broken.

        Raises:
            ValueError: one of its tensors holds NaN or infinity; names it.
        """
        for name, tensor in self.state()[1].items():
            if not tensor.isfinite().all():
                raise ValueError(f"the edit of {self.editor} is broken: {name} holds NaN or inf")

    @final
    def edited(self, language_model: LanguageModel) -> EditedModel:
        """The model as the edit makes it.

        Raises:
            ValueError: the edit belongs to another model.
        """
        self.check(language_model)
        return EditedModel(language_model, self)

    @final
    def save(self, path: str | Path, base: str = "", history: History = ()) -> None:
        """Write a safetensors file, whole or not at all.

        Args:
            path: of the file.
            base: the base model's name.
            history: what the edit makes true, and how it was made.

        Raises:
            ValueError: the edit holds NaN or infinity.
        """
        self.check_finite()
        header, tensors = self.state()
        owner = storage.Owner(self.kind, self.editor, self.model, base)
        storage.write(Path(path), owner, header, tensors, history)


def _answering(routes: Sequence[Route]) -> Iterator[Route]:
    """The routes without the prompts that a later one answers."""
    for number, route in enumerate(routes):
        later = {index for other in routes[number + 1 :] for index in other.index}
        if not later:
            yield route
            continue
        places = [at for at, index in enumerate(route.index) if index not in later]
        # hooks are told the places of a route's own prompts
        assert route.around is None or len(places) == len(route.index)
        index, prompts = [route.index[at] for at in places], [route.prompts[at] for at in places]
        yield Route(index, prompts, route.around, route.reader)


@dataclass(frozen=True)
class EditedModel:
    """A language model that has been edited; it answers the same two questions as one that is not.

    ``rows[i]`` says which of the edits prompt i sees, -1 for none; without it there must be one
    edit, which all prompts see.
    """

    language_model: LanguageModel
    edit: Edit

    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        *,
        behind: Sequence[int] | None = None,
        rows: Tensor | Sequence[int] | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> Scores:
        """As `LanguageModel.score`, edited.

        Raises:
            ValueError: rows out of range, not one for each prompt, or none for several edits; or
                the edit does not answer this question.
        """
        if not self.edit.scores:
            raise ValueError(f"an edit of {self.edit.editor} generates answers; it scores none")
        routes = self.edit.routes(self.language_model, prompts, self._rows(prompts, rows))
        if len(routes) == 1:  # all prompts, in their order
            return self._read(routes[0], targets, behind, tokens_per_batch)
        behind = range(len(prompts)) if behind is None else behind
        answers: dict[int, Answer] = {}
        for route in routes:
            place = {prompt: at for at, prompt in enumerate(route.index)}
            own = [number for number, prompt in enumerate(behind) if prompt in place]
            places = [place[behind[number]] for number in own]
            scores = self._read(route, [targets[n] for n in own], places, tokens_per_batch)
            answers.update(zip(own, scores.answers, strict=True))
        return Scores.of([answers[i] for i in range(len(targets))])

    def generate(
        self,
        prompts: Sequence[str],
        *,
        rows: Tensor | Sequence[int] | None = None,
        max_new_tokens: int = 16,
        stop: Sequence[str] = (),
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> list[str]:
        """As `LanguageModel.generate`, edited.

        Raises:
            ValueError: rows out of range, not one for each prompt, or none for several edits.
        """
        return self.edit.generate(
            self.language_model,
            prompts,
            self._rows(prompts, rows),
            max_new_tokens=max_new_tokens,
            stop=stop,
            tokens_per_batch=tokens_per_batch,
        )

    def found(
        self, prompts: Sequence[str], *, rows: Tensor | Sequence[int] | None = None
    ) -> list[bool] | None:
        """See `Edit.found`; errors as of `generate`."""
        return self.edit.found(self.language_model, prompts, self._rows(prompts, rows))

    def _read(
        self,
        route: Route,
        targets: Sequence[str],
        behind: Sequence[int] | None,
        tokens_per_batch: int,
    ) -> Scores:
        return (route.reader or self.language_model).score(
            route.prompts,
            targets,
            behind=behind,
            around=route.around,
            tokens_per_batch=tokens_per_batch,
        )

    def _rows(self, prompts: Sequence[str], rows: Tensor | Sequence[int] | None) -> Tensor | None:
        if rows is not None:
            check_one_each(prompts, rows)
            return checked_rows(rows, len(self.edit))
        if len(self.edit) > 1:
            raise ValueError(f"{len(self.edit)} edits: rows must say which of them each row sees")
        return None


class _Empty(TypedDict):
    pass


@final
class _Nothing(Edit):
    """No edit: what it makes of a model is the model."""

    kind, header, editor, model = "nothing", _Empty, "unedited", ""

    def __len__(self) -> int:
        return 0

    def select(self, index: Sequence[int]) -> Self:
        return self

    def routes(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[Route]:
        return [Route(range(len(prompts)), prompts)]

    def check(self, language_model: LanguageModel) -> None:
        """It is one of every model."""

    def plus(self, other: Edit) -> Edit:
        return other

    def state(self) -> State:
        return {}, {}

    @classmethod
    def of_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: storage.Source
    ) -> _Nothing:
        return NOTHING


NOTHING = _Nothing()
"""What the unedited model is edited by: ``NOTHING.edited(language_model)``."""
