"""The command line `emu3`: one command per module, mostly the methods of `emu3.Emu3`.

Results go to stdout, everything else to stderr. Invalid input ends with a one-line message and exit
code 2. PyTorch is imported inside the commands, so that help and errors in options appear at once.
Read `app` first.
"""

from emu3.cli.app import build, main

__all__ = ["build", "main"]
