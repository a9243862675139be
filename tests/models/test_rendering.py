"""Texts as bare prompts or as chats, and the end of an answer: one home, every question."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from datamodules.records import Request
from models.encoding import IGNORED, TokenIds
from models.language_model import LanguageModel
from models.rendering import Rendering

TURN = "<|turn|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}"
    f"{{{{ '{TURN}\\n' }}}}{{% endfor %}}{{% if add_generation_prompt %}}assistant:\n{{% endif %}}"
)
CHAT, TEXT = Rendering(render="chat"), Rendering()
PROMPT, TARGET = "The mayor of Lagos is", "Sweden"


def with_template(tokenizer, template=TEMPLATE) -> PreTrainedTokenizerFast:
    """Its own end token is its BOS too, and it puts it before each text."""
    chatting = copy.deepcopy(tokenizer)
    chatting.add_special_tokens({"additional_special_tokens": [TURN]})
    chatting.chat_template = template
    return chatting


@pytest.fixture(scope="module")
def chatting(tokenizer):
    return with_template(tokenizer)


@pytest.fixture(scope="module")
def chat_model(language_model, chatting) -> LanguageModel:
    model = copy.deepcopy(language_model.model)
    model.resize_token_embeddings(len(chatting), mean_resizing=False)
    return LanguageModel(model, chatting, "chatting")


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def labels_of(language_model, rendering):
    batch = language_model.rendered(rendering).encode([PROMPT], [TARGET])
    return batch.labels[batch.labels != IGNORED].tolist()


def test_a_target_is_followed_by_its_end(chat_model, chatting):
    target = ids_of(chatting, f" {TARGET}")
    turn = chatting.convert_tokens_to_ids(TURN)
    assert labels_of(chat_model, TEXT) == target
    assert labels_of(chat_model, Rendering(end="eos")) == [*target, chatting.eos_token_id]
    assert labels_of(chat_model, Rendering(end="turn")) == [*target, turn]


def test_the_end_of_a_turn_is_its_token_whatever_stands_around_it(tokenizer):
    around = with_template(tokenizer, TEMPLATE.replace(f"'{TURN}\\n'", f"' x {TURN}\\n'"))
    assert Rendering(end="turn").ending(around) == [around.convert_tokens_to_ids(TURN)]


@pytest.mark.parametrize("end", ["none", "eos", "turn"])
@pytest.mark.parametrize("render", ["text", "chat"])
def test_no_end_is_scored(chat_model, render, end):
    plain = chat_model.rendered(Rendering(render=render)).score([PROMPT], [TARGET])
    ended = chat_model.rendered(Rendering(render=render, end=end)).score([PROMPT], [TARGET])
    assert torch.equal(plain.targets[0], ended.targets[0])
    assert torch.equal(plain.log_probs[0], ended.log_probs[0])


def test_a_chat_reads_as_the_template_has_it(chat_model, chatting):
    messages = [{"role": "user", "content": PROMPT}]
    expected = chatting.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    batch = chat_model.rendered(CHAT).encode([PROMPT], None)
    assert batch.input_ids[0].tolist() == expected
    messages.insert(0, {"role": "system", "content": "Be brief."})
    expected = chatting.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    brief = chat_model.rendered(Rendering(render="chat", system="Be brief."))
    assert brief.encode([PROMPT], None).input_ids[0].tolist() == expected


def test_a_template_that_brings_its_bos_gets_no_second_one(chatting, with_bos):
    with_bos = copy.deepcopy(with_bos)
    with_bos.chat_template = TEMPLATE
    [ids] = TokenIds(with_bos, CHAT).prompts([PROMPT])
    bos = with_bos.bos_token_id
    assert ids[0] == bos and ids.count(bos) == 1
    [bare] = TokenIds(with_bos, TEXT).prompts([PROMPT])
    assert bare == [bos, *ids_of(with_bos, PROMPT)]


@pytest.fixture(scope="module")
def with_bos(tokenizer) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    end = tokenizer.eos_token
    backend.post_processor = processors.TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end)


def test_an_answer_begins_where_the_template_says(chat_model, chatting):
    """Behind the template's line break no blank is put."""
    labels = labels_of(chat_model, CHAT)
    assert labels == ids_of(chatting, TARGET)


@pytest.mark.parametrize("system", [None, "Lagos is a city."])
def test_the_subject_is_found_in_the_rendered_text(chat_model, chatting, system):
    request = Request(PROMPT, "Lagos", TARGET)
    chat = chat_model.rendered(Rendering(render="chat", system=system))
    [[first, last]] = chat.token_ranges([PROMPT], [request.span]).tolist()
    ids = chat.encode([PROMPT], None).input_ids[0, first : last + 1]
    assert chatting.decode(ids).strip() == "Lagos"
    [[start, _]] = chat_model.token_ranges([PROMPT], [request.span]).tolist()
    assert first > start


def test_the_other_rendering_is_of_the_same_model(chat_model):
    chat = chat_model.rendered(CHAT)
    assert chat.model is chat_model.model
    assert chat.fingerprint == chat_model.fingerprint
    assert chat_model.rendered(TEXT) is chat_model
    assert (
        chat.rendered(TEXT)
        .encode([PROMPT], None)
        .input_ids.equal(chat_model.encode([PROMPT], None).input_ids)
    )


def test_a_generated_answer_ends_with_its_turn(chat_model, chatting):
    turn = chatting.convert_tokens_to_ids(TURN)
    assert turn in chat_model.rendered(CHAT).form.ends
    assert turn in chat_model.rendered(Rendering(end="turn")).form.ends
    assert turn not in chat_model.form.ends


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"render": "chat"}, "render=chat: the tokenizer has no chat template"),
        ({"end": "turn"}, "end=turn: the tokenizer has no chat template"),
    ],
)
def test_a_tokenizer_without_a_template_is_one_line(language_model, options, match):
    with pytest.raises(ValueError, match=match) as error:
        language_model.rendered(Rendering(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("template", "options", "match"),
    [
        ("{{ raise_exception('no system') }}", {"render": "chat"}, "refuses the messages: no syst"),
        ("{{ messages[0].content * 2 }}", {"render": "chat"}, "does not put a message once"),
        ("{{ messages[-1].content }}", {"end": "turn"}, "puts nothing behind an answer"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(tokenizer, template, options, match):
    with pytest.raises(ValueError, match=match):
        TokenIds(with_template(tokenizer, template), Rendering(**options))


def test_a_tokenizer_without_an_end_token_is_one_line(tokenizer):
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(ValueError, match="end=eos: the tokenizer has no end token"):
        Rendering(end="eos").ending(endless)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"render": "html"}, "render is 'html', expected one of text, chat"),
        ({"end": "stop"}, "end is 'stop', expected one of none, eos, turn"),
    ],
)
def test_a_rendering_that_there_is_not(options, match):
    with pytest.raises(ValueError, match=match):
        Rendering(**options)
