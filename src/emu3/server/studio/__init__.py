"""A page in the browser for the same engine: draw, look, move, tokens, and what was kept."""
