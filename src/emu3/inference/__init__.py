"""One model for many who ask at once: requests in, events out; nothing of HTTP."""
