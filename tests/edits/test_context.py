"""Edits in context: what stands in front of which question, what is added, removed and saved."""

from dataclasses import dataclass, replace

import pytest
import torch

from edits import storage
from edits.context import ContextEdit
from edits.layout import Fact, Layout
from edits.loading import load
from edits.retrieval import OwnStates, directions
from models.rendering import Rendering

FACTS = [Fact("Lagos is in", "Sweden"), Fact("Tokyo is in", "Poland"), Fact("Paris is in", "Asia")]
PROMPTS = ["Lagos is in", "People of Tokyo live in", "Paris is in", "The euro is", "Lagos lies in"]
TARGETS = ["Sweden", "Poland", "Asia", "German", "Nigeria"]
ALL, NEAREST = Layout(), Layout(choose="nearest")


@dataclass(frozen=True)
class ByCity:
    """Texts lie in the direction of the city that they name; the others in one of their own."""

    name: str = "by city"
    cities: tuple[str, ...] = ("Lagos", "Tokyo", "Paris")
    directions: int = 4

    def width(self, language_model):
        return self.directions

    def embed(self, language_model, texts):
        rows = [[float(city in text) for city in self.cities] for text in texts]
        rows = torch.tensor(rows).reshape(-1, len(self.cities))
        other = (rows.sum(1, keepdim=True) == 0).float()
        return torch.nn.functional.pad(torch.cat([rows, other], 1), (0, self.directions - 4))


def made(language_model, memories, layout=ALL, retriever=None):
    """An edit of these memories, as an editor makes it."""
    retriever = retriever or ByCity()
    facts = [fact for memory in memories for fact in memory]
    embedded, center = torch.zeros(len(facts), 0), torch.zeros(0)
    if layout.retrieves:
        center = torch.zeros(retriever.width(language_model))
        found = retriever.embed(language_model, [layout.compared(fact) for fact in facts])
        embedded = directions(found.reshape(-1, len(center)), center)
    memories = tuple(map(tuple, memories))
    owner = language_model.fingerprint
    return ContextEdit(memories, embedded, center, layout, retriever, "rag", owner)


def assert_same(ours, theirs, rows=range(5)):
    for row in rows:
        assert torch.equal(ours.log_probs[row], theirs.log_probs[row])
        assert torch.equal(ours.predicted[row], theirs.predicted[row])


def differ(ours, theirs, row):
    return not torch.equal(ours.log_probs[row], theirs.log_probs[row])


LAYOUTS = [
    ALL,
    NEAREST,
    Layout(choose="nearest", k=2, threshold=0.5),
    Layout(choose="model", k=2),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.choose)
def test_an_empty_memory_is_the_model_itself(layout, language_model):
    for edit in (
        made(language_model, [[]], layout),
        made(language_model, [FACTS], layout).without([fact.prompt for fact in FACTS]),
    ):
        edited = edit.edited(language_model)
        assert_same(edited.score(PROMPTS, TARGETS), language_model.score(PROMPTS, TARGETS))
        assert edited.generate(PROMPTS) == language_model.generate(PROMPTS)


def test_all_facts_stand_in_front_of_every_question(language_model):
    edited = made(language_model, [FACTS]).edited(language_model)
    told = (
        "New fact: Lagos is in Sweden. New fact: Tokyo is in Poland. New fact: Paris is in Asia. "
    )
    texts = [f"{told}Prompt: {prompt}" for prompt in PROMPTS]
    assert_same(edited.score(PROMPTS, TARGETS), language_model.score(texts, TARGETS))
    assert edited.generate(PROMPTS) == language_model.generate(texts)


def test_other_strings_can_be_put_around_them(language_model):
    layout = Layout(fact="{prompt} {target}; ", frame="Mind that {facts}and go on: {question}")
    edited = made(language_model, [FACTS[:1]], layout).edited(language_model)
    texts = [f"Mind that Lagos is in Sweden; and go on: {prompt}" for prompt in PROMPTS]
    assert_same(edited.score(PROMPTS, TARGETS), language_model.score(texts, TARGETS))


def test_in_a_chat_the_facts_are_part_of_the_user_s_message(tiny):
    model = tiny("llama")
    model.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    try:
        chat = model.rendered(Rendering(render="chat"))
        edited = made(model, [FACTS[:1]]).edited(chat)
        text = "[user] New fact: Lagos is in Sweden. Prompt: The euro is\n[assistant] "
        chatted = edited.score(["The euro is"], ["German"])
        assert_same(chatted, chat.score([text[7:-13]], ["German"]), [0])
        ids = chat.encode([text[7:-13]], None).input_ids
        assert model.tokenizer.decode(ids[0], skip_special_tokens=True) == text
    finally:
        model.tokenizer.chat_template = None


def test_each_row_sees_its_own_memory_and_minus_one_none(language_model):
    edited = made(language_model, [[fact] for fact in FACTS]).edited(language_model)
    rows = [0, 1, 2, -1, 0]
    together = edited.score(PROMPTS, TARGETS, rows=rows)
    bare = language_model.score(PROMPTS, TARGETS)
    assert_same(together, bare, [3])
    for at in (0, 1, 2, 4):
        fact = FACTS[rows[at]]
        text = f"New fact: {fact.prompt} {fact.target}. Prompt: {PROMPTS[at]}"
        alone = language_model.score([text], [TARGETS[at]])
        assert torch.allclose(together.log_probs[at], alone.log_probs[0], atol=1e-5)
        assert differ(together, bare, at)
    assert edited.generate(PROMPTS, rows=[-1] * 5) == language_model.generate(PROMPTS)


def test_the_nearest_facts_stand_in_front_the_most_similar_last(language_model):
    edit = made(language_model, [FACTS], Layout(choose="nearest", k=2))
    [shown] = edit.chosen(language_model, ["Tokyo and Paris, but first of all Tokyo"], [0])
    assert {fact.prompt for fact in shown} == {"Tokyo is in", "Paris is in"}
    [[*_, last]] = edit.chosen(language_model, ["People of Tokyo live in"], [0])
    assert last == FACTS[1]


def test_facts_may_be_near_whose_subject_the_question_mentions(language_model):
    shape = Layout(choose="nearest", among="mentioned", k=2)
    facts = [replace(f, subject=f.prompt.split()[0]) for f in FACTS]
    told = [*facts, Fact("New Lagos is in", "Rome", subject="New Lagos")]
    edit = made(language_model, [told, told[1:2]], shape)
    asked = ["Where is Lagos?", "the new  LAGOS, is in", "Lagosians like", "Tokyo, not Paris, is"]
    shown = [set(facts) for facts in edit.chosen(language_model, asked, [0] * 4)]
    assert shown == [{told[0]}, {told[0], told[3]}, set(), {told[1], told[2]}]
    assert edit.found(language_model, asked, torch.tensor([1, 1, -1, 1])) == [False] * 3 + [True]
    bare = language_model.score(asked[2:3], ["fish"])
    assert_same(edit.edited(language_model).score(asked[2:3], ["fish"], rows=[0]), bare, [0])
    with pytest.raises(ValueError, match="among=mentioned: the fact 'Lagos is in' has no subject"):
        made(language_model, [FACTS], shape)


def test_questions_below_the_threshold_are_answered_by_the_model_to_the_bit(language_model):
    edit = made(language_model, [FACTS], Layout(choose="nearest", threshold=0.5))
    shown = edit.chosen(language_model, PROMPTS, [0] * 5)
    assert [len(facts) for facts in shown] == [1, 1, 1, 0, 1]
    ours = edit.edited(language_model).score(PROMPTS, TARGETS)
    bare = language_model.score(PROMPTS, TARGETS)
    assert_same(ours, bare, [3])
    assert all(differ(ours, bare, row) for row in (0, 1, 2, 4))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_facts_of_a_memory_are_found_in_whichever_order_they_were_told(k, language_model):
    layout = Layout(choose="nearest", k=k)
    ours = made(language_model, [FACTS], layout)
    theirs = made(language_model, [FACTS[::-1]], layout)
    rows = [0] * 5
    assert ours.chosen(language_model, PROMPTS, rows) == theirs.chosen(
        language_model, PROMPTS, rows
    )


# what the model itself chooses


def test_the_model_s_choice_is_the_letter_it_finds_most_probable(language_model):
    layout = Layout(choose="model", k=3)
    edit = made(language_model, [FACTS], layout)
    near = made(language_model, [FACTS], Layout(choose="nearest", k=3))
    shown = edit.chosen(language_model, PROMPTS, [0] * 5)
    for facts, prompt, own in zip(
        shown, PROMPTS, near.chosen(language_model, PROMPTS, [0] * 5), strict=True
    ):
        offered = own[::-1]
        ballot = layout.asked(offered, prompt)
        assert ballot.startswith("A. ") and f"Question: {prompt}\n" in ballot
        values = language_model.score([ballot] * 4, ["A", "B", "C", "Z"]).log_probs
        best = max(range(4), key=lambda at: float(values[at].sum()))
        assert facts == (() if best == 3 else (offered[best],))


class Voting:
    """A language model that answers a ballot by a letter of its own, and is otherwise itself."""

    form = None

    def __init__(self, language_model, letter):
        self.language_model, self.letter = language_model, letter

    def __getattr__(self, name):
        return getattr(self.language_model, name)

    def score(self, prompts, targets, **options):
        scores = self.language_model.score(prompts, targets, **options)
        ballots = [prompt.endswith("Answer:") for prompt in prompts]
        votes = [
            torch.tensor([0.0 if target == self.letter else -9.0]) if ballot else value
            for ballot, target, value in zip(ballots, targets, scores.log_probs, strict=True)
        ]
        return replace(scores, log_probs=votes)


def test_a_vote_for_none_leaves_the_answer_to_the_bit_and_another_puts_its_fact_in_front(
    language_model,
):
    edit = made(language_model, [FACTS], Layout(choose="model", k=2))
    bare = language_model.score(PROMPTS, TARGETS)
    none = edit.edited(Voting(language_model, "Z")).score(PROMPTS, TARGETS)
    assert_same(none, bare)
    nearest = made(language_model, [FACTS], NEAREST).edited(language_model)
    first = edit.edited(Voting(language_model, "A")).score(PROMPTS, TARGETS)
    assert_same(first, nearest.score(PROMPTS, TARGETS))


# what does not fit


def test_what_does_not_fit_is_left_out_from_the_front(language_model):
    filler = tuple(f"Example {n}: " + "of many words " * 5 for n in range(30))
    told = replace(FACTS[0], demonstrations=filler)
    edit = made(language_model, [[told]], replace(NEAREST, room=40))
    [text] = edit.routes(language_model, ["Lagos lies in"], None)[0].prompts
    [length] = language_model.lengths([text], None, more=40)
    shown = text.count("Example ")
    assert length <= language_model.max_length
    assert 0 < shown < 30
    assert text == "".join(filler[30 - shown :]) + NEAREST.framed([told], "Lagos lies in")
    longer = "".join(filler[29 - shown :]) + NEAREST.framed([told], "Lagos lies in")
    assert language_model.lengths([longer], None, more=40) > [language_model.max_length]


def test_the_oldest_of_too_many_facts_are_left_out_and_one_stays(language_model):
    facts = [Fact(f"The city number {n} is in the country of", "Sweden") for n in range(60)]
    edit = made(language_model, [facts])
    [text] = edit.routes(language_model, ["Lagos is in"], None)[0].prompts
    shown = text.count("New fact: ")
    assert 1 < shown < 60
    assert text == ALL.framed(facts[60 - shown :], "Lagos is in")
    long = Fact("a long story " * 150, "Sweden")
    with pytest.raises(ValueError, match="the model takes at most 256"):
        made(language_model, [[long]]).edited(language_model).score(["Lagos is in"], ["Sweden"])


# several edits


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.choose)
def test_of_facts_with_one_prompt_the_last_counts(layout, language_model):
    old, new = (made(language_model, [[Fact("Lagos is in", t)]], layout) for t in ("Asia", "Rome"))
    assert old.plus(new).memories == ((Fact("Lagos is in", "Rome"),),)
    ours = old.plus(new).edited(language_model).score(PROMPTS, TARGETS)
    assert_same(ours, new.edited(language_model).score(PROMPTS, TARGETS))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.choose)
def test_a_fact_that_is_taken_out_was_never_there(layout, language_model):
    edit = made(language_model, [FACTS], layout)
    ours = edit.without(["Tokyo is in"])
    never = made(language_model, [[FACTS[0], FACTS[2]]], layout)
    assert ours.memories == never.memories
    assert torch.equal(ours.embedded, never.embedded)
    assert_same(*(e.edited(language_model).score(PROMPTS, TARGETS) for e in (ours, never)))
    again = ours.plus(made(language_model, [[FACTS[1]]], layout))
    assert set(again.memories[0]) == set(FACTS)


def test_edits_are_chosen_in_any_order(language_model):
    edit = made(language_model, [[FACTS[0]], FACTS[1:], []], NEAREST)
    chosen = edit.select([1, 0])
    assert chosen.memories == (edit.memories[1], edit.memories[0])
    assert torch.equal(chosen.embedded, edit.embedded[[1, 2, 0]])
    assert edit.select(2).memories == ((),)
    assert len(edit.select([])) == 0


def test_what_cannot_be_is_refused(language_model, tiny, tmp_path):
    edit = made(language_model, [FACTS], NEAREST)
    with pytest.raises(ValueError, match="no fact of the edit has the prompt 'Rome'"):
        edit.without(["Rome"])
    with pytest.raises(ValueError, match="goes on from edits of the same settings"):
        edit.plus(made(language_model, [FACTS], ALL))
    with pytest.raises(ValueError, match="of the same pool"):
        edit.plus(replace(edit, center=edit.center + 1))
    several = made(language_model, [[fact] for fact in FACTS])
    with pytest.raises(ValueError, match="only a single edit can be taken from, got 3"):
        several.without(["Lagos is in"])
    with pytest.raises(ValueError, match="only a single edit can be added to, got 3"):
        several.plus(several)
    with pytest.raises(ValueError, match="an edit of rag changes no weights, so it cannot be mer"):
        edit.merge(language_model, tmp_path / "merged")
    with pytest.raises(ValueError, match="changes no weights, so it cannot be exported"):
        edit.export(language_model, tmp_path / "adapter")
    with pytest.raises(ValueError, match="belongs to the model with fingerprint"):
        edit.edited(tiny("gpt2", seed=1))
    with pytest.raises(ValueError, match="facts and embeddings are not one to one"):
        replace(edit, embedded=edit.embedded[:2])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"choose": "some"}, "choose is 'some', expected one of all, nearest, model"),
        ({"among": "some"}, "among is 'some', expected one of all, mentioned"),
        ({"key": "target"}, "key is 'target', expected one of sentence, prompt"),
        ({"k": 0}, "k must be from 1 to"),
        ({"choose": "model", "k": 26}, "k must be from 1 to 25, got 26"),
        ({"room": 0}, "room must be at least 1, got 0"),
        ({"fact": "{prompt}"}, "fact: expected {target} in it once, got '{prompt}'"),
        ({"fact": "{prompt} {target} {x}"}, "fact: expected no braces but those of prompt, tar"),
        ({"plain": "plainly"}, "plain: expected {question} in it once, got 'plainly'"),
        ({"distance": 0}, "distance must be at least 1, got 0"),
        ({"ballot": "{options} {question}"}, "ballot: expected {none} in it once"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(setting, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("}", r"\}")):
        Layout(**setting)


# files


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.choose)
def test_a_saved_edit_answers_the_same(layout, language_model, tmp_path):
    own = OwnStates()
    memory = [replace(FACTS[0], demonstrations=("An example. ",), dropped=3), *FACTS[1:]]
    edit = made(language_model, [memory, FACTS[:1]], layout, own)
    edit.save(tmp_path / "edit.safetensors", "tiny")
    again = load(tmp_path / "edit.safetensors", language_model)
    assert again.memories == edit.memories
    assert again.layout == layout
    assert again.dropped == edit.dropped == 3
    rows = [0, 1, 0, -1, 1]
    assert_same(
        *(e.edited(language_model).score(PROMPTS, TARGETS, rows=rows) for e in (edit, again))
    )


def test_an_edit_is_read_with_the_retriever_that_it_was_made_with(language_model, tmp_path):
    path = tmp_path / "edit.safetensors"
    made(language_model, [FACTS], NEAREST).save(path)
    again = load(path, language_model, ByCity())
    assert again.memories == (tuple(FACTS),)
    with pytest.raises(ValueError, match="it is read by its editor's load"):
        load(path, language_model)
    with pytest.raises(ValueError, match="its retriever is 'by city', not 'other'"):
        load(path, language_model, ByCity("other"))
    with pytest.raises(ValueError, match=r"facts are embedded 4 wide, the retriever 'by city' emb"):
        load(path, language_model, ByCity(directions=7))


def test_a_damaged_file_is_refused(language_model, tmp_path):
    path = tmp_path / "edit.safetensors"
    edit = made(language_model, [FACTS], NEAREST, OwnStates())
    header, tensors = edit.state()
    owner = storage.Owner("context", "rag", language_model.fingerprint, "tiny")
    storage.write(path, owner, header, {**tensors, "embedded": tensors["embedded"][:2]})
    with pytest.raises(ValueError, match="facts and embeddings are not one to one"):
        load(path, language_model)
    storage.write(path, owner, {**header, "memories": [[["Lagos is in"]]]}, tensors)
    with pytest.raises(ValueError, match="an edit of rag"):
        load(path, language_model)
