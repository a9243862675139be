"""What texts begin with is read once, and their answers are those of the whole texts."""

import pytest
import torch

from models.forms import DecoderOnly
from models.prefixes import LEAST, Behind, Prefixed

SHARED = [
    "Gothenburg is a city in Sweden, and the capital of Sweden is Stockholm. " * 4,
    "Marie Curie was born in Warsaw. She was a citizen of Poland and of France. " * 3,
]
QUESTIONS = ["Lagos is in", "The currency of Japan is the", "Which country is Lagos in? It is in"]
TEXTS = [before + question for before in SHARED for question in QUESTIONS] + QUESTIONS
TARGETS = ["Nigeria", "yen", "Nigeria, in Africa"] * 3
PREFIXES = {before + question: before for before in SHARED for question in QUESTIONS}


def assert_alike(ours, theirs):
    for name in ("log_probs", "predicted", "targets"):
        for one, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert torch.allclose(one.float(), other.float(), atol=1e-5, rtol=1e-5)


@pytest.fixture
def passes(monkeypatch):
    """How many tokens each prefix that was read has."""
    read = []
    begin = Behind.__init__

    def counted(self, form, ids):
        read.append(len(ids))
        begin(self, form, ids)

    monkeypatch.setattr(Behind, "__init__", counted)
    return read


def test_scores_are_those_of_the_whole_texts(any_family, passes):
    prefixed = Prefixed(any_family, PREFIXES)
    assert_alike(prefixed.score(TEXTS, TARGETS), any_family.score(TEXTS, TARGETS))
    assert len(passes) == 2
    assert min(passes) >= LEAST


def test_several_targets_behind_one_text(any_family, passes):
    targets = [*TARGETS, *reversed(TARGETS)]
    behind = [*range(len(TEXTS)), *reversed(range(len(TEXTS)))]
    prefixed = Prefixed(any_family, PREFIXES)
    whole = any_family.score(TEXTS, targets, behind=behind)
    assert_alike(prefixed.score(TEXTS, targets, behind=behind), whole)
    assert len(passes) == 2


def test_texts_go_on_as_the_whole_texts_do(any_family, passes):
    options = {"max_new_tokens": 6, "stop": ("z",)}
    prefixed = Prefixed(any_family, PREFIXES)
    assert prefixed.generate(TEXTS, **options) == any_family.generate(TEXTS, **options)
    assert len(passes) == 2


def test_many_small_micro_batches_answer_alike(language_model, passes):
    whole = language_model.score(TEXTS, TARGETS)
    assert_alike(
        Prefixed(language_model, PREFIXES).score(TEXTS, TARGETS, tokens_per_batch=1), whole
    )


def test_in_float64_they_agree_to_its_rounding(language_model):
    double = type(language_model)(
        type(language_model.model)(language_model.model.config).double(), language_model.tokenizer
    )
    ours = Prefixed(double, PREFIXES).score(TEXTS, TARGETS)
    for one, other in zip(ours.log_probs, double.score(TEXTS, TARGETS).log_probs, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_texts_that_share_nothing_or_little_are_read_whole(language_model, passes):
    bare = Prefixed(language_model, {}).score(TEXTS, TARGETS)
    short = Prefixed(language_model, {TEXTS[0]: "Goth", TEXTS[6]: "Goth"}).score(TEXTS, TARGETS)
    alone = Prefixed(language_model, {TEXTS[0]: SHARED[0]}).score(TEXTS, TARGETS)
    for scores in (bare, short, alone):
        whole = language_model.score(TEXTS, TARGETS)
        assert all(map(torch.equal, scores.log_probs, whole.log_probs))
    assert not passes


def test_an_encoder_decoder_reads_the_whole_texts(any_encoder_decoder, passes):
    ours = Prefixed(any_encoder_decoder, PREFIXES).score(TEXTS, TARGETS)
    whole = any_encoder_decoder.score(TEXTS, TARGETS)
    assert all(map(torch.equal, ours.log_probs, whole.log_probs))
    assert not passes


def test_the_model_itself_is_as_it_was(language_model):
    form = language_model.form
    before = language_model.score(QUESTIONS, TARGETS[:3])
    Prefixed(language_model, PREFIXES).score(TEXTS, TARGETS)
    after = language_model.score(QUESTIONS, TARGETS[:3])
    assert language_model.form is form
    assert type(form) is DecoderOnly
    assert all(map(torch.equal, before.log_probs, after.log_probs))


def test_one_text_may_be_what_all_begin_with(language_model):
    texts = [SHARED[0]] * 3
    ours = Prefixed(language_model, {SHARED[0]: SHARED[0]}).score(texts, TARGETS[:3])
    assert_alike(ours, language_model.score(texts, TARGETS[:3]))
