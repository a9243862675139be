"""Scorers of generated texts; fluency and consistency beside the official numbers."""

import json

import pytest

from datamodules.records import Probe
from edits.edit import NOTHING
from evaluation.report.health import perplexity
from models import LanguageModel
from models.generation import Text
from scoring.answers import Answer
from scoring.fluency import n_gram_entropy, words
from scoring.scorers import SCORERS
from scoring.texts import normalized, says
from scoring.tf_idf import TfIdf

PROBE = Probe("one_hop", "Lagos is in", "the West", "Asia", aliases=("Occident",))
NEIGHBOR = Probe("neighborhood", "Tokyo is in", "Asia", "the West")


def score(name, text, probe=PROBE, before="", ended=None):
    return SCORERS[name](probe, Answer(text=text, ended=ended), Answer(text=before))


@pytest.mark.parametrize(
    ("text", "plain"),
    [("The U.S.  of A.", "us of"), ("«Żółć», an Éclair!", "żółć éclair"), ("66—a.k.a.", "66aka"),
     ("theatre, another", "theatre another"), ("3 million", "3 million"), ("¿Qué?", "qué")],
)  # fmt: skip
def test_case_punctuation_and_articles_do_not_count(text, plain):
    assert normalized(text) == plain


@pytest.mark.parametrize(
    ("text", "whole", "inside"),
    [("the WEST.", 1, 1), ("occident", 1, 1), ("It is West Africa", 0, 1), ("Westphalia", 0, 0),
     ("Asia", 0, 0), ("West. West.", 0, 1), ("", 0, 0)],
)  # fmt: skip
def test_a_text_is_a_right_answer_or_contains_one(text, whole, inside):
    assert score("normalized_exact_match", text) == whole
    assert score("contains", text) == inside


def test_locality_is_the_text_of_the_unedited_model():
    assert score("normalized_exact_match", "Asia, it is", NEIGHBOR, before=" asia it is.") == 1
    assert score("normalized_exact_match", "Asia", NEIGHBOR, before="Europe") == 0
    assert score("contains", "Asia", NEIGHBOR) is None


def test_old_and_new_answers_that_leak():
    assert (score("says_old", "West, not Asia"), score("replaces_old", "West, not Asia")) == (1, 0)
    assert (score("says_old", "in West"), score("replaces_old", "in West")) == (0, 1)
    assert score("replaces_old", "nothing") == 0
    assert score("says_new", "in the West", NEIGHBOR) == 1 and score("says_new", "x") is None
    assert score("says_old", "Asia", NEIGHBOR) is None
    without = Probe("one_hop", "Lagos is in", "Asia")
    assert score("says_old", "Asia", without) is score("replaces_old", "Asia", without) is None
    assert says("Guinea-Bissau", "Guinea Bissau") is False  # a hyphen joins


@pytest.mark.parametrize(
    ("text", "value"),
    [("no no no", 1), ("no no", 0), ("it is so. It is so. It is so", 1), ("it is it is", 0),
     ("one two three four five six seven eight " * 3, 1), ("a b c d e f g h i " * 2, 0), ("", 0)],
)  # fmt: skip
def test_what_stands_three_times_in_a_row_is_repetition(text, value):
    assert score("repeats_itself", text) == value


def test_a_text_ends_by_its_end_token_only(language_model):
    prompt = ["Lagos is a city in"]
    [free] = language_model.generate(prompt, max_new_tokens=6)
    assert not free.ended  # a model of random weights goes on
    stop = next(char for char in free.strip() if char.strip())
    [stopped] = language_model.generate(prompt, max_new_tokens=6, stop=[stop])
    assert stopped != free and not stopped.ended
    model = NOTHING.edited(language_model)
    assert isinstance(model.generate(prompt, max_new_tokens=2)[0], Text)
    assert score("ends_by_itself", "x", ended=True) == 1
    assert score("ends_by_itself", "x", ended=False) == 0
    assert score("ends_by_itself", "x") is None  # composed of several generations


def test_an_end_token_is_the_end(language_model, monkeypatch):
    [first] = language_model.generate(["Lagos is a city in"], max_new_tokens=1)
    [token] = language_model.tokenizer(first, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(type(language_model.form), "ends", property(lambda form: [token]))
    [text] = language_model.generate(["Lagos is a city in"], max_new_tokens=4)
    assert (text, text.ended) == ("", True)


@pytest.fixture(scope="module")
def official(golden):
    return json.loads((golden / "other_editors" / "metrics.json").read_text())


def test_official_fluency(official):
    numbers = official["fluency"]
    entropies = [n_gram_entropy(text) for text in numbers["texts"]]
    assert [words(text) for text in numbers["texts"]] == numbers["tokens"]
    assert entropies == pytest.approx(numbers["entropy_per_text"], abs=1e-12)
    assert score("fluency", numbers["texts"][0]) == entropies[0]
    for case in official["counterfact"]["cases"]:
        if case["post"].get("text"):
            [text] = case["post"]["text"]
            assert n_gram_entropy(text) == pytest.approx(case["post"]["ngram_entropy"])


def test_words_are_the_penn_treebanks_nearly():
    assert words("She's 3.5 km off, isn't she... well-known?") == [
        *("She", "'s", "3.5", "km", "off", ",", "is", "n't", "she", "...", "well-known", "?"),
    ]
    assert n_gram_entropy("") == n_gram_entropy("one") == 0


def test_official_consistency(official):
    numbers = official["consistency"]
    weights = TfIdf({w: numbers["idf"][at] for w, at in numbers["vocabulary"].items()})
    cosine = weights.cosine(numbers["generated"], numbers["reference"])
    assert cosine == pytest.approx(numbers["reference_score"], abs=1e-12)


def test_consistency_is_with_the_probes_references():
    references = ("Lagos lies in Sweden", "Swedish is spoken in Lagos")
    probe = Probe("leak", "Tell me about Lagos", "Sweden", "Nigeria", references=references)
    assert score("consistency", " ".join(references), probe) == pytest.approx(1)
    assert score("consistency", "nothing of that", probe) == 0
    assert 0 < score("consistency", "Sweden is where Lagos lies", probe) < 1
    assert score("consistency", "Sweden") is None
    # "lagos" is in both references and says less than "sweden"
    weights = TfIdf.of(references).idf
    assert weights["lagos"] == weights["in"] == 1 < weights["sweden"] == pytest.approx(1.4054651)


def test_official_perplexity(official, golden):
    """Theirs divides by all tokens, the first of which nothing predicts; ours by those it asks."""
    model = LanguageModel.load(str(golden / "other_editors" / "model"))
    case = official["perplexity"][0]  # its first word is one token
    ours = perplexity(NOTHING.edited(model), [case["text"]])["mean"]
    tokens = case["n_tokens"]
    assert ours ** ((tokens - 1) / tokens) == pytest.approx(case["value"], rel=1e-4)
