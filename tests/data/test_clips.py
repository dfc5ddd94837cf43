"""Clips as samples: the same one in a line, in a folder and in a tar gives the same document."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="clips need the extra video")

from emu3.data import tokenization as document
from emu3.data.dataset import TokenDataset
from emu3.data.discovery import find_sources
from emu3.data.prepare import prepare
from emu3.data.samples import Sample, VideoFile
from emu3.data.token_roles import ANSWER, VISION
from emu3.data.tokenization import SampleTokenizer
from emu3.data.workers import TokenizerConfig
from emu3.errors import InputError
from emu3.processing.document_format import VideoCodes
from emu3.processing.video import read_frames, video_writer

TURN = {"question": "Which way?", "answer": "Up."}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Six frames at 8 a second, so that the second group is not full."""
    folder = tmp_path / "clips"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (6, 2, 3, 3), np.uint8)
    with video_writer(folder / "a.mp4", 8) as add:
        for frame in frames.repeat(8, 1).repeat(8, 2):
            add(frame)
    return folder / "a.mp4"


def codes_of(writer: SampleTokenizer, clip: Path) -> VideoCodes:
    frames = [torch.as_tensor(frame) for frame in read_frames(clip, 8)]
    codes = torch.cat([group.codes for group in writer.vision_processor.encode_frames(frames)])
    return VideoCodes(codes, 8, len(frames))


def test_a_clip_is_drawn_and_asked_about(writer: SampleTokenizer, clip: Path) -> None:
    video = codes_of(writer, clip)
    assert len(video.codes) == 2
    drawn = writer.tokenize(Sample(text="up", video=VideoFile(clip)))
    assert drawn.ids.tolist() == writer.prompts.document("up", video).tolist()
    assert int((drawn.roles == VISION).sum()) == video.codes.numel()
    parts = writer.prompts.document_format.parse(drawn.ids)
    assert [part.frames for part in parts if isinstance(part, VideoCodes)] == [6]
    asked = writer.tokenize(Sample(turns=(("Which way?", "Up."),), video=VideoFile(clip)))
    ids, said = writer.prompts.chat_document(video, [("Which way?", "Up.")])
    assert asked.ids.tolist() == ids.tolist()
    assert ((asked.roles == ANSWER) == said).all()


def test_bytes_are_as_good_as_a_file(writer: SampleTokenizer, clip: Path) -> None:
    file = writer.tokenize(Sample(text="up", video=VideoFile(clip)))
    held = VideoFile(Path("some.tar/a.mp4"), clip.read_bytes())
    assert writer.tokenize(Sample(text="up", video=held)).ids.tolist() == file.ids.tolist()


def test_every_kind_of_source_gives_the_same(writer: SampleTokenizer, clip: Path) -> None:
    clip.with_suffix(".txt").write_text("up\n")
    lines = clip.parent.parent / "lines"
    lines.mkdir()
    (lines / "samples.jsonl").write_text(json.dumps({"video": str(clip), "text": "up"}))
    packed = clip.parent.parent / "samples.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(clip, "a.mp4")
        tar.add(clip.with_suffix(".txt"), "a.txt")
    sources = find_sources([clip.parent, lines, packed])
    found = [writer.tokenize(each.read()).ids for source in sources for each in source.samples(0)]
    assert len(found) == 3
    assert found[0].tolist() == found[1].tolist() == found[2].tolist()


def test_a_store_says_how_often_it_looked(
    clip: Path, model: TokenizerConfig, tmp_path: Path
) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps({"video": str(clip), "turns": [TURN]}) + "\n{}")
    sources = find_sources([tmp_path / "s.jsonl"])
    lengths = []
    for fps in (4.0, 8.0):
        counts = prepare(sources, tmp_path / f"{fps:g}", replace(model, fps=fps))
        assert (counts.samples, counts.skipped) == (1, 1)
        lengths.append(len(TokenDataset.open(tmp_path / f"{fps:g}")[0].ids))
    assert lengths[0] < lengths[1]
    with pytest.raises(InputError, match="another request"):
        prepare(sources, tmp_path / "8", replace(model, fps=2))


def test_what_is_no_clip_or_too_long_is_said(
    writer: SampleTokenizer, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"lost\.mp4"):
        writer.tokenize(Sample(text="up", video=VideoFile(clip.with_name("lost.mp4"))))
    with pytest.raises(InputError, match=r"b\.mp4"):
        writer.tokenize(Sample(text="up", video=VideoFile(Path("b.mp4"), b"no clip")))
    monkeypatch.setattr(document, "MAX_FRAMES", 4)
    with pytest.raises(InputError, match="more than 4 frames"):
        writer.tokenize(Sample(text="up", video=VideoFile(clip)))
    one = replace(writer, fps=1.0)
    assert one.tokenize(Sample(text="up", video=VideoFile(clip))) is not None
