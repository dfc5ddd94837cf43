"""The Tokens tab: the visual codes of an image, and what changes when one is replaced."""

# No `from __future__ import annotations`: Gradio inspects the annotation `gr.EventData`.

import asyncio
import secrets
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageChops

from emu3.inference.events import TokenizeResult
from emu3.server.errors import ClientDisconnected, invalid_request
from emu3.server.event_stream import EventStream
from emu3.server.media import decode_image_data_url
from emu3.server.studio.context import StudioContext
from emu3.server.studio.conversion import (
    CodeGrid,
    code_grid,
    event_image,
    image_data_url,
    tokenize_request,
)
from emu3.server.studio.form_parts import (
    EVENT_OPTIONS,
    REQUEST_ERRORS,
    SELECT_SCRIPT,
    error_status,
    parse_integer,
    selected_index,
)
from emu3.server.studio.html import (
    figure,
    frame,
    image_grid,
    image_tag,
    placeholder,
    status_line,
)
from emu3.server.studio.session import TabSession
from emu3.server.studio.upload import upload_field

PLACEHOLDER = "Upload an image to see it as the grid of visual codes that the model reads."
NO_IMAGE = "upload an image first"
DIFFERENCE_GAIN = 4
MAX_LABELED_COLUMNS = 16  # above, the cells are too narrow for numbers


@dataclass
class CodeEditor:
    """State of the tab: an image as codes, the edited codes, and both decoded."""

    original_codes: CodeGrid = ()
    original_image: Image.Image | None = None
    codes: CodeGrid = ()
    image: Image.Image | None = None
    selected: tuple[int, int] = (0, 0)  # (row, column)
    undo_stack: list[CodeGrid] = field(default_factory=list)

    @property
    def selected_code(self) -> int:
        """The code at the selected position."""
        row, column = self.selected
        return self.codes[row][column]

    @property
    def num_changed_codes(self) -> int:
        """Positions at which the codes differ from the original ones."""
        rows = zip(self.original_codes, self.codes, strict=True)
        return sum(a != b for pair in rows for a, b in zip(*pair, strict=True))

    def select(self, row: int, column: int) -> None:
        """Select a position; one outside the grid is ignored."""
        if self.codes and 0 <= row < len(self.codes) and 0 <= column < len(self.codes[0]):
            self.selected = row, column

    def with_selected_code(self, code: int, codebook_size: int) -> CodeGrid:
        """Return the codes with another one at the selected position. Raises APIError."""
        if not self.codes:
            raise invalid_request(None, NO_IMAGE)
        if not 0 <= code < codebook_size:
            raise invalid_request("code", f"must lie in 0 to {codebook_size - 1}")
        row, column = self.selected
        old = self.codes[row]
        new = (*old[:column], code, *old[column + 1 :])
        return (*self.codes[:row], new, *self.codes[row + 1 :])

    def difference(self) -> Image.Image:
        """Return the absolute difference of the two images, times DIFFERENCE_GAIN."""
        return self._difference().point(lambda value: min(255, DIFFERENCE_GAIN * value))

    def num_changed_pixels(self) -> int:
        """Return the number of pixels that differ in any channel."""
        channels = [
            channel.point(lambda value: 255 if value else 0)
            for channel in self._difference().convert("RGB").split()
        ]
        any_channel = ImageChops.lighter(ImageChops.lighter(channels[0], channels[1]), channels[2])
        return any_channel.histogram()[255]

    def _difference(self) -> Image.Image:
        assert self.original_image is not None
        assert self.image is not None
        return ImageChops.difference(self.original_image, self.image)


async def open_image(context: StudioContext, data_url: str, session: TabSession) -> CodeEditor:
    """Return the editor of an image. Raises APIError, ClientDisconnected."""
    if not data_url:
        raise invalid_request(None, NO_IMAGE)
    source = await asyncio.to_thread(decode_image_data_url, data_url, "image", context.settings)
    result = await _tokenize(context, source, session)
    codes, image = code_grid(result), event_image(result)
    center = len(codes) // 2, len(codes[0]) // 2
    return CodeEditor(codes, image, codes, image, center)


async def set_codes(
    context: StudioContext, editor: CodeEditor, codes: CodeGrid, session: TabSession
) -> None:
    """Set the codes of an editor and decode them. Raises APIError, ClientDisconnected."""
    result = await _tokenize(context, codes, session)
    editor.codes, editor.image = code_grid(result), event_image(result)


async def _tokenize(
    context: StudioContext, source: Image.Image | CodeGrid, session: TabSession
) -> TokenizeResult:
    stream = EventStream(
        context.engine, (tokenize_request(source),), context.settings, context.metrics
    )
    async for _, event in stream.events(session.start_request().receive):
        if isinstance(event, TokenizeResult):
            return event
    raise ClientDisconnected


@dataclass(frozen=True)
class CodeEditorActions:
    """Event handlers of the tab. Each returns the values of `_outputs`."""

    context: StudioContext

    async def encode(
        self, data_url: str | None, editor: CodeEditor, session: TabSession
    ) -> tuple[Any, ...]:
        """Open an uploaded image."""
        return await _run(editor, open_image(self.context, data_url or "", session))

    async def replace(self, value: Any, editor: CodeEditor, session: TabSession) -> tuple[Any, ...]:
        """Replace the selected code."""

        async def work() -> CodeEditor:
            code = parse_integer("code", value) or 0
            new = editor.with_selected_code(code, self.context.codebook_size)
            old = editor.codes
            await set_codes(self.context, editor, new, session)
            editor.undo_stack.append(old)
            return editor

        return await _run(editor, work())

    async def replace_randomly(self, editor: CodeEditor, session: TabSession) -> tuple[Any, ...]:
        """Replace the selected code by a random one."""
        code = secrets.randbelow(self.context.codebook_size)
        return await self.replace(code, editor, session)

    async def undo(self, editor: CodeEditor, session: TabSession) -> tuple[Any, ...]:
        """Undo the last replacement."""

        async def work() -> CodeEditor:
            if editor.undo_stack:
                await set_codes(self.context, editor, editor.undo_stack[-1], session)
                del editor.undo_stack[-1]
            return editor

        return await _run(editor, work())

    def select(self, editor: CodeEditor, event_data: Any) -> tuple[Any, ...]:
        """Select the position that was clicked."""
        index = selected_index(event_data)
        if index is not None and editor.codes:
            editor.select(*divmod(index, len(editor.codes[0])))
        return _outputs(editor, status_line(summary(editor)))


async def _run(editor: CodeEditor, work: Awaitable[CodeEditor]) -> tuple[Any, ...]:
    """Return the outputs after `work`; where it fails, those of `editor` with the error."""
    try:
        done = await work
    except ClientDisconnected:  # a newer request replaces this one and shows its own status
        return _outputs(editor, "")
    except REQUEST_ERRORS as error:
        return _outputs(editor, error_status(error))
    return _outputs(done, status_line(summary(done)))


def _outputs(editor: CodeEditor, status: str) -> tuple[Any, ...]:
    """Return editor, code grid, images, selected position, selected code, and status line."""
    if editor.original_image is None:
        return editor, placeholder(PLACEHOLDER), "", "", 0, status
    row, column = editor.selected
    selection = f"row {row + 1}, column {column + 1} is selected: code {editor.selected_code}"
    return (
        editor,
        grid_html(editor),
        images_html(editor),
        status_line(selection),
        editor.selected_code,
        status,
    )


def build(context: StudioContext) -> None:
    """Add the tab's components."""
    import gradio as gr

    actions = CodeEditorActions(context)
    session, editor = gr.State(TabSession()), gr.State(CodeEditor())
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(min_width=300, elem_classes="fields"):
            upload = upload_field("Upload an image", context.settings.max_body, "tokens-upload")
            selection = gr.HTML(elem_id="tokens-selection")
            label = f"Code, 0 to {context.codebook_size - 1}"
            code = gr.Number(0, label=label, precision=0, elem_id="tokens-code")
            with gr.Row(elem_classes="buttons"):
                replace = gr.Button("Replace", variant="primary", elem_id="tokens-replace")
                random = gr.Button("Random", elem_id="tokens-random")
                undo = gr.Button("Undo", elem_id="tokens-undo")
            status = gr.HTML(elem_id="tokens-status")
        with gr.Column(min_width=300):
            grid = gr.HTML(
                placeholder(PLACEHOLDER), js_on_load=SELECT_SCRIPT, elem_id="tokens-grid"
            )
            images = gr.HTML(elem_id="tokens-images")

    def select(current: CodeEditor, event: gr.EventData) -> tuple[Any, ...]:
        return actions.select(current, event._data)

    state, outputs = [editor, session], [editor, grid, images, selection, code, status]
    upload.upload(actions.encode, [upload, *state], outputs, api_name="encode", **EVENT_OPTIONS)
    grid.click(select, editor, outputs, api_name=False, **EVENT_OPTIONS)
    replace.click(actions.replace, [code, *state], outputs, api_name="replace", **EVENT_OPTIONS)
    code.submit(actions.replace, [code, *state], outputs, api_name=False, **EVENT_OPTIONS)
    random.click(actions.replace_randomly, state, outputs, api_name=False, **EVENT_OPTIONS)
    undo.click(actions.undo, state, outputs, api_name="undo", **EVENT_OPTIONS)


def grid_html(editor: CodeEditor) -> str:
    """Return the decoded image under a grid with one button per code."""
    assert editor.image is not None
    columns = len(editor.codes[0])
    cells = []
    for row, line in enumerate(editor.codes):
        for column, code in enumerate(line):
            kind = "selected " if (row, column) == editor.selected else ""
            kind += "changed" if code != editor.original_codes[row][column] else ""
            label = f"row {row + 1}, column {column + 1}: code {code}"
            text = str(code) if columns <= MAX_LABELED_COLUMNS else ""
            cells.append(
                f'<button class="{kind}" data-index="{row * columns + column}" '
                f'aria-label="{label}" title="{label}">{text}</button>'
            )
    size = editor.image.size
    image = image_tag(image_data_url(editor.image), "the image decoded from the codes", size)
    style = f"grid-template-columns:repeat({columns},1fr)"
    overlay = f'<div class="codes" style="{style}">{"".join(cells)}</div>'
    return f'<div class="code-grid">{frame(image + overlay, size)}</div>'


def images_html(editor: CodeEditor) -> str:
    """Return the original image, the edited one, and their difference."""
    assert editor.original_image is not None
    assert editor.image is not None
    images = {
        "original": editor.original_image,
        "edited": editor.image,
        f"difference ×{DIFFERENCE_GAIN}": editor.difference(),
    }
    cells = (
        figure(frame(image_tag(image_data_url(image), name, image.size), image.size), name)
        for name, image in images.items()
    )
    return image_grid(cells, "three-columns")


def summary(editor: CodeEditor) -> str:
    """Return how many codes and pixels have changed; the size of the grid while none has."""
    if editor.original_image is None:
        return ""
    columns, rows = len(editor.codes[0]), len(editor.codes)
    if not editor.num_changed_codes:
        return f"{columns}×{rows} codes; select one to change it"
    count = editor.num_changed_codes
    codes = "1 code" if count == 1 else f"{count} codes"
    pixels = editor.original_image.width * editor.original_image.height
    return f"{codes} changed, {editor.num_changed_pixels()} of {pixels} pixels differ"
