"""The vision tokenizer: pixels to codes and back (paper section 2.2)."""
