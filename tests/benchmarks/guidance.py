"""What guidance does to a run's samples: the evaluator's Fréchet distance and label agreement.

    python tests/benchmarks/guidance.py RUN [NUM] ["SETTINGS OF ddpm sample" ...]

Each row is one way to draw, `--guidance 1 --guidance_interval -1 3` or so; without any, a plain
chain, the whole chain guided, and intervals of it. The reference is the run's data.
"""

import shlex
import sys

from ddpm_jax.cli.evaluate import Options
from ddpm_jax.cli.flags import read
from ddpm_jax.cli.sample import flags_of_sampling, with_guides
from ddpm_jax.config import settings
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.sampling.run import load

# In log SNR: all but the beginning, the middle, all but the end.
INTERVALS = ("-2 100", "-2 2", "0 100", "-100 0", "0 4")
DEFAULT = (
    "--guidance 0",
    *(f"--guidance {w}" for w in (0.5, 1, 2)),
    *(f"--guidance {w} --guidance_interval {each}" for w in (0.5, 1, 2) for each in INTERVALS),
)


def main(folder: str, num: str = "1797", *ways: str) -> None:
    run = load(folder)
    guides = [each for each in settings(Options()) if each.name in ("guide", "classifier")]
    known = [*guides, *flags_of_sampling({"num"})]
    print("| drawn by | Fréchet distance | label agreement |\n| --- | --- | --- |")
    for way in ways or DEFAULT:
        given = read("guidance.py", shlex.split(way), known)
        guided = with_guides(
            run, given.pop("guide", None), given.pop("classifier", None), local=True
        )
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
