"""The tab of tokens: a picture, its codes, and what changes when one is another."""

# No postponed annotations here: Gradio reads `gr.EventData` off a function to know what it wants.

import secrets
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from emu3.server.errors import APIError
from emu3.server.event_stream import ClientDisconnected
from emu3.server.studio.context import Room
from emu3.server.studio.history_tab import PICK
from emu3.server.studio.html import data_url, empty, figure, frame, grid, image, note
from emu3.server.studio.image_handlers import whole
from emu3.server.studio.session import Seat
from emu3.server.studio.tokens_handlers import Sheet, changed, opened, replaced
from emu3.server.studio.upload import drop

NOTHING = "Drop a picture: the model sees it as a grid of codes, and so does this page."
NUMBERS = 16  # codes a row; where there are more, numbers are too small to be read


@dataclass(frozen=True)
class Bench:
    """What the buttons do; each answers with the sheet and everything that shows it."""

    room: Room

    @property
    def codebook(self) -> int:
        """How many codes there are."""
        return self.room.engine.checkpoint.vision_processor.vision.config.codebook_size

    async def encode(self, source: str, sheet: Sheet, seat: Seat) -> tuple[Any, ...]:
        """A picture was dropped."""
        return await tried(sheet, opened(self.room, source or "", seat))

    async def replace(self, value: Any, sheet: Sheet, seat: Seat) -> tuple[Any, ...]:
        """Another code for the place chosen."""

        async def work() -> Sheet:
            code = whole("code", value)
            codes = replaced(sheet, 0 if code is None else code, self.codebook)
            before = sheet.codes
            await changed(self.room, sheet, codes, seat)
            sheet.history.append(before)
            return sheet

        return await tried(sheet, work())

    async def by_chance(self, sheet: Sheet, seat: Seat) -> tuple[Any, ...]:
        """Any code for the place chosen."""
        return await self.replace(secrets.randbelow(self.codebook), sheet, seat)

    async def undo(self, sheet: Sheet, seat: Seat) -> tuple[Any, ...]:
        """Back to what was before the last change."""

        async def work() -> Sheet:
            if sheet.history:
                await changed(self.room, sheet, sheet.history[-1], seat)
                del sheet.history[-1]
            return sheet

        return await tried(sheet, work())

    def choose(self, sheet: Sheet, said: Any) -> tuple[Any, ...]:
        """A place was clicked on; `said` is what the page tells of it."""
        index = said.get("index") if isinstance(said, dict) else None
        if isinstance(index, int) and sheet.codes:
            sheet.choose(*divmod(index, len(sheet.codes[0])))
        return shown(sheet, note(told(sheet)))


async def tried(sheet: Sheet, work: Awaitable[Sheet]) -> tuple[Any, ...]:
    """The sheet after some work, or as it was and why."""
    try:
        done = await work
    except APIError as problem:
        return shown(sheet, note(problem.message, "problem"))
    except ClientDisconnected:
        return shown(sheet)
    return shown(done, note(told(done)))


def shown(sheet: Sheet, line: str = "") -> tuple[Any, ...]:
    """The sheet, its grid, its pictures, the place chosen, the code there, and a line."""
    if sheet.before is None:
        return sheet, empty(NOTHING), "", "", 0, line
    return sheet, grid_of(sheet), pictures_of(sheet), place_of(sheet), sheet.code, line


def build(room: Room) -> None:
    """The tab."""
    import gradio as gr

    bench, seat, sheet = Bench(room), gr.State(Seat()), gr.State(Sheet())
    with gr.Row(elem_classes="halves"):
        with gr.Column(min_width=300, elem_classes="fields"):
            label = "Drop a picture, or choose one"
            dropped = drop(label, room.settings.max_body, "tokens-drop")
            place = gr.HTML(elem_id="tokens-place")
            of = f"Code, 0 to {bench.codebook - 1}"
            code = gr.Number(0, label=of, precision=0, elem_id="tokens-code")
            with gr.Row(elem_classes="buttons"):
                go = gr.Button("Replace", variant="primary", elem_id="tokens-go")
                dice = gr.Button("By chance", elem_id="tokens-dice")
                undo = gr.Button("Undo", elem_id="tokens-undo")
            line = gr.HTML(elem_id="tokens-note")
        with gr.Column(min_width=300):
            table = gr.HTML(empty(NOTHING), js_on_load=PICK, elem_id="tokens-grid")
            pictures = gr.HTML(elem_id="tokens-pictures")

    def picked(one: Sheet, event: gr.EventData) -> tuple[Any, ...]:
        return bench.choose(one, event._data)

    outputs = [sheet, table, pictures, place, code, line]
    quiet = {"show_progress": "hidden", "concurrency_limit": None}
    dropped.upload(bench.encode, [dropped, sheet, seat], outputs, api_name="encode", **quiet)
    table.click(picked, sheet, outputs, api_name=False, **quiet)
    go.click(bench.replace, [code, sheet, seat], outputs, api_name="replace", **quiet)
    code.submit(bench.replace, [code, sheet, seat], outputs, api_name=False, **quiet)
    dice.click(bench.by_chance, [sheet, seat], outputs, api_name=False, **quiet)
    undo.click(bench.undo, [sheet, seat], outputs, api_name="undo", **quiet)


def grid_of(sheet: Sheet) -> str:
    """The codes over the picture that they stand for, each a button."""
    assert sheet.after is not None
    wide = len(sheet.codes[0])
    cells = []
    for row, line in enumerate(sheet.codes):
        for column, code in enumerate(line):
            kind = "chosen " if (row, column) == sheet.place else ""
            kind += "other" if code != sheet.first[row][column] else ""
            label = f"row {row + 1}, column {column + 1}: code {code}"
            number = str(code) if wide <= NUMBERS else ""
            cells.append(
                f'<button class="{kind}" data-pick="{row * wide + column}" aria-label="{label}" '
                f'title="{label}">{number}</button>'
            )
    picture = image(data_url(sheet.after), "the picture as its codes have it", sheet.after.size)
    columns = f'style="grid-template-columns:repeat({wide},1fr)"'
    cover = f'<div class="codes" {columns}>{"".join(cells)}</div>'
    return f'<div class="sheet">{frame(picture + cover, sheet.after.size)}</div>'


def pictures_of(sheet: Sheet) -> str:
    """Before, after, and the difference."""
    assert sheet.before is not None and sheet.after is not None
    three = (
        ("before", sheet.before),
        ("after", sheet.after),
        ("difference, four times", sheet.difference()),
    )
    cells = (
        figure(frame(image(data_url(picture), name, picture.size), picture.size), name)
        for name, picture in three
    )
    return grid(cells, "three")


def place_of(sheet: Sheet) -> str:
    """Which code is chosen."""
    row, column = sheet.place
    return note(f"row {row + 1}, column {column + 1} is chosen: code {sheet.code}")


def told(sheet: Sheet) -> str:
    """How much is other than it was."""
    if sheet.before is None:
        return ""
    wide, high = len(sheet.codes[0]), len(sheet.codes)
    if not sheet.changed:
        return f"{wide}×{high} codes; choose one"
    of = sheet.before.width * sheet.before.height
    codes = "1 code" if sheet.changed == 1 else f"{sheet.changed} codes"
    return f"{codes} changed, and with it {sheet.pixels_changed()} of {of} pixels"
