import io

import pytest
import torch
from rich.console import Console

from edits.weights import Dense, WeightEdit
from evaluation.request import before_and_after

PROMPT = "Lagos is in"
ASK = ["The capital of Japan is", "Turin is in"]


@pytest.fixture(scope="module")
def edit(language_model):
    layer = language_model.layer("mlp_out", 0)
    noise = 3 * torch.randn(
        1, *language_model.shape(layer), generator=torch.Generator().manual_seed(0)
    )
    return WeightEdit({layer: Dense(noise, None)}, "noise", language_model.fingerprint)


def shown(language_model, edit, prompts, *arguments, title="noise: Lagos is in → Sweden"):
    """The table, and what it looks like in a wide terminal."""
    table = before_and_after(title, language_model, edit, prompts, *arguments)
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return table, console.file.getvalue()


def cells(table, column):
    return [str(cell) for cell in table.columns[column].cells]


def test_prompts_stand_in_their_order(language_model, edit):
    table, text = shown(language_model, edit, [PROMPT, *ASK])
    assert [column.header for column in table.columns] == ["prompt", "before", "after"]
    assert cells(table, 0) == [PROMPT, *ASK]
    assert "noise: Lagos is in → Sweden" in text


def test_answers_are_those_of_the_model_without_and_with_the_edit(language_model, edit):
    table, _ = shown(language_model, edit, [PROMPT, *ASK], 5)
    prompts = [PROMPT, *ASK]
    before = language_model.generate(prompts, max_new_tokens=5)
    after = edit.edited(language_model).generate(prompts, max_new_tokens=5)
    assert before != after
    assert cells(table, 1) == [" ".join(text.split()) for text in before]
    assert cells(table, 2) == [" ".join(text.split()) for text in after]


def test_brackets_are_shown_as_they_are(language_model, edit):
    """Rich would read them as markup."""
    title = "[red] Lagos is in → Sweden [b]"
    _, text = shown(language_model, edit, ["[/nothing] Turin"], title=title)
    assert "[red] Lagos is in → Sweden [b]" in text
    assert "[/nothing] Turin" in text
