"""The server through the official client: it must not notice that this is not OpenAI."""

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


def picture(data: str | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def photo() -> tuple[Image.Image, str]:
    image = Image.radial_gradient("L").resize((24, 16)).convert("RGB")
    out = io.BytesIO()
    image.save(out, format="PNG")
    return image, "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def asking(text: str, *urls: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_pictures_are_those_of_the_pipeline(client: Any, server: Server) -> None:
    answer = client.images.generate(
        model="tiny",
        prompt="a fox",
        n=2,
        size="16x24",
        user="somebody",
        extra_body={"seed": 7, "guidance_scale": 2.0, "top_k": 20, "temperature": 1.1},
    )
    ours = Emu3(server.engine.checkpoint).image(
        "a fox",
        ratio="2:3",
        area=16 * 24,
        num_images=2,
        seed=7,
        guidance_scale=2.0,
        top_k=20,
        temperature=1.1,
    )
    assert [picture(each.b64_json).convert("RGB").tobytes() for each in answer.data] == [
        image.tobytes() for image in ours.images
    ]
    assert answer.usage.output_tokens == 2 * 4 * 6
    assert answer.usage.total_tokens == answer.usage.input_tokens + 48
    assert answer.size == "16x24"


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_output_formats(client: Any, kind: str) -> None:
    answer = client.images.generate(prompt="x", output_format=kind, size="auto")
    assert picture(answer.data[0].b64_json).format == kind.upper()


def test_a_stream_brings_partial_pictures_and_the_whole(client: Any) -> None:
    call = {"prompt": "x", "size": "16x32", "extra_body": {"seed": 3}}
    whole = client.images.generate(**call)
    told = list(client.images.generate(**call, stream=True, partial_images=2))
    *partial, last = told
    assert {each.type for each in partial} == {"image_generation.partial_image"}
    heights = [picture(each.b64_json).height for each in partial]
    assert heights == sorted(heights)
    assert heights[0] > 0
    assert heights[-1] < 32
    assert last.type == "image_generation.completed"
    assert last.b64_json == whole.data[0].b64_json
    assert last.usage.output_tokens == 32


def test_an_answer_is_that_of_the_pipeline(client: Any, server: Server) -> None:
    image, url = photo()
    answer = client.chat.completions.create(
        model="tiny", messages=asking("what?", url), max_tokens=9
    )
    ours = Emu3(server.engine.checkpoint).chat("what?", [image], max_new_tokens=9)
    assert answer.choices[0].message.content == ours
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens <= 9


def test_a_stream_of_text_is_the_text(client: Any) -> None:
    call = {"model": "tiny", "messages": asking("hm"), "max_completion_tokens": 20, "seed": 5}
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


def test_earlier_turns_are_read(client: Any) -> None:
    def read(*earlier: dict[str, str]) -> int:
        messages = [*earlier, {"role": "user", "content": "and?"}]
        answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=1)
        return int(answer.usage.prompt_tokens)

    turn = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert read() < read(*turn) < read(*turn, *turn)


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_errors_are_the_client_s_own(client: Any, server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="max_n") as caught:
        client.images.generate(prompt="x", n=99)
    assert caught.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="b64_json"):
        client.images.generate(prompt="x", response_format="url")
    with pytest.raises(openai.BadRequestError, match="not trained to edit"):
        client.images.edit(image=("a.png", b"x"), prompt="x")
    with pytest.raises(openai.NotFoundError, match="not served"):
        client.images.generate(prompt="x", model="dall-e-3")
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="API key"):
        stranger.models.list()


def test_many_clients_get_what_each_would_alone(client: Any) -> None:
    def draw(seed: int) -> str:
        answer = client.images.generate(prompt="x" * seed, extra_body={"seed": seed})
        return str(answer.data[0].b64_json)

    got: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: got.update({seed: draw(seed)}))
        for seed in range(1, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {seed: draw(seed) for seed in range(1, 7)}


def test_a_full_queue_says_when_to_come_back() -> None:
    with serving(Settings(model="tiny"), max_waiting=1, max_running=1) as busy:
        client = openai.OpenAI(base_url=f"{busy.url}/v1", api_key=KEY, max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="x", n=4)
        assert caught.value.response.headers["retry-after"] == "5"
        assert caught.value.code == "queue_full"
        assert client.images.generate(prompt="x").data  # nothing of the four is left behind


@pytest.mark.parametrize("streamed", [True, False])
def test_whoever_goes_away_frees_the_place(
    client: Any, server: Server, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(self: TextSequence, sampled: list[int]) -> None:
        """Never the end, and slow enough for the client to leave."""
        time.sleep(0.02)
        self.ids.append(ord("x"))

    monkeypatch.setattr(TextSequence, "accept", slowly)
    before = server.engine.stats()
    body = {"messages": asking("x"), "max_tokens": 64, "stream": streamed}
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


def test_time_is_limited() -> None:
    with serving(Settings(model="tiny", timeout=1e-6)) as hasty:
        client = openai.OpenAI(base_url=f"{hasty.url}/v1", api_key=KEY)
        with pytest.raises(openai.InternalServerError, match="limit timeout"):
            client.images.generate(prompt="x", size="32x32")
    assert hasty.engine.stats().cancelled == 1
