"""MemPrompt against its authors' code: keys, distances, hits, and the prompts that are sent."""

import json

import pytest
import torch
from golden import assert_close
from rapidfuzz.distance import Levenshtein
from safetensors.torch import load_file

from edits.context import ContextEdit
from edits.layout import Fact, Layout
from edits.retrieval import OwnStates, directions
from edits.spelling import closest, spelled


@pytest.fixture(scope="module")
def case(golden):
    return json.loads((golden / "memories" / "memprompt.json").read_text())


def layout(case, **changes):
    """As their code puts questions: behind an example, with or without a clarification."""
    end = case["separator"]
    before = f"{case['prompt_text']}{end.removesuffix('/')}/"
    return Layout(
        **{
            "choose": "spelled",
            "key": "prompt",
            "distance": case["distance_threshold"],
            "fact": "{target}{prompt}",
            "frame": f"{before}{{question}} | {{facts}}{end}",
            "plain": f"{before}{{question}}{end}",
            **changes,
        }
    )


class Told(Layout):
    """A layout whose facts are the clarifications that users gave, word by word."""

    def put(self, fact):
        return fact.target


def edit(model, feedback, shape, embedded=None, retriever=None):
    """All feedback in one memory, given one after another."""
    width = 0 if embedded is None else embedded.shape[1]
    whole = None
    for at, (question, answer) in enumerate(feedback):
        row = torch.zeros(1, 0) if embedded is None else embedded[at : at + 1]
        memory = ((Fact(question, answer),),)
        owner = ("memprompt", model.fingerprint)
        one = ContextEdit(memory, row, torch.zeros(width), shape, retriever or OwnStates(), *owner)
        whole = one if whole is None else whole.plus(one)
    return whole


def sent(edited, model, query):
    return edited.routes(model, [query], None)[-1].prompts[0]


def test_questions_are_spelled_alike(case):
    assert {text: spelled(text) for text in case["keys"]} == case["keys"]


def test_hits_and_prompts_are_theirs(case, language_model):
    shape = Told(**vars(layout(case)))
    everything = edit(language_model, case["feedback"], shape)
    empty = everything.without([fact.prompt for fact in everything.memories[0]])
    stored = [[spelled(f.prompt), f.target] for f in everything.memories[0]]
    assert sorted(stored) == sorted(case["stored_after_all"])
    for row in case["edit_distance"]:
        memory = empty if row["when"] == "empty memory" else everything
        assert memory.found(language_model, [row["query"]], None) == [row["hit"]]
        assert sent(memory, language_model, row["query"]) == row["prompt_sent"]


def test_distances_are_theirs_and_the_first_of_equally_near_keys_counts(case):
    for row in case["edit_distance"][1:]:
        query = spelled(row["query"])
        for key, distance in row["distances"].items():
            assert Levenshtein.distance(query, key) == distance
        keys = list(row["distances"])
        [at] = closest([query], keys, case["distance_threshold"])
        assert (None if at is None else keys[at]) == row["closest"]
    assert closest(["abcd"], ["abce", "abcf"], 6) == [0]
    assert closest([], ["abc"], 6) == [] and closest(["abc"], [], 6) == [None]


class Given:
    """Embeddings of the questions as they are given."""

    name = "given"

    def __init__(self, rows, embedded):
        self.by_text = dict(zip(rows, embedded, strict=True))

    def width(self, language_model):
        return len(next(iter(self.by_text.values())))

    def embed(self, language_model, texts):
        return torch.stack([self.by_text[text.lower().strip()] for text in texts])


def test_look_ups_by_embedding_are_theirs(case, golden, language_model):
    semantic = case["semantic"]
    tensors = load_file(golden / "memories" / "memprompt.safetensors")
    [embedded] = [x for name, x in tensors.items() if name.startswith("inputs/")]
    retriever = Given(semantic["rows_of_embeddings"], embedded)
    center = torch.zeros(embedded.shape[1])
    shape = layout(case, choose="nearest", threshold=case["similarity_threshold"])
    feedback = [(question.lower().strip(), text) for question, text in semantic["feedback"]]
    keys = directions(retriever.embed(None, [question for question, _ in feedback]), center)
    memory = edit(language_model, feedback, Told(**vars(shape)), keys, retriever)
    assert [fact.prompt for fact in memory.memories[0]] != []
    for row in semantic["rows"]:
        if "error" in row:  # their surplus embedding; ours finds what it should
            assert memory.found(language_model, [row["query"]], None) == [True]
            continue
        assert memory.found(language_model, [row["query"]], None) == [row["hit"]]
        assert sent(memory, language_model, row["query"]) == row["prompt_sent"]
        if row["hit"]:
            query = directions(retriever.embed(None, [row["query"]]), center)
            assert_close((query @ memory.embedded.T).max(), torch.tensor(row["match_score"]), 1e-5)
