"""Routed edits: who answers which row, what is added and removed, saved and loaded."""

from dataclasses import dataclass

import pytest
import torch

from edits import storage
from edits.loading import load
from edits.routing import Entry, RoutedEdit
from models import LanguageModel

ENTRIES = [Entry("Lagos is in", "Sweden"), Entry("Tokyo is in", "Poland"), Entry("Paris", "Asia")]
PROMPTS = ["Lagos is in", "Tokyo is in", "Paris", "The euro is", "People in Lagos"]
TARGETS = ["Sweden", "Poland", "Asia", "German", "Nigeria"]


@dataclass
class ByName:
    """Questions are in the scope of the entry whose prompt they are; counts what it embeds."""

    counterfactual: LanguageModel
    fingerprint: str = "by name"
    embedded: int = 0

    def keys(self, entries):
        self.embedded += len(entries)
        return self.queries([entry.prompt for entry in entries])

    def queries(self, prompts):
        return torch.tensor([[float(sum(prompt.encode()))] for prompt in prompts])

    def log_similarity(self, prompts, queries, entries, keys):
        return -(queries - keys.T).abs()

    def condition(self, entry, prompt):
        return f"{entry.prompt} {entry.target}. {prompt}"


@pytest.fixture
def models(tiny):
    return ByName(tiny("gpt2", seed=1))


@pytest.fixture
def edit(models, language_model):
    empty = RoutedEdit(((),), torch.zeros(0, 1), models, "serac", language_model.fingerprint)
    return empty.plus(remembered(empty, ENTRIES))


def remembered(edit, entries):
    """An edit of these entries alone."""
    keys = edit.models.keys(entries)
    return RoutedEdit((tuple(entries),), keys, edit.models, edit.editor, edit.model)


def each(edit):
    parts = [edit.without([e.prompt for e in ENTRIES if e is not own]) for own in ENTRIES]
    return RoutedEdit(
        tuple(part.caches[0] for part in parts),
        torch.cat([part.embedded for part in parts]),
        edit.models,
        edit.editor,
        edit.model,
    )


def assert_same(ours, theirs, rows):
    for row in rows:
        assert torch.equal(ours.log_probs[row], theirs.log_probs[row])
        assert torch.equal(ours.predicted[row], theirs.predicted[row])
        assert torch.equal(ours.targets[row], theirs.targets[row])


def test_an_empty_cache_is_the_model_itself(edit, language_model):
    empty = edit.without([entry.prompt for entry in ENTRIES]).edited(language_model)
    assert_same(empty.score(PROMPTS, TARGETS), language_model.score(PROMPTS, TARGETS), range(5))
    assert empty.generate(PROMPTS) == language_model.generate(PROMPTS)


def test_rows_in_scope_are_answered_behind_their_entry_and_others_as_ever(
    edit, language_model, models
):
    after = edit.edited(language_model).score(PROMPTS, TARGETS)
    before = language_model.score(PROMPTS, TARGETS)
    conditions = [models.condition(entry, entry.prompt) for entry in ENTRIES]
    behind = models.counterfactual.score(conditions, TARGETS[:3])
    assert_same(after, before, [3, 4])
    assert_same(after, behind, [0, 1, 2])
    texts = edit.edited(language_model).generate(PROMPTS)
    assert texts[3:] == language_model.generate(PROMPTS[3:])
    assert texts[:3] == models.counterfactual.generate(conditions)


def test_each_row_sees_its_own_edit(edit, language_model):
    stack = each(edit)
    assert len(stack) == 3
    prompts, rows = [PROMPTS[n] for n in (0, 0, 1, 2, 2, 1)], [0, 1, 1, -1, 2, 0]
    found = stack.scope(prompts, rows)
    assert found == [ENTRIES[0], None, ENTRIES[1], None, ENTRIES[2], None]
    chosen = stack.select([2, 0])
    assert chosen.scope(PROMPTS[:3], [1, 0, 0]) == [ENTRIES[0], None, ENTRIES[2]]
    assert len(stack.select([1])) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_the_scope_does_not_depend_on_what_is_scored(target, edit, language_model):
    prompts = [*PROMPTS, "Lagos is"]
    before = language_model.score(prompts, [target] * 6)
    after = edit.edited(language_model).score(prompts, [target] * 6)
    same = [torch.equal(*pair) for pair in zip(after.log_probs, before.log_probs, strict=True)]
    assert same == [False, False, False, True, True, True]


def test_an_addition_embeds_one_text_and_the_last_of_one_prompt_counts(edit, models):
    before = models.embedded
    more = edit.plus(remembered(edit, [Entry("Lagos is in", "France")]))
    assert models.embedded == before + 1
    assert more.caches == ((*ENTRIES[1:], Entry("Lagos is in", "France")),)
    assert len(more.embedded) == 3
    assert edit.caches == (tuple(ENTRIES),)


def test_what_is_removed_is_as_if_it_had_never_been(edit, models, language_model):
    without = edit.without(["Tokyo is in"])
    none = edit.without([e.prompt for e in ENTRIES])
    never = none.plus(remembered(edit, [ENTRIES[0], ENTRIES[2]]))
    assert without.caches == never.caches
    assert torch.equal(without.embedded, never.embedded)
    with pytest.raises(ValueError, match="no entry of the edit has the prompt 'Oslo'"):
        edit.without(["Oslo"])


def test_several_edits_are_told_apart(edit, language_model):
    stack = each(edit)
    with pytest.raises(ValueError, match="3 edits: rows must say which of them each row sees"):
        stack.edited(language_model).score(PROMPTS, TARGETS)
    with pytest.raises(ValueError, match="5 prompts but 2 rows; one row a prompt"):
        stack.edited(language_model).generate(PROMPTS, rows=[0, 1])
    with pytest.raises(ValueError, match="only a single edit can be added to, got 3"):
        stack.plus(edit)
    with pytest.raises(ValueError, match="only a single edit can be taken from, got 3"):
        stack.without([])


def test_an_edit_belongs_to_a_model_and_changes_no_weights(edit, tiny, tmp_path):
    with pytest.raises(ValueError, match="this edit belongs to the model with fingerprint"):
        edit.edited(tiny("gpt2", seed=2))
    with pytest.raises(ValueError, match="an edit of serac changes no weights"):
        edit.merge(tiny("gpt2"), tmp_path / "merged")


def test_saved_and_loaded_it_is_the_same(edit, models, language_model, tmp_path):
    path = tmp_path / "edit.safetensors"
    each(edit).save(path, "tiny")
    loaded = load(path, language_model, models)
    assert loaded.caches == each(edit).caches
    assert torch.equal(loaded.embedded, edit.embedded)
    assert [p.name for p in tmp_path.iterdir()] == ["edit.safetensors"]
    rows = [0, 1, 2, 0, 0]
    ours, theirs = (
        e.edited(language_model).score(PROMPTS, TARGETS, rows=rows) for e in (each(edit), loaded)
    )
    assert_same(ours, theirs, range(5))


def test_a_file_of_something_else_is_refused(edit, models, tiny, language_model, tmp_path):
    path = tmp_path / "edit.safetensors"
    edit.save(path, "tiny")
    with pytest.raises(ValueError, match="an edit of 'tiny': this edit belongs to the model"):
        load(path, tiny("gpt2", seed=2), models)
    other = ByName(models.counterfactual, fingerprint="others")
    with pytest.raises(ValueError, match="made with models of fingerprint by name"):
        load(path, language_model, other)
    with pytest.raises(ValueError, match="is read by the editor that made it: serac's load"):
        load(path, language_model)
    header, _ = edit.state()
    for change in ({"embedded": torch.ones(1, 1)}, {}):
        owner = storage.Owner("routed", "serac", language_model.fingerprint, "tiny")
        storage.write(path, owner, header, change)
        with pytest.raises(ValueError, match=r"one to one|it lacks 'embedded'"):
            load(path, language_model, models)


def test_edits_of_other_models_are_not_added(edit, models, language_model):
    other = ByName(models.counterfactual)
    stranger = RoutedEdit(((),), torch.zeros(0, 1), other, "serac", language_model.fingerprint)
    with pytest.raises(ValueError, match="serac goes on from its own edits only"):
        edit.plus(stranger)
