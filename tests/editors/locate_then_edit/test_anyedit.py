"""AnyEdit cuts long targets into windows, each of which AlphaEdit writes on top of the last."""

import pytest
import torch
from samples import AT_THE_END, CONTEXTS, MOMENTS, bundled, in_float64

from datamodules.records import Request
from editors.locate_then_edit.alphaedit import AlphaEdit
from editors.locate_then_edit.anyedit import AnyEdit
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.windows import windows

SETTINGS = {
    "moments": MOMENTS, "contexts": CONTEXTS, "layers": [0], "steps": 6, "lr": 0.3,
    "threshold": 0.5, "ridge": 0.01,
}  # fmt: skip
LONG = Request("Lagos is in", "Lagos", "Japan, where people pay with the yen and speak Japanese")


@pytest.fixture
def lm(tiny):
    return in_float64(tiny("gpt2"))


def dense(edit):
    return {layer: update.dense() for layer, update in edit.updates.items()}


@pytest.mark.parametrize("size", [1, 3, 4, 7, 100])
def test_windows_say_the_target_one_after_another(lm, size):
    parts = windows(lm, LONG, size)
    assert " ".join(part.target for part in parts) == LONG.target
    said = LONG.prompt
    for number, part in enumerate(parts):
        assert part.prompt == said
        said += f" {part.target}"
        [tokens] = lm.answer_lengths([part.prompt], [part.target])
        assert tokens <= size or " " not in part.target
        if number:  # the anchor is the token before the window
            assert part.span[1] == len(part.prompt)
        if number + 1 < len(parts):  # not one word more would have fitted
            word = parts[number + 1].target.split(" ")[0]
            [more] = lm.answer_lengths([part.prompt], [f"{part.target} {word}"])
            assert more > size
    assert parts[0].subject == "Lagos"
    assert (parts == [LONG]) == (size == 100)


def test_a_target_that_fits_is_alphaedits(lm):
    any_edit, alpha = (
        AnyEdit(lm, **bundled(SETTINGS), window=50),
        AlphaEdit(lm, **bundled(SETTINGS)),
    )
    for ours, theirs in (
        (any_edit.edit(AT_THE_END), alpha.edit(AT_THE_END)),
        (any_edit.edit_each(AT_THE_END), alpha.edit_each(AT_THE_END)),
    ):
        assert len(ours) == len(theirs)
        for layer, update in dense(theirs).items():
            assert torch.equal(dense(ours)[layer], update)


def test_windows_are_written_on_top_of_each_other_and_spare_each_other(lm):
    editor, alpha = AnyEdit(lm, **bundled(SETTINGS), window=5), AlphaEdit(lm, **bundled(SETTINGS))
    parts = windows(lm, LONG, 5)
    short = AT_THE_END[0]
    assert len(parts) > 2 and windows(lm, short, 5) == [short]
    expected = alpha.edit([short, parts[0]])
    for part in parts[1:]:
        expected = alpha.edit([part], expected)
    edit = editor.edit([short, LONG])
    for layer, update in dense(expected).items():
        assert torch.equal(dense(edit)[layer], update)
        assert torch.equal(edit.past_keys[layer], expected.past_keys[layer])
    [layer] = edit.layers
    assert edit.past_keys[layer].shape[1] == 1 + len(parts)


def test_independent_edits_are_each_as_alone(lm):
    editor = AnyEdit(lm, **bundled(SETTINGS), window=5)
    each = editor.edit_each([AT_THE_END[0], LONG])
    for number, request in enumerate((AT_THE_END[0], LONG)):
        alone = editor.edit([request])
        for layer, update in dense(alone).items():
            torch.testing.assert_close(dense(each)[layer][number], update[0])


def test_a_long_target_becomes_likelier(lm):
    """What one value at the subject cannot decide, several can."""
    settings = {**SETTINGS, "steps": 60, "weight_decay": 0.0, "kl_factor": 0.0, "clamp": 1e3}
    settings |= {"lr": 1.0, "threshold": 1e6, "ridge": 1e-6, "contexts": Contexts(["{}"])}
    losses = []
    for window in (100, 1):
        edit = AnyEdit(lm, **bundled(settings), window=window).edit([LONG])
        [log_probs] = edit.edited(lm).score([LONG.prompt], [LONG.target]).log_probs
        losses.append(-float(log_probs.mean()))
    assert losses[1] < losses[0] - 1  # nats per token, of a random model


def test_a_window_of_nothing_is_refused(lm):
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        AnyEdit(lm, **bundled(SETTINGS), window=0)
