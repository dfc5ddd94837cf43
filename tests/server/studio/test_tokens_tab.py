"""The Tokens tab: codes of the vision tokenizer, replaced one by one and restored."""

from __future__ import annotations

import asyncio

import pytest

from emu3.server.errors import APIError
from emu3.server.studio.context import StudioContext
from emu3.server.studio.session import TabSession
from emu3.server.studio.tokens_tab import (
    CodeEditor,
    grid_html,
    images_html,
    open_image,
    set_codes,
    summary,
)

CODEBOOK_SIZE = 64


@pytest.fixture
def editor(context: StudioContext, photo: str) -> CodeEditor:
    return asyncio.run(open_image(context, photo, TabSession()))


def test_replaced_code_changes_pixels_and_restoring_it_changes_them_back(
    context: StudioContext, editor: CodeEditor
) -> None:
    assert editor.num_changed_codes == editor.num_changed_pixels() == 0
    editor.select(1, 2)
    new = editor.with_selected_code((editor.selected_code + 1) % CODEBOOK_SIZE, CODEBOOK_SIZE)
    asyncio.run(set_codes(context, editor, new, TabSession()))
    assert editor.codes == new
    assert editor.num_changed_codes == 1
    assert editor.num_changed_pixels() > 0
    assert editor.difference().getbbox() is not None
    assert "1 code changed" in summary(editor)
    asyncio.run(set_codes(context, editor, editor.original_codes, TabSession()))
    assert editor.num_changed_codes == editor.num_changed_pixels() == 0


def test_grid_has_a_button_for_every_code(editor: CodeEditor) -> None:
    html = grid_html(editor)
    assert html.count("data-index") == len(editor.codes) * len(editor.codes[0])
    assert html.count('class="selected ') == 1
    assert f"code {editor.selected_code}" in html
    assert images_html(editor).count("<figure>") == 3


def test_positions_and_codes_out_of_range_are_refused(editor: CodeEditor) -> None:
    selected = editor.selected
    for row, column in ((-1, 0), (0, -1), (99, 0), (0, 99)):
        editor.select(row, column)
    assert editor.selected == selected
    for code in (-1, CODEBOOK_SIZE):
        with pytest.raises(APIError, match="0 to 63"):
            editor.with_selected_code(code, CODEBOOK_SIZE)
    with pytest.raises(APIError, match="upload an image"):
        CodeEditor().with_selected_code(0, CODEBOOK_SIZE)


@pytest.mark.parametrize(
    ("data_url", "message"),
    [("", "upload an image"), ("data:image/png;base64,AAAA", "not an image")],
)
def test_invalid_uploads_are_refused(context: StudioContext, data_url: str, message: str) -> None:
    with pytest.raises(APIError, match=message):
        asyncio.run(open_image(context, data_url, TabSession()))
