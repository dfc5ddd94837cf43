"""What an id is in its document. Stages of training turn roles into weights of the loss."""

from __future__ import annotations

CONTEXT = 0  # asked or shown, not said by the model
TEXT = 1  # text to learn, and the control tokens of a picture that is drawn
VISION = 2  # a visual code
ANSWER = 3  # said by the model in a conversation, its EOS included

ROLE_NAMES = ("context", "text", "vision", "answer")
"""The names of roles, in the order of their numbers."""
