"""The tokenizer alone: the codes that the codec gives, among others at work, and no memory held."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image

from emu3.checkpoint import Checkpoint
from emu3.engine.request import Cancelled, Drawn, DrawRequest, Tokens, TokensRequest
from emu3.engine.runner import Engine
from emu3.errors import InputError
from emu3.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Iterator[Engine]:
    engine = Engine(checkpoint, queue=20, slots=4)
    yield engine
    engine.close(drain=False)


def photo() -> Image.Image:
    return Image.radial_gradient("L").resize((20, 16)).convert("RGB")


def told(engine: Engine, request: TokensRequest) -> Tokens:
    end = engine.submit(request).result()
    assert isinstance(end, Tokens), end
    return end


def test_codes_are_the_codecs_and_stand_for_its_picture(
    engine: Engine, checkpoint: Checkpoint
) -> None:
    codes = checkpoint.codec.encode(photo())
    there = told(engine, TokensRequest(photo()))
    assert [list(row) for row in there.codes] == codes.tolist()
    assert there.picture.tobytes() == checkpoint.codec.picture(codes).tobytes()
    back = told(engine, TokensRequest(there.codes))
    assert (back.codes, back.picture.tobytes()) == (there.codes, there.picture.tobytes())


def test_those_who_draw_are_not_held_up_and_places_are_free_again(engine: Engine) -> None:
    drawing = [engine.submit(DrawRequest("x", seed=seed)) for seed in range(3)]
    told(engine, TokensRequest(photo()))
    ends = [ticket.result() for ticket in drawing]
    for seed, end in enumerate(ends):
        alone = engine.submit(DrawRequest("x", seed=seed)).result()
        assert isinstance(end, Drawn)
        assert isinstance(alone, Drawn)
        assert end.codes == alone.codes
    stats = engine.stats()
    assert (stats.waiting, stats.places, stats.pictures) == (0, 0, 0)


def test_one_that_is_given_up_is_cancelled(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, slots=1)
    first = engine.submit(DrawRequest("x"))
    waiting = engine.submit(TokensRequest(photo()))
    waiting.cancel()
    assert isinstance(waiting.result(), Cancelled)
    first.cancel()
    engine.close()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ((), "rows of one length"),
        (((),), "rows of one length"),
        (((1, 2), (3,)), "rows of one length"),
        (((1, 64),), "0 to 63"),
        (((-1, 0),), "0 to 63"),
        (((0,) * 100,), "more codes than"),
        (Image.new("RGB", (2, 2)), "4 pixels or more"),
        (Image.new("RGB", (100, 10)), "at most 5 times"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(engine: Engine, source: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        engine.submit(TokensRequest(source))  # type: ignore[arg-type]
