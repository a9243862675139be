"""Encoder-decoders answer the two questions as transformers trains and decodes them."""

import copy

import pytest
import torch
from answers import ANSWERS
from tokenizers import processors
from transformers import AutoModelForSeq2SeqLM, BartForCausalLM, PreTrainedTokenizerFast, T5Model

from models import IGNORED, LanguageModel, UnsupportedModel

PROMPTS = [
    "The Eiffel Tower is in the city of",
    "Lagos",
    "Which country is Lagos in? Lagos is in the country of",
    "Marie Curie was born in",
    "Z\u00fcrich",
]
TARGETS = ["Paris, France", "Nigeria", " Nigeria ", "Warsaw", "is a city in Switzerland"]


@pytest.fixture(scope="module")
def framing(tokenizer):
    """A tokenizer like BART's, that puts a token before and one behind every text."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(tokenizer.backend_tokenizer),
        bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", fast.bos_token_id), ("</s>", fast.eos_token_id)],
    )
    return fast


@pytest.fixture(scope="module")
def bart(tiny, framing):
    """A tiny BART that reads and says its texts between ``<s>`` and ``</s>``, as published ones."""
    end, pad = framing.eos_token_id, framing.pad_token_id
    ids = {"eos_token_id": end, "decoder_start_token_id": end, "pad_token_id": pad}
    model = copy.deepcopy(tiny("bart", vocab_size=len(framing), **ids).model)
    with torch.no_grad():
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))
    return LanguageModel(model, framing, "bart")


def assert_near(ours, theirs):
    """Equal to what float32 gives sums taken in another order: gated models' logits reach 20."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


@torch.no_grad()
def plain_scores(lm, prompt, target, labels=None):
    """The logits of one row through transformers' own shift of the labels."""
    ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
    if labels is None:
        text = lm.tokenizer(target.strip(), add_special_tokens=False)["input_ids"]
        labels = [*text, lm.tokenizer.eos_token_id]
    logits = lm.model(input_ids=ids, labels=torch.tensor([labels])).logits[0].float()
    labels = torch.tensor(labels)
    log_probs = logits.log_softmax(-1)[torch.arange(len(labels)), labels]
    return log_probs, logits.argmax(-1), labels


@torch.no_grad()
def plain_answer(lm, prompt, max_new_tokens):
    """Greedy decoding of one row without a cache, from the decoder's first tokens."""
    ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
    said = torch.tensor([lm.form.opening])
    for _ in range(max_new_tokens):
        new = lm.model(input_ids=ids, decoder_input_ids=said, use_cache=False).logits[:, -1:]
        if new.argmax(-1).item() == lm.tokenizer.eos_token_id:
            break
        said = torch.cat([said, new.argmax(-1)], dim=1)
    return lm.tokenizer.decode(said[0, len(lm.form.opening) :], skip_special_tokens=True).strip()


# score


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 4096])
def test_scores_are_those_of_the_labels_given_to_transformers(
    any_encoder_decoder, tokens_per_batch
):
    lm = any_encoder_decoder
    scores = lm.score(PROMPTS, TARGETS, tokens_per_batch=tokens_per_batch)
    for row, pair in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        log_probs, predicted, targets = plain_scores(lm, *pair)
        assert_near(scores.log_probs[row], log_probs)
        assert torch.equal(scores.predicted[row], predicted)
        assert torch.equal(scores.targets[row], targets)
        assert targets[-1] == lm.tokenizer.eos_token_id


def test_what_the_tokenizer_puts_first_is_given_and_not_scored(bart):
    assert bart.form.opening == [bart.tokenizer.eos_token_id, bart.tokenizer.bos_token_id]
    scores = bart.score(PROMPTS, TARGETS)
    for row, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        labels = bart.tokenizer(target.strip())["input_ids"]
        assert labels[0] == bart.tokenizer.bos_token_id
        log_probs, predicted, targets = plain_scores(bart, prompt, target, labels)
        assert_near(scores.log_probs[row], log_probs[1:])
        assert torch.equal(scores.predicted[row], predicted[1:])
        assert torch.equal(scores.targets[row], targets[1:])
    assert bart.generate(PROMPTS, max_new_tokens=6) == [
        plain_answer(bart, prompt, 6) for prompt in PROMPTS
    ]


def test_a_model_that_says_exactly_the_target_scores_exactly(any_answering):
    prompts, answers = map(list, zip(*ANSWERS, strict=True))
    assert any_answering.generate(prompts) == answers
    scores = any_answering.score(prompts, answers)
    assert all(scores.exact())
    assert torch.cat(scores.log_probs).exp().mean() > 0.9


def test_the_beginning_of_the_answer_is_not_the_answer(any_answering):
    prompts = ["Utrecht is in", "Which country is Utrecht in?"]
    assert any_answering.score(prompts, ["the Netherlands"] * 2).exact() == [True, True]
    assert any_answering.score(prompts, ["the"] * 2).exact() == [False, False]
    assert any_answering.score(prompts, ["Netherlands"] * 2).exact() == [False, False]


def test_target_logits_give_transformers_loss(any_encoder_decoder):
    lm = any_encoder_decoder
    batch = lm.encode(PROMPTS, TARGETS)
    logits, targets, rows = lm.target_logits(batch)
    pad = (batch.labels == IGNORED).sum(1) - 1
    assert len(pad.unique()) > 1  # rows are padded
    labels = batch.labels[:, 1:].contiguous()
    loss = lm.model(batch.source.input_ids, batch.source.attention_mask, labels=labels).loss
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, targets), loss)
    assert rows.tolist() == [i for i, row in enumerate(labels) for _ in range((row >= 0).sum())]


# generate


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 4096])
def test_generation_is_row_by_row_greedy_decoding(any_encoder_decoder, tokens_per_batch):
    texts = any_encoder_decoder.generate(
        PROMPTS, max_new_tokens=8, tokens_per_batch=tokens_per_batch
    )
    assert texts == [plain_answer(any_encoder_decoder, prompt, 8) for prompt in PROMPTS]


def test_generation_is_transformers_generation(any_answering):
    lm = any_answering
    ids = lm.encode(["Utrecht is in"], None).source.input_ids
    said = lm.model.generate(ids, max_new_tokens=8, do_sample=False, num_beams=1)
    text = lm.tokenizer.decode(said[0], skip_special_tokens=True).strip()
    assert lm.generate(["Utrecht is in"]) == [text] == ["the Netherlands"]


# tokens


def test_prompts_alone_leave_the_decoder_at_its_start(any_encoder_decoder):
    lm = any_encoder_decoder
    batch = lm.encode(PROMPTS, None)
    assert batch.input_ids.tolist() == [lm.form.opening] * len(PROMPTS)
    assert (batch.labels == IGNORED).all() and (batch.source.labels == IGNORED).all()
    assert batch.read is batch.source
    own = lm.tokenizer(PROMPTS)["input_ids"]
    assert batch.source.lengths.tolist() == [len(ids) for ids in own]


def test_rows_and_padding_go_together_in_both_stacks(any_encoder_decoder):
    batch = any_encoder_decoder.encode(PROMPTS, TARGETS)
    some = batch.rows([1, 3]).trimmed()
    alone = any_encoder_decoder.encode([PROMPTS[1], PROMPTS[3]], [TARGETS[1], TARGETS[3]])
    assert some.source.input_ids.shape[1] < batch.source.input_ids.shape[1]
    for ours, theirs in ((some, alone), (some.source, alone.source)):
        assert torch.equal(ours.input_ids, theirs.input_ids)
        assert torch.equal(ours.attention_mask, theirs.attention_mask)
        assert torch.equal(ours.labels, theirs.labels)
    assert torch.equal(some.lengths, alone.lengths)


def test_each_stack_has_room_of_its_own(tiny):
    lm = tiny("bart", max_position_embeddings=24)
    prompt, target = "z" * 20, "q" * 20
    (length,) = lm.lengths([prompt], [target])
    prompts = len(lm.tokenizer(prompt)["input_ids"])
    assert prompts <= length <= 24 < 2 * prompts
    assert len(lm.score([prompt], [target]).targets[0]) == length - 1
    with pytest.raises(ValueError, match=r"make \d+ tokens; the model takes at most 24"):
        lm.score(["Lagos"], [target * 2])
    with pytest.raises(ValueError, match=r"make \d+ tokens; the model takes at most 24"):
        lm.score([prompt * 2], ["b"])
    assert lm.lengths(["a"], None, more=23) == [24]
    with pytest.raises(ValueError, match="make 25 tokens"):
        lm.generate(["a"], max_new_tokens=24)


def test_relative_positions_leave_the_length_to_the_tokenizer(tiny, tokenizer):
    limited = copy.deepcopy(tokenizer)
    limited.model_max_length = 6
    lm = LanguageModel(copy.deepcopy(tiny("t5").model), limited)
    assert lm.max_length == 6
    with pytest.raises(ValueError, match="the model takes at most 6"):
        lm.score(PROMPTS, TARGETS)
    assert tiny("t5").max_length > 10**6


def test_a_target_without_a_token(any_encoder_decoder):
    with pytest.raises(ValueError, match="target ' ' of prompt 'Lagos' has no token"):
        any_encoder_decoder.score(["Lagos"], [" "])
    with pytest.raises(ValueError, match="got 1 prompts but 2 targets"):
        any_encoder_decoder.score(["Lagos"], ["a", "b"])


# layers


def test_every_linear_map_of_both_feed_forwards_has_a_role(any_encoder_decoder):
    lm = any_encoder_decoder
    linear = {
        name
        for name, module in lm.model.named_modules()
        if isinstance(module, torch.nn.Linear) and 64 in module.weight.shape
    }
    roles = [role for role in lm.family.roles if role.startswith("mlp")]
    assert linear == {
        lm.layer(role, block, encoder)
        for encoder in (False, True)
        for role in roles
        for block in range(3)
    }


def test_stacks_may_differ_in_depth(tiny):
    lm = tiny("t5", num_decoder_layers=2)
    assert (lm.encoder_blocks, lm.blocks) == (3, 2)
    assert lm.layer("mlp_out", 2, encoder=True) == "encoder.block.2.layer.1.DenseReluDense.wo"
    assert lm.layer("mlp_out", 1) == "decoder.block.1.layer.2.DenseReluDense.wo"
    with pytest.raises(ValueError, match="no block 2 in 'tiny-t5'; it has 0 to 1"):
        lm.layer("mlp_out", 2)
    with pytest.raises(ValueError, match="no encoder block 3 in 'tiny-t5'; it has 0 to 2"):
        lm.layer("mlp_out", 3, encoder=True)
    with pytest.raises(ValueError, match="no role 'mlp_gate' in family 't5'; it has: attn_out"):
        lm.layer("mlp_gate", 0, encoder=True)


def test_which_layers_see_the_prompts_tokens(any_encoder_decoder, language_model):
    lm = any_encoder_decoder
    assert lm.in_encoder(lm.layer("mlp_in", 0, encoder=True))
    assert not lm.in_encoder(lm.layer("mlp_in", 0))
    assert not language_model.in_encoder(language_model.layer("mlp_in", 0))
    assert language_model.encoder_blocks == 0
    with pytest.raises(UnsupportedModel, match="'tiny-gpt2' of family 'gpt2' has no encoder"):
        language_model.layer("mlp_in", 0, encoder=True)


# folders


def test_saved_models_load_with_equal_answers(any_encoder_decoder, tmp_path):
    any_encoder_decoder.save(tmp_path / "model")
    loaded = LanguageModel.load(str(tmp_path / "model"))
    assert loaded.fingerprint == any_encoder_decoder.fingerprint
    assert loaded.form.opening == any_encoder_decoder.form.opening
    ours, theirs = (lm.score(PROMPTS, TARGETS) for lm in (loaded, any_encoder_decoder))
    assert all(map(torch.equal, ours.log_probs, theirs.log_probs))
    assert loaded.generate(PROMPTS, max_new_tokens=4) == any_encoder_decoder.generate(
        PROMPTS, max_new_tokens=4
    )


def test_a_head_of_its_own_is_kept(tiny, tmp_path):
    model = copy.deepcopy(tiny("t5_gated").model)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    untied = LanguageModel(model, tiny("t5_gated").tokenizer)
    untied.save(tmp_path)
    loaded = LanguageModel.load(str(tmp_path))
    assert loaded.fingerprint == untied.fingerprint != tiny("t5_gated").fingerprint
    for ours, theirs in zip(
        loaded.score(PROMPTS, TARGETS).log_probs,
        [plain_scores(untied, *pair)[0] for pair in zip(PROMPTS, TARGETS, strict=True)],
        strict=True,
    ):
        assert_near(ours, theirs)


def test_attention_is_what_was_asked_for(any_encoder_decoder, tmp_path):
    any_encoder_decoder.save(tmp_path)
    sdpa = LanguageModel.load(str(tmp_path), attention="sdpa")
    assert sdpa.model.config._attn_implementation == "sdpa"
    for ours, theirs in zip(
        sdpa.score(PROMPTS, TARGETS).log_probs,
        any_encoder_decoder.score(PROMPTS, TARGETS).log_probs,
        strict=True,
    ):
        assert_near(ours, theirs)


# refused


def test_half_a_model_is_refused(tiny):
    t5, bart = tiny("t5"), tiny("bart")
    with pytest.raises(ValueError, match=r"encoder-decoder of family 't5' with an .*got T5Model"):
        LanguageModel(T5Model(t5.model.config), t5.tokenizer)
    with pytest.raises(ValueError, match=r"family 'bart' with an output head.*BartForCausalLM"):
        LanguageModel(BartForCausalLM(copy.deepcopy(bart.model.config)), bart.tokenizer)


def test_a_model_without_a_start_is_refused(tiny):
    model = copy.deepcopy(tiny("t5").model)
    model.generation_config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="T5ForConditionalGeneration names no decoder_start_token"):
        LanguageModel(model, tiny("t5").tokenizer)


def test_a_tokenizer_without_an_end_is_refused(tiny, tokenizer):
    endless = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token=tokenizer.pad_token
    )
    with pytest.raises(ValueError, match="the tokenizer of an encoder-decoder needs an end token"):
        LanguageModel(copy.deepcopy(tiny("bart").model), endless)


@pytest.mark.parametrize("model_type", ["mt5", "pegasus"])
def test_an_unknown_family_is_refused(tiny, model_type):
    model = copy.deepcopy(tiny("t5").model)
    model.config.model_type = model_type
    with pytest.raises(ValueError, match=f"unknown model family '{model_type}'; known families"):
        LanguageModel(model, tiny("t5").tokenizer)


def test_a_saved_model_is_what_transformers_loads(any_encoder_decoder, tmp_path):
    any_encoder_decoder.save(tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    labels = any_encoder_decoder.encode(PROMPTS, TARGETS).labels[:, 1:].contiguous()
    source = any_encoder_decoder.encode(PROMPTS, TARGETS).source
    losses = [
        m(source.input_ids, source.attention_mask, labels=labels).loss
        for m in (model, any_encoder_decoder.model)
    ]
    assert torch.equal(*losses)
