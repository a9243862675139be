"""CPU time of asking, editing and training on SmolLM2, and how near to matrix products it comes.

    python benchmarks/smollm2.py                       # every part
    python benchmarks/smollm2.py asking rome --records 25 --counterfact counterfact_val.json

Records are those whose fact the model knows. For each part: CPU seconds of one thread, the
operations done (2 for a multiplication and an addition, counted by PyTorch in a second run), their
rate, and its share of what this machine makes of 512 x 576 x 1536 products. Machines differ:
compare only what one machine has printed.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from datamodules.atlas.data import AtlasData
from datamodules.atlas.text import corpus
from datamodules.counterfact import CounterFactData
from datamodules.records import Record, requests_of
from editors.editor import Editor
from editors.finetune import FineTune
from editors.locate_then_edit.alphaedit import AlphaEdit
from editors.locate_then_edit.memit import Memit
from editors.locate_then_edit.rome import Rome
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.statistics.moments import Moments
from editors.meta_learning.mend import Mend
from editors.meta_learning.training import HypernetworkTraining
from edits.updates import LowRank
from edits.weights import WeightEdit
from models.language_model import LanguageModel
from models.smollm2 import language_model as smollm2
from scoring.known import known
from scoring.questions import Questions

MOMENTS = Moments(corpus(500), cache_folder=".cache/moments")  # enough to be timed with
FIVE = Contexts(lengths=((10, 5),))  # and the bare prompt: six
BLOCK = 11


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--records", type=int, default=25)
    parser.add_argument("--counterfact", type=Path, help="its file; default: Atlas")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--count", action="store_true", help="operations too, by a second run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = CounterFactData(test=given.counterfact) if given.counterfact else AtlasData()
    model = smollm2(dtype=given.dtype)
    records = known(data.ordered("test"), model, given.records)
    bound = rate(getattr(torch, given.dtype))
    print(f"{len(records)} records of {data.name}, {given.dtype}, {bound:.0f} GFLOP/s", flush=True)
    for name in given.parts or PARTS:
        PARTS[name](Bench(model, records, bound, given.count))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def rate(dtype: torch.dtype, seconds: float = 1.0) -> float:
    """GFLOP/s of products of the model's size."""
    x, weight = torch.randn(512, 576, dtype=dtype), torch.randn(1536, 576, dtype=dtype)
    count, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        linear(x, weight)
        count += 1
    return 2 * x.numel() * len(weight) * count / (time.process_time() - started) / 1e9


class Bench:
    """The model, the records, and how a piece of work is timed."""

    def __init__(self, model: LanguageModel, records: Sequence[Record], bound: float, count: bool):
        self.model, self.records, self.bound, self.count = model, records, bound, count

    def timed(self, name: str, per: int, work: Callable[[], object]) -> None:
        started = time.process_time()
        work()
        seconds = time.process_time() - started
        line = f"{name}: {1000 * seconds / per:.1f} ms of CPU, {per} times"
        if self.count:
            with FlopCounterMode(display=False) as counter:
                work()
            done = counter.get_total_flops() / 1e9
            line += f", {done / per:.1f} GFLOP each, {done / seconds:.0f} GFLOP/s, "
            line += f"{done / seconds / self.bound:.0%} of the bound"
        print(line, flush=True)

    def edits(self, name: str, editor: Editor) -> None:
        """One of many, then each alone."""
        requests = requests_of(self.records)
        editor.edit_each(requests[:1])  # prepares
        self.timed(f"{name}, one of many", len(requests), lambda: editor.edit_each(requests))
        some = requests[:4]
        self.timed(f"{name}, alone", len(some), lambda: [editor.edit([r]) for r in some])


def asking(bench: Bench) -> None:
    """Probes that have a contrast, teacher-forced, each by the edit of its record."""
    layer = bench.model.layer("mlp_out", BLOCK)
    d_in, d_out = bench.model.shape(layer)
    count = len(bench.records)
    update = LowRank(1e-4 * torch.randn(count, d_in, 1), torch.randn(count, 1, d_out))
    edited = WeightEdit({layer: update}, "random", bench.model.fingerprint).edited(bench.model)
    questions = Questions(bench.records, generate=())
    questions.ask(edited, each=True)  # tokenises
    work = lambda: questions.ask(edited, each=True)  # noqa: E731
    bench.timed("asking, a prompt", len(questions.probes), work)


def generating(bench: Bench) -> None:
    """The same probes answered freely."""
    prompts = [probe.prompt for record in bench.records for probe in record.questions]
    work = lambda: bench.model.generate(prompts, max_new_tokens=16)  # noqa: E731
    bench.timed("16 free tokens, a prompt", len(prompts), work)


def rome(bench: Bench) -> None:
    bench.edits("ROME", Rome(bench.model, layer=BLOCK, contexts=FIVE, moments=MOMENTS))


def memit(bench: Bench) -> None:
    bench.edits("MEMIT", Memit(bench.model, contexts=FIVE, moments=MOMENTS))


def alphaedit(bench: Bench) -> None:
    bench.edits("AlphaEdit", AlphaEdit(bench.model, contexts=FIVE, moments=MOMENTS))


def ft_m(bench: Bench) -> None:
    layer = bench.model.layer("mlp_out", 20)
    bench.edits("FT-M", FineTune(bench.model, layers=[layer]))


def mend(bench: Bench) -> None:
    """Steps of training without the optimiser's: the objective and its gradient."""
    editor = Mend(bench.model, rank=256, training=HypernetworkTraining(statistics_edits=16))
    editor.log_dict = lambda values: None  # there is no trainer
    editor._log_step = lambda *values: None
    editor.collect(requests_of(bench.records)[:16])

    def step() -> None:
        editor.training_step(bench.records, 0).backward()

    step()
    bench.timed("MEND, an example of a step", len(bench.records), step)


PARTS = {part.__name__: part for part in (asking, generating, rome, memit, alphaedit, ft_m, mend)}

if __name__ == "__main__":
    main()
