"""What guidance does to a run's samples: the evaluator's Fréchet distance and label agreement.

    python tests/benchmarks/guidance.py RUN [NUM] ["SETTINGS OF ddpm sample" ...]

Each row is one way to draw, `--guidance 1 --guidance_interval -1 3` or so; without any, a plain
chain, the whole chain guided, and intervals of it. The reference is the run's data.
"""

import shlex
import sys

from ddpm_jax.cli.flags import read
from ddpm_jax.cli.opening import Opening, open_run
from ddpm_jax.cli.sample import flags_of_sampling
from ddpm_jax.config import settings
from ddpm_jax.evaluation.evaluate import evaluate

# In log SNR: all but the beginning, the middle, all but the end.
INTERVALS = ("-2 100", "-2 2", "0 100", "-100 0", "0 4")
DEFAULT = (
    "--guidance 0",
    *(f"--guidance {w}" for w in (0.5, 1, 2)),
    *(f"--guidance {w} --guidance_interval {each}" for w in (0.5, 1, 2) for each in INTERVALS),
)


def main(folder: str, num: str = "1797", *ways: str) -> None:
    opening = settings(Opening())
    known = [*opening, *flags_of_sampling({"num", *(each.name for each in opening)})]
    print("| drawn by | Fréchet distance | label agreement |\n| --- | --- | --- |")
    for way in ways or DEFAULT:
        given = read("guidance.py", shlex.split(way), known)
        own = {each.name: given.pop(each.name) for each in opening if each.name in given}
        guided = open_run(folder, Opening(**own))
        found = evaluate(
            guided,
            ["frechet_distance", "agreement"],
            num=int(num),
            settings=given,
            report=lambda line: print(line, file=sys.stderr),
        )
        values = " | ".join(f"{value:.3f}" for value in found.values.values())
        print(f"| `{way}` | {values} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
