"""`python -m emu3.bench CASE`: one case as JSON in and out; `run_all` starts this process."""

import json
import sys
from dataclasses import asdict

from emu3.bench.benchmark import Case, measure

if __name__ == "__main__":
    print(json.dumps(asdict(measure(Case(**json.loads(sys.argv[1]))))))
