"""The command line: the verbs of `emu3.Emu3`, one command each.

Results go to stdout, everything said about them to stderr. What cannot be done because of what was
given ends with one line and exit code 2. PyTorch is imported inside the commands, so that help and
mistakes in the options answer at once.
"""

from emu3.cli.app import main

__all__ = ["main"]
