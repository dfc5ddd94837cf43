"""Whose names and files a checkpoint folder uses: BAAI's, transformers' own, or Paddle's.

The house speaks BAAI's names. Another layout is one mapping from these to its own, and readers and
writers of its small files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emu3.checkpoints.formats import hf, paddle
from emu3.checkpoints.safetensors_io import read_metadata
from emu3.config import DecoderConfig, PreprocessorConfig, VisionConfig, read_json
from emu3.errors import InputError
from emu3.processing.tokenizer import TextTokenizer


def _same(name: str) -> str:
    return name


def _never(name: str) -> bool:
    return False


def _as_ours(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


WriteFiles = Callable[
    [Path, DecoderConfig, TextTokenizer, VisionConfig, PreprocessorConfig, str], None
]
"""Folder, what is to be described in it, and the name of the weights' dtype."""


@dataclass(frozen=True)
class CheckpointFormat:
    """One way of laying a checkpoint out. Names go from ours to theirs."""

    name: str
    decoder_name: Callable[[str], str]
    vision_name: Callable[[str], str | None]  # None: there is no such tensor, and ours is zero
    decoder_config: Callable[[Path], DecoderConfig]
    vision_config: Callable[[Path], VisionConfig]
    preprocessor: Callable[[Path], PreprocessorConfig]
    text: Callable[[Path], TextTokenizer]
    canonical_name: Callable[[str], str] = _same  # older names of theirs to current ones
    is_transposed: Callable[[str], bool] = _never  # whether ours lies there as [in, out]
    shape: Callable[[str, tuple[int, ...]], tuple[int, ...]] = _as_ours  # of ours, there
    write_files: WriteFiles | None = None  # all but the weights; None: as BAAI's
    single_folder: bool = False  # decoder and vision tokenizer in one folder, one set of files
    metadata_format: str = "pt"  # the mark in the weight files


BAAI = CheckpointFormat(
    name="baai",
    decoder_name=_same,
    vision_name=_same,
    decoder_config=lambda folder: DecoderConfig.from_file(folder / "config.json"),
    vision_config=lambda folder: VisionConfig.from_file(folder / "config.json"),
    preprocessor=lambda folder: PreprocessorConfig.from_file(folder / "preprocessor_config.json"),
    text=TextTokenizer.from_folder,
)
PADDLE = CheckpointFormat(
    name="paddle",
    decoder_name=paddle.decoder_name,
    vision_name=paddle.vision_name,
    decoder_config=BAAI.decoder_config,
    vision_config=BAAI.vision_config,
    preprocessor=BAAI.preprocessor,
    text=BAAI.text,
    is_transposed=paddle.is_transposed,
    shape=lambda name, shape: shape[::-1] if paddle.is_transposed(name) else shape,
    metadata_format="np",
)
HF = CheckpointFormat(
    name="hf",
    decoder_name=hf.decoder_name,
    vision_name=hf.vision_name,
    decoder_config=hf.decoder_config,
    vision_config=hf.vision_config,
    preprocessor=hf.preprocessor,
    text=hf.text,
    canonical_name=hf.canonical_name,
    shape=hf.shape,
    write_files=hf.write_files,
    single_folder=True,
)
FORMATS = {layout.name: layout for layout in (BAAI, HF, PADDLE)}


def detect_format(folder: Path) -> CheckpointFormat:
    """The layout of a folder: what its config says it is, and who saved its weights.

    Raises InputError on a folder that is no Emu3 checkpoint.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if kind == "emu3":
        return HF
    if kind not in ("Emu3", "Emu3VisionVQ"):
        raise InputError(f"{folder}: its config.json describes a {kind!r}, which is no Emu3")
    return PADDLE if read_metadata(folder).get("format") in paddle.SAVED_BY_PADDLE else BAAI
