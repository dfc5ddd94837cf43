"""`python -m emu3` is `emu3`."""

from __future__ import annotations

from emu3.cli import main

if __name__ == "__main__":
    main()
