"""The server through OpenAI's client: images, chats, models and errors."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from emu3.api import Emu3
from emu3.inference.sequences import TextSequence
from emu3.server.settings import Settings

from .conftest import KEY, Server, serving

openai = pytest.importorskip("openai")


def decode(data: str | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def photo() -> tuple[Image.Image, str]:
    image = Image.radial_gradient("L").resize((24, 16)).convert("RGB")
    out = io.BytesIO()
    image.save(out, format="PNG")
    return image, "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def messages_of(text: str, *urls: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_images_equal_those_of_the_python_api(client: Any, server: Server) -> None:
    response = client.images.generate(
        model="tiny",
        prompt="a fox",
        n=2,
        size="16x24",
        user="a user",
        extra_body={"seed": 7, "guidance_scale": 2.0, "top_k": 20, "temperature": 1.1},
    )
    expected = Emu3(server.engine.checkpoint).image(
        "a fox",
        ratio="2:3",
        area=16 * 24,
        num_images=2,
        seed=7,
        guidance_scale=2.0,
        top_k=20,
        temperature=1.1,
    )
    assert [decode(each.b64_json).convert("RGB").tobytes() for each in response.data] == [
        image.tobytes() for image in expected.images
    ]
    assert response.usage.output_tokens == 2 * 4 * 6
    assert response.usage.total_tokens == response.usage.input_tokens + 48
    assert response.size == "16x24"


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_output_formats(client: Any, kind: str) -> None:
    response = client.images.generate(prompt="x", output_format=kind, size="auto")
    assert decode(response.data[0].b64_json).format == kind.upper()


def test_image_streams(client: Any) -> None:
    call = {"prompt": "x", "size": "16x32", "extra_body": {"seed": 3}}
    whole = client.images.generate(**call)
    events = list(client.images.generate(**call, stream=True, partial_images=2))
    *partial, last = events
    assert {each.type for each in partial} == {"image_generation.partial_image"}
    heights = [decode(each.b64_json).height for each in partial]
    assert heights == sorted(heights)
    assert heights[0] > 0
    assert heights[-1] < 32
    assert last.type == "image_generation.completed"
    assert last.b64_json == whole.data[0].b64_json
    assert last.usage.output_tokens == 32


def test_answers_equal_those_of_the_python_api(client: Any, server: Server) -> None:
    image, url = photo()
    response = client.chat.completions.create(
        model="tiny", messages=messages_of("what?", url), max_tokens=9
    )
    expected = Emu3(server.engine.checkpoint).chat("what?", [image], max_new_tokens=9)
    assert response.choices[0].message.content == expected
    assert response.choices[0].finish_reason in ("stop", "length")
    assert response.usage.completion_tokens <= 9


def test_chat_streams(client: Any) -> None:
    call = {"model": "tiny", "messages": messages_of("hm"), "max_completion_tokens": 20, "seed": 5}
    call |= {"temperature": 1.0}
    whole = client.chat.completions.create(**call)
    chunks = list(
        client.chat.completions.create(**call, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason
    assert not any(reasons[:-1])


def test_earlier_turns_are_part_of_the_prompt(client: Any) -> None:
    def prompt_tokens(*earlier: dict[str, str]) -> int:
        messages = [*earlier, {"role": "user", "content": "and?"}]
        response = client.chat.completions.create(model="tiny", messages=messages, max_tokens=1)
        return int(response.usage.prompt_tokens)

    turn = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert prompt_tokens() < prompt_tokens(*turn) < prompt_tokens(*turn, *turn)


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_errors_of_the_client(client: Any, server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="max_n") as caught:
        client.images.generate(prompt="x", n=99)
    assert caught.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="b64_json"):
        client.images.generate(prompt="x", response_format="url")
    with pytest.raises(openai.BadRequestError, match="edits are not supported"):
        client.images.edit(image=("a.png", b"x"), prompt="x")
    with pytest.raises(openai.NotFoundError, match="not served"):
        client.images.generate(prompt="x", model="dall-e-3")
    unauthorized = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="API key"):
        unauthorized.models.list()


def test_concurrent_requests_equal_sequential_ones(client: Any) -> None:
    def generate(seed: int) -> str:
        response = client.images.generate(prompt="x" * seed, extra_body={"seed": seed})
        return str(response.data[0].b64_json)

    concurrent: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: concurrent.update({seed: generate(seed)}))
        for seed in range(1, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert concurrent == {seed: generate(seed) for seed in range(1, 7)}


def test_a_full_queue_is_429_with_retry_after() -> None:
    with serving(Settings(model="tiny"), max_waiting=1, max_running=1) as busy:
        client = openai.OpenAI(base_url=f"{busy.url}/v1", api_key=KEY, max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="x", n=4)
        assert caught.value.response.headers["retry-after"] == "5"
        assert caught.value.code == "queue_full"
        assert client.images.generate(prompt="x").data  # all four were cancelled


@pytest.mark.parametrize("streamed", [True, False])
def test_disconnecting_cancels_the_request(
    client: Any, server: Server, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accept_slowly(self: TextSequence, sampled: list[int]) -> None:
        """Never accept the stop id, and take long enough for the client to disconnect."""
        time.sleep(0.02)
        self.ids.append(ord("x"))

    monkeypatch.setattr(TextSequence, "accept", accept_slowly)
    before = server.engine.stats()
    body = {"messages": messages_of("x"), "max_tokens": 64, "stream": streamed}
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    while not server.engine.stats().running_chats:
        time.sleep(0.001)
    if streamed:
        assert connection.getresponse().readline().startswith(b"data: ")
    connection.close()
    while server.engine.stats().running_chats:
        time.sleep(0.001)
    stats = server.engine.stats()
    assert (stats.cancelled, stats.finished_chats) == (before.cancelled + 1, before.finished_chats)
    assert stats.kv_cache_tokens == 0
    assert client.images.generate(prompt="x").data


def test_the_time_limit() -> None:
    with serving(Settings(model="tiny", timeout=1e-6)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY)
        with pytest.raises(openai.InternalServerError, match="limit timeout"):
            client.images.generate(prompt="x", size="32x32")
    assert server.engine.stats().cancelled == 1
