"""The demo model nano: data set, training, evaluation and export. No part of the library uses it.

Read `emoji_world` (the data set) first, then `train_vision` and `train_decoder` (one recipe for
each network), `export` (which writes `src/emu3/nano`) and `evaluate` (`make eval`).
"""
