"""python -m bench NAME [--pairs N]: engine, colours, edits, lora, jobs, soak, history, memory, models."""

from __future__ import annotations

import argparse
import importlib
import warnings

BENCHES = {
    "engine": 11,
    "colours": 20,
    "edits": 40,
    "lora": 21,
    "jobs": 200,
    "soak": 1000,
    "history": 5,
    "memory": 1,
    "models": 7,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=BENCHES)
    parser.add_argument("--pairs", type=int, help="how many pairs, prompts, jobs or visits are measured")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    importlib.import_module(f"bench.{options.name}").main(options.pairs or BENCHES[options.name])


if __name__ == "__main__":
    main()
