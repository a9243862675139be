"""MeLLo against its authors' notebook: what is asked, what is looked up, which answers count."""

import json

import pytest
import torch
from safetensors.torch import load_file

from datamodules.records import Probe
from edits.layout import Fact
from edits.retrieval import ranked
from edits.steps import Steps, StepsEdit
from scoring.scorers import SCORERS, Answer


@pytest.fixture(scope="module")
def case(golden):
    return json.loads((golden / "memories" / "mello.json").read_text())


@pytest.fixture(scope="module")
def tensors(golden):
    return load_file(golden / "memories" / "mello.safetensors")


class Scripted:
    """A language model that writes what the notebook's wrote, and keeps what it was given."""

    form = None

    def __init__(self, model, case):
        self.model, self.case, self.rounds = model, case, []
        self.script = {
            call["prompt_after_task_prompt"]: call["generation"] for call in case["calls"]
        }

    def __getattr__(self, name):
        return getattr(self.model, name)

    @property
    def max_length(self):
        return 10**6

    def generate(self, prompts, *, stop, **options):
        if not prompts:
            return []
        assert list(stop) == self.case["stop"]
        self.rounds.append([prompt.removeprefix(self.case["task_prompt"]) for prompt in prompts])
        return [self.script[text] for text in self.rounds[-1]]


class Given:
    name = "given"

    def __init__(self, case, tensors):
        queries = [row["query"] for row in case["retrievals"]]
        self.by_text = dict(zip(queries, tensors["inputs/query_embeddings"], strict=True))

    def width(self, language_model):
        return len(next(iter(self.by_text.values())))

    def embed(self, language_model, texts):
        return torch.stack([self.by_text[text] for text in texts])


@pytest.fixture
def edit(case, tensors, language_model):
    facts = [_fact(text, case) for text in case["facts"]]
    steps = Steps(task=case["task_prompt"], question="\n\nQustion: {question}")
    rows = tensors["inputs/fact_embeddings"]
    return StepsEdit(
        (tuple(facts),),
        rows,
        torch.zeros(rows.shape[1]),
        steps,
        Given(case, tensors),
        "mello",
        language_model.fingerprint,
    )


def _fact(sentence, case):
    for rewrite in (one for instance in case["rewrites"] for one in instance):
        prompt = rewrite["prompt"].format(rewrite["subject"])
        if sentence == f"{prompt} {rewrite['target_new']['str']}":
            return Fact(prompt, rewrite["target_new"]["str"])
    raise AssertionError(sentence)


def test_facts_looked_up_are_theirs(case, tensors):
    _, nearest = ranked(tensors["inputs/query_embeddings"], tensors["inputs/fact_embeddings"], 1)
    assert nearest[:, 0].tolist() == [row["fact"] for row in case["retrievals"]]
    assert [case["facts"][row["fact"]] for row in case["retrievals"]] == [
        row["text"] for row in case["retrievals"]
    ]


def test_all_that_is_asked_and_answered_is_theirs(case, edit, language_model):
    model = Scripted(language_model, case)
    asked = list(dict.fromkeys((call["instance"], call["question"]) for call in case["calls"]))
    questions = [case["instances"][i]["questions"][q] for i, q in asked]
    answers = dict(zip(asked, edit.edited(model).generate(questions), strict=True))
    for number, texts in enumerate(model.rounds):
        theirs = [call for call in case["calls"] if call["round"] == number]
        assert texts == [call["prompt_after_task_prompt"] for call in theirs]
    assert len(model.rounds) == case["rounds"]
    for at, instance in enumerate(case["instances"]):
        right = {instance["new_answer"], *instance["aliases"]}
        own = [text for (i, _), text in answers.items() if i == at]
        assert any(text in right for text in own) == instance["correct"]


def test_answers_are_scored_by_text_and_aliases(case):
    instance = case["instances"][1]
    probe = Probe(
        "one_hop", instance["questions"][0], instance["new_answer"], aliases=instance["aliases"]
    )
    judge = SCORERS["generation_exact_match"]
    assert judge(probe, Answer(text="tennis"), Answer()) == 1.0
    assert judge(probe, Answer(text=""), Answer()) == 0.0
