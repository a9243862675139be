"""The in-context editors: what they remember, what a pool gives them, what they refuse."""

import random

import pytest
import torch

from datamodules.editing import EditingData
from datamodules.pool import Pool
from datamodules.records import Probe, Record, Request
from editors.memory.demonstrations import Demonstrations, demonstration
from editors.memory.in_context import CONTEXT, IKE, MEMPROMPT, RAG, SCR, InContext
from editors.memory.thresholds import threshold_of
from edits.context import ContextEdit
from edits.layout import Layout
from edits.retrieval import OwnStates, directions
from edits.spelling import spelled

FEW = Demonstrations(count=4)
PROMPTS = ["Gothenburg is in", "The currency of Japan is", "Which country is Lagos in? It is in"]
TARGETS = ["Japan", "the yen", "France"]


class Listed(EditingData):
    def __init__(self, records):
        super().__init__()
        self.given = records

    def load(self):
        return {"train": self.given}


@pytest.fixture
def pool(records):
    """The records but for the first two."""
    return Pool(Listed(records[2:]))


@pytest.fixture
def ways(language_model, pool):
    """Each of the five, by its name."""
    made = (
        InContext(language_model),
        InContext(language_model, layout=IKE, demonstrations=FEW, pool=pool),
        InContext(language_model, layout=RAG, pool=pool, false_hits=0.1),
        InContext(language_model, layout=SCR, pool=pool),
        InContext(language_model, layout=MEMPROMPT),
    )
    return {editor.name: editor for editor in made}


def answers(edit, language_model, rows=None):
    return edit.edited(language_model).score(PROMPTS, TARGETS, rows=rows).log_probs


def test_the_five_ways_have_their_names(ways):
    assert list(ways) == ["in_context", "ike", "rag", "scr", "memprompt"]
    assert len({str(sorted(editor.identity().items())) for editor in ways.values()}) == 5
    assert ways["ike"].identity()["pool"] == ways["ike"].pool.fingerprint


@pytest.mark.parametrize("way", ["in_context", "ike", "rag", "scr", "memprompt"])
def test_edits_made_in_one_batch_are_those_made_alone(way, ways, language_model, requests):
    editor = ways[way]
    together = editor.edit_each(requests[:3])
    for number, request in enumerate(requests[:3]):
        alone = editor.edit_each([request])
        assert together.select(number).memories == alone.memories
        assert torch.allclose(together.select(number).embedded, alone.embedded, atol=1e-5)
        for one, other in zip(
            answers(together, language_model, [number] * 3),
            answers(alone, language_model),
            strict=True,
        ):
            assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("way", ["in_context", "ike", "rag", "scr", "memprompt"])
def test_edits_one_after_another_are_the_edit_of_all(way, ways, language_model, requests):
    editor, edit = ways[way], None
    for request in requests[:3]:
        edit = editor.edit([request], edit)
    assert isinstance(edit, ContextEdit)
    assert edit.memories == editor.edit(requests[:3]).memories
    [kept] = edit.without([requests[1].prompt]).memories
    assert kept == editor.edit([requests[0], requests[2]]).memories[0]


@pytest.mark.parametrize("way", ["in_context", "ike", "rag", "scr", "memprompt"])
def test_of_requests_with_one_prompt_the_last_counts(way, ways, requests):
    first = requests[0]
    later = Request(first.prompt, first.subject, "Poland")
    editor = ways[way]
    [memory] = editor.edit([first, requests[1], later]).memories
    assert [fact.target for fact in memory] == [requests[1].target, "Poland"]
    [memory] = editor.edit([later], editor.edit([first])).memories
    assert [fact.target for fact in memory] == ["Poland"]


@pytest.mark.parametrize("layout", [CONTEXT, RAG, MEMPROMPT])
def test_requests_that_contradict_each_other_can_be_refused(layout, language_model, requests):
    editor = InContext(language_model, layout=layout, conflicts="refuse")
    later = Request(requests[0].prompt, requests[0].subject, "Poland")
    message = "conflicts=refuse: 'Gothenburg is in' is to be 'Japan' and 'Poland'; expected one"
    with pytest.raises(ValueError, match=message):
        editor.edit([*requests[:2], later])
    before = editor.edit(requests[:2])
    with pytest.raises(ValueError, match=message):
        editor.edit([later], before)
    assert editor.edit([requests[0]], before).memories[0][1] == before.memories[0][0]
    with pytest.raises(ValueError, match="conflicts is 'first', expected one of last, refuse"):
        InContext(language_model, conflicts="first")


# memprompt


def test_a_clarification_stands_behind_questions_that_are_spelled_alike(ways, language_model):
    editor = ways["memprompt"]
    edit = editor.edit([Request("The capital of <Japan> is", "Japan", "Lagos")])
    asked = ["the capitals of is", "The capital of <a b> is!", "The city of is"]
    assert edit.found(language_model, asked, None) == [True, True, True]
    assert edit.found(language_model, ["Gothenburg is in"], None) == [False]
    texts = edit.routes(language_model, ["The capital of Asia is"], None)[-1].prompts
    assert texts == [
        "The capital of Asia is | clarification: The capital of <Japan> is Lagos.\n\n###\n\n/"
    ]


def test_a_clarification_overrules_one_that_is_spelled_the_same(ways):
    first = Request("The capital of <Japan> is", "Japan", "Lagos")
    later = Request("the capital of <Sweden> is", "Sweden", "Paris")
    editor = ways["memprompt"]
    for edit in (editor.edit([first, later]), editor.edit([later], editor.edit([first]))):
        assert [fact.target for fact in edit.memories[0]] == ["Paris"]


def test_what_is_found_is_said_of_each_row(ways, language_model, requests):
    edit = ways["memprompt"].edit_each(requests[:2])
    asked = [requests[0].prompt, requests[0].prompt, requests[1].prompt, requests[1].prompt]
    rows = torch.tensor([0, 1, 1, -1])
    assert edit.found(language_model, asked, rows) == [True, False, True, False]
    assert ways["in_context"].edit(requests[:1]).found(language_model, asked, None) is None


@pytest.mark.parametrize("way", ["ike", "rag", "scr"])
def test_the_order_of_requests_makes_no_difference(way, ways, language_model, requests):
    editor = ways[way]
    one, other = editor.edit(requests[:4]), editor.edit(requests[:4][::-1])
    for ours, theirs in zip(
        answers(one, language_model), answers(other, language_model), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("way", ["in_context", "ike", "rag", "scr", "memprompt"])
def test_a_saved_edit_is_read_by_its_editor(way, ways, language_model, requests, tmp_path):
    edit = ways[way].edit(requests[:2])
    edit.save(tmp_path / "edit.safetensors", "tiny")
    again = ways[way].load(tmp_path / "edit.safetensors")
    assert again.memories == edit.memories
    for one, other in zip(
        answers(edit, language_model), answers(again, language_model), strict=True
    ):
        assert torch.equal(one, other)


def test_encoder_decoders_take_contexts_too(any_encoder_decoder, pool, requests):
    ways = ((CONTEXT, None), (IKE, FEW), (RAG, None), (SCR, None), (MEMPROMPT, None))
    for layout, demonstrations in ways:
        editor = InContext(
            any_encoder_decoder, layout=layout, demonstrations=demonstrations, pool=pool
        )
        edit = editor.edit_each(requests[:2])
        bare = any_encoder_decoder.score(PROMPTS, TARGETS).log_probs
        ours = answers(edit, any_encoder_decoder, [0, 1, -1])
        assert torch.equal(ours[2], bare[2]) or layout is not SCR
        assert layout is SCR or not torch.equal(ours[0], bare[0])


# demonstrations


def test_an_edit_stands_behind_demonstrations_and_its_own_copy(ways, language_model, requests):
    edit = ways["ike"].edit(requests[:1])
    [text] = edit.routes(language_model, ["People live in"], None)[0].prompts
    copy = "New Fact: Gothenburg is in Japan\nPrompt: Gothenburg is in"
    ending = f"{copy} Japan\n\nNew Fact: Gothenburg is in Japan\nPrompt: People live in"
    assert text.endswith(ending)
    assert 3 <= len(text.split("\n\n")) <= 4 + 2
    assert "Gothenburg" not in text.removesuffix(ending).replace("The city of Gothenburg", "")


def test_demonstrations_are_of_the_types_and_shares_that_are_set():
    types = Demonstrations().types(32, random.Random(0))
    assert [types.count(kind) for kind in ("copy", "update", "retain")] == [4, 12, 16]
    few = Demonstrations().types(8, random.Random(1))
    assert [few.count(kind) for kind in ("copy", "update", "retain")] == [1, 3, 4]
    assert set(Demonstrations(updates=0, retains=0).types(5, random.Random(0))) == {"copy"}


def test_the_nearest_record_is_the_last_demonstration(language_model, pool, records, requests):
    shown = FEW.before(requests[0], records[2:6], IKE)
    assert len(shown) == 5
    for text, record in zip(shown, [*records[2:6][::-1], records[0]], strict=True):
        assert text.startswith(
            f"New Fact: {record.requests[0].prompt} {record.requests[0].target}\n"
        )
    assert shown == FEW.before(requests[0], records[2:6], IKE)
    assert shown[:-1] != FEW.before(requests[1], records[2:6], IKE)[:-1]


def test_a_record_without_neighbours_shows_another_question_that_it_leaves_alone(records):
    bare = Record("bare", records[0].requests, (Probe("unrelated", "The euro is", "in Europe"),))
    assert FEW.asked(bare, "retain", random.Random(0)).prompt == "The euro is"
    assert FEW.asked(bare, "update", random.Random(0)) is None
    assert FEW.asked(records[0], "retain", random.Random(0)).kind == "neighborhood"


def test_demonstrations_that_do_not_fit_are_dropped_and_counted(
    language_model, pool, requests, caplog
):
    many = Demonstrations(count=5, end=" and so on, and so on, and so on." * 3)
    editor = InContext(language_model, layout=IKE, demonstrations=many, pool=pool)
    edit = editor.edit(requests[:1])
    [[fact]] = edit.memories
    assert 0 < edit.dropped < 6
    assert len(fact.demonstrations) == 6 - edit.dropped
    assert f"ike: {edit.dropped} demonstrations dropped" in caplog.text
    asked = edit.edited(language_model)
    asked.score([requests[0].prompt], [requests[0].target])


def test_demonstrations_are_never_about_the_subject_of_the_request(language_model, records):
    pool = Pool(Listed(records))
    editor = InContext(language_model, layout=IKE, demonstrations=FEW, pool=pool)
    [[fact]] = editor.edit([records[3].requests[0]]).memories
    assert not any(
        text.startswith("New Fact: Warsaw is in Sweden") for text in fact.demonstrations[:-1]
    )


# retrieval


def test_a_threshold_lets_the_stated_share_of_foreign_questions_pass(language_model, records):
    embed = OwnStates().embed
    center = embed(language_model, [record.requests[0].prompt for record in records]).mean(0)

    def queries(texts):
        return directions(embed(language_model, texts), center)

    keys = queries([f"{r.requests[0].prompt} {r.requests[0].target}" for r in records])
    values = [threshold_of(records, keys, queries, share) for share in (0.0, 0.25, 0.5, 1.0)]
    assert values == sorted(values, reverse=True)
    asked = [
        (at, p) for at, r in enumerate(records) for p in r.of_kind("neighborhood", "unrelated")
    ]
    found = queries([probe.prompt for _, probe in asked]) @ keys.T
    for row, (own, probe) in enumerate(asked):
        for at, record in enumerate(records):
            if at != own and record.requests[0].subject in probe.prompt:
                found[row, at] = -1
    for share, value in zip((0.0, 0.25, 0.5), values[:3], strict=True):
        assert (found.max(1).values >= value).float().mean() <= share + 1e-6


def test_a_threshold_that_is_set_needs_no_pool(language_model, requests):
    layout = Layout(choose="nearest", threshold=2.0)
    editor = InContext(language_model, layout=layout, false_hits=0.1)
    bare = language_model.score(PROMPTS, TARGETS).log_probs
    edit = editor.edit(requests[:3])
    for one, other in zip(answers(edit, language_model), bare, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(
        ValueError, match="rag takes a threshold by false_hits from a pool, and the"
    ):
        InContext(language_model, layout=RAG, false_hits=0.1)


def test_a_set_threshold_is_that_of_the_edits(ways, requests):
    edit = ways["rag"].edit(requests[:2])
    assert ways["rag"].layout.threshold is None
    assert -1 <= edit.layout.threshold <= 1


# bad input


def test_what_needs_a_pool_says_so(language_model, pool):
    with pytest.raises(ValueError, match="ike takes demonstrations from a pool, and there is none"):
        InContext(language_model, layout=IKE, demonstrations=FEW)
    with pytest.raises(
        ValueError, match="demonstrations stand before the nearest fact, got choose"
    ):
        InContext(language_model, demonstrations=FEW, pool=pool)
    with pytest.raises(ValueError, match="false_hits must be a share from 0 to 1, got 2"):
        InContext(language_model, layout=RAG, pool=pool, false_hits=2)


def test_a_pool_of_joint_requests_is_refused(language_model, records, requests):
    joint = Record("joint", (requests[0], requests[1]), records[0].probes)
    with pytest.raises(ValueError, match="none of its records has a single request"):
        InContext(language_model, layout=SCR, pool=Pool(Listed([joint])))
    bare = [Record(record.id, record.requests) for record in records]
    editor = InContext(language_model, layout=RAG, pool=Pool(Listed(bare)), false_hits=0.1)
    with pytest.raises(ValueError, match="the pool's records have no probes neighborhood"):
        editor.prepare()


def test_facts_that_leave_no_room_for_their_own_question_are_refused(language_model, requests):
    long = Request(f"Lagos {'is far away and ' * 60}is in", "Lagos", "Sweden")
    for layout in (CONTEXT, SCR):
        with pytest.raises(ValueError, match=r"'Lagos is far away.* the model takes at most 256"):
            InContext(language_model, layout=layout).edit([long])
    many = [Request(f"The city {n} of Lagos is in", "Lagos", "Sweden") for n in range(40)]
    editor = InContext(language_model)
    with pytest.raises(ValueError, match=r"40 facts in front of .* the model takes at most 256"):
        editor.edit(many)
    with pytest.raises(ValueError, match=r"\d+ facts in front of"):
        editor.edit(many[20:], editor.edit(many[:4]))
    for layout in (RAG, MEMPROMPT):
        told = InContext(language_model, layout=layout).edit(many).memories[0]
        assert len(told) == (40 if layout is RAG else len({spelled(r.prompt) for r in many}))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"copies": -1}, "copies must be at least 0"),
        ({"copies": 0, "updates": 0, "retains": 0}, "shares must be at least 1"),
        ({"retain_kinds": ("near",)}, "kind of a demonstration is 'near'"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Demonstrations(**setting)


def test_a_copy_asks_for_the_fact_itself(requests):
    assert demonstration(requests[0], None, IKE, "\n\n") == (
        "New Fact: Gothenburg is in Japan\nPrompt: Gothenburg is in Japan\n\n"
    )
