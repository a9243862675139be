"""Bad files: whatever this project reads, cut, changed, with other entries, shapes and numbers."""

import json
import pickle
import random
import re

import lightning as L
import pytest
import torch
from hostile import some
from safetensors import safe_open
from safetensors.torch import save_file

from datamodules.text import TextCorpus
from editors.checkpoints import load_trained
from editors.locate_then_edit.statistics.moments import Moments
from editors.meta_learning.mend import Mend
from edits import storage
from edits.codebook import Codebook
from edits.context import ContextEdit
from edits.deferral import Rule, Table
from edits.journal import Journal
from edits.layout import Fact, Layout
from edits.loading import load
from edits.neurons import NeuronEdit, Neurons, Patched
from edits.retrieval import OwnStates
from edits.routing import Entry, RoutedEdit
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit
from evaluation.folder import RunFolder
from files.tensors import DIGEST

WRONG = [None, True, 3, -1, 0.5, "nonsense", [], [1], {}, {"a": 1}, [[["a"]]]]
"""JSON values to put where others are."""
FEW, MANY = 25, 400
"""Changes of bytes of each file, in the quick part and in all."""


class Models:
    """What routed edits are read with."""

    fingerprint, counterfactual = "models", None

    def keys(self, entries):
        return torch.zeros(len(entries), 4)


def edits_of(lm):
    """An edit of each kind of the model."""
    name, model = lm.layer("mlp_out", 1), lm.fingerprint
    into = lm.layer("mlp_in", 1)
    d_in, d_out = lm.shape(name)
    low = WeightEdit(
        {name: LowRank(torch.randn(2, d_in, 3), torch.randn(2, 3, d_out))},
        "rome",
        model,
        {name: torch.randn(2, 4, d_in)},
    )
    whole = Dense(torch.randn(1, d_in, d_out), torch.randn(1, d_out))
    dense = WeightEdit({name: whole}, "ft", model)
    journal = Journal.of(low.select(0)).plus(low.select(1)).ended()
    queries, values = torch.randn(3, d_in), torch.randn(3, d_out)
    table = Table.empty(Rule(), queries, values)
    table = table.grown(["a", "b", "c"], [(1,), (2,), (3,)], queries).table(values)
    width = lm.shape(into)[0]
    neurons = Neurons(torch.randn(1, 2, width), torch.randn(1, 2), torch.randn(1, 2, d_out), "gelu")
    return {
        "low-rank weights": low,
        "whole weights": dense,
        "journal": journal,
        "codebook": Codebook((table, table), name, "last", "grace", model),
        "neurons": NeuronEdit(neurons, into, name, "tpatcher", model, ((Patched("a", "b", 2),),)),
        "context": ContextEdit(
            ((Fact("Lagos is in", "Sweden", ("a", "b"), 1),), (Fact("a", "b"),)),
            torch.randn(2, d_out),
            torch.randn(d_out),
            Layout(choose="nearest"),
            OwnStates(),
            "ike",
            model,
        ),
        "routed": RoutedEdit(
            ((Entry("a", "b"),), (Entry("c", "d"), Entry("e", "f"))),
            torch.randn(3, 4),
            Models(),
            "serac",
            model,
        ),
    }


def content(edit):
    """What an edit is, to be compared."""
    header, tensors = edit.state()
    return json.dumps(header), {n: (t.dtype, t.tolist()) for n, t in tensors.items()}


def bytes_changed(whole, count, seed):
    """The bytes of a file, cut, or with some of them changed, added or left out."""
    rng = random.Random(seed)
    head = min(len(whole), 2000)  # where the structure is
    for number in range(count):
        at = rng.randrange(head if number % 2 else len(whole))
        new = bytes(rng.randrange(256) for _ in range(rng.choice((1, 1, 1, 8))))
        yield from (
            (f"cut at {at}", whole[:at]),
            (f"byte {at}", whole[:at] + new + whole[at + len(new) :]),
            (f"more at {at}", whole[:at] + new + whole[at:]),
            (f"less at {at}", whole[:at] + whole[at + len(new) :]),
        )


def values_changed(value, at="header"):
    """A JSON value with one of its parts missing, added, or of another kind."""
    if isinstance(value, dict):
        for key in value:
            rest = {k: v for k, v in value.items() if k != key}
            yield f"{at} without {key}", rest
            for where, part in values_changed(value[key], f"{at}.{key}"):
                yield where, {**value, key: part}
        yield f"{at} with more", {**value, "more": 1}
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield f"{at} without [{n}]", value[:n] + value[n + 1 :]
            for where, part in values_changed(item, f"{at}[{n}]"):
                yield where, [*value[:n], part, *value[n + 1 :]]
    for wrong in WRONG:
        if wrong != value or type(wrong) is not type(value):
            yield f"{at}={wrong!r}", wrong


def tensors_changed(tensors):
    """Tensors with one missing, added, broken, or of another shape or type."""
    for name, tensor in tensors.items():
        others = {n: t for n, t in tensors.items() if n != name}
        yield f"without {name}", others
        yield f"{name} twice", {**tensors, f"{name}x": tensor.clone()}
        if not tensor.ndim:
            continue
        values = [("NaN", torch.nan), ("inf", torch.inf)] if tensor.is_floating_point() else []
        for what, value in values:
            broken = tensor.clone()
            broken.view(-1)[:1] = value
            yield f"{name} {what}", {**others, name: broken}
        for what, new in (
            ("whole numbers", tensor.to(torch.int64)),
            ("flat", tensor.reshape(-1)),
            ("one axis more", tensor[None]),
            ("longer", torch.cat([tensor, tensor])),
            ("shorter", tensor[:-1]),
            ("narrower", tensor[..., :-1]),
            ("empty", tensor[:0]),
        ):
            if new.shape != tensor.shape or new.dtype != tensor.dtype:
                yield f"{name} {what}", {**others, name: new.contiguous()}


MAY_BE = re.compile(
    r".*='nonsense'|.*(radius|slack)=(3|0\.5)|.*labels\[\d\]\[\d\]=3|.*labels\[\d\]=\[1\]"
    r"|.*memories\[0\]\[0\]\[2\].*|.*memories\[\d\]\[\d\]\[2\]=\[\]|.*layout\.(k|room|distance)=3"
    r"|.*ends without.*|.*ends=\[(1)?\]|.*requests(\[0\])?( without \[0\]|=\[\])"
    r"|without .*\.(past_keys|bias)|.*layout\.threshold=.*|.*memories\[\d\]\[\d\]\[3\]=3"
)
"""Other values that an edit may have: another edit, and no damage."""


def of_edits(lm, tally, tmp_path, count):
    for number, (kind, edit) in enumerate(edits_of(lm).items()):
        path = tmp_path / "edit"
        edit.save(path, "base")
        whole, right = path.read_bytes(), content(edit)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118

        def read(path=path):
            return content(load(path, lm, Models()))

        if kind == "context":

            def read(path=path):
                return content(load(path, lm))

        assert read() == right
        for what, data in bytes_changed(whole, count, number):
            path.write_bytes(data)
            tally.case(f"{kind}, {what}", read, right)
        header = json.loads(metadata[storage.HEADER])
        for what, value in values_changed(header):
            if MAY_BE.fullmatch(what):
                continue
            save_file(tensors, path, {storage.HEADER: json.dumps(value)})
            tally.case(f"{kind}, {what}", read, right)
        for what, new in tensors_changed(tensors):
            if MAY_BE.fullmatch(what):
                continue
            save_file(new, path, {storage.HEADER: metadata[storage.HEADER]})
            tally.case(f"{kind}, {what}", read)
        path.unlink()


def test_edits(language_model, tally, tmp_path):
    of_edits(language_model, tally("edits"), tmp_path, FEW)


@pytest.mark.slow
def test_more_edits(language_model, tally, tmp_path):
    of_edits(language_model, tally("edits, more bytes"), tmp_path, MANY)


@pytest.fixture(scope="module")
def mend(language_model):
    return Mend(language_model, layers=[language_model.layer("mlp_out", 1)], rank=4)


def learned(editor):
    """What a trained editor is, to be compared."""
    return editor.identity()


def of_folders(mend, lm, tally, tmp_path, count):
    folder = tmp_path / "mend"
    mend.save_pretrained(folder)
    weights, config = folder / "model.safetensors", folder / "config.json"

    def read():
        return learned(load_trained(Mend, lm, folder))

    right = read()
    for path, seed in ((weights, 0), (config, 1)):
        whole = path.read_bytes()
        for what, data in bytes_changed(whole, count, seed):
            path.write_bytes(data)
            if path is config and _same_but_numbers(whole, data):
                continue  # another setting of the same kind is no damage that can be seen
            tally.case(f"{path.name}, {what}", read, right)
        path.write_bytes(whole)
    settings = json.loads(config.read_bytes())
    for what, value in values_changed(settings):
        config.write_text(json.dumps(value))
        if not _settable(what):
            tally.case(f"config.json, {what}", read, right)
    config.write_text(json.dumps(settings))
    with safe_open(weights, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    for what, new in tensors_changed(tensors):
        save_file(new, weights, {"format": "pt"})
        tally.case(f"weights, {what}", read)


def _same_but_numbers(whole, data):
    try:
        one, other = json.loads(whole), json.loads(data)
    except ValueError:
        return False
    return (
        one.keys() == other.keys()
        and one["language_model"].keys() == other["language_model"].keys()
    )


def _settable(what):
    """Whether it is a setting of the editor, with another value that it may have."""
    return what.startswith("header.settings.") or what.startswith("header.language_model.name")


def of_checkpoints(mend, lm, tally, tmp_path, count, share):
    path = tmp_path / "run/checkpoints/best.ckpt"
    path.parent.mkdir(parents=True)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.strategy.connect(mend)
    trainer.save_checkpoint(path, weights_only=True)

    def read():
        return learned(load_trained(Mend, lm, path))

    whole, right = path.read_bytes(), read()
    for what, data in bytes_changed(whole, count, 2):
        path.write_bytes(data)
        tally.case(f"checkpoint, {what}", read, right)
    path.write_bytes(whole)
    held = torch.load(path, weights_only=True)
    keys = ("state_dict", "hyper_parameters", "editor", "language_model")
    for key in keys:
        for what, value in some(list(_parts_changed(held[key], key)), share):
            torch.save({**held, key: value}, path)
            tally.case(f"checkpoint, {what}", read, right)
        torch.save({k: v for k, v in held.items() if k != key}, path)
        tally.case(f"checkpoint without {key}", read)
    torch.save({**held, "more": Trap(str(tally.trap))}, path)
    tally.case("checkpoint with code", read)
    path.write_bytes(pickle.dumps(Trap(str(tally.trap))))
    tally.case("a pickle", read)


def _parts_changed(value, key):
    if key == "state_dict":
        yield from tensors_changed(value)
        return
    for what, new in values_changed(value, key):
        free = what.startswith("language_model.name") or "seed" in what
        if not free and not (key == "hyper_parameters" and _may_be(what)):
            yield what, new


def _may_be(what):
    """A setting that can have this value, of whatever use."""
    if "locality_kinds without [" in what:
        return True
    return what.endswith(("=3", "=0.5", "=True", "=None", "=[]", "=-1", "='nonsense'"))


class Trap:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore:.*You are using.*:UserWarning")
def test_trained_editors(mend, language_model, tally, tmp_path):
    of_folders(mend, language_model, tally("folders of editors"), tmp_path, FEW)
    of_checkpoints(mend, language_model, tally("checkpoints"), tmp_path, FEW // 3, 0.1)


@pytest.mark.slow
def test_more_trained_editors(mend, language_model, tally, tmp_path):
    of_folders(mend, language_model, tally("folders of editors, more"), tmp_path, MANY)
    of_checkpoints(mend, language_model, tally("checkpoints, more"), tmp_path, MANY // 2, 1.0)


def of_moments(lm, tally, tmp_path, count):
    layer = lm.layer("mlp_out", 0)
    moments = Moments(TextCorpus(["Lagos is in Nigeria.", "Tokyo is in Japan."]), tmp_path / "kept")

    def read():
        moment = moments.of(lm, [layer])[layer]
        return moment.count, moment.total.tolist()

    right = read()
    (path,) = (tmp_path / "kept").glob("*.safetensors")
    whole = path.read_bytes()
    for what, data in bytes_changed(whole, count, 3):
        path.write_bytes(data)
        tally.case(f"moments, {what}", read, right)
    path.write_bytes(whole)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {"total": file.get_tensor("total").clone()}
    del metadata[DIGEST]
    for what, new in tensors_changed(tensors):
        if "twice" not in what:
            save_file(new, path, metadata)
            tally.case(f"moments, {what}", read)
    lopsided = tensors["total"].clone()
    lopsided[0, 1] += 1
    save_file({"total": lopsided}, path, metadata)
    tally.case("moments, lopsided", read)
    for name in metadata:
        for value in ("", "x", "-1", "0", "1.5"):
            save_file(tensors, path, {**metadata, name: value})
            tally.case(f"moments, {name}={value}", read, right)


def test_moments(language_model, tally, tmp_path):
    of_moments(language_model, tally("second moments"), tmp_path, FEW)


@pytest.mark.slow
def test_more_moments(language_model, tally, tmp_path):
    of_moments(language_model, tally("second moments, more"), tmp_path, MANY)


def of_runs(tally, tmp_path, count):
    """Of answers and costs a change means that they are done again, which is right, too."""
    identity = {"data": "d", "editors": {"mend": {"lr": 0.1}}, "origins": {"mend": "somewhere"}}
    folder = RunFolder(tmp_path)
    folder.claim(identity)
    lines = [{"record": str(n), "answer": "é", "exact_match": float(n)} for n in range(4)]
    folder.add("mend", 0, lines, {"edits": 1, "failures": []})
    answers, costs = tmp_path / "answers/mend/000000.jsonl", tmp_path / "costs/mend/000000.json"

    def read():
        folder.claim(identity)
        read = folder.editors, folder.origins, list(folder.lines("mend")), folder.costs("mend")
        return right if read == missing and not answers.exists() else read

    missing = ["mend"], identity["origins"], [], []
    right = None
    right = read()
    for path, seed in ((answers, 4), (costs, 5), (tmp_path / "run.json", 6)):
        whole = path.read_bytes()
        kept = answers.read_bytes()
        for what, data in bytes_changed(whole, count, seed):
            answers.write_bytes(kept)
            path.write_bytes(data)
            if path.name != "run.json" or not _only_origins(data, identity):
                tally.case(f"{path.name}, {what}", read, right)
        path.write_bytes(whole)
        answers.write_bytes(kept)
    for what, value in values_changed(json.loads((tmp_path / "run.json").read_bytes())):
        (tmp_path / "run.json").write_text(json.dumps(value))
        if not _only_origins(json.dumps(value).encode(), identity):
            tally.case(f"run.json, {what}", read, right)


def _only_origins(data, identity):
    """Whether what a run goes by is as it was: where editors come from may change."""
    try:
        run = json.loads(data)
    except ValueError:
        return False
    return isinstance(run, dict) and {**run, "origins": 0} == {**identity, "origins": 0}


def test_runs(tally, tmp_path):
    of_runs(tally("folders of runs"), tmp_path, FEW)


@pytest.mark.slow
def test_more_runs(tally, tmp_path):
    of_runs(tally("folders of runs, more"), tmp_path, MANY)
