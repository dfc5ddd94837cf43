"""`python -m emu3` runs the command line."""

from __future__ import annotations

from emu3.cli import main

if __name__ == "__main__":
    main()
