"""How fast pictures are drawn, beside others, in one run on one machine."""

from emu3.bench.cases import CASES, Case, Result, run_all
from emu3.bench.report import print_results
from emu3.bench.sizes import SIZES

__all__ = ["CASES", "SIZES", "Case", "Result", "print_results", "run_all"]
