import pytest

from datamodules.fields import Fields
from datamodules.legible import fault, invisible, same
from datamodules.records import Probe, RecordError, Request


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\u200b", "shows nothing: it consists of U+200B"),
        (" \u200b\ufeff\n", "shows nothing: it consists of U+200B, U+FEFF"),
        ("Paris\x00", "holds the control characters U+0000"),
        ("a\x1b[31mb\x07", "holds the control characters U+001B, U+0007"),
        ("Paris<|endoftext|>", "holds '<|endoftext|>', which tokenizers read as a special token"),
        ("</s>", "holds '</s>'"),
        ("the [MASK] is", "holds '[MASK]'"),
        ("<start_of_turn>user", "holds '<start_of_turn>'"),
        ("x" * 1_000_000, "has 1,000,000 characters; at most 20,000 are read"),
    ],
)
def test_what_cannot_be_put_to_a_model_is_named(text, reason):
    assert fault(text).startswith(reason)
    for broken in (
        lambda: Fields({"a": text}).text("a"),
        lambda: Probe("unrelated", text, "Paris"),
        lambda: Request("Lagos is in", "Lagos", text.strip(" \n")),
        lambda: Probe("unrelated", "Lagos is in", text),
        lambda: Probe("unrelated", "Lagos is in", "Paris", aliases=(text,)),
    ):
        with pytest.raises(RecordError) as error:
            broken()
        assert len(str(error.value)) < 300  # it does not pour the text out


@pytest.mark.parametrize(
    "text",
    [
        *(
            "Question: x?\nAnswer:",
            "a < b and c > d",
            "São Paulo",
            "東京",
            "می\u200cخواهم",
            "🧑\u200d🎤",
        ),
        *("[a]", "<b>", "C#", "1/2", "x" * 20_000),
    ],
)
def test_what_is_text_is_left_alone(text):
    assert fault(text) is None
    assert invisible(text) == []
    assert Fields({"a": text}).text("a") == text


def test_an_invisible_character_is_kept_and_remarked_but_no_target_may_have_it():
    fields = Fields({"a": "Merit\u200e (Poland)"})
    assert fields.text("a") == "Merit\u200e (Poland)"
    [remark] = fields.trace.remarks
    assert (remark.field, remark.reason) == ("a", "holds the invisible characters U+200E")
    for subject, target in (("Lagos", "Swe\u200bden"), ("La\u200bgos", "Sweden")):
        with pytest.raises(RecordError, match=r"holds invisible characters: '.*\\u200b"):
            Request("Lagos and La\u200bgos is in", subject, target)


def test_a_target_that_differs_from_the_truth_in_form_only_changes_nothing():
    composed, decomposed = "Orléans", "Orle\u0301ans"
    assert composed != decomposed and same(composed, decomposed)
    for target, true in ((composed, decomposed), ("Paris", "Ｐaris"), ("x", "x\u200b")):
        with pytest.raises(RecordError, match="differs from the true one in Unicode form only"):
            Request("Lagos is in", "Lagos", target, true)
    assert Request("Lagos is in", "Lagos", "Orleans", "Orléans").target == "Orleans"
    assert Request("Lagos is in", "Lagos", "paris", "Paris").target == "paris"


def test_a_long_prompt_does_not_stand_in_the_message():
    with pytest.raises(RecordError) as error:
        Request("x " * 9_000 + "y", "Lagos", "Paris")
    assert len(str(error.value)) < 250
