"""Runs the Annotated Diffusion Model's own `Unet` once, and keeps its outputs in annotated.npz.

By hand, in an environment with torch 2.13 and einops; DOCUMENT is the article as a notebook or text
(see tests/benchmarks/annotated_torch.py), whose code is run and not kept:

    python tests/weights/make_annotated.py DOCUMENT
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent

COMMON = {"dim": 16, "dim_mults": (1, 2), "channels": 3}
CASES = {"resnet": {"use_convnext": False}, "convnext": {"use_convnext": True}}
T = [0, 199]


def outputs(document: Path) -> dict[str, Any]:
    """Runs the article's code: the shapes and the output of the network of each case."""
    import torch  # type: ignore[import-not-found]
    from annotated_torch import cells  # type: ignore[import-not-found]

    from tests.weights.formula import wave, weights

    names: dict[str, Any] = {"__name__": "document"}
    wanted = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
    for cell in cells(document):
        for statement in cell:
            if isinstance(statement, wanted) and "Unet" not in names:
                code = compile(ast.Module([statement], []), str(document), "exec")
                try:
                    exec(code, names)
                except ImportError as error:  # Plots and progress bars.
                    print(f"left out: {error}")
    kept: dict[str, Any] = {}
    for name, settings in CASES.items():
        network = names["Unet"](**COMMON, **settings).eval()
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict({k: torch.from_numpy(v) for k, v in weights(shapes).items()})
        with torch.no_grad():
            y = network(torch.from_numpy(wave((2, 3, 8, 8), 1.0)), torch.tensor(T))
        kept[f"{name}.shapes"] = json.dumps(shapes)
        kept[f"{name}.y"] = y.numpy()
        print(name, f"{sum(p.numel() for p in network.parameters()):,}", f"{y.std():.3f}")
    return kept


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "benchmarks")]
    np.savez_compressed(HERE / "annotated.npz", **outputs(Path(sys.argv[1])))
