"""What is fast, small or exact is measured here, side by side and in one run."""
