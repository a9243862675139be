"""Texts become ids, labels stand where their tokens stand, and characters find their token."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from models.encoding import IGNORED, TokenIds, micro_batches
from models.language_model import LanguageModel
from models.rendering import Rendering


@pytest.fixture(scope="module")
def with_bos(tokenizer) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    end = tokenizer.eos_token
    backend.post_processor = processors.TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end)


@pytest.fixture(scope="module")
def sentencepiece() -> PreTrainedTokenizerFast:
    """Puts a blank of its own before every text, like Llama 2's and Mistral's."""
    bpe = Tokenizer(tokenizer_models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bpe.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>"], initial_alphabet=["\n"],
        show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(["The Tower is in Paris, in Paris. Paris it is."] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", eos_token="</s>")


@pytest.fixture(scope="module")
def bos_model(language_model, with_bos) -> LanguageModel:
    return LanguageModel(copy.deepcopy(language_model.model), with_bos)


def test_labels_are_the_target_at_its_own_positions(language_model, tokenizer):
    prompts, targets = ["Lagos is in", "Tokyo"], ["Nigeria", " Japan in Asia"]
    batch = language_model.encode(prompts, targets)
    for row, (prompt, joined) in enumerate(zip(prompts, [" Nigeria", targets[1]], strict=True)):
        p, t = tokenizer(prompt)["input_ids"], tokenizer(joined)["input_ids"]
        length = len(p) + len(t)
        assert batch.input_ids[row, :length].tolist() == p + t
        assert batch.labels[row].tolist()[:length] == [IGNORED] * len(p) + t
        assert batch.attention_mask[row].sum() == length
        assert (batch.labels[row, length:] == IGNORED).all()
        assert not batch.attention_mask[row, length:].any()


def test_without_targets_there_are_no_labels(language_model, tokenizer):
    batch = language_model.encode(["Lagos is in"], None)
    assert batch.input_ids[0].tolist() == tokenizer("Lagos is in")["input_ids"]
    assert (batch.labels == IGNORED).all()


def test_a_batch_moves_as_a_whole(language_model):
    batch = language_model.encode(["Lagos"], ["Nigeria"]).to("meta")
    assert {x.device.type for x in (batch.input_ids, batch.attention_mask, batch.labels)} == {
        "meta"
    }


@pytest.mark.parametrize(
    ("prompt", "target", "joined"),
    [
        ("Lagos is in", "Nigeria", " Nigeria"),
        ("Lagos is in", " Nigeria", " Nigeria"),
        ("Lagos is in ", "Nigeria", "Nigeria"),
        ("Lagos is in\n", "Nigeria", "Nigeria"),
        ("Lagos is in", "\nNigeria", "\nNigeria"),
    ],
)
def test_one_blank_between_prompt_and_target(tokenizer, prompt, target, joined):
    ids = TokenIds(tokenizer, Rendering()).targets([prompt], [target])
    assert ids == [tokenizer(joined, add_special_tokens=False)["input_ids"]]


def test_special_tokens_stand_before_the_prompt_only(bos_model, tokenizer):
    batch = bos_model.encode(["Lagos is in"], ["Nigeria"])
    ids = [tokenizer.eos_token_id, *tokenizer("Lagos is in Nigeria")["input_ids"]]
    assert batch.input_ids[0].tolist() == ids


@pytest.mark.parametrize("prompt", ["The Tower is in", "The Tower is in "])
def test_a_tokenizer_that_adds_a_blank_adds_no_second_one(sentencepiece, prompt):
    ids = TokenIds(sentencepiece, Rendering())
    (prompt_ids,), (target_ids,) = ids.prompts([prompt]), ids.targets([prompt], ["Paris"])
    assert sentencepiece.decode(prompt_ids + target_ids) == "The Tower is in Paris"
    first = sentencepiece.convert_ids_to_tokens(target_ids)[0]
    assert first.startswith("\u2581") != prompt.endswith(" ")


def test_such_a_tokenizer_gives_generated_text_its_blank_back(tiny, sentencepiece):
    model = copy.deepcopy(tiny("llama").model)
    lm = LanguageModel(model, sentencepiece)
    ids = lm.encode(["The Tower is in"], ["Paris"]).input_ids[0].tolist()
    length = lm.encode(["The Tower is in"], None).input_ids.shape[1]
    assert lm.form.text(ids[:length], ids[length:]) == " Paris"


def test_remembered_ids_are_the_same_ids(tokenizer, monkeypatch):
    monkeypatch.setattr("models.encoding._REMEMBERED", 3)
    ids = TokenIds(tokenizer, Rendering())
    texts = ["Lagos", "Tokyo", "Lagos", "Paris", "Japan is in Asia"]
    expected = [tokenizer(text)["input_ids"] for text in texts]
    assert ids.prompts(texts) == expected
    assert ids.prompts(texts[2:]) == expected[2:]
    assert ids.prompts(["Warsaw"]) == [tokenizer("Warsaw")["input_ids"]]
    assert len(ids._known) <= len(texts)


PLACES = [
    ("The Eiffel Tower is in", "Eiffel Tower"),
    ("Gothenburg is in Sweden", "Gothenburg"),
    ("The capital of Sweden is Stockholm", "Stockholm"),
    ('Say "Gothenburg" again', "Gothenburg"),
    ("Z\u00fcrich and S\u00e3o Paulo are cities", "S\u00e3o Paulo"),
    ("In \u65e5\u672c\u56fd one speaks Japanese", "\u65e5\u672c"),
    ("The \U0001f5fc in Paris", "\U0001f5fc"),
    ("  Lagos  is in Nigeria ", "Lagos"),
]


def last_token_by_bytes(tokenizer, prompt: str, start: int, end: int) -> int:
    """Each character of a byte-level token stands for one byte: count them."""
    first, last = len(prompt[:start].encode()), len(prompt[:end].encode())
    answer, done = None, 0
    for i, token in enumerate(tokenizer.tokenize(prompt)):
        if done < last and done + len(token) > first:
            answer = i
        done += len(token)
    return answer


@pytest.mark.parametrize(("prompt", "subject"), PLACES)
@pytest.mark.parametrize("bos", [0, 1])
def test_positions_of_every_span(language_model, bos_model, tokenizer, prompt, subject, bos):
    lm = bos_model if bos else language_model
    size = len(prompt)
    spans = [(start, end) for end in range(1, size + 1) for start in range(end)]
    expected = [last_token_by_bytes(tokenizer, prompt, *span) + bos for span in spans]
    assert lm.token_positions([prompt] * len(spans), spans).tolist() == expected


@pytest.mark.parametrize(("prompt", "subject"), PLACES)
def test_the_position_counts_within_the_encoded_batch(bos_model, prompt, subject):
    start = prompt.index(subject)
    span = (start, start + len(subject))
    (position,) = bos_model.token_positions([prompt], [span]).tolist()
    ids = bos_model.encode([prompt, prompt + " and more"], ["Paris", "Paris"]).input_ids[0].tolist()
    assert subject in bos_model.tokenizer.decode(ids[1 : position + 1])
    assert subject not in bos_model.tokenizer.decode(ids[1:position])


@pytest.mark.parametrize("span", [(2, 2), (4, 3), (-3, 2), (3, 6)])
def test_a_span_outside_its_prompt(language_model, span):
    with pytest.raises(ValueError, match=r"span .* covers no token of prompt 'Lagos'"):
        language_model.token_positions(["Lagos"], [span])


def test_one_span_for_each_prompt(language_model):
    with pytest.raises(ValueError, match="got 2 prompts but 1 spans"):
        language_model.token_positions(["Lagos", "Tokyo"], [(0, 5)])


def test_one_target_for_each_prompt(language_model):
    with pytest.raises(ValueError, match="got 2 prompts but 1 targets"):
        language_model.encode(["Lagos", "Tokyo"], ["Nigeria"])


@pytest.mark.parametrize("target", ["", "  "])
def test_a_target_without_a_token(language_model, target):
    with pytest.raises(ValueError, match=r"target '.*' of prompt 'Lagos is in' has no token"):
        language_model.encode(["Lagos is in"], [target])


def test_a_target_whose_characters_the_tokenizer_drops(tokenizer):
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" !", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    ids = TokenIds(PreTrainedTokenizerFast(tokenizer_object=backend), Rendering())
    with pytest.raises(ValueError, match="target '!' of prompt 'Lagos' has no token"):
        ids.targets(["Lagos"], ["!"])


def test_a_prompt_without_a_token(language_model, bos_model):
    with pytest.raises(ValueError, match="prompt '' has no token"):
        language_model.encode([""], ["Nigeria"])
    assert bos_model.encode([""], ["Nigeria"]).labels[0, 0] == IGNORED


def test_too_long_a_sequence_names_its_beginning_and_length(language_model, tokenizer):
    prompt = "Lagos is in Nigeria. " * 100
    length = len(tokenizer(prompt)["input_ids"])
    message = rf"prompt 'Lagos is in Nigeria\. .*'\.\.\. .* {length} tokens; .* at most 256"
    with pytest.raises(ValueError, match=message):
        language_model.encode([prompt], None)
    with pytest.raises(ValueError, match="at most 256"):
        language_model.score([prompt], ["Nigeria"])


def test_the_longest_sequence_is_taken(language_model, tokenizer):
    prompt = " a" * 255
    assert len(tokenizer(prompt)["input_ids"]) == 255
    assert language_model.encode([prompt], ["a"]).input_ids.shape == (1, 256)
    assert len(language_model.score([prompt], ["a"]).log_probs[0]) == 1
    assert len(language_model.generate([prompt], max_new_tokens=1)) == 1
    with pytest.raises(ValueError, match="make 257 tokens"):
        language_model.generate([prompt], max_new_tokens=2)


def test_a_tokenizer_without_offsets():
    with pytest.raises(ValueError, match="ByT5Tokenizer gives no character offsets"):
        TokenIds(ByT5Tokenizer(), Rendering())


def test_micro_batches_hold_each_row_once_within_the_limit():
    lengths = torch.randint(1, 30, (200,), generator=torch.manual_seed(0)).tolist()
    groups = micro_batches(lengths, tokens_per_batch=64)
    assert sorted(row for group in groups for row in group) == list(range(200))
    for group in groups:
        assert len(group) * max(lengths[row] for row in group) <= 64
    assert micro_batches([100, 100], tokens_per_batch=64) == [[0], [1]]
    assert micro_batches([], tokens_per_batch=64) == []
