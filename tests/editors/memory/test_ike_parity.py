"""IKE against its authors' code: neighbours, demonstrations, losses."""

import json

import pytest
import torch
from golden import assert_close
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2LMHeadModel

from datamodules.records import Probe, Record, Request
from editors.memory.demonstrations import demonstration
from editors.memory.in_context import IKE
from edits.context import ContextEdit
from edits.layout import Fact
from edits.retrieval import OwnStates, directions, ranked
from models import LanguageModel

KINDS = (None, "generalization", "neighborhood")


@pytest.fixture(scope="module")
def case(golden):
    folder = golden / "memories"
    return json.loads((folder / "ike.json").read_text()), load_file(folder / "ike.safetensors")


@pytest.fixture(scope="module")
def records(case):
    return [record(fields) for fields in case[0]["records"]]


def record(fields):
    rewrite = fields["requested_rewrite"]
    new, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
    subject = rewrite["subject"]
    request = Request(rewrite["prompt"].format(subject), subject, new, true)
    probes = [Probe("generalization", prompt, new) for prompt in fields["paraphrase_prompts"]]
    probes += [Probe("neighborhood", prompt, true) for prompt in fields["neighborhood_prompts"]]
    return Record(str(fields["case_id"]), (request,), tuple(probes))


@pytest.fixture(scope="module")
def long_model(golden, case):
    """The small GPT-2, whose position vectors are repeated up to 2048."""
    folder, positions = golden / "other_editors" / "model", case[0]["settings"]["positions"]
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")
    weight = model.transformer.wpe.weight.data
    model.transformer.wpe = torch.nn.Embedding.from_pretrained(
        weight[torch.arange(positions) % len(weight)]
    )
    model.config.n_positions = positions
    for block in model.transformer.h:
        mask = torch.ones(positions, positions, dtype=torch.bool).tril()[None, None]
        if hasattr(block.attn, "bias"):
            block.attn.bias = mask
    return LanguageModel(model, AutoTokenizer.from_pretrained(folder), "golden")


def test_neighbours_are_ranked_alike(case):
    settings, tensors = case
    embedded = directions(tensors["inputs/embeddings"], torch.zeros(settings["settings"]["dim"]))
    tests = settings["settings"]["tests"]
    values, order = ranked(embedded[:tests], embedded[tests:], len(embedded) - tests)
    assert torch.equal(order, tensors["expected/neighbours"])
    assert_close(values, tensors["expected/similarities"], 1e-5)


@pytest.mark.parametrize("name", ["k_8", "k_32"])
@pytest.mark.parametrize("test", range(3))
def test_demonstrations_and_losses_are_theirs(name, test, case, records, long_model):
    settings, tensors = case
    wanted, first = settings["cases"][name][test], settings["settings"]["tests"]
    nearest = []
    for neighbour, kind, choice in zip(
        *(wanted[key] for key in ("neighbours", "types_nearest_first")),
        wanted["chosen_index_nearest_first"],
        strict=True,
    ):
        shown = records[first + neighbour]
        probe = shown.of_kind(KINDS[kind])[choice] if kind else None
        nearest.append(demonstration(shown.requests[0], probe, IKE, "\n\n"))
    request = records[test].requests[0]
    texts = (*nearest[::-1], demonstration(request, None, IKE, "\n\n"))
    assert list(texts) == wanted["demonstrations"]

    fact = Fact(request.prompt, request.target, texts)
    width = long_model.model.config.n_embd
    owner, zeros = long_model.fingerprint, torch.zeros(1, width)
    edit = ContextEdit(((fact,),), zeros, zeros[0], IKE, OwnStates(), "ike", owner)
    prompts = [q["text"].rpartition("Prompt: ")[2] for q in wanted["queries"]]
    [route] = edit.routes(long_model, prompts, None)
    assert route.prompts == ["".join(texts) + query["text"] for query in wanted["queries"]]
    rows = [
        (p, c) for p, q in zip(prompts, wanted["queries"], strict=True) for c in q["candidates"]
    ]
    scores = edit.edited(long_model).score(*map(list, zip(*rows, strict=True)))
    nll = torch.stack([-values.mean() for values in scores.log_probs]).reshape(-1, 2)
    assert_close(nll, tensors[f"expected/{name}/test_{test}/nll"], 1e-5)
    assert (
        long_model.lengths([route.prompts[0]] * 2, wanted["queries"][0]["candidates"])
        == wanted["queries"][0]["tokens"]
    )
