"""What every door refuses, in the same words: seeds, guidance, and what no context holds."""

from __future__ import annotations

from emu3.errors import InputError

MAX_SEED = 2**63 - 1


def check_seed(seed: int, more: int = 0) -> None:
    """Raise InputError where a seed, or one of `more` behind it, is out of range."""
    if not 0 <= seed <= MAX_SEED - more:
        raise InputError(f"seed = {seed} must lie in 0 to {MAX_SEED}")


def check_guidance(scale: float) -> None:
    """Raise InputError on a scale that means nothing."""
    if not 0 <= scale < float("inf"):
        raise InputError(f"guidance_scale = {scale} must be 0 or more; 1 is no guidance")


def check_context(limit: int, prompt: int, new: int, what: str, instead: str) -> None:
    """Raise InputError where ids of a prompt and new ones exceed the context; `instead` says what
    to do about it.
    """
    if prompt + new > limit:
        raise InputError(
            f"{prompt} ids of prompt and {new} of {what} exceed the context of {limit}; {instead}"
        )
