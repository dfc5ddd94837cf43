"""Video samples from JSONL files, folders and tar files."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="clips need the extra video")

from emu3.data import tokenization
from emu3.data.dataset import TokenDataset
from emu3.data.discovery import find_sources
from emu3.data.prepare import prepare_dataset
from emu3.data.samples import Sample, VideoFile
from emu3.data.token_roles import ANSWER, VISION
from emu3.data.tokenization import SampleTokenizer
from emu3.data.workers import TokenizerConfig
from emu3.errors import InputError
from emu3.processing.document_format import VideoCodes
from emu3.processing.video import read_frames, video_writer

TURN = {"question": "Which way?", "answer": "Up."}


@pytest.fixture
def video_file(tmp_path: Path) -> Path:
    """Six frames at 8 frames per second, so that the second group is not full."""
    folder = tmp_path / "clips"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (6, 2, 3, 3), np.uint8)
    with video_writer(folder / "a.mp4", 8) as add:
        for frame in frames.repeat(8, 1).repeat(8, 2):
            add(frame)
    return folder / "a.mp4"


def codes_of(tokenizer: SampleTokenizer, video_file: Path) -> VideoCodes:
    frames = [torch.as_tensor(frame) for frame in read_frames(video_file, 8)]
    codes = torch.cat([group.codes for group in tokenizer.vision_processor.encode_frames(frames)])
    return VideoCodes(codes, 8, len(frames))


def test_video_with_caption_and_with_turns(tokenizer: SampleTokenizer, video_file: Path) -> None:
    video = codes_of(tokenizer, video_file)
    assert len(video.codes) == 2
    captioned = tokenizer.tokenize(Sample(text="up", video=VideoFile(video_file)))
    assert captioned.ids.tolist() == tokenizer.prompts.document("up", video).tolist()
    assert int((captioned.roles == VISION).sum()) == video.codes.numel()
    parts = tokenizer.prompts.document_format.parse(captioned.ids)
    assert [part.frames for part in parts if isinstance(part, VideoCodes)] == [6]
    answered = tokenizer.tokenize(
        Sample(turns=(("Which way?", "Up."),), video=VideoFile(video_file))
    )
    ids, is_answer = tokenizer.prompts.chat_document(video, [("Which way?", "Up.")])
    assert answered.ids.tolist() == ids.tolist()
    assert ((answered.roles == ANSWER) == is_answer).all()


def test_video_from_bytes_equals_video_from_file(
    tokenizer: SampleTokenizer, video_file: Path
) -> None:
    file = tokenizer.tokenize(Sample(text="up", video=VideoFile(video_file)))
    from_bytes = VideoFile(Path("some.tar/a.mp4"), video_file.read_bytes())
    assert tokenizer.tokenize(Sample(text="up", video=from_bytes)).ids.tolist() == file.ids.tolist()


CASES = Path(__file__).parent.parent / "fixtures" / "cases" / "clips"


def test_damaged_videos_are_skipped(
    tokenizer: SampleTokenizer, tokenizer_config: TokenizerConfig, tmp_path: Path
) -> None:
    """From a file and from bytes, with figures in the reason."""
    names = ("busy_half.webm", "busy_noise.webm")
    lines = [json.dumps({"video": str(CASES / name), "text": "up"}) for name in names]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    sources = find_sources([tmp_path / "lines.jsonl"])
    result = prepare_dataset(sources, tmp_path / "data", tokenizer_config)
    assert (result.samples, result.skipped) == (0, 2)
    skipped = (tmp_path / "data" / "skipped.jsonl").read_text().splitlines()
    for line, figures in zip(skipped, ("2.5 of 6.0 seconds", "2.5 seconds without"), strict=True):
        assert figures in json.loads(line)["reason"]
    half = VideoFile(Path("some.tar/a.webm"), (CASES / names[0]).read_bytes())
    with pytest.raises(InputError, match="damaged or incomplete"):
        tokenizer.tokenize(Sample(text="up", video=half))


def test_every_source_gives_the_same_document(tokenizer: SampleTokenizer, video_file: Path) -> None:
    video_file.with_suffix(".txt").write_text("up\n")
    lines = video_file.parent.parent / "lines"
    lines.mkdir()
    (lines / "samples.jsonl").write_text(json.dumps({"video": str(video_file), "text": "up"}))
    packed = video_file.parent.parent / "samples.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(video_file, "a.mp4")
        tar.add(video_file.with_suffix(".txt"), "a.txt")
    sources = find_sources([video_file.parent, lines, packed])
    found = [
        tokenizer.tokenize(each.read()).ids for source in sources for each in source.samples(0)
    ]
    assert len(found) == 3
    assert found[0].tolist() == found[1].tolist() == found[2].tolist()


def test_dataset_records_the_frame_rate(
    video_file: Path, tokenizer_config: TokenizerConfig, tmp_path: Path
) -> None:
    (tmp_path / "s.jsonl").write_text(
        json.dumps({"video": str(video_file), "turns": [TURN]}) + "\n{}"
    )
    sources = find_sources([tmp_path / "s.jsonl"])
    lengths = []
    for fps in (4.0, 8.0):
        result = prepare_dataset(sources, tmp_path / f"{fps:g}", replace(tokenizer_config, fps=fps))
        assert (result.samples, result.skipped) == (1, 1)
        lengths.append(len(TokenDataset.open(tmp_path / f"{fps:g}")[0].ids))
    assert lengths[0] < lengths[1]
    with pytest.raises(InputError, match="another request"):
        prepare_dataset(sources, tmp_path / "8", replace(tokenizer_config, fps=2))


def test_invalid_and_too_long_videos_raise(
    tokenizer: SampleTokenizer, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"lost\.mp4"):
        tokenizer.tokenize(Sample(text="up", video=VideoFile(video_file.with_name("lost.mp4"))))
    with pytest.raises(InputError, match=r"b\.mp4"):
        tokenizer.tokenize(Sample(text="up", video=VideoFile(Path("b.mp4"), b"no video")))
    monkeypatch.setattr(tokenization, "MAX_FRAMES", 4)
    with pytest.raises(InputError, match="more than 4 frames"):
        tokenizer.tokenize(Sample(text="up", video=VideoFile(video_file)))
    one = replace(tokenizer, fps=1.0)
    assert one.tokenize(Sample(text="up", video=VideoFile(video_file))) is not None
