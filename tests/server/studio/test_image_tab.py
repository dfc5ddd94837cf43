"""The Image tab generates the images of `Emu3.image`, streams them, and enforces the limits."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict

import pytest
from PIL import Image

from emu3.api import Emu3
from emu3.server.errors import APIError
from emu3.server.studio.context import StudioContext
from emu3.server.studio.form_parts import parse_integer
from emu3.server.studio.history import MAX_ITEMS, HistoryItem, add_item, file_stem
from emu3.server.studio.image_tab import ImageForm, build_requests, generate_images
from emu3.server.studio.session import TabSession


def generate(
    context: StudioContext, form: ImageForm, history: list[HistoryItem]
) -> list[tuple[str, str]]:
    """Return all updates (HTML, status line)."""

    async def collect() -> list[tuple[str, str]]:
        return [update async for update in generate_images(context, form, TabSession(), history)]

    return asyncio.run(collect())


async def last_status(updates: AsyncIterator[tuple[str, str]]) -> str:
    return [status async for _, status in updates][-1]


def test_images_and_metadata_equal_those_of_the_api(context: StudioContext) -> None:
    history = list[HistoryItem]()
    generate(context, ImageForm("x", "ugly", "2:1", 2.0, 1.5, 9, 7, 2), history)
    out = Emu3(context.engine.checkpoint).image(
        "x",
        ratio="2:1",
        seed=7,
        guidance_scale=2.0,
        temperature=1.5,
        top_k=9,
        negative_prompt="ugly",
        num_images=2,
    )
    assert len(history) == 2
    for item in history:
        file = context.media_cache.get("/" + item.url)
        assert file is not None
        image = Image.open(io.BytesIO(file.data))
        metadata = json.loads(image.text["emu3"])  # type: ignore[attr-defined]
        index = metadata["seed"] - 7
        assert metadata == item.settings == asdict(out.settings[index])
        assert image.tobytes() == out.images[index].tobytes()


def test_image_grows_row_by_row(context: StudioContext) -> None:
    updates = generate(context, ImageForm("x", seed=1), list[HistoryItem]())
    found = [re.findall(r"height:([0-9.]+)%", html) for html, _ in updates]
    heights = [float(each[0]) for each in found if each]
    assert heights == sorted(heights)
    assert len(set(heights)) > 1
    assert heights[-1] == 100
    statuses = [status for _, status in updates]
    assert any("of 4 · about" in status for status in statuses)
    assert "1 image of 16×16" in statuses[-1]
    assert "seed 1" in updates[-1][0]
    assert "download=" in updates[-1][0]


def test_random_seed_is_recorded_and_reproduces_the_image(context: StudioContext) -> None:
    history = list[HistoryItem]()
    generate(context, ImageForm("x"), history)
    seed = history[0].settings["seed"]
    assert isinstance(seed, int)
    generate(context, ImageForm("x", seed=seed), history)
    first, second = (context.media_cache.get("/" + item.url) for item in history)
    assert first is not None
    assert second is not None
    assert first.data == second.data


def test_cancelling_frees_the_engine(context: StudioContext) -> None:
    session, history = TabSession(), list[HistoryItem]()

    async def cancel_at_once() -> str:
        statuses = list[str]()
        form = ImageForm("x", ratio="4:3", num_images=4)
        async for _, status in generate_images(context, form, session, history):
            statuses.append(status)
            session.cancel()
        return statuses[-1]

    before = context.engine.stats()
    assert "cancelled" in asyncio.run(cancel_at_once())
    while (after := context.engine.stats()).running_images or after.waiting:
        pass
    assert after.cancelled - before.cancelled + after.finished_images - before.finished_images == 4
    assert after.cancelled > before.cancelled


def test_new_request_cancels_the_previous_one(context: StudioContext) -> None:
    session, history = TabSession(), list[HistoryItem]()

    async def run(prompt: str) -> str:
        return await last_status(
            generate_images(context, ImageForm(prompt, seed=0), session, history)
        )

    async def run_both() -> tuple[str, str]:
        first = asyncio.create_task(run("first"))
        await asyncio.sleep(0)
        return await run("second"), await first

    second, first = asyncio.run(run_both())
    assert "cancelled" in first
    assert "1 image" in second
    assert [item.settings["prompt"] for item in history] == ["second"]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (ImageForm(""), "prompt"),
        (ImageForm(None), "prompt"),
        (ImageForm("x" * 5000), "limit max_prompt"),
        (ImageForm("x", "y" * 5000), "limit max_prompt"),
        (ImageForm("x", ratio="9:1"), "ratio"),
        (ImageForm("x", ratio="<b>"), "&lt;b&gt;"),
        (ImageForm("x", guidance_scale=31), "limit max_guidance"),
        (ImageForm("x", guidance_scale=float("nan")), "guidance_scale"),
        (ImageForm("x", temperature=0.001), "temperature"),
        (ImageForm("x", top_k=-1), "top_k"),
        (ImageForm("x", seed=2**70), "seed"),
        (ImageForm("x", seed="seven"), "seed"),
        (ImageForm("x", num_images=5), "limit max_n"),
    ],
)
def test_invalid_forms_are_refused(context: StudioContext, form: ImageForm, message: str) -> None:
    history = list[HistoryItem]()
    (html, status), *_ = generate(context, form, history)
    assert html == ""
    assert message in status
    assert "error" in status
    assert history == []


def test_full_queue_is_reported(context: StudioContext) -> None:
    async def run_eight() -> list[str]:
        form = ImageForm("x", num_images=4)
        streams = [
            generate_images(context, form, TabSession(), list[HistoryItem]()) for _ in range(8)
        ]
        return await asyncio.gather(*map(last_status, streams))

    statuses = asyncio.run(run_eight())
    assert any('role="alert"' in status for status in statuses)
    assert any("4 images" in status for status in statuses)


def test_prompt_is_escaped(context: StudioContext) -> None:
    history = list[HistoryItem]()
    updates = generate(context, ImageForm('"><script>alert(1)</script>', seed=0), history)
    assert not [html for html, _ in updates if "<script" in html]
    assert re.fullmatch(r"[a-z0-9.-]+", history[0].file_name)


def test_form_values_become_request_fields(context: StudioContext) -> None:
    form = ImageForm("x", "", "1:1", 3.0, 1.0, 2048.0, " 7 ", 2)  # type: ignore[arg-type]
    first, second = build_requests(context, form)
    assert first.sampling is not None
    assert (first.sampling.top_k, first.seed, second.seed) == (2048, 7, 8)


def test_parse_integer() -> None:
    assert parse_integer("seed", None) is None
    assert parse_integer("seed", " ") is None
    assert parse_integer("seed", " 7 ") == parse_integer("seed", 7.0) == 7
    for value in ("seven", "-1", "1.5", "١", "9" * 40):
        with pytest.raises(APIError, match="whole number"):
            parse_integer("seed", value)


def test_history_keeps_the_newest_items() -> None:
    history = list[HistoryItem]()
    for seed in range(MAX_ITEMS + 5):
        add_item(history, HistoryItem("", (1, 1), {"seed": seed}, ""))
    assert [item.settings["seed"] for item in history] == list(range(MAX_ITEMS + 4, 4, -1))


def test_file_stem() -> None:
    assert file_stem("A red apple, noto style!", 3) == "a-red-apple-noto-style-3"
    assert file_stem("../../etc/passwd", 0) == "etc-passwd-0"
    assert file_stem("日本", 1) == "1"
