"""`emu3 bench`: how fast one guided image is generated, by this package and by transformers.

All methods use the same weights, the same machine and one run; every case has a process of its own.
Read `benchmark` first.
"""

from emu3.bench.benchmark import METHODS, Case, Result, run_all
from emu3.bench.models import MODELS
from emu3.bench.report import print_results

__all__ = ["METHODS", "MODELS", "Case", "Result", "print_results", "run_all"]
