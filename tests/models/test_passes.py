"""Who surrounds a pass is told which prompts it reads, where their tokens are and what follows."""

import copy
from contextlib import contextmanager

import pytest
import torch

from models import LanguageModel
from models.hooks import hidden_of
from models.rendering import Rendering

PROMPTS = ["Lagos", "The Eiffel Tower is in the city of", "The currency of Japan is", "Zürich"]
TARGETS = ["Nigeria", "Paris, France", "yen", "is a city"]


class Recorder:
    """An ``around`` that keeps each pass and what a block says inside it, call by call."""

    def __init__(self, lm):
        self.module = lm.module(lm.block(lm.blocks - 1))
        self.passes, self.said = [], []

    @contextmanager
    def __call__(self, batch):
        self.passes.append(batch)
        self.said.append([])
        keep = self.said[-1]
        hook = self.module.register_forward_hook(
            lambda _module, _inputs, output: keep.append(hidden_of(output))
        )
        try:
            yield
        finally:
            hook.remove()


def scored(lm, tokens_per_batch=4096):
    around = Recorder(lm)
    lm.score(PROMPTS, TARGETS, around=around, tokens_per_batch=tokens_per_batch)
    return around


def generated(lm, tokens_per_batch=4096):
    around = Recorder(lm)
    lm.generate(PROMPTS, max_new_tokens=3, around=around, tokens_per_batch=tokens_per_batch)
    return around


def size(lm, prompt):
    return int(lm.encode([prompt], None).read.attention_mask.sum())


@pytest.mark.parametrize("ask", [scored, generated])
@pytest.mark.parametrize("tokens_per_batch", [1, 40, 4096])
def test_each_prompt_is_in_one_pass(any_family, ask, tokens_per_batch):
    around = ask(any_family, tokens_per_batch)
    rows = [batch.rows for batch in around.passes]
    assert sorted(torch.cat(rows).tolist()) == list(range(len(PROMPTS)))
    assert all(x.device.type == "cpu" and x.dtype == torch.long for x in rows)
    for batch, said in zip(around.passes, around.said, strict=True):
        assert said[0].shape[:2] == batch.mask.shape
        assert len(batch.rows) == len(batch.mask) == len(batch.asked)


def test_a_scored_pass_is_padded_on_the_right(any_family):
    lm, around = any_family, scored(any_family)
    (batch,) = around.passes
    assert not batch.steps and batch.source is None and len(around.said[0]) == 1
    for at, row in enumerate(batch.rows.tolist()):
        both = int(lm.encode([PROMPTS[row]], [TARGETS[row]]).attention_mask.sum())
        both -= 1  # the last token of a target predicts nothing that is asked
        width = batch.mask.shape[1]
        assert batch.mask[at].tolist() == [1] * both + [0] * (width - both)
        assert batch.asked[at] == size(lm, PROMPTS[row]) - 1


def test_a_generating_pass_is_padded_on_the_left(any_family):
    lm, around = any_family, generated(any_family)
    (batch,) = around.passes
    assert batch.steps and batch.source is None
    assert [said.shape[1] for said in around.said[0][1:]] == [1, 1]
    for at, row in enumerate(batch.rows.tolist()):
        own, width = size(lm, PROMPTS[row]), batch.mask.shape[1]
        assert batch.mask[at].tolist() == [0] * (width - own) + [1] * own
        assert batch.asked[at] == width - 1


def test_the_token_asked_is_the_same_whichever_side_is_padded(any_family):
    """What the last block says there does not know of the padding, nor of the target behind it."""
    states = []
    for around in (scored(any_family), generated(any_family)):
        (batch,), (said, *_) = around.passes, around.said[0]
        at = said.view(*batch.mask.shape, -1)[torch.arange(len(PROMPTS)), batch.asked]
        states.append(at[batch.rows.argsort()])
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ask", [scored, generated])
def test_an_encoder_decoder_tells_its_source_and_the_decoders_start(any_encoder_decoder, ask):
    lm, around = any_encoder_decoder, ask(any_encoder_decoder)
    (batch,) = around.passes
    opening = len(lm.form.opening)
    assert batch.asked.tolist() == [opening - 1] * len(PROMPTS)
    assert batch.steps == (ask is generated)
    assert around.said[0][0].shape[:2] == batch.mask.shape
    for at, row in enumerate(batch.rows.tolist()):
        assert batch.source[at].sum() == size(lm, PROMPTS[row])
        answer = lm.encode([PROMPTS[row]], [TARGETS[row]] if ask is scored else None)
        assert batch.mask[at].sum() == answer.attention_mask.sum()
        assert batch.mask[at, : opening + 1 if ask is scored else opening].all()


def test_a_chat_is_asked_at_the_end_of_its_template(language_model):
    tokenizer = copy.deepcopy(language_model.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    lm = LanguageModel(language_model.model, tokenizer).rendered(Rendering(render="chat"))
    (batch,) = scored(lm).passes
    for at, row in enumerate(batch.rows.tolist()):
        read = tokenizer(f"user: {PROMPTS[row]}\nassistant:")["input_ids"]
        assert batch.asked[at] == len(read) - 1


def test_hooks_are_gone_after_an_exception(language_model):
    lm = language_model

    @contextmanager
    def around(batch):
        hook = lm.module(lm.block(0)).register_forward_hook(fail)
        try:
            yield
        finally:
            hook.remove()

    def fail(*_):
        raise RuntimeError("stop here")

    for ask in (
        lambda: lm.score(PROMPTS, TARGETS, around=around),
        lambda: lm.generate(PROMPTS, around=around),
    ):
        with pytest.raises(RuntimeError, match="stop here"):
            ask()
    assert not lm.module(lm.block(0))._forward_hooks
