"""Scripts for working on the repository: checks of built packages, generated documentation."""
