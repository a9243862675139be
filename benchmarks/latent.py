"""CPU seconds of ROME's parts: the search for v*, whole edits with evaluation, second moments.

    python benchmarks/latent.py

Model: GPT-2 layout, random weights, 6 blocks of width 256, vocabulary 4,000, where the figures of
EasyEdit (14cea82) are known: one thread takes 3.31 s of CPU for an edit of ROME with statistics,
and 27 ms for each of the two calls that evaluate a record. Targets are random to the model, so that
no search ends early.

The search is set against a plain loop over the same requests: one edit at a time, whole texts, all
blocks, logits at every token. Second moments of all layers are set against one forward pass over
the text; both split it into tokens first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from datamodules.atlas.data import AtlasData
from datamodules.atlas.text import AtlasText, corpus
from datamodules.records import Record, Request, requests_of
from editors.locate_then_edit.rome import Rome
from editors.locate_then_edit.search.contexts import sample_contexts
from editors.locate_then_edit.search.latent import optimise
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.search.texts import _texts
from editors.locate_then_edit.statistics.moments import Moments, gathered
from edits.edit import NOTHING
from models.language_model import LanguageModel
from models.pretraining import blank
from scoring.questions import Questions

PEER = 3.31 + 2 * 0.027  # s of CPU per record: edit, and evaluation before and after it


def cpu(work: Callable[[], object]) -> tuple[float, object]:
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def plain(
    lm: LanguageModel,
    request: Request,
    contexts: tuple[str, ...],
    site: str,
    settings: Search,
) -> Tensor:
    """``v*`` of one request by whole forward passes."""
    batch, at = _texts(lm, [request], contexts)
    rows, delta = torch.arange(len(at)), None
    seen: list[Tensor] = []

    def shift(module, args, output):
        seen.append(output[0, at[0]].detach())
        return output if delta is None else output.index_put((rows, at), output[rows, at] + delta)

    hook = lm.module(site).register_forward_hook(shift)
    row, place = (batch.labels[:, 1:] != -100).nonzero(as_tuple=True)
    targets = batch.labels[row, place + 1]
    for step in range(settings.steps):
        logits = lm.model(batch.input_ids, attention_mask=batch.attention_mask).logits
        log_p = logits.log_softmax(-1)  # [m + 1, T, V]
        if step == 0:
            initial, reference = seen[0], log_p[-1, at[-1]].detach()
            delta = torch.zeros_like(initial).requires_grad_()
            adam = torch.optim.Adam([delta], lr=settings.lr)
            logits = lm.model(batch.input_ids, attention_mask=batch.attention_mask).logits
            log_p = logits.log_softmax(-1)
        nll = -log_p[row, place, targets].view(len(contexts), -1).mean()
        kept = log_p[-1, at[-1]]
        loss = nll + settings.kl_factor * (kept.exp() * (kept - reference)).sum()
        loss = loss + settings.weight_decay * delta.norm() / initial.norm() ** 2
        if step + 1 == settings.steps or loss < settings.stop_loss:
            break
        (delta.grad,) = torch.autograd.grad(loss, delta)
        adam.step()
        with torch.no_grad():
            delta *= (settings.clamp * initial.norm() / delta.norm()).clamp(max=1)
    hook.remove()
    return initial + delta.detach()


def search(lm: LanguageModel, requests: list[Request], plainly: int) -> None:
    settings, site = Search(), lm.layer("mlp_out", 2)
    contexts = sample_contexts(lm)
    ours, latent = cpu(lambda: optimise(lm, requests, contexts, [site], settings))
    loop, values = cpu(
        lambda: torch.stack([plain(lm, r, contexts, site, settings) for r in requests[:plainly]])
    )
    got = latent.value(site)[:plainly]
    ours, loop = ours / len(requests), loop / plainly
    apart = float(((got - values).norm(dim=1) / values.norm(dim=1)).max())
    print(f"v* of {len(requests)} edits, {len(contexts)} contexts: {ours:.3f} s an edit")
    print(
        f"plain loop over {plainly} of them: {loop:.3f} s an edit, {loop / ours:.1f} times as much"
    )
    print(f"largest relative difference of a value: {apart:.1g}")


def single(lm: LanguageModel, count: int, texts: int) -> None:
    records = AtlasData(limit=count).records("test")
    requests = requests_of(records)
    rome = Rome(lm, layer=2, moments=Moments(corpus(texts)))
    preparing, _ = cpu(rome.prepare)
    editing, edit = cpu(lambda: rome.edit_each(requests))
    print(
        f"ROME, {count} records: {editing / count:.3f} s an edit; statistics of {texts} texts, "
        f"{preparing / count:.3f} s a record"
    )
    for asked in ([three_prompts(record) for record in records], records):
        questions = Questions(asked, generate=(), max_new_tokens=1)
        asking, _ = cpu(
            lambda q=questions: (q.ask(NOTHING.edited(lm)), q.ask(edit.edited(lm), each=True))
        )
        total = (preparing + editing + asking) / count
        print(
            f"with {len(questions.probes) / count:.1f} probes a record before and after: "
            f"{total:.3f} s a record; EasyEdit with 3 prompts: {PEER:.3f} s, "
            f"{PEER / total:.1f} times as much"
        )


def three_prompts(record: Record) -> Record:
    """The record with what EasyEdit asks: the request, one paraphrase, one neighbour."""
    kinds = ("generalization", "neighborhood")
    first = [next((p for p in record.probes if p.kind == kind), None) for kind in kinds]
    return replace(record, probes=tuple(probe for probe in first if probe))


def moments(lm: LanguageModel, texts: int) -> None:
    layers = [lm.layer("mlp_out", block) for block in range(lm.blocks)]
    text = corpus(texts)

    @torch.no_grad()
    def forward():
        for ids, mask in text.token_batches(lm.tokenizer, 4096, lm.max_length):
            lm.model(ids, attention_mask=mask, use_cache=False)

    forward()
    passing = min(cpu(forward)[0] for _ in range(3))
    gathering = min(cpu(lambda: gathered(lm, layers, Moments(text)))[0] for _ in range(3))
    print(
        f"second moments of {len(layers)} layers, {texts} texts: {gathering:.2f} s, "
        f"{gathering / passing:.2f} times a forward pass"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=64)
    parser.add_argument("--plain", type=int, default=64, help="edits of the plain loop")
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--texts", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lm = blank(
        AtlasText(),
        vocabulary=4000,
        n_layer=6,
        n_embd=256,
        n_head=4,
        n_positions=256,
        activation_function="gelu_pytorch_tanh",
    )
    moments(lm, arguments.texts)
    requests = requests_of(AtlasData(limit=arguments.edits).records("test"))
    search(lm, requests, arguments.plain)
    single(lm, arguments.records, arguments.texts)


if __name__ == "__main__":
    main()
