"""`configs/fashion_mnist.py` against the annotated diffusion model's own code, on this machine.

Run by hand from the repository's root, on a machine with nothing else to do:

    python tests/benchmarks/annotated_torch.py --document FILE [--threads N] [--venv DIR] [--help]

FILE is "The Annotated Diffusion Model", https://huggingface.co/blog/annotated-diffusion: a notebook
as text, with each cell of code after a line `In [...]:`, or an .ipynb. Its code isn't part of this
repository. The comparison takes what it needs (network, schedule, loss, optimizer, sampler) from
the file and runs it unchanged in PyTorch. PyTorch is installed in a virtual environment in DIR (a
temporary folder if left out). Downloads, plots and the loop over the data set are not taken.

Both networks must first be equal: the same number of parameters, and the same outputs from
PyTorch's parameters. Then two things are timed on both sides in turn:

- training steps at batch 128, t and noise drawn, Huber's loss, gradient, Adam, on examples in
  memory. Ours is the package's own step, several per dispatch, which also flips pictures and skips
  steps whose gradient is not finite.
- steps in the chain of T = 200 for 64 samples. Only a part of the chain is timed on both sides,
  because all steps take the same time.

Aims: training at most 0.7 times the document's time by the clock, sampling at most 0.8 times.
"""

import argparse
import ast
import dis
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from peer import (
    Ours,
    arguments,
    by_turns,
    clocked,
    describe,
    report,
    serve,
    shipped,
    started,
    torch_verbs,
    versions,
)

T, BATCH, SAMPLES, COUNT = 200, 128, 64, 2_996_315
PACKAGES = ("torch==2.13.0", "einops", "tqdm", "numpy")
AIMS = {"train": 0.7, "sample": 0.8}
NEEDED = ("model", "optimizer", "timesteps", "p_losses", "sample", "image_size", "channels")


# --- the document's code --------------------------------------------------------------------------


def cells(document: Path) -> Iterator[list[ast.stmt]]:
    """Yields the statements of each cell of code in the document."""
    text = document.read_text()
    if document.suffix == ".ipynb":
        found = json.loads(text)["cells"]
        sources = ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]
    else:
        sources = re.split(r"^In \[[ \w]*\]:$", text, flags=re.MULTILINE)[1:]
    for source in sources:
        # The notebook's own commands; and in a text prose follows the code, which is no Python.
        lines = ["" if line.lstrip()[:1] in ("!", "%") else line for line in source.splitlines()]
        for end in range(len(lines), 0, -1):
            try:
                yield ast.parse("\n".join(lines[:end])).body
            except SyntaxError:
                continue
            break


def bound(statement: ast.stmt) -> set[str]:
    """Returns the names that an import, a definition or an assignment gives a meaning."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return set()


def used(code: CodeType) -> set[str]:
    """Returns the names that code looks up outside its functions."""
    names = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname.startswith("LOAD_")
        and step.opname.removeprefix("LOAD_") in ("NAME", "GLOBAL")
    }
    return names.union(*(used(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def excerpt(document: Path) -> list[CodeType]:
    """Returns the document's statements that NEEDED takes, in its order."""
    try:
        statements = [statement for cell in cells(document) for statement in cell]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"--document {document} can't be read as a notebook: {error}")
    # A name means what it meant last, as for who has run the whole notebook.
    homes = {name: i for i, statement in enumerate(statements) for name in bound(statement)}
    absent = [name for name in NEEDED if name not in homes]
    if absent:
        sys.exit(
            f"--document {document} is not the annotated diffusion model: its code defines no "
            f"{', '.join(absent)}"
        )
    wanted, programs = set(NEEDED), {}
    while wanted:
        place = homes.get(wanted.pop())
        if place is not None and place not in programs:
            module = ast.Module([statements[place]], [])
            programs[place] = compile(module, str(document), "exec")
            wanted |= used(programs[place])
    return [programs[place] for place in sorted(programs)]


def torch_side(document: Path) -> None:
    import torch  # type: ignore[import-not-found]

    names: dict[str, Any] = {"__name__": "document"}
    for program in excerpt(document):
        exec(program, names)
    model, optimizer = names["model"], names["optimizer"]
    shape = (names["channels"], names["image_size"], names["image_size"])
    data = torch.randint(0, 256, (1_000, *shape)).float() / 127.5 - 1

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            batch = data[torch.randint(0, len(data), (BATCH,))]
            t = torch.randint(0, T, (BATCH,)).long()
            loss = names["p_losses"](model, batch, t, loss_type="huber")
            loss.backward()
            optimizer.step()

    def sample(steps: int) -> None:
        names["timesteps"] = steps
        drawn = names["sample"](model, shape[1], batch_size=SAMPLES, channels=shape[0])
        assert len(drawn) == steps

    norms = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.GroupNorm) and not name.endswith("to_out.1")
    ]

    def compared(network: Any, x: Any, t: Any) -> Any:
        # Our normalisations have another epsilon, all but those behind linear attention: with it,
        # outputs agree to the last digits, and any other difference shows.
        own = norms[0].eps
        for norm in norms:
            norm.eps = 1e-6
        y = network(x, t)
        for norm in norms:
            norm.eps = own
        return y

    x, t = torch.randn(4, *shape), torch.tensor([0, 10, 100, T - 1])
    told = describe(model, x, t, compared)
    verbs = {"train": clocked(train), "sample": clocked(sample), "describe": told}
    serve(torch_verbs() | verbs)


# --- our side -------------------------------------------------------------------------------------


def main() -> None:
    words = arguments(__doc__, slices=5, steps=5, dispatch=5)
    words.add_argument("--document", type=Path, metavar="FILE", required=True)
    words.add_argument(
        "--chain", type=int, default=8, help="steps of the chain in a slice (default %(default)s)"
    )
    words.add_argument(
        "--gradient_accumulation_steps",
        type=int,
        default=1,
        help="parts that our batch is taken in (default 1)",
    )
    options = words.parse_args()
    if options.torch_side:
        torch_side(options.document)
    else:
        excerpt(options.document)  # Another document is known before anything is installed.
        compare(options)


def compare(options: argparse.Namespace) -> None:
    from ddpm_jax.config import override
    from ddpm_jax.weights.annotated import unet_places
    from ddpm_jax.weights.places import to_params

    document = ("--document", str(options.document))
    with started(__file__, options, PACKAGES, *document) as theirs:
        about = theirs.ask("about")
        how = {
            "train.gradient_accumulation_steps": options.gradient_accumulation_steps,
            "train.steps_per_dispatch": options.dispatch,
        }
        config = override(shipped("fashion_mnist"), how)
        ours = Ours(config)
        weights, told = theirs.describe_source()
        places = unet_places(ours.config.model, ours.params)
        params = to_params(places, weights, ours.params, "the document's network")
        count = ours.check(params, told, tolerance=2e-5)
        assert count == COUNT, f"{count:,} parameters, not {COUNT:,}"
        print(f"{count:,} parameters and the same outputs on both sides")
        print(versions(about))
        works = {"train": (ours.train, options.steps), "sample": (ours.sample_part, options.chain)}
        for what, (mine, number) in works.items():
            sides = {
                "ours": clocked(mine),
                "the document": lambda n, what=what: theirs.ask(what, n),
            }
            medians = by_turns(what, sides, number, options.slices)
            report(medians / number, aim=AIMS[what])
            if what == "sample":
                mine, other = medians[0] * T / number
                print(f"  {SAMPLES} samples, T = {T}: {mine:.1f} s and {other:.1f} s at that rate")


if __name__ == "__main__":
    main()
