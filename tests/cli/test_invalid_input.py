"""Invalid input ends with one line on stderr, exit code 2 and no file."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

Refused = Callable[..., str]
WEIGHTS = "model.safetensors"


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def truncate(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: truncate(f / WEIGHTS, 0.5), "truncated"),
    "truncated header": (lambda f: truncate(f / WEIGHTS, 0.001), "truncated"),
    "truncated, vision": (lambda f: truncate(f / "vision_tokenizer" / WEIGHTS, 0.5), "truncated"),
    "wrong shape": (
        lambda f: change_weights(f, lambda w: w.update({"lm_head.weight": torch.zeros(3, 4)})),
        "lm_head.weight",
    ),
    "missing key": (
        lambda f: change_weights(f, lambda w: w.pop("model.norm.weight")),
        "model.norm.weight",
    ),
    "extra key": (
        lambda f: change_weights(f, lambda w: w.update({"model.extra": torch.zeros(1)})),
        "model.extra",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), WEIGHTS),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "no vocabulary": (lambda f: (f / "emu3.tiktoken").unlink(), "tiktoken"),
    "rope_scaling": (
        lambda f: change_config(f, rope_scaling={"type": "linear", "factor": 2}),
        "rope_scaling",
    ),
    "unknown config key": (lambda f: change_config(f, sliding_window=4096), "sliding_window"),
    "config of another vocabulary": (lambda f: change_config(f, vocab_size=99), "vocab_size"),
}


@pytest.mark.parametrize("command", ["image", "info"])
@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_checkpoints(case: str, command: str, broken: Path, refused: Refused) -> None:
    damage, message = DAMAGES[case]
    damage(broken)
    image = ("image", "a fox", "-o", "fox.png", "--model")
    assert message in refused(*(image if command == "image" else ["info"]), broken)


@pytest.mark.parametrize(
    "arguments", [("image", "a", "-o", "a.png", "--model"), ("chat", "hi", "--model"), ("info",)]
)
def test_no_such_model(arguments: tuple[str, ...], refused: Refused) -> None:
    assert "no such model: 'nothing'" in refused(*arguments, "nothing")


BAD_OPTIONS: dict[str, tuple[tuple[object, ...], str]] = {
    "zero in ratio": (("--ratio", "0:1"), "0:1"),
    "not a ratio": (("--ratio", "abc"), "abc"),
    "ratio too wide": (("--ratio", "100:1"), "at most 5 times"),
    "area beyond the context": (("--area", 10**6), "exceed the context of 512"),
    "area of 0": (("--area", 0), "area"),
    "negative area": (("--area=-4",), "area"),
    "no image": (("-n", 0), "at least 1"),
    "negative seed": (("--seed=-1",), "seed"),
    "seed too large": (("--seed", 2**63), "seed"),
    "guidance not a number": (("--guidance-scale", "nan"), "guidance"),
    "infinite guidance": (("--guidance-scale", "inf"), "guidance"),
    "top-k": (("--top-k=-1",), "top_k"),
    "top-p": (("--top-p", "1.5"), "top_p"),
    "top-p not a number": (("--top-p", "nan"), "top_p"),
    "temperature": (("--temperature", 0), "temperature"),
    "temperature not a number": (("--temperature", "nan"), "temperature"),
    "device": (("--device", "abacus"), "abacus"),
    "precision": (("--dtype", "fp7"), "fp7"),
    "not UTF-8": (("--suffix", "\udcff"), "UTF-8"),
    "vision tokenizer": (("--vision", "nothing"), "no such model: 'nothing'"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_invalid_options(case: str, tiny: Path, refused: Refused) -> None:
    options, message = BAD_OPTIONS[case]
    assert message in refused("image", "a fox", "-o", "a.png", "--model", tiny, *options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
@pytest.mark.parametrize(
    "arguments",
    [("image", "a fox", "-o", "a.png"), ("chat", "hi"), ("encode", "PHOTO", "-o", "a.npz")],
)
def test_no_cuda(arguments: tuple[str, ...], tiny: Path, photo: Path, refused: Refused) -> None:
    given = [photo if each == "PHOTO" else each for each in arguments]
    assert "no CUDA GPU" in refused(*given, "--model", tiny, "--device", "cuda")


OUTPUTS = {
    "no folder": ("gone/a{}", "no such folder"),
    "under a file": ("file.txt/a{}", "no such folder"),
    "a folder": ("folder{}", "is a folder"),
    "no suffix": ("a", " in ."),
    "another suffix": ("a.txt", " in ."),
}


@pytest.mark.parametrize("case", OUTPUTS)
@pytest.mark.parametrize("command", ["image", "encode", "decode"])
def test_output_is_checked_before_loading(
    case: str, command: str, here: Path, refused: Refused
) -> None:
    (here / "file.txt").write_text("")
    for suffix in (".png", ".npz"):
        (here / f"folder{suffix}").mkdir()
    name, message = OUTPUTS[case]
    output = name.format(".npz" if command == "encode" else ".png")
    # The model does not exist either; the error about the output shows that it is checked first.
    assert message in refused(command, "nothing", "-o", output, "--model", "nothing")


def bomb(path: Path) -> None:
    """A PNG of a few bytes with a header of 50000x50000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def truncated_png(path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(path)
    truncate(path, 0.5)


IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "text": (lambda path: path.write_text("no image"), "not an image"),
    "empty": (lambda path: path.write_bytes(b""), "not an image"),
    "a folder": (Path.mkdir, "bad.png: is a folder"),
    "truncated": (truncated_png, "truncated"),
    "decompression bomb": (bomb, "too large"),
    "six to one": (lambda path: Image.new("RGB", (96, 16)).save(path), "at most 5 times"),
    "smaller than a code": (lambda path: Image.new("RGB", (3, 3)).save(path), "3x3"),
}


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("command", ["chat", "encode"])
def test_invalid_images(case: str, command: str, here: Path, tiny: Path, refused: Refused) -> None:
    make, message = IMAGES[case]
    make(here / "bad.png")
    rest = ("what?",) if command == "chat" else ("-o", "a.npz")
    assert message in refused(command, "bad.png", *rest, "--model", tiny)
