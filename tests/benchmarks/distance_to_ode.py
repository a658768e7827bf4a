"""How far few steps lead from where the exact ODE goes: RMSE over samples of one trained run.

    python tests/benchmarks/distance_to_ode.py RUN [--num 128] [--calls 6 10 20]
        [--cases "unipc --order 3 logsnr --highest 4" …]

The deterministic samplers all follow one ODE from the same noise. 60 steps of UniPC, order 3, stand
for its exact solution. A case is a sampler with options and then a grid with options.
"""

import argparse
import json
from typing import Any

import numpy as np

CASES = tuple(
    f"{sampler} {grid}"
    for sampler in ("unipc", "unipc --order 3", "dpmpp", "ipndm", "deis", "ddim")
    for grid in ("strided", "logsnr", "logsnr --highest 4", "karras", "t2", "quadratic")
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--num", type=int, default=128)
    parser.add_argument("--calls", nargs="+", type=int, default=(6, 10, 20))
    parser.add_argument("--cases", nargs="+", default=CASES)
    wanted = parser.parse_args()

    import ddpm_jax
    from ddpm_jax.config import Choice, override
    from ddpm_jax.diffusion import TIME_GRIDS, make_time_grid, plan_chain
    from ddpm_jax.sampling.chain import SampleProgram

    run = ddpm_jax.load(wanted.run)
    schedule, fractional = run.experiment.schedule, run.experiment.model.fractional_times
    programs: dict[Choice, Any] = {}

    def draw(sampler: Choice, grid: Choice, steps: int) -> np.ndarray:
        # One compiled program serves all grids and numbers of steps.
        if sampler not in programs:
            settings = {"sampler": sampler, "steps": 2, "batch_size": wanted.num}
            options = override(run.config.sample, settings)
            programs[sampler] = SampleProgram(run.experiment, run.mesh, options)
        program = programs[sampler]
        program.times = make_time_grid(
            grid.name, schedule, steps, fractional=fractional, **grid.options
        )
        program.rows = plan_chain(program.sampler, schedule, program.times)
        return program(run.params, wanted.num, seed=0).samples

    exact = draw(Choice("unipc", order=3), Choice("logsnr", highest=np.inf), 60)
    print("| case |", " | ".join(f"{calls} calls" for calls in wanted.calls), "|")
    print("| --- " * (1 + len(wanted.calls)) + "|")
    for case in wanted.cases:
        words = case.split()
        at = next(i for i, word in enumerate(words[1:], 1) if word in TIME_GRIDS)
        sampler, grid = _choice(words[:at], Choice), _choice(words[at:], Choice)
        found = [draw(sampler, grid, calls) for calls in wanted.calls]
        cells = [f"{np.sqrt(np.mean((x - exact) ** 2)):.4f}" for x in found]
        print(f"| {case} |", " | ".join(cells), "|", flush=True)


def _choice(words: list[str], choice: Any) -> Any:
    pairs = zip(words[1::2], words[2::2], strict=True)
    return choice(words[0], **{name[2:]: _value(text) for name, text in pairs})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
