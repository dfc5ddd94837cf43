"""The checkpoint formats: BAAI's, that of transformers ("hf"), and PaddlePaddle's.

This package uses BAAI's tensor names. Another format is a mapping from these names to its own, plus
readers and writers of its config files.
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


def _same_name(name: str) -> str:
    return name


def _not_transposed(name: str) -> bool:
    return False


def _same_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


WriteFiles = Callable[
    [Path, DecoderConfig, TextTokenizer, VisionConfig, PreprocessorConfig, str], None
]
"""Writes all files but the weights. The last argument is the name of the weights' dtype."""


@dataclass(frozen=True)
class CheckpointFormat:
    """Names, orientation and config files of a checkpoint format.

    Functions that take a name take the one of this package, except `canonical_name`.
    """

    name: str
    decoder_name: Callable[[str], str]
    vision_name: Callable[[str], str | None]  # None: not stored in this format, and zero
    decoder_config: Callable[[Path], DecoderConfig]
    vision_config: Callable[[Path], VisionConfig]
    preprocessor: Callable[[Path], PreprocessorConfig]
    text_tokenizer: Callable[[Path], TextTokenizer]
    canonical_name: Callable[[str], str] = _same_name  # from names of older releases
    is_transposed: Callable[[str], bool] = _not_transposed  # stored as [in, out]
    shape: Callable[[str, tuple[int, ...]], tuple[int, ...]] = _same_shape  # stored shape
    write_files: WriteFiles | None = None  # None: the same files as BAAI's
    single_folder: bool = False  # decoder and vision tokenizer share one folder and its files
    metadata_format: str = "pt"  # `format` in the metadata of the weight files


BAAI = CheckpointFormat(
    name="baai",
    decoder_name=_same_name,
    vision_name=_same_name,
    decoder_config=lambda folder: DecoderConfig.from_file(folder / "config.json"),
    vision_config=lambda folder: VisionConfig.from_file(folder / "config.json"),
    preprocessor=lambda folder: PreprocessorConfig.from_file(folder / "preprocessor_config.json"),
    text_tokenizer=TextTokenizer.from_folder,
)
PADDLE = CheckpointFormat(
    name="paddle",
    decoder_name=paddle.decoder_name,
    vision_name=paddle.vision_name,
    decoder_config=BAAI.decoder_config,
    vision_config=BAAI.vision_config,
    preprocessor=BAAI.preprocessor,
    text_tokenizer=BAAI.text_tokenizer,
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
    text_tokenizer=hf.text_tokenizer,
    canonical_name=hf.canonical_name,
    shape=hf.stored_shape,
    write_files=hf.write_files,
    single_folder=True,
)
FORMATS = {each.name: each for each in (BAAI, HF, PADDLE)}


def detect_format(folder: Path) -> CheckpointFormat:
    """The format of a folder, from `model_type` in its config and the metadata of its weights.

    Raises InputError if the folder is not an Emu3 checkpoint.
    """
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type == "emu3":
        return HF
    if model_type not in ("Emu3", "Emu3VisionVQ"):
        raise InputError(
            f"{folder}: not an Emu3 checkpoint; its config.json has model_type {model_type!r}"
        )
    return PADDLE if read_metadata(folder).get("format") in paddle.SAVED_BY_PADDLE else BAAI
