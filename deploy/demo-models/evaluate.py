"""Measures the demo models again, from their files: `python deploy/demo-models/evaluate.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recipe import heldout, manifest
from recipe.configs import MODELS
from recipe.measure import ARTEFACTS, measure_agreement, measure_quality
from recipe.runtimes import open_artefact

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Print exact match by task and level; return 1 if a full run differs from model.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", choices=sorted(MODELS), action="append", help="default: both"
    )
    parser.add_argument("--artefact", help="only this one, for example gguf_q8_0")
    parser.add_argument("--per-cell", type=int, help="only the first N items of each cell")
    arguments = parser.parse_args()
    items = heldout.read(HERE)
    if arguments.per_cell:
        items = [item for item in items if int(item["id"][-3:]) <= arguments.per_cell]
    differences = 0
    for name in arguments.model or MODELS:
        recorded = manifest.read(HERE / name)["artefacts"]
        for artefact in ARTEFACTS[name]:
            if arguments.artefact not in (None, artefact.key):
                continue
            runtime = open_artefact(HERE / name / artefact.path)
            agreement = measure_agreement(runtime, HERE / name / "reference_greedy.json")
            result = measure_quality(runtime, items)
            runtime.close()
            print(
                f"{name} {artefact.key}: {agreement.same_answer_count}/{agreement.prompt_count} "
                f"answers as PyTorch, {result['token_count']} tokens in {result['seconds']} s"
            )
            for task, levels in result["task_quality"].items():
                for level, entry in levels.items():
                    was = recorded[artefact.key]["task_quality"][task][level]
                    same = entry == was or bool(arguments.per_cell)
                    differences += not same
                    note = "" if same else f"  (recorded {was['exact_match_ratio']:.1%})"
                    ratio = entry["exact_match_ratio"]
                    print(f"  {task:8} {level:5} {ratio:6.1%} of {entry['n']}{note}")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
