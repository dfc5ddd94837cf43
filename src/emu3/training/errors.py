"""Exceptions that end a training run before its last step."""

from __future__ import annotations

from emu3.errors import InputError


class TrainingError(InputError):
    """A run cannot continue. The message names the step, what is saved and what to do."""


class TrainingInterrupted(KeyboardInterrupt):
    """SIGTERM or Ctrl-C: the current step was finished and saved. The message says how to resume.

    A KeyboardInterrupt, so that the command line reports it and exits as after any Ctrl-C.
    """
