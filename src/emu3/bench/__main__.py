"""`python -m emu3.bench CASE`: one case, given and answered as JSON; `run_all` starts these."""

import json
import sys
from dataclasses import asdict

from emu3.bench.cases import Case, measure

if __name__ == "__main__":
    print(json.dumps(asdict(measure(Case(**json.loads(sys.argv[1]))))))
