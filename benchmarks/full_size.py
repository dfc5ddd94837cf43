"""Loading and running a checkpoint of the published size, beside transformers:
`python -m benchmarks.full_size runs/full_size` (made by `benchmarks.full_size_checkpoint`).

Every case runs in a process of its own: load the checkpoint (and optimize it for inference), read
the prompts, decode TOKENS ids of a guided 720x720 image with a KV cache for the whole of it, and
exit. Peak memory is the peak resident set of the process. For transformers that includes the pages
of its memory maps, which the system could reclaim, so anonymous memory is printed too.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.full_size_checkpoint import DECODER

TOKENS = 32
SIDE = 90  # codes of a 720x720 image
PROMPT = "a portrait of young girl. masterpiece, film grained, best quality."
NEGATIVE = "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit."
GB = 1e9


class Enough(Exception):
    """The number of tokens is reached."""


def memory() -> dict[str, float]:
    """Peak resident memory, and anonymous resident memory now, in GB."""
    values: dict[str, float] = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmHWM", "RssAnon"):
            values[name] = int(value.split()[0]) * 1024 / GB
    return values


def bytes_read() -> float:
    """GB read from files by this process."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar"):
            return int(line.split()[1]) / GB
    return 0.0


def ours(folder: Path, parse_precision: str) -> dict[str, Any]:
    """This package in one precision; weights are quantized while they are read."""
    import torch

    from emu3.checkpoints.formats.registry import detect_format
    from emu3.checkpoints.loading import load_text_tokenizer
    from emu3.checkpoints.weights import load_decoder
    from emu3.inference.model_runner import ModelRunner
    from emu3.inference.optimize import optimize_for_inference
    from emu3.inference.sampling import SamplingParams
    from emu3.inference.sequences import VisualSequence
    from emu3.models.precision import parse_precision as named
    from emu3.models.precision import stored_precision
    from emu3.processing.prompts import PromptTemplates

    before, start = memory()["RssAnon"], time.perf_counter()
    path = folder / DECODER if (folder / DECODER).exists() else folder
    text, config = load_text_tokenizer(path)
    to = stored_precision(config) or named(parse_precision)
    model = load_decoder(path, to, torch.device("cpu"), detect_format(path))
    weights = sum(tensor.nbytes for tensor in model.state_dict().values()) / GB
    prompts = PromptTemplates.from_tokenizer(text)
    optimize_for_inference(model, prompts.document_format.vocabulary.visual)
    opened, peak = time.perf_counter() - start, memory()
    times: list[float] = []

    def on_pass(active: object) -> None:
        times.append(time.perf_counter())
        if len(times) == TOKENS:
            raise Enough

    rows = [prompts.image(words, (SIDE, SIDE)) for words in (PROMPT, NEGATIVE)]
    document_format = prompts.document_format
    sequence = VisualSequence(rows, (SIDE, SIDE), 0, document_format, SamplingParams(), 3.0)
    runner = ModelRunner(model, document_format.vocabulary, draft_length=1)
    start = time.perf_counter()
    with contextlib.suppress(Enough):
        runner.run([sequence], on_pass)
    return {
        "open_s": opened,
        "weights_GB": weights,
        "peak_open_GB": peak["VmHWM"],
        "above_weights_GB": peak["VmHWM"] - before - weights,
        "read_GB": bytes_read(),
        "prompt_s": times[0] - start,
        "token_s": (times[-1] - times[0]) / (TOKENS - 1),
        "peak_GB": memory()["VmHWM"],
    }


def theirs(folder: Path, parse_precision: str) -> dict[str, Any]:
    """transformers' Emu3ForCausalLM, which reads BAAI's names; with guidance as a batch of two."""
    import torch
    from transformers import Emu3ForCausalLM

    from emu3.checkpoints.loading import load_text_tokenizer
    from emu3.processing.prompts import PromptTemplates

    path = folder / DECODER
    start = time.perf_counter()
    dtype = torch.float32 if parse_precision == "fp32" else torch.bfloat16
    model = Emu3ForCausalLM.from_pretrained(path, dtype=dtype)
    opened, peak = time.perf_counter() - start, memory()
    weights = sum(tensor.nbytes for tensor in model.state_dict().values()) / GB
    prompts = PromptTemplates.from_tokenizer(load_text_tokenizer(path)[0])
    rows = [prompts.image(words, (SIDE, SIDE)) for words in (PROMPT, NEGATIVE)]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    times: list[float] = []
    start = time.perf_counter()
    with torch.inference_mode():
        cache = None
        while len(times) < TOKENS:
            out = model(
                ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache = out.past_key_values
            conditional, unconditional = out.logits[:, -1].float().log_softmax(-1)
            best = (unconditional + 3 * (conditional - unconditional)).argmax()
            ids = best.view(1, 1).expand(2, 1)
            mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            times.append(time.perf_counter())
    return {
        "open_s": opened,
        "weights_GB": weights,
        "peak_open_GB": peak["VmHWM"],
        "read_GB": bytes_read(),
        "prompt_s": times[0] - start,
        "token_s": (times[-1] - times[0]) / (TOKENS - 1),
        "peak_GB": memory()["VmHWM"],
        "anonymous_GB": memory()["RssAnon"],
    }


CASES: dict[str, Callable[[Path, str], dict[str, Any]]] = {"ours": ours, "transformers": theirs}


def run(case: str, folder: Path, parse_precision: str) -> dict[str, Any]:
    """One case in a process of its own; the files' pages are dropped from memory where allowed."""
    command = [sys.executable, "-m", "benchmarks.full_size", str(folder), case, parse_precision]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        return {"case": case, "precision": parse_precision, "failed": last[0]}
    values = json.loads(done.stdout.splitlines()[-1])
    whole = time.perf_counter() - start
    return {"case": case, "precision": parse_precision, **values, "process_s": whole}


def main(folder: Path, cases: list[str]) -> None:
    """Run the cases (`ours:int4`), print a line each, and all of them as JSON at the end."""
    import torch

    about = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16_units": torch.cpu._is_amx_tile_supported(),
        "torch": torch.__version__,
        "tokens": TOKENS,
        "image": [SIDE * 8, SIDE * 8],
    }
    print(json.dumps(about), flush=True)
    for one in cases:
        case, _, parse_precision = one.partition(":")
        result = run(case, folder, parse_precision)
        shown = {k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}
        print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/full_size")
    if len(sys.argv) == 4 and sys.argv[2] in CASES:
        print(json.dumps(CASES[sys.argv[2]](where, sys.argv[3])))
    else:
        every = ["ours:bf16", "ours:int8", "ours:int4", "transformers:bf16"]
        main(where, sys.argv[2:] or every)
