"""Dispatch, exit codes and the first help page of the `ddpm` command."""

import atexit
import gc
import importlib
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ddpm_jax.cli import streams
from ddpm_jax.cli.console import log_lines
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.files import mend, reason
from ddpm_jax.runtime.compilation import enable_compilation_cache
from ddpm_jax.runtime.distributed import find_process, joined


class Command(NamedTuple):
    """One command."""

    run: Callable[[list[str]], int]
    """Takes the words behind the command's name; returns the exit code."""
    usage: str
    help: str
    shared: bool = False
    """Whether several processes can share the work."""


def _module(name: str) -> Callable[[list[str]], int]:
    """Returns the `run` of a command's module, imported when it is called.

    JAX takes a second to import, tyro a tenth. `ddpm --help` and a mistyped command need neither.
    """
    return lambda words: importlib.import_module(f"ddpm_jax.cli.{name}").run(words)


COMMANDS = {
    "train": Command(_module("train"), "CONFIG", "train a config, or go on where it stopped", True),
    "sample": Command(_module("sample"), "RUN", "draw samples from a run", True),
    "edit": Command(_module("edit"), "RUN PICTURE --how HOW", "edit a picture with a run"),
    "evaluate": Command(_module("evaluate"), "RUN|SAMPLES", "compare with real examples", True),
    "plot": Command(_module("plot"), "CONFIG|RUN [FIGURE]", "draw a figure, or the config's own"),
    "info": Command(_module("info"), "CONFIG|RUN", "parameters, FLOPs, memory, data"),
    "bench": Command(_module("bench"), "CONFIG|RUN", "how fast it runs on this machine"),
    "import": Command(_module("import_"), "SOURCE", "make a run of another project's weights"),
    "export": Command(_module("export"), "RUN DIR", "write a run's weights for another program"),
    "studio": Command(_module("studio"), "[RUNS…]", "watch runs train and draw, in a browser"),
    "tutorial": Command(_module("tutorial"), "[NUMBER]", "read, run and draw its chapters"),
    "data": Command(_module("data"), "prepare NAME|info SOURCE", "prepare data, or look at any"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; a mistake of the user prints a line and is 2."""
    if argv is None:  # This is the program, not a call from Python.
        # Importing and tracing make millions of objects, and hardly any become garbage. Collecting
        # garbage took a tenth of a short command's time, and another tenth when Python ended.
        gc.set_threshold(10_000, 10, 10)
        # What goes wrong in XLA is also raised; what its library prints beside is for its makers.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        atexit.register(gc.freeze)
        streams.prepare()
    try:
        with log_lines():
            code = _answer(list(sys.argv[1:] if argv is None else argv))
        # If the reader has left, this must fail here: later, Python itself would print an error.
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # `head` leaves early, for example.
        streams.discard_stdout()
        return 141
    except OSError as error:
        if error.errno is None:  # A library's own error, not an answer of the system.
            raise
        streams.discard_stdout()
        where = os.fsdecode(error.filename) if error.filename else "the output can't be written"
        return _refused(f"{where}: {reason(error)}; {mend(error)}")


def _refused(line: str) -> int:
    # Names of files may hold line breaks; the message must stay one line.
    print(f"ddpm: {' '.join(line.splitlines())}", file=sys.stderr)
    return 2


def _answer(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(importlib.metadata.version("ddpm_jax"))
        return 0
    try:
        if words[0] not in COMMANDS:
            known = ", ".join(COMMANDS)
            hint = nearest(words[0], list(COMMANDS))
            raise UserError(f"there is no command {words[0]}{hint}; there are {known}")
        command = COMMANDS[words[0]]
        enable_compilation_cache()
        _import_jax()
        if not command.shared or words[-1] in ("-h", "--help"):
            return command.run(words[1:])
        return _run_shared(command, words[1:], f"ddpm {words[0]}")
    except UserError as error:
        return _refused(str(error))
    except FloatingPointError as error:
        line = str(error).splitlines()[0]
        return _refused(f"{line}; JAX_DEBUG_NANS or JAX_DEBUG_INFS stopped here")
    except SystemExit:  # tyro has printed its help.
        return 0
    except KeyboardInterrupt as stop:  # Training raises it for other signals too.
        return 128 + int(stop.args[0] if stop.args else signal.SIGINT)


def _import_jax() -> None:
    try:
        import jax  # noqa: F401
    except ValueError as error:  # It reads its environment variables.
        raise UserError(f"JAX can't be imported: {error}; fix or unset the variable") from None


def _run_shared(command: Command, words: list[str], prog: str) -> int:
    """Runs a command, alone or as one of several processes, which all return the same exit code."""
    from ddpm_jax.cli.arguments import Shared, options_of
    from ddpm_jax.cli.flags import split

    named, rest = split(words, lambda name: name.startswith("distributed."))
    place = find_process(options_of(Shared, prog, named).distributed)
    if place is None:
        return command.run(rest)
    with joined(place):
        return command.run(rest)


def _usage() -> str:
    rows = [(f"ddpm {name} {row.usage}", row.help) for name, row in COMMANDS.items()]
    width = max(len(left) for left, _ in rows)
    lines = "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)
    return (
        "Denoising diffusion probabilistic models in JAX.\n\n"
        f"{lines}\n\n"
        "CONFIG is a config file, the name of a shipped one, or a run.\n"
        "Any setting of a config can be replaced by its dotted name: --train.steps 200.\n"
        "ddpm COMMAND --help says more."
    )
