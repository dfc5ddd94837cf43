"""Recipes: one file, one run. Each states everything and can be killed and started again."""
