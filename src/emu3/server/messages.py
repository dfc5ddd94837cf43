"""The messages of a chat, as the questions and answers that the model's template has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from emu3.inference.requests import ChatTurn, VideoInput
from emu3.processing.video import MAX_FPS
from emu3.server.fields import Fields, checked_text
from emu3.server.pictures import of_bytes, of_data_url
from emu3.server.problems import bad
from emu3.server.reels import Screen
from emu3.server.remote import fetch
from emu3.server.settings import Settings

MOST = 200  # messages


@dataclass(frozen=True)
class Asked:
    """One message of the user's: its texts line by line; its pictures, and then its clips, come
    before them.
    """

    text: str
    images: tuple[Image.Image, ...] = ()
    videos: tuple[VideoInput, ...] = ()


@dataclass
class Reader:
    """Reads messages, and keeps count of what is limited over all of them."""

    settings: Settings
    screen: Screen | None  # None where the model knows no clips
    characters: int = 0
    pictures: int = 0
    videos: int = 0

    def read(self, value: Any) -> tuple[tuple[ChatTurn, ...], Asked]:
        """Earlier exchanges and the question. Raises Problem, pictures fetched or unpacked."""
        if not isinstance(value, list) or not value:
            raise bad("messages", "must be a list of at least one message")
        if len(value) > MOST:
            raise bad("messages", f"{len(value)} messages, at most {MOST} are allowed")
        said = [self.message(each, f"messages[{index}]") for index, each in enumerate(value)]
        for index, each in enumerate(said):
            if isinstance(each, Asked) != (index % 2 == 0):
                turn = "user" if index % 2 == 0 else "assistant"
                raise bad(f"messages[{index}].role", f"user and assistant take turns; now {turn}")
        last = said[-1]
        if not isinstance(last, Asked):
            raise bad("messages", "the last message must be the user's")
        before = tuple(
            ChatTurn(asked.text, answer, asked.images, asked.videos)
            for asked, answer in zip(said[::2], said[1::2], strict=False)
            if isinstance(asked, Asked) and isinstance(answer, str)
        )
        return before, last

    def message(self, value: Any, where: str) -> Asked | str:
        """The user's message, or the assistant's as its text."""
        if not isinstance(value, dict):
            raise bad(where, "must be an object with role and content")
        fields = Fields(value, f"{where}.")
        role, content = fields.take("role"), fields.take("content")
        fields.ignore({"refusal": (), "audio": (), "function_call": (), "tool_calls": ([],)})
        fields.ignore({"annotations": ([],)})
        fields.done()
        if role in ("system", "developer"):
            raise bad(
                f"{where}.role",
                "the model's template has a system sentence of its own; "
                "put instructions into the user's message",
            )
        if role == "assistant":
            asked = self.content(content, f"{where}.content", pictures=False)
            return asked.text
        if role != "user":
            raise bad(f"{where}.role", "must be user or assistant")
        return self.content(content, f"{where}.content", pictures=True)

    def content(self, value: Any, where: str, pictures: bool) -> Asked:
        """A string, or a list of parts."""
        if isinstance(value, str):
            return Asked(self.text(value, where))
        if not isinstance(value, list) or not value:
            raise bad(where, "must be a string or a list of parts")
        texts, images, videos = list[str](), list[Image.Image](), list[VideoInput]()
        for index, each in enumerate(value):
            place = f"{where}[{index}]"
            if not isinstance(each, dict):
                raise bad(place, "must be an object with a type")
            fields = Fields(each, f"{place}.")
            kind = fields.take("type")
            if kind == "text":
                text = fields.take("text")
                texts.append(self.text(text, f"{place}.text"))
            elif kind == "image_url" and pictures:
                images.append(self.picture(fields.take("image_url"), f"{place}.image_url"))
            elif kind == "video_url" and pictures:
                videos.append(self.video(fields.take("video_url"), f"{place}.video_url"))
            else:
                raise bad(f"{place}.type", f"must be {self.kinds(pictures)}")
            fields.done()
        return Asked("\n".join(texts), tuple(images), tuple(videos))

    def kinds(self, pictures: bool) -> str:
        """What parts there are."""
        if not pictures:
            return "text"
        return "text or image_url" if self.screen is None else "text, image_url or video_url"

    def text(self, value: Any, where: str) -> str:
        """A text within what is left of the limit."""
        if not isinstance(value, str):
            raise bad(where, "must be a string")
        self.characters += len(value)
        if self.characters > self.settings.max_prompt:
            raise bad(
                where,
                f"more than {self.settings.max_prompt} characters in all (limit max_prompt)",
            )
        return checked_text(value, where, self.settings.max_prompt, "max_prompt")

    def picture(self, value: Any, where: str) -> Image.Image:
        """A picture in a data URL, or fetched where the operator allows it."""
        self.pictures += 1
        if self.pictures > self.settings.max_pictures:
            most = self.settings.max_pictures
            raise bad(where, f"at most {most} pictures are allowed (limit max_pictures)")
        if not isinstance(value, dict):
            raise bad(where, "must be an object with a url")
        fields = Fields(value, f"{where}.")
        url = self.url(fields)
        fields.ignore({"detail": ("auto", "low", "high")})
        fields.done()
        if url[:5].lower() == "data:":
            return of_data_url(url, f"{where}.url", self.settings)
        return of_bytes(fetch(url, f"{where}.url", self.settings), f"{where}.url", self.settings)

    def video(self, value: Any, where: str) -> VideoInput:
        """A clip in a data URL, or fetched as a picture is; `fps` is ours."""
        if self.screen is None:
            raise bad(where, f"{self.settings.model} was not made for this task (video)")
        self.videos += 1
        if self.videos > self.settings.max_videos:
            most = self.settings.max_videos
            raise bad(where, f"at most {most} videos are allowed (limit max_videos)")
        if not isinstance(value, dict):
            raise bad(where, "must be an object with a url")
        fields = Fields(value, f"{where}.")
        url = self.url(fields)
        fps = fields.number("fps", 0.001, MAX_FPS) or self.settings.chat_fps
        fields.done()
        if url[:5].lower() == "data:":
            return self.screen.of_data_url(url, f"{where}.url", fps)
        return self.screen.of_bytes(fetch(url, f"{where}.url", self.settings), f"{where}.url", fps)

    def url(self, fields: Fields) -> str:
        """What is to be looked at."""
        url = fields.take("url")
        if not isinstance(url, str):
            raise fields.bad("url", "must be a string")
        return url
