"""SERAC's edits, and its training under Lightning."""

import csv
import random

import numpy as np
import pytest
import torch
from small_editors import built
from transformers import BertConfig, BertModel, BertTokenizerFast

from datamodules.records import Probe, Record, Request
from editors.checkpoints import belongs_to, load_trained
from editors.memory.examples import HardNegatives, examples
from editors.memory.serac import Serac
from editors.memory.training import SeracTraining
from edits.routing import RoutedEdit
from models import LanguageModel

SMALL = {"encoder_blocks": 1, "pooling": "mean", "lr": 1e-3, "counterfactual_lr": 1e-3}


@pytest.fixture(scope="module")
def editor(language_model):
    return built(Serac, language_model, **SMALL).eval()


@pytest.fixture
def fitted(language_model, records, trainer, data):
    """``fitted(steps, **settings)``: a Serac that was trained for some steps, and its trainer."""

    def fit(steps=2, **settings):
        editor = built(Serac, language_model, **{**SMALL, **settings})
        fitting = trainer(max_steps=steps, num_sanity_val_steps=0)
        fitting.fit(editor, data(records))
        return editor, fitting

    return fit


def asked(records):
    return [p.prompt for r in records for p in r.questions], [
        p.target for r in records for p in r.questions
    ]


def scores(edit, language_model, questions, rows=None):
    return edit.edited(language_model).score(*questions, rows=rows)


def assert_same_answers(ours, theirs):
    for one, other in zip(ours.log_probs, theirs.log_probs, strict=True):
        assert torch.equal(one, other)


# edits


def test_the_request_itself_is_in_scope_before_any_training(editor, requests):
    edit = editor.edit(requests)
    scope = edit.scope([request.prompt for request in requests], [0] * len(requests))
    assert [entry.target for entry in scope] == [request.target for request in requests]


def test_together_or_one_after_another_in_any_order(editor, requests, records, language_model):
    questions = asked(records)
    together = scores(editor.edit(requests), language_model, questions)
    for seed in range(3):
        order = random.Random(seed).sample(requests, len(requests))
        edit = None
        for request in order:
            edit = editor.edit([request], after=edit)
        assert_same_answers(scores(edit, language_model, questions), together)
        assert_same_answers(scores(editor.edit(order), language_model, questions), together)


def test_independent_edits_are_those_made_alone(editor, requests, records, language_model):
    edit = editor.edit_each(requests)
    prompts, targets = asked(records)
    rows = [n for n, record in enumerate(records) for _ in record.questions]
    together = scores(edit, language_model, (prompts, targets), rows)
    for n, request in enumerate(requests):
        own = [at for at, row in enumerate(rows) if row == n]
        alone = scores(
            editor.edit([request]),
            language_model,
            ([prompts[i] for i in own], [targets[i] for i in own]),
        )
        for at, log_probs in zip(own, alone.log_probs, strict=True):
            torch.testing.assert_close(log_probs, together.log_probs[at], rtol=0, atol=1e-5)


def test_a_new_target_for_one_prompt_takes_the_old_one_s_place(editor, requests):
    first = editor.edit(requests[:2])
    again = Request(requests[0].prompt, requests[0].subject, "Asia")
    edit = editor.edit([again], after=first)
    assert [e.target for e in edit.caches[0]] == [requests[1].target, "Asia"]


def test_remembered_embeddings_are_those_computed_anew(editor, requests):
    edit = editor.edit(requests[2:], after=editor.edit(requests[:2]))
    torch.testing.assert_close(edit.embedded, editor.models.keys(edit.caches[0]))


def test_an_edit_is_saved_and_loaded_with_its_editor(editor, requests, language_model, tmp_path):
    edit = editor.edit(requests)
    edit.save(tmp_path / "edit.safetensors", language_model.name)
    loaded = editor.load(tmp_path / "edit.safetensors")
    questions = asked([Record("0", (requests[0],))])
    assert_same_answers(
        scores(loaded, language_model, questions), scores(edit, language_model, questions)
    )
    other = built(Serac, language_model, **SMALL, template="{target} {prompt} {question}")
    with pytest.raises(ValueError, match="made with models of fingerprint"):
        other.load(tmp_path / "edit.safetensors")


def test_it_goes_on_from_its_own_edits_only(editor, requests, language_model):
    other = built(Serac, language_model, **SMALL).edit(requests[:1])
    with pytest.raises(ValueError, match="after: serac goes on from its own edits only"):
        editor.edit(requests, after=other)


def test_cross_attention_reads_every_pair(language_model, requests, records):
    editor = built(
        Serac, language_model, **SMALL | {"classifier": "cross_attention", "pooling": "last"}
    )
    edit = editor.edit(requests)
    assert edit.embedded.shape == (len(requests), 0)
    prompts = [record.questions[1].prompt for record in records]
    similarity = editor.models.log_similarity(
        prompts, editor.models.queries(prompts), edit.caches[0], edit.embedded
    )
    assert similarity.shape == (len(prompts), len(requests))
    assert len(edit.scope(prompts, [0] * len(prompts))) == len(prompts)


# training


def test_training_moves_both_models_and_leaves_the_language_model(fitted, language_model, tmp_path):
    before = LanguageModel(language_model.model, language_model.tokenizer).fingerprint
    start = built(Serac, language_model, **SMALL).state_dict()
    editor, _ = fitted()
    for part in ("models.scope", "models.counterfactual"):
        moved = [
            not torch.equal(value, start[name])
            for name, value in editor.state_dict().items()
            if name.startswith(part)
        ]
        assert any(moved)
    assert LanguageModel(language_model.model, language_model.tokenizer).fingerprint == before
    assert not any(p.requires_grad or p.grad is not None for p in language_model.parameters())
    with open(tmp_path / "log0" / "metrics.csv", encoding="utf-8") as file:
        names = set().union(*csv.DictReader(file))
    assert {"train/classifier_loss", "train/classifier_accuracy", "train/counterfactual_loss"} <= (
        names
    )
    assert {f"val/{n}" for n in ("reliability", "generalization", "neighborhood", "score")} <= names


def test_it_learns_the_scope_of_these_records(fitted, records):
    editor, _ = fitted(40, positives=2, all_negatives=True, negative_weight=5.0, hard_skipped=0)
    edit = editor.edit([record.requests[0] for record in records])
    for kind, expected in (("generalization", True), ("unrelated", False)):
        probes = [p.prompt for record in records for p in record.of_kind(kind)]
        inside = [entry is not None for entry in edit.scope(probes, [0] * len(probes))]
        assert np.mean([one == expected for one in inside]) > 0.8


@pytest.mark.parametrize(
    ("part", "other"), [("classifier", "counterfactual"), ("counterfactual", "classifier")]
)
def test_one_of_the_two_is_trained_after_the_other(part, other, fitted, tmp_path, language_model):
    first, fitting = fitted(train=part)
    names = {"classifier": "models.scope", "counterfactual": "models.counterfactual"}
    start = built(Serac, language_model, **SMALL).state_dict()
    for name, value in first.state_dict().items():
        if name.startswith(names[other]):
            assert torch.equal(value, start[name]), name
    fitting.save_checkpoint(tmp_path / "one.ckpt")
    second, _ = fitted(train=other, start=str(tmp_path / "one.ckpt"))
    for name, value in second.state_dict().items():
        if name.startswith(names[part]):
            assert torch.equal(value, first.state_dict()[name]), name


def test_a_checkpoint_holds_the_editor_and_finds_its_model(
    fitted, tiny, requests, language_model, tmp_path
):
    editor, fitting = fitted(train="classifier")
    path = tmp_path / "serac.ckpt"
    fitting.save_checkpoint(path)
    held = torch.load(path, weights_only=True)
    assert not any(name.startswith("language_model.") for name in held["state_dict"])
    assert belongs_to(path) == ("serac", language_model.fingerprint)
    loaded = load_trained(Serac, language_model, path)
    assert loaded.models.fingerprint == editor.models.fingerprint
    assert isinstance(loaded.edit(requests), RoutedEdit)
    with pytest.raises(ValueError, match="holds 'serac' for the model with fingerprint"):
        load_trained(Serac, tiny("gpt2", seed=1), path)
    with pytest.raises(ValueError, match="holds 'serac' for the model with fingerprint"):
        built(Serac, tiny("gpt2", seed=1), **SMALL, start=str(path))


def test_a_step_without_a_finite_gradient_is_left_out(language_model, records, trainer, data):
    editor = built(Serac, language_model, **SMALL)
    with torch.no_grad():
        next(editor.models.scope.parameters())[:] = torch.inf
    with pytest.raises(FloatingPointError, match="not finite in 2 steps in a row"):
        editor.training_settings = SeracTraining(max_skipped=2)
        trainer(max_steps=4, num_sanity_val_steps=0, limit_val_batches=0).fit(
            editor, data(records, 2)
        )
    assert editor.skipped_steps == 2


# what is drawn


def test_questions_in_and_out_of_scope(language_model, records):
    settings = SeracTraining(
        positives=2, negative_kinds=["unrelated", "neighborhood"], hard_share=1.0
    )
    hard = HardNegatives(language_model, records, settings)
    drawn = examples(records, settings, hard, np.random.default_rng(0))
    kinds = [probe.kind for probe in drawn.probes]
    assert kinds[: drawn.inside] == ["reliability", "generalization"] * 7
    assert drawn.positives.tolist() == [[at, at // 2] for at in range(14)]
    assert [drawn.record[at] for at, _ in drawn.negatives.tolist()] == [
        n for _, n in drawn.negatives.tolist()
    ]
    assert len(drawn.negatives) == 7 * 3
    assert sorted(drawn.record[at] for at in drawn.draw_inside(1, np.random.default_rng(0))) == [
        *range(7)
    ]


@pytest.fixture
def pair(records):
    """A record of two requests, with a paraphrase of the second one and a probe out of scope."""
    first, second = records[0], records[1]
    probes = (*second.of_kind("generalization"), *second.of_kind("unrelated")[:1])
    return Record("pair", first.requests + second.requests, probes)


def test_each_question_is_about_one_of_several_requests(language_model, records, pair):
    settings = SeracTraining(positives=3, hard_share=1.0)
    hard = HardNegatives(language_model, records, settings)
    drawn = examples([records[2], pair], settings, hard, np.random.default_rng(0))
    assert drawn.request == (0, 0, 1, 2, 2)  # the paraphrase stays with its subject
    assert drawn.record == (0, 0, 1, 1, 1, 0, 1, 0, 1)
    outside = [(5, 0), (6, 1), (6, 2), (7, 0), (8, 1), (8, 2)]
    assert [tuple(row) for row in drawn.negatives.tolist()] == outside
    subjects = pair.subjects
    assert not any(subject in drawn.probes[8].prompt.casefold() for subject in subjects)


def test_records_of_several_requests_train_it(language_model, records, pair, trainer, data):
    editor = built(Serac, language_model, **SMALL, all_negatives=True, hard_share=1.0)
    fitting = trainer(max_steps=2, num_sanity_val_steps=0)
    fitting.fit(editor, data([*records[2:], pair], 3))
    assert fitting.global_step == 2
    assert editor.skipped_steps == 0


def test_no_request_is_told_apart_from_a_question_about_its_subject(language_model, records):
    settings = SeracTraining(positives=2, all_negatives=True, hard_share=1.0)
    twice = [*records, *records[:2]]
    hard = HardNegatives(language_model, twice, settings)
    drawn = examples(twice, settings, hard, np.random.default_rng(0))
    assert len(drawn.negatives) > 100
    for at, n in drawn.negatives.tolist():
        subject = twice[n].requests[0].subject
        own = twice[drawn.record[at]].requests[0].subject
        if drawn.record[at] != n:
            assert subject not in drawn.probes[at].prompt
            assert at >= drawn.inside or subject != own


def test_hard_negatives_are_drawn_by_likeness(language_model, records):
    settings = SeracTraining(hard_skipped=1, hard_among=4, hard_temperature=0.5)
    hard = HardNegatives(language_model, records, settings)
    prompts = [record.requests[0].prompt for record in records]
    states = []
    for prompt in prompts:
        states.append(language_model.hidden(language_model.encode([prompt], None))[0].mean(0))
    states = torch.stack(states) - torch.stack(states).mean(0)
    cosines = torch.nn.functional.cosine_similarity(states[0], states[1:], dim=1)
    order = cosines.argsort(descending=True)[1:5]
    expected = (cosines[order] / 0.5).softmax(0)
    generator = np.random.default_rng(0)
    drawn = [hard.draw(records[:1], generator)[0].prompt for _ in range(2000)]
    shares = torch.tensor([drawn.count(prompts[1 + n]) / 2000 for n in order.tolist()])
    assert shares.sum() == pytest.approx(1)
    assert (shares - expected).abs().max() < 0.05


def test_a_pool_that_mentions_the_subject_everywhere_gives_none(language_model):
    requests = [Request("Lagos is in", "Lagos", "Asia"), Request("Rome and Lagos", "Rome", "Asia")]
    records = [Record(str(n), (request,)) for n, request in enumerate(requests)]
    hard = HardNegatives(language_model, records, SeracTraining(hard_share=1.0))
    first, second = hard.draw(records, np.random.default_rng(0))
    assert first is None
    assert second == Probe("unrelated", "Lagos is in", "Asia")
    drawn = examples(records, SeracTraining(hard_share=1.0), hard, np.random.default_rng(0))
    assert [drawn.probes[at].prompt for at, _ in drawn.negatives.tolist()] == ["Lagos is in"]


# what cannot be


def test_records_of_one_subject_are_not_enough(language_model, records, trainer, data):
    with pytest.raises(ValueError, match="are about 1 subject; SERAC needs 2"):
        trainer(max_steps=1, num_sanity_val_steps=0).fit(
            built(Serac, language_model, **SMALL), data(records[:1])
        )


def bert(folder, tokenizer):
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=12,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def word_pieces(folder):
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lagos", "is", "in", "tokyo"]
    (folder / "vocab.txt").write_text("\n".join(words))
    return BertTokenizerFast(str(folder / "vocab.txt"))


@pytest.mark.parametrize("pooling", ["first", "pooler", "mean"])
def test_an_encoder_of_hugging_face(pooling, language_model, requests, tmp_path):
    encoder = bert(tmp_path / "bert", word_pieces(tmp_path / "words"))
    editor = Serac(language_model, encoder=encoder, pooling=pooling, key="prompt_and_target")
    edit = editor.edit(requests)
    assert edit.embedded.shape == (7, 16)
    pooler = [name for name, _ in editor.named_parameters() if ".pooler." in name]
    assert bool(pooler) == (pooling == "pooler")
    assert editor.models.scope.text(edit.caches[0][0], "[SEP]") == "Gothenburg is in[SEP]Japan[SEP]"
    with pytest.raises(ValueError, match=r"the encoder '.*bert' takes at most 12"):
        edit.scope(["Lagos is in " * 5], [0])


def test_an_encoder_without_a_separator(language_model, tokenizer, tmp_path):
    encoder = bert(tmp_path / "bert", tokenizer)
    Serac(language_model, encoder=encoder)
    for settings in ({"key": "prompt_and_target"}, {"classifier": "cross_attention"}):
        with pytest.raises(ValueError, match=r"the tokenizer of '.*bert' has no separator"):
            Serac(language_model, encoder=encoder, **settings)
        Serac(language_model, encoder=encoder, separator="\n", **settings)


def test_a_counterfactual_model_of_hugging_face_shares_the_vocabulary(
    tiny, language_model, requests, tmp_path
):
    other = tiny("gpt2", seed=3)
    other.save(tmp_path / "other")
    editor = built(Serac, language_model, **SMALL, counterfactual=str(tmp_path / "other"))
    assert editor.models.counterfactual.fingerprint == other.fingerprint
    assert len(editor.edit(requests)) == 1
    other.model.save_pretrained(tmp_path / "foreign")
    foreign = LanguageModel.load(str(tmp_path / "other")).tokenizer
    foreign.add_tokens(["foreign"])
    model = tiny("gpt2", seed=3, vocab_size=len(foreign)).model
    model.save_pretrained(tmp_path / "foreign")
    foreign.save_pretrained(tmp_path / "foreign")
    with pytest.raises(ValueError, match=r"'.*foreign' has another vocabulary \(\d+ tokens\)"):
        built(Serac, language_model, **SMALL, counterfactual=str(tmp_path / "foreign"))


def test_a_request_that_leaves_no_room_for_a_question(editor):
    long = Request("Lagos is in " * 60 + "the", "Lagos", "Asia")
    with pytest.raises(ValueError, match=r"in front of a question makes .* takes at most 256"):
        editor.edit([long])


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"train": "all"}, "train is 'all', expected one of both, classifier"),
        ({"positive_kinds": ["unrelated"]}, "positive_kinds is 'unrelated'"),
        ({"negative_kinds": ["reliability"]}, "negative_kinds is 'reliability'"),
        ({"hard_share": 1.5}, "hard_share must be a share from 0 to 1, got 1.5"),
        ({"positives": 0}, "positives must be at least 1, got 0"),
        ({"classifier": "none"}, "classifier is 'none', expected one of embedding"),
        ({"pooling": "max"}, "pooling is 'max', expected one of first"),
        ({"key": "target"}, "key is 'target', expected one of prompt"),
        ({"encoder_blocks": 4}, "encoder_blocks must be from 1 to 3, got 4"),
        ({"template": "{prompt} {question}"}, r"expected \{prompt\} and \{target\} once each"),
    ],
)
def test_a_setting_that_is_none_is_named(settings, what, language_model):
    with pytest.raises(ValueError, match=what):
        built(Serac, language_model, **settings)


def test_an_encoder_that_is_not_there(language_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no encoder"):
        Serac(language_model, encoder=str(tmp_path / "gone"))
