"""How a run ends before its last step: something is wrong, or somebody asked."""

from __future__ import annotations

from emu3.errors import InputError


class TrainingError(InputError):
    """A run cannot go on. The message names the step, and says what is saved and what to do."""


class TrainingInterrupted(KeyboardInterrupt):
    """SIGTERM or Ctrl-C: the step was finished and saved. The message says where to go on.

    A KeyboardInterrupt, so that nothing takes it for a fault of the run: the command line says
    what it says and exits as it does after any Ctrl-C.
    """
