"""Edited as text or as a chat, asked as text or as a chat; answers that end and that go on."""

import copy
import json

import pytest
import torch
from fake_editors import make_records, make_trainer, single

from editors.finetune import FineTune
from edits import NOTHING
from evaluation.report.lines import UNEDITED
from evaluation.report.page import caption
from models.language_model import LanguageModel
from models.rendering import Rendering
from scoring.questions import Questions

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[answer]{% endif %}"
)
RENDERINGS = {"text": Rendering(), "chat": Rendering(render="chat")}
RECORDS = make_records(2)
ASKED = {"data": "fake", "generate": ["reliability"], "max_new_tokens": 6}


@pytest.fixture(scope="module")
def chatting(tiny) -> LanguageModel:
    plain = tiny("gpt2")
    tokenizer = copy.deepcopy(plain.tokenizer)
    tokenizer.chat_template = TEMPLATE
    return LanguageModel(plain.model, tokenizer, name="chatting")


def tuned(language_model, **rendering) -> FineTune:
    edited = language_model.rendered(Rendering(**rendering))
    return FineTune(edited, lr=3e-3, steps=60, stop_loss=1e-3)


def test_an_edit_with_an_end_says_the_target_and_one_without_goes_on(chatting):
    request = RECORDS[0].requests[0]
    said = {}
    for end in ("none", "eos"):
        edited = tuned(chatting, end=end).edit([request]).edited(chatting)
        assert edited.score([request.prompt], [request.target]).exact() == [True]
        [said[end]] = edited.generate([request.prompt], max_new_tokens=24)
    assert said["eos"].strip() == request.target
    assert said["none"].strip().startswith(request.target)
    assert said["none"].strip() != request.target


@pytest.fixture(scope="module")
def folders(chatting, tmp_path_factory):
    """Runs of two editors, one for each rendering of edits, asked in each rendering."""
    root = tmp_path_factory.mktemp("renderings")
    for asked, rendering in RENDERINGS.items():
        editors = {name: tuned(chatting, render=name, end="eos") for name in RENDERINGS}
        protocol = single(editors, RECORDS, root / asked, rendering=rendering, **ASKED)
        make_trainer().test(protocol, verbose=False)
    return root


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_edits_and_questions_are_rendered_by_themselves(folders, chatting):
    reliability = {}
    for asked, rendering in RENDERINGS.items():
        questioned = chatting.rendered(rendering)
        for render in RENDERINGS:
            lines = (folders / asked / "answers" / render / "000000.jsonl").read_text()
            lines = [json.loads(line) for line in lines.splitlines()]
            edit = tuned(chatting, render=render, end="eos").make([r.requests for r in RECORDS])
            questions = Questions(RECORDS, ("reliability",), 6)
            answers = questions.ask(edit.edited(questioned), each=True)
            for line, answer in zip(lines, answers, strict=True):
                assert line["nll"] == answer.nll
                assert line["generated"] == answer.text
            [row] = [
                row
                for row in results_of(folders / asked)
                if (row["editor"], row["probe"], row["scorer"])
                == (render, "reliability", "exact_match")
            ]
            reliability[render, asked] = row["mean"]
    assert reliability["text", "text"] == reliability["chat", "chat"] == 1
    assert reliability["text", "chat"] < 1 and reliability["chat", "text"] < 1


def test_every_row_says_how_it_was_edited_and_asked(folders):
    for asked in RENDERINGS:
        for row in results_of(folders / asked):
            edited = (row["end"], row["render"])
            default = ("none", "text")
            assert edited == (default if row["editor"] == UNEDITED else ("eos", row["editor"]))
            assert row["asked"] == asked
        for path in (folders / asked / "costs").rglob("*.json"):
            assert json.loads(path.read_text())["run"]["asked"] == asked


def test_captions_tell_what_is_not_the_usual_way(folders):
    text, chat = (caption(results_of(folders / asked)) for asked in RENDERINGS)
    assert text.endswith("2 records · render=text|chat end=eos")
    assert chat.endswith("2 records · render=text|chat end=eos asked=chat")
    usual = [
        {**row, "end": "none", "render": "text", "asked": "text"}
        for row in results_of(folders / "text")
    ]
    assert caption(usual).endswith("2 records")


def test_the_unedited_model_is_asked_as_questions_are(folders, chatting):
    lines = (folders / "chat" / "answers" / UNEDITED / "000000.jsonl").read_text().splitlines()
    questions = Questions(RECORDS, ("reliability",), 6)
    answers = questions.before(NOTHING.edited(chatting.rendered(RENDERINGS["chat"])))
    assert [json.loads(line)["nll"] for line in lines] == [answer.nll for answer in answers]


def test_a_run_asked_in_another_way_is_another_run(chatting, tmp_path):
    first = single({"a": tuned(chatting)}, RECORDS, tmp_path)
    first.folder.claim(first.identity())
    other = single({"a": tuned(chatting)}, RECORDS, tmp_path, rendering=RENDERINGS["chat"])
    with pytest.raises(ValueError, match=r"rendering\.render: 'text' there, 'chat' here"):
        other.folder.claim(other.identity())
    ended = single({"a": tuned(chatting, end="eos")}, RECORDS, tmp_path)
    with pytest.raises(ValueError, match=r"editors\.a\.rendering\.end: 'none' there, 'eos' here"):
        ended.folder.claim(ended.identity())


def test_a_chat_without_a_template_is_refused_before_anything_is_run(language_model, tmp_path):
    with pytest.raises(ValueError, match="render=chat: the tokenizer has no chat template"):
        single({"a": tuned(language_model)}, RECORDS, tmp_path, rendering=RENDERINGS["chat"])


def test_weights_stay_as_they_are(folders, chatting, tiny):
    fresh = LanguageModel(chatting.model, chatting.tokenizer)
    assert fresh.fingerprint == chatting.fingerprint
    assert all(torch.isfinite(p).all() for p in chatting.model.parameters())
