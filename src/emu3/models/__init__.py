"""The decoder: one causal transformer over the one vocabulary (paper section 2.3)."""
