"""How good every sampler is for so many network calls: a table, and a plot, of one trained run.

    python tests/benchmarks/samplers.py measure RUN RESULTS.jsonl [--num 5000] [--only unipc …]
        [--grids every] [--calls 5 8 …] [--held_out SPLIT]
    python tests/benchmarks/samplers.py show RESULTS.jsonl [--plot FILE.png]
    python tests/benchmarks/samplers.py cost RUN [--num 256] [--rounds 7]

`measure` draws the same noise for every sampler, with the labels of the run's data, and compares
the samples with all of the data by the evaluator's classifier: Fréchet distance in its features,
and the share of samples that it gives their label. The first line is of real examples: those of the
split `--held_out`, else one half of the data beside the other. A line is kept for each; a second
call goes on. A sampler may have options, as "dpmpp-sde --eta 0.3".
With `--grids every` each sampler also goes through all other grids. `cost` times a network call of
every sampler by turns, by the clock of the processors, which other work on them hardly changes.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CALLS = (5, 6, 8, 10, 15, 20, 50)
# What a full chain is compared with: all steps of the schedule.
FULL = ("ddpm", "ddpm-beta", "ddim")


def cases(run: Any, wanted: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields sampler, grid, calls and steps, the full chains first."""
    from ddpm_jax.diffusion import SAMPLERS, TIME_GRIDS, make_sampler

    schedule = run.experiment.schedule
    names = wanted.only or SAMPLERS
    if wanted.only is None:
        for name in FULL:
            yield {"sampler": name, "grid": "strided", "calls": schedule.T, "steps": schedule.T}
    for calls in wanted.calls:
        for name in names:
            own = make_sampler(name.split()[0], schedule).grid
            # Heun's method calls twice a step, and once in the last.
            steps = (calls + 1) // 2 if name == "heun" else calls
            for grid in TIME_GRIDS if wanted.grids == ["every"] else wanted.grids or [own]:
                yield {"sampler": name, "grid": grid, "calls": calls, "steps": steps}


def measure(wanted: argparse.Namespace) -> None:
    import jax.numpy as jnp
    import numpy as np

    import ddpm_jax
    from ddpm_jax.config import override
    from ddpm_jax.data.pixels import to_unit
    from ddpm_jax.diffusion import make_time_grid, plan_chain
    from ddpm_jax.evaluation.features import FEATURES
    from ddpm_jax.evaluation.features.extractor import FeatureContext
    from ddpm_jax.evaluation.metrics.frechet import frechet
    from ddpm_jax.evaluation.sets import set_of_data
    from ddpm_jax.evaluation.statistics import add_moments, no_moments
    from ddpm_jax.sampling.chain import SampleProgram

    run = ddpm_jax.load(wanted.run)
    data = set_of_data(run.config.data).source
    real = data.gather(np.arange(len(data)))
    extract = FEATURES["classifier"]().load(FeatureContext(data, print)).extract

    def moments(examples: np.ndarray) -> Any:
        found = extract(examples)
        return found, add_moments(no_moments(), found, None)

    def row(case: dict[str, Any], began: float, found: Any, against: Any, labels: Any) -> None:
        extracted, of_found = found
        row = {
            **case,
            "num": len(labels),
            "frechet": frechet(against, of_found),
            "agreement": float(np.mean(extracted.logits.argmax(axis=1) == labels)),
            "seconds": round(time.monotonic() - began, 1),
        }
        with wanted.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def in_unit(examples: Any) -> np.ndarray:
        return np.asarray(to_unit(jnp.asarray(examples)), np.float32)

    _, of_real = moments(in_unit(real.examples))
    if not rows_of(wanted.results):
        began, case = time.monotonic(), {"sampler": "real", "calls": 0, "steps": 0}
        if wanted.held_out:
            other = set_of_data(dataclasses.replace(run.config.data, split=wanted.held_out)).source
            held_out = other.gather(np.arange(min(wanted.num, len(other))))
            case |= {"grid": f"split {wanted.held_out}"}
            row(case, began, moments(in_unit(held_out.examples)), of_real, held_out.labels)
        else:
            parts = np.array_split(np.random.default_rng(0).permutation(len(data)), 2)
            (_, of_half), half = (moments(in_unit(real.examples[part])) for part in parts)
            case |= {"grid": "one half beside the other"}
            row(case, began, half, of_half, np.asarray(real.labels)[parts[1]])
    labels = np.asarray(real.labels)[np.arange(wanted.num) * len(data) // wanted.num]
    done, programs = rows_of(wanted.results), {}
    schedule, fractional = run.experiment.schedule, run.experiment.model.fractional_times
    for case in cases(run, wanted):
        if any(all(row[name] == case[name] for name in case) for row in done):
            continue
        began = time.monotonic()
        name, steps = case["sampler"], case["steps"]
        # One compiled program serves all grids and numbers of steps of a sampler.
        program = programs.get(name)
        if program is None:
            settings = {"sampler": name, "steps": 2, "batch_size": wanted.batch_size}
            options = override(run.config.sample, settings)
            program = programs[name] = SampleProgram(run.experiment, run.mesh, options)
        program.times = make_time_grid(case["grid"], schedule, steps, fractional=fractional)
        program.rows = plan_chain(program.sampler, schedule, program.times)
        drawn = program(run.params, wanted.num, seed=0, labels=labels.tolist())
        row(case, began, moments(drawn.samples), of_real, labels)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def cost(wanted: argparse.Namespace) -> None:
    import numpy as np

    import ddpm_jax
    from ddpm_jax.config import override
    from ddpm_jax.diffusion import SAMPLERS
    from ddpm_jax.sampling.chain import SampleProgram

    run = ddpm_jax.load(wanted.run)
    settings = {"steps": 10, "batch_size": wanted.num}
    programs = {
        name: SampleProgram(
            run.experiment,
            run.mesh,
            override(run.config.sample, {**settings, "sampler": name, "grid": "strided"}),
        )
        for name in ("ddim", *(name for name in SAMPLERS if name != "ddim"))
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(wanted.rounds + 1):
        for name, program in programs.items():
            began = time.process_time()
            program(run.params, wanted.num, seed=0)
            if turn:  # The first compiles.
                seconds[name].append((time.process_time() - began) / program.calls)
    base = np.median(seconds["ddim"])
    print("| sampler | CPU ms a network call | of ddim's |\n| --- | --- | --- |")
    for name, found in seconds.items():
        ratio = np.median(np.array(found) / np.array(seconds["ddim"]))
        print(f"| {name} | {1e3 * np.median(found):.1f} | {ratio:.3f} |")
    print(f"{wanted.num} samples, {wanted.rounds} rounds; ddim {1e3 * base:.1f} ms")


def show(wanted: argparse.Namespace) -> None:
    rows = rows_of(wanted.results)
    full = [row for row in rows if row["sampler"] in FULL and row["calls"] == row["steps"] > 50]
    drawn = [row for row in rows if row["sampler"] != "real"]
    kinds = list(dict.fromkeys((row["sampler"], row["grid"]) for row in drawn))
    calls = sorted({row["calls"] for row in drawn})
    print("| sampler, grid |", " | ".join(f"{number} calls" for number in calls), "|")
    print("| --- " * (1 + len(calls)) + "|")
    for kind in kinds:
        found = {r["calls"]: r for r in rows if (r["sampler"], r["grid"]) == kind}
        cells = [
            f"{found[n]['frechet']:.3f} ({found[n]['agreement']:.3f})" if n in found else ""
            for n in calls
        ]
        print(f"| {', '.join(kind)} |", " | ".join(cells), "|")
    for row in [*(row for row in rows if row["sampler"] == "real"), *full]:
        print(f"{row['sampler']}, {row['grid']}, {row['num']}: {row['frechet']:.4f}")
    if wanted.plot:
        plot(drawn, kinds, full, wanted.plot)


def plot(rows: list[Any], kinds: list[Any], full: list[Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for sampler, grid in kinds:
        own = [r for r in rows if (r["sampler"], r["grid"]) == (sampler, grid)]
        own = sorted((r for r in own if r not in full), key=lambda r: r["calls"])
        if own:
            points = [(r["calls"], r["frechet"]) for r in own]
            axes.plot(*zip(*points, strict=True), "o-", label=f"{sampler}, {grid}", linewidth=1.2)
    for row, style in zip(full, ("--", ":", "-."), strict=False):
        name = f"{row['sampler']}, all {row['steps']}"
        axes.axhline(row["frechet"], color="black", linestyle=style, linewidth=1, label=name)
    axes.set(xscale="log", yscale="log", xlabel="network calls")
    axes.set_ylabel("Fréchet distance in a classifier's features")
    ticks = sorted({r["calls"] for r in rows if r not in full})
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(required=True)
    how = parts.add_parser("measure")
    how.add_argument("run")
    how.add_argument("results", type=Path)
    how.add_argument("--num", type=int, default=5_000)
    how.add_argument("--batch_size", type=int, default=500)
    how.add_argument("--only", nargs="+")
    how.add_argument("--calls", nargs="+", type=int, default=CALLS)
    how.add_argument("--grids", nargs="+")
    how.add_argument("--held_out")
    how.set_defaults(run_this=measure)
    how = parts.add_parser("cost")
    how.add_argument("run")
    how.add_argument("--num", type=int, default=256)
    how.add_argument("--rounds", type=int, default=7)
    how.set_defaults(run_this=cost)
    how = parts.add_parser("show")
    how.add_argument("results", type=Path)
    how.add_argument("--plot", type=Path)
    how.set_defaults(run_this=show)
    wanted = parser.parse_args()
    wanted.run_this(wanted)


if __name__ == "__main__":
    main()
