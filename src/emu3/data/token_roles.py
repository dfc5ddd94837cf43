"""The role of a token id in its document. Each training stage maps roles to loss weights."""

from __future__ import annotations

CONTEXT = 0  # questions, media and templates of a conversation, which the model does not generate
TEXT = 1  # plain text, captions, and the control tokens of an image to generate
VISION = 2  # visual codes
ANSWER = 3  # answers in a conversation, and the EOS after the last one

ROLE_NAMES = ("context", "text", "vision", "answer")
"""The names of the roles, ordered by their numbers."""
