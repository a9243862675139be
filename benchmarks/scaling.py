"""What an edit costs against how many are made, how long prompts are, and how wide the model is.

    python benchmarks/scaling.py                       # every axis
    python benchmarks/scaling.py width --widths 768 4096 --device cuda

Models are GPT-2 layouts of random weights with blocks of the widths of GPT-2 (768), GPT-2 XL
(1,600), GPT-J (4,096), OPT-13B (5,120) and GPT-NeoX-20B (6,144), three blocks deep unless
``--blocks`` says more: what an edit costs above a base of a few blocks grows with their number, and
so does memory. Widths that do not fit the memory are named and left out. Seconds are CPU seconds of
one thread, or of the clock on a GPU; memory is the most that an edit takes beside the model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from datamodules.atlas.data import AtlasData
from datamodules.atlas.text import AtlasText
from datamodules.records import Request, requests_of
from editors.additional_parameters.grace import Grace
from editors.editor import Editor
from editors.finetune import FineTune
from editors.locate_then_edit.rome import Rome
from editors.locate_then_edit.search.contexts import Contexts
from editors.lora import Lora
from editors.meta_learning.ultraedit import UltraEdit
from models.language_model import LanguageModel
from models.pretraining import blank

WIDTHS = {768: "GPT-2", 1600: "GPT-2 XL", 4096: "GPT-J", 5120: "OPT-13B", 6144: "GPT-NeoX-20B"}
EDITS, LENGTHS = (1, 10, 100), (16, 64, 256)
FIVE = Contexts(lengths=((10, 5),))
EDITORS: dict[str, Callable[[LanguageModel], Editor]] = {
    "ft_m": lambda lm: FineTune(lm, layers=[lm.layer("mlp_out", 1)]),
    "lora": lambda lm: Lora(lm, layers=[lm.layer("mlp_out", 1)]),
    "rome": lambda lm: Rome(lm, layer=1, contexts=FIVE, moments=None),  # C = I
    "ultraedit": lambda lm: UltraEdit(lm, layers=[lm.layer("mlp_out", 1)]),
    "grace": lambda lm: Grace(lm, layer=lm.layer("mlp_out", 1)),
}


def model(width: int, blocks: int, device: str) -> LanguageModel:
    """Random weights; 4 bytes for each of 12 widths squared a block."""
    shape = {"n_embd": width, "n_layer": blocks, "n_head": width // 64, "n_positions": 512}
    return blank(AtlasText(), vocabulary=1024, name=str(width), **shape).to(device)


def needed(width: int, blocks: int) -> int:
    """Bytes of weights, and as many again for what reads, edits and optimises them."""
    return 2 * 4 * blocks * 12 * width**2


def available() -> int:
    """Bytes of main memory that are free, where Linux says so."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])


def lengthened(request: Request, tokens: int, lm: LanguageModel) -> Request:
    """The request behind so much text that its prompt has about so many tokens."""
    (length,) = lm.lengths([request.prompt], None)
    opening = "It was late. "
    (each,) = lm.lengths([opening], None)
    times = max(0, tokens - length) // each
    return Request(opening * times + request.prompt, request.subject, request.target)


def measured(editor: Editor, requests: list[Request], device: str) -> tuple[float, float]:
    """Seconds an edit, and the most GiB that making them takes beside what there was."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    editor.edit_each(requests[:1])  # prepares
    if device == "cpu":
        before, started = resident(), clock()
        editor.edit_each(requests)
        return (clock() - started) / len(requests), max(0, peak() - before) / 2**30
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, started = torch.cuda.memory_allocated(), clock()
    editor.edit_each(requests)
    torch.cuda.synchronize()
    seconds = (clock() - started) / len(requests)
    return seconds, (torch.cuda.max_memory_allocated() - before) / 2**30


def resident() -> int:
    """Bytes of this process now; its peak is reset to them."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    """The most bytes of this process since `resident` was asked."""
    return status("VmHWM")


def status(name: str) -> int:
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


def table(title: str, rows: dict[str, tuple[LanguageModel, list[Request]]], device: str) -> None:
    """Prints an axis: a line for each of its places, seconds and GiB for each editor."""
    print(f"\n| {title} | " + " | ".join(f"{name}, s | GiB" for name in EDITORS) + " |")
    print("|---" * (1 + 2 * len(EDITORS)) + "|", flush=True)
    for place, (lm, requests) in rows.items():
        cells = [measured(make(lm), requests, device) for make in EDITORS.values()]
        line = " | ".join(f"{seconds:.3f} | {memory:.2f}" for seconds, memory in cells)
        print(f"| {place} | {line} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("axes", nargs="*", help="of edits, length, width; default: all")
    parser.add_argument("--widths", type=int, nargs="*", default=[*WIDTHS])
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--edits", type=int, default=4, help="of the axes length and width")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    axes, device = given.axes or ["edits", "length", "width"], given.device
    requests = requests_of(AtlasData().ordered("test")[: max(EDITS)])
    few = requests[: given.edits]
    small = model(768, given.blocks, device)
    if "edits" in axes:
        table("edits", {f"{n}": (small, requests[:n]) for n in EDITS}, device)
    if "length" in axes:
        rows = {f"{n}": (small, [lengthened(r, n, small) for r in few]) for n in LENGTHS}
        table("tokens of a prompt", rows, device)
    if "width" in axes:
        for width in given.widths:
            free = available() if device == "cpu" else torch.cuda.mem_get_info()[0]
            if needed(width, given.blocks) > free:
                print(f"width {width} left out: it takes about {needed(width, given.blocks):,} B")
                continue
            lm = model(width, given.blocks, device)
            table("width", {f"{width} ({WIDTHS.get(width, 'own')})": (lm, few)}, device)


if __name__ == "__main__":
    main()
