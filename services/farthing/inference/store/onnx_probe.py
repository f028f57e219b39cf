"""Opens a model folder in a process of its own and prints what the graph and tokenizer are, as one JSON line.

Run as `python -m farthing.inference.store.onnx_probe GRAPH TOKENIZER MEMORY_BYTES`: a file that crashes the library, or
makes it ask for more memory than that, takes this process along and nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any


def probe(graph: str, tokenizer: str) -> dict[str, Any]:
    """Inputs and outputs of the graph, and the tokenizer's vocabulary; or `error` with the library's words."""
    # The library would send usage data from its own threads otherwise.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
        import tokenizers
    except ImportError as error:
        return {"missing": error.name or str(error)}
    try:
        vocab_size = tokenizers.Tokenizer.from_file(tokenizer).get_vocab_size()
    except Exception as error:  # the library raises plain Exception
        return {"error": f"tokenizer.json cannot be read: {error}"}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # Only the signature is wanted: optimising a large graph would take memory and time for nothing.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        return {"error": f"the graph cannot be opened: {error}"}
    return {
        "inputs": [[v.name, v.shape, v.type] for v in session.get_inputs()],
        "outputs": [[v.name, v.shape, v.type] for v in session.get_outputs()],
        "tokenizer_vocab_size": vocab_size,
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]), int(sys.argv[3])))
    sys.stdout.write(json.dumps(probe(sys.argv[1], sys.argv[2])) + "\n")
