"""`emu3 train`: from samples to a model that loads, on one process and under torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.training.presets import PRESETS_BY_NAME

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT / "src"),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
Emu3Command = Callable[..., Result]
Refused = Callable[..., str]
TURNS = [{"question": "What?", "answer": "A glow."}]
SMALL = ("--steps", 4, "--rows", 2, "--context", 256, "--no-bf16", "--report-every", 1)


@pytest.fixture
def data(here: Path, photo: Path, tiny: Path, emu3: Emu3Command) -> Path:
    """Prepared texts, and images with captions and with questions."""
    image = str(photo)
    lines = [{"text": "words " * 9}, {"image": image, "text": "a glow"}]
    lines += [{"image": image, "turns": TURNS}] * 2
    (here / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("prepare", "samples.jsonl", "-o", "data", "--model", tiny, "--workers", 1)
    done = emu3(*command, "--device", "cpu")
    assert done.exit_code == 0, done.output
    return here / "data"


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "model" / "baai"
    return load_checkpoint(
        folder, None, DeviceConfig(torch.device("cpu"), None)
    ).decoder.state_dict()


def test_from_samples_to_a_model(
    data: Path, tiny: Path, here: Path, emu3: Emu3Command, kept_memory: list[bool]
) -> None:
    assert not kept_memory
    command = ("train", "nano-pretrain", "data", "-o", "run", "--from", tiny, *SMALL)
    for _ in range(2):  # the second run has no steps left
        done = emu3(*command, "--device", "cpu")
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[-1] == "run/model"
    assert len(kept_memory) == 2
    assert emu3("info", "run/model/baai").exit_code == 0
    drawing = ("a glow", "-o", "glow.png", "--model", "run/model/transformers", "--device", "cpu")
    assert emu3("image", *drawing).exit_code == 0
    model_card = (here / "run" / "model" / "README.md").read_text()
    for expected in (
        "# run: pre-training on text and images",
        "| steps | 4 | ours |",
        "| starts from | tiny | ours |",
    ):
        assert expected in model_card, expected
    assert str(here) not in model_card
    assert str(tiny) not in model_card


@pytest.mark.slow
def test_mixture_weights_fresh_weights_and_lora(
    data: Path, tiny: Path, here: Path, emu3: Emu3Command
) -> None:
    pytest.importorskip("peft", reason='needs pip install "emu3[train]"')
    more = ("--from", tiny, "--fresh", "--seed", 1, "--lora", 2, "--optimizer", "adamw")
    sources = (f"{data}:3", data)
    numbers = (*SMALL, "--learning-rate", 0.01, "--recompute", "--compile", "--device", "cpu")
    done = emu3("train", "nano-instruct", *sources, "-o", "run", *more, *numbers)
    assert done.exit_code == 0, done.output
    manifest = json.loads((here / "run" / "manifest.json").read_text())
    assert [manifest["data"][number]["weight"] for number in ("1", "2")] == [3.0, 1.0]
    assert manifest["preset"]["learning_rate"] == 0.01
    assert manifest["preset"]["warmup_steps"] == 0
    assert manifest["preset"]["starts_from"] == ""
    assert (manifest["lora"]["rank"], manifest["lora"]["alpha"]) == (2, 4.0)
    assert "| optimizer | adamw | ours |" in (here / "run" / "model" / "README.md").read_text()


INVALID: dict[str, tuple[tuple[object, ...], str]] = {
    "unknown preset": (("dream", "data"), "choose from pretrain-1"),
    "no data": (("nano-quality", "gone"), "create a data set with `emu3 prepare`"),
    "invalid mixture weight": (("nano-quality", "data:much"), "'much' is no weight"),
    "mixture weight of zero": (("nano-quality", "data:0", *SMALL), "positive number"),
    "context above the positions": (("quality", "data"), "positions for 512"),
    "missing parent folder": (
        ("nano-quality", "data", "-o", "gone/run", *SMALL),
        "create it first",
    ),
    "folder with other files": (
        ("nano-quality", "data", "-o", "data", *SMALL),
        "holds other files",
    ),
    "no model": (("nano-quality", "data", "--from", "nothing"), "no such model"),
    "another vocabulary": (("nano-quality", "data", "--from", "nano"), "another vocabulary"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_are_refused(case: str, data: Path, tiny: Path, refused: Refused) -> None:
    arguments, message = INVALID[case]
    assert message in refused("train", "-o", "run", "--from", tiny, "--device", "cpu", *arguments)


def test_other_settings_in_the_same_folder_are_refused(
    data: Path, tiny: Path, emu3: Emu3Command
) -> None:
    command = ("train", "nano-quality", "data", "-o", "run", "--from", tiny, "--device", "cpu")
    assert emu3(*command, *SMALL).exit_code == 0
    done = emu3(*command, *SMALL, "--seed", 2)
    assert done.exit_code == 2
    assert "seed: 0 in the run, 2 given" in done.stderr


def test_help_names_every_preset(emu3: Emu3Command) -> None:
    output = emu3("train", "--help").stdout
    assert all(name in output for name in PRESETS_BY_NAME)


def start_training(
    here: Path, tiny: Path, run: str, launch: Sequence[str], more: Sequence[str]
) -> subprocess.Popen[str]:
    numbers = (*SMALL, *more, "--save-every", 2)
    arguments = ("train", "nano-pretrain", "data", "-o", run, "--from", tiny, *numbers)
    command = [sys.executable, *launch, "-m", "emu3", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=here,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    ["--optimizer adamw", "--optimizer muon", "--lora 4 --vocab-parallel", "--vocab-parallel"],
)
def test_two_processes_equal_one(data: Path, tiny: Path, here: Path, more: str) -> None:
    """Loss, gradient norm and learning rate of every step, then final weights, to rounding."""
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for run, launch in (("one", ()), ("two", two)):
        process = start_training(here, tiny, run, launch, more.split())
        stdout, stderr = process.communicate(timeout=110)
        assert process.returncode == 0, stderr[-3000:]
        assert stdout.splitlines()[-1] == f"{run}/model"
    one, other = (
        [json.loads(line) for line in (here / run / "log.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    )
    assert [report["step"] for report in one] == [1, 2, 3, 4]
    for mine, theirs in zip(one, other, strict=True):
        for name in ("loss", "grad_norm", "learning_rate"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-5), name
    assert (here / "two" / "step-4").is_dir()
    wanted, got = weights(here / "one"), weights(here / "two")
    assert set(wanted) == set(got)
    for name, weight in wanted.items():
        torch.testing.assert_close(got[name], weight, atol=1e-4, rtol=1e-3, msg=name)
    assert "2 processes on" in (here / "two" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_ctrl_c_saves_and_prints_how_to_resume(
    data: Path, tiny: Path, here: Path, emu3: Emu3Command
) -> None:
    command = ("train", "nano-quality", "data", "-o", "run", "--from", str(tiny), "--rows", "1")
    numbers = ("--steps", "100000", "--context", "256", "--no-bf16", "--report-every", "1")
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "emu3", *command, *numbers],
        cwd=here,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restore_ctrl_c,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["step"] == 1
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    (line,) = stderr.splitlines()
    assert line.startswith("interrupted; stopped after step")
    assert line.endswith("run the same command to resume")
    assert list((here / "run").glob("step-*"))
    assert not (here / "run" / "model").exists()


def restore_ctrl_c() -> None:
    """Background jobs of a shell ignore Ctrl-C, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
