"""Training: one room for each thing that is trained, and what their loops share."""
