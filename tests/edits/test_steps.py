"""Edits that answer in steps: what is asked in each round, and what comes of it."""

import pytest
import torch

from edits.layout import Fact
from edits.loading import load
from edits.retrieval import OwnStates, directions
from edits.steps import Steps, StepsEdit, read

FACTS = [Fact("Lagos is in", "Sweden"), Fact("Tokyo is in", "Poland")]
PROMPTS = ["Lagos is in", "The currency of Japan is", "Tokyo lies in"]


def made(model, memories, steps=None):
    steps = steps or Steps(tokens=12)
    texts = [steps.compared(fact) for memory in memories for fact in memory]
    width = OwnStates().width(model)
    embedded = OwnStates().embed(model, texts) if texts else torch.zeros(0, width)
    embedded = directions(embedded, torch.zeros(width))
    owner = ("mello", model.fingerprint)
    memories = tuple(map(tuple, memories))
    return StepsEdit(memories, embedded, torch.zeros(width), steps, OwnStates(), *owner)


class Writing:
    """A language model that writes what a function says of a text, but for its embeddings."""

    form = None

    def __init__(self, model, write, longest=10**6):
        self.model, self.write, self.max_length, self.calls = model, write, longest, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, prompts, **options):
        self.calls.append(list(prompts))
        return [self.write(prompt) for prompt in prompts]


def hop(prompt):
    """Asks for the city of a question, and takes what was looked up for the answer."""
    if "Retrieved fact: " in prompt:
        return f"\nFinal answer: {prompt.rpartition(' ')[2].removesuffix('.')}"
    return f"\nSubquestion: {prompt.rpartition('Question: ')[2]}\nGenerated answer: Asia.\n"


def test_the_answer_is_what_was_looked_up_for_the_sub_question(language_model):
    model = Writing(language_model, hop)
    edited = made(language_model, [FACTS]).edited(model)
    assert edited.generate(["Lagos is in", "Tokyo is in"]) == ["Sweden", "Poland"]
    first, second = [texts for texts in model.calls if texts]
    assert first == ["Question: Lagos is in", "Question: Tokyo is in"]
    assert second[0].endswith("Generated answer: Asia.\nRetrieved fact: Lagos is in Sweden.")


def test_rows_look_up_their_own_memory_and_minus_one_is_answered_bare(language_model):
    model = Writing(language_model, hop)
    edited = made(language_model, [FACTS[:1], FACTS[1:], []]).edited(model)
    answers = edited.generate(["Lagos is in"] * 2, rows=[0, 1])
    assert answers == ["Sweden", "Poland"]
    bare = made(language_model, [FACTS[:1], []]).edited(language_model)
    texts = bare.generate(PROMPTS, rows=[-1, 1, -1], max_new_tokens=5)
    assert texts == language_model.generate(PROMPTS, max_new_tokens=5)


def test_questions_that_are_answered_take_no_further_round(language_model):
    def write(prompt):
        if "Japan" in prompt:
            return "Final answer: the yen"
        return hop(prompt)

    model = Writing(language_model, write)
    answers = made(language_model, [FACTS]).edited(model).generate(PROMPTS[:2])
    assert answers == ["Sweden", "the yen"]
    assert [len(texts) for texts in model.calls if texts] == [2, 1]


@pytest.mark.parametrize("rounds", [1, 3])
def test_after_the_last_round_there_is_no_answer(rounds, language_model):
    model = Writing(language_model, lambda prompt: "\nSubquestion: Why?\nGenerated answer: so.\n")
    edited = made(language_model, [FACTS], Steps(rounds=rounds, tokens=4)).edited(model)
    assert edited.generate(PROMPTS) == ["", "", ""]
    assert len([texts for texts in model.calls if texts]) == rounds


def test_what_grows_too_long_is_given_up(language_model, caplog):
    caplog.set_level("INFO")
    model = Writing(language_model, hop, longest=60)
    steps = Steps(tokens=10)
    edited = made(language_model, [FACTS], steps).edited(model)
    assert edited.generate(PROMPTS) == ["", "", ""]
    assert "grow too long" in caplog.text


def test_the_caller_s_stop_ends_the_answer(language_model):
    edited = made(language_model, [FACTS]).edited(Writing(language_model, hop))
    assert edited.generate(["Lagos is in"], stop=("ed",)) == ["Sw"]


def test_it_scores_nothing(language_model):
    with pytest.raises(ValueError, match="an edit of mello generates answers; it scores none"):
        made(language_model, [FACTS]).edited(language_model).score(["a"], ["b"])


def test_a_real_model_writes_in_rounds(any_family):
    edited = made(any_family, [FACTS], Steps(tokens=8)).edited(any_family)
    assert edited.generate(PROMPTS) == edited.generate(PROMPTS)
    alone = [edited.generate([prompt])[0] for prompt in PROMPTS]
    assert edited.generate(PROMPTS) == alone


def test_an_encoder_decoder_answers_in_steps_too(any_encoder_decoder):
    edited = made(any_encoder_decoder, [FACTS], Steps(tokens=8)).edited(any_encoder_decoder)
    assert len(edited.generate(PROMPTS)) == 3


def test_a_saved_edit_answers_the_same(language_model, tmp_path):
    edit = made(language_model, [FACTS, FACTS[:1]], Steps(task="Mind:\n", rounds=2, tokens=5))
    edit.save(tmp_path / "edit.safetensors", "tiny")
    again = load(tmp_path / "edit.safetensors", language_model)
    assert again.memories == edit.memories
    assert again.layout == edit.layout
    model = Writing(language_model, hop)
    for rows in ([0, 1, 1], [1, 0, -1]):
        assert again.edited(model).generate(PROMPTS, rows=rows) == edit.edited(model).generate(
            PROMPTS, rows=rows
        )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"tokens": 0}, "tokens must be at least 1, got 0"),
        ({"question": "Question:"}, r"question: expected \{question\} in it once"),
    ],
)
def test_steps_that_cannot_be_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Steps(**setting)


def test_only_the_last_two_lines_are_read():
    assert read("Subquestion: a?\nGenerated answer: b.\n") == ("", "a?")
    assert read("Subquestion: a?\nx\nGenerated answer: b.") == ("", None)
    assert read("so\nFinal answer: b") == ("b", None)
    assert read("Final answer:b") == ("", None)
    assert read("") == ("", None)
