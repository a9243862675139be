import copy
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from samples import CORPUS
from scripts import ROOT

from datamodules.text import TextCorpus
from editors.locate_then_edit.statistics import moments
from editors.locate_then_edit.statistics.moment_files import Partial, SecondMoment, cache_path
from editors.locate_then_edit.statistics.moments import Moments
from files import tensors
from models import LanguageModel

TEXTS = [
    "Gothenburg is a city in Sweden.",
    "Paris",
    "The currency of Japan is the yen, and Tokyo is its capital.",
    "What is the mother tongue of Angela Merkel?",
]


def layers_of(lm):
    return [lm.layer("mlp_out", block) for block in range(lm.blocks)]


def direct(lm, layer, texts, skip=0):
    """Sum over texts, one by one and without padding, in float64."""
    total, count, keys = 0, 0, []
    hook = lm.module(layer).register_forward_hook(lambda module, args, output: keys.append(args[0]))
    for text in texts:
        lm.hidden(lm.encode([text], None))
        key = keys.pop().reshape(-1, lm.shape(layer)[0])[skip:].double()
        total, count = total + key.mT @ key, count + len(key)
    hook.remove()
    return total, count


def test_streaming_in_padded_batches_is_the_direct_sum(any_family):
    layers = layers_of(any_family)
    found = Moments(TextCorpus(TEXTS)).of(any_family, layers)
    for layer in layers:
        total, count = direct(any_family, layer, TEXTS)
        assert found[layer].count == count
        assert found[layer].total.dtype == torch.float64
        torch.testing.assert_close(found[layer].total, total, rtol=1e-4, atol=1e-4)


def test_float64_models_are_summed_in_float64_whatever_the_batches(language_model):
    lm = LanguageModel(copy.deepcopy(language_model.model).double(), language_model.tokenizer)
    layer = lm.layer("mlp_out", 1)
    total, _ = direct(lm, layer, TEXTS)
    for tokens in (1, 40, 4096):
        found = moments.gathered(lm, [layer], Moments(TextCorpus(TEXTS)), tokens)[layer]
        torch.testing.assert_close(found.total, total, rtol=1e-12, atol=1e-12)


def test_first_tokens_can_be_left_out(language_model):
    layer = language_model.layer("mlp_out", 1)
    moments = Moments(TextCorpus(TEXTS), include_first_token=False)
    found = moments.of(language_model, [layer])[layer]
    total, count = direct(language_model, layer, TEXTS, skip=1)
    assert found.count == count
    torch.testing.assert_close(found.total, total, rtol=1e-5, atol=1e-5)


def test_shards_add_up(language_model):
    layer = language_model.layer("mlp_out", 1)
    whole, one, other = (
        Moments(TextCorpus(texts)).of(language_model, [layer])[layer]
        for texts in (TEXTS, TEXTS[:1], TEXTS[1:])
    )
    assert (one + other).count == whole.count
    torch.testing.assert_close((one + other).mean, whole.mean, rtol=1e-6, atol=1e-6)


def test_long_texts_are_cut_and_the_limit_counts_texts(language_model):
    layer = language_model.layer("mlp_out", 0)
    moments = Moments(TextCorpus(TEXTS), max_length=3, limit=2)
    found = moments.of(language_model, [layer])[layer]
    lengths = [len(ids) for ids in language_model.tokenizer(TEXTS[:2])["input_ids"]]
    assert found.count == sum(min(length, 3) for length in lengths)


def test_tf32_and_autocast_do_not_reach_the_sums(language_model):
    layer = language_model.layer("mlp_out", 1)
    expected = Moments(TextCorpus(TEXTS)).of(language_model, [layer])[layer]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        found = Moments(TextCorpus(TEXTS)).of(language_model, [layer])[layer]
    assert torch.equal(found.total, expected.total)


def test_a_second_call_reads_the_file_and_only_missing_layers_are_gathered(
    language_model, tmp_path, monkeypatch
):
    layers, corpus, passes = layers_of(language_model), TextCorpus(TEXTS), []
    gathered = moments.gathered
    monkeypatch.setattr(
        moments,
        "gathered",
        lambda lm, layers, *rest, **more: (
            passes.append(layers) or gathered(lm, layers, *rest, **more)
        ),
    )
    cached = Moments(corpus, tmp_path)
    first = cached.of(language_model, layers[:1])
    both = cached.of(language_model, layers)
    again = cached.of(language_model, layers)
    assert passes == [layers[:1], layers[1:]]
    assert torch.equal(first[layers[0]].total, again[layers[0]].total)
    assert all(again[layer].count == both[layer].count for layer in layers)
    assert len(list(tmp_path.iterdir())) == len(layers)  # no temporary file left


@dataclass
class Named:
    texts: list
    fingerprint: str


def test_any_change_of_what_it_depends_on_is_another_file(language_model, tiny, tmp_path):
    layer, given = layers_of(language_model)[0], Moments(Named(TEXTS, "a"))
    other_tokenizer = copy.deepcopy(language_model.tokenizer)
    other_tokenizer.add_tokens(["Gothenburg"])
    big = tiny("gpt2", vocab_size=len(other_tokenizer))
    cases = [
        (language_model, layer, given),
        (tiny("gpt2", seed=1), layer, given),
        (big, layer, given),
        (LanguageModel(big.model, other_tokenizer), layer, given),
        (language_model, layers_of(language_model)[1], given),
        (language_model, layer, replace(given, corpus=Named(TEXTS, "b"))),
        (language_model, layer, replace(given, limit=2)),
        (language_model, layer, replace(given, max_length=8)),
        (language_model, layer, replace(given, include_first_token=False)),
    ]
    half = LanguageModel(copy.deepcopy(language_model.model).bfloat16(), language_model.tokenizer)
    cases.append((half, layer, given))
    paths = {cache_path(tmp_path, case.key(lm, name)) for lm, name, case in cases}
    assert len(paths) == len(cases)


def test_the_version_is_part_of_the_key_and_the_state_of_calls_is_not(
    language_model, tmp_path, monkeypatch
):
    case, given = (language_model, layers_of(language_model)[0]), Moments(Named(TEXTS, "a"))
    before = given.key(*case)
    language_model.tokenizer(TEXTS, padding=True, truncation=True, max_length=4)
    assert given.key(*case) == before
    monkeypatch.setattr(moments, "VERSION", 99)
    assert given.key(*case) != before


def test_a_lower_limit_of_the_model_is_what_the_key_holds(language_model):
    case, corpus = (language_model, layers_of(language_model)[0]), Named(TEXTS, "a")
    one, other = (Moments(corpus, max_length=length).key(*case) for length in (1024, 256))
    assert one == other


def test_a_file_of_something_else_is_refused(language_model, tmp_path):
    layer, given = layers_of(language_model)[0], Moments(TextCorpus(TEXTS), tmp_path)
    given.of(language_model, [layer])
    key = given.key(language_model, layer)
    path = cache_path(tmp_path, key)
    moments.write(path, SecondMoment(torch.eye(2), 1), {**key, "corpus": "other"})
    with pytest.raises(ValueError, match="holds the second moment of something else"):
        given.of(language_model, [layer])


def test_an_interrupted_write_leaves_nothing(language_model, tmp_path, monkeypatch):
    def interrupted(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(tensors, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Moments(TextCorpus(TEXTS), tmp_path).of(language_model, layers_of(language_model)[:1])
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_without_a_token_that_counts_is_refused(language_model):
    given = Moments(TextCorpus(["a"]), include_first_token=False)
    with pytest.raises(ValueError, match="no token that counts"):
        given.of(language_model, layers_of(language_model)[:1])


def test_a_corpus_is_needed():
    with pytest.raises(ValueError, match="second moments are taken of a corpus: give one"):
        Moments(None)


def test_the_key_is_plain_text(language_model):
    key = Moments(Named(TEXTS, "a")).key(language_model, layers_of(language_model)[0])
    assert json.loads(json.dumps(key)) == key


def test_too_few_tokens_for_a_layer_are_warned_of(language_model, caplog):
    layer = language_model.layer("mlp_out", 1)
    moment = Moments(TextCorpus(TEXTS)).of(language_model, [layer])[layer]
    with caplog.at_level(logging.WARNING):
        moments.warn_of_few_tokens(moment, layer)
        moments.warn_of_few_tokens(SecondMoment(torch.eye(64), 20 * 64), layer)
    [said] = caplog.messages
    assert f"{layer!r} is of {moment.count} tokens for 64 inputs; give a corpus of 1280" in said


# a pass that is interrupted, or shared


@pytest.mark.parametrize("killed_in", [0, 1, 2])
def test_a_pass_that_was_killed_goes_on_to_the_same_bits(
    language_model, tmp_path, monkeypatch, killed_in
):
    layers, corpus = layers_of(language_model), TextCorpus(TEXTS)
    straight = moments.gathered(language_model, layers, Moments(corpus), 20)
    partial = Partial(tmp_path, [{"model": "m", "layer": layer} for layer in layers], every=0.0)
    add_products, batches = moments.add_products, []

    def killed(*arguments):
        batches.append(arguments[1])
        if len(batches) == killed_in + 1:
            raise KeyboardInterrupt
        return add_products(*arguments)

    monkeypatch.setattr(moments, "add_products", killed)
    with pytest.raises(KeyboardInterrupt):
        moments.gathered(language_model, layers, Moments(corpus), 20, partial)
    assert partial.path.is_file() == (killed_in > 0)
    resumed = moments.gathered(language_model, layers, Moments(corpus), 20, partial)
    assert len(batches) == 4  # three, and the one in which it was killed
    for layer, moment in straight.items():
        assert resumed[layer].count == moment.count
        assert torch.equal(resumed[layer].total, moment.total)


def test_the_sums_so_far_are_another_file_for_anything_else_and_go_when_it_is_through(
    language_model, tmp_path, monkeypatch
):
    written = []
    write = Partial.write
    monkeypatch.setattr(
        Partial, "write", lambda self, *sums: written.append(self.path) or write(self, *sums)
    )
    monkeypatch.setattr(Partial.__init__, "__defaults__", (0, 1, 0.0))  # after every batch
    layers = layers_of(language_model)
    for corpus in (TextCorpus(TEXTS), TextCorpus(TEXTS[1:])):
        Moments(corpus, tmp_path).of(language_model, layers)
    assert len({*written}) == 2
    assert not [path for path in written if path.exists()]
    assert len(list(tmp_path.iterdir())) == 2 * len(layers)


def test_what_the_pass_will_take_is_said_before_it(language_model, caplog):
    layers = layers_of(language_model)
    with caplog.at_level(logging.INFO):
        found = Moments(TextCorpus(TEXTS)).of(language_model, layers)
    gib = len(layers) * 64 * 64 * 8 / 2**30
    count = found[layers[0]].count
    said = f"of 3 layers: 4 texts, {count} tokens in 1 batches here, {gib:.2g} GiB"
    assert said in caplog.text


def test_two_processes_share_the_corpus_and_have_the_sums_of_one(language_model, tmp_path):
    language_model.save(tmp_path / "model")
    script = Path(__file__).with_name("two_processes.py")
    path = os.pathsep.join([str(ROOT), str(script.parent), os.environ.get("PYTHONPATH", "")])
    running = [
        subprocess.Popen(
            [sys.executable, script, tmp_path / "model", tmp_path, str(rank)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    for one in running:
        said, _ = one.communicate(timeout=120)
        assert one.returncode == 0, said
    layers = layers_of(language_model)[:2]
    alone = moments.gathered(language_model, layers, Moments(CORPUS), 30)
    for rank in (0, 1):
        with safe_open(tmp_path / f"{rank}.safetensors", framework="pt") as file:
            for layer, moment in alone.items():
                assert file.metadata()[layer] == str(moment.count)
                for name, close in (("shared", 1e-12), ("cached", 1e-4)):  # other batches
                    total = file.get_tensor(f"{name} {layer}")
                    torch.testing.assert_close(total, moment.total, rtol=close, atol=close)
    left = [file.name for file in (tmp_path / "cache").iterdir()]
    assert len(left) == 2 and not any("unfinished" in name for name in left)
