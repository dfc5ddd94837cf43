"""Checkpoints in other people's layouts: their names and files, against BAAI's, which are ours.

A room maps names and rewrites small files; it touches no tensor. `hf` is transformers' own port,
`paddle` is what PaddlePaddle saves.
"""
