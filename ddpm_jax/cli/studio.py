"""`ddpm studio`."""

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from ddpm_jax.cli.arguments import settings_of
from ddpm_jax.cli.flags import HELP, read
from ddpm_jax.errors import UserError, require
from ddpm_jax.files import local_path, reason


@dataclass(frozen=True)
class Options:
    """Opens a page in the browser, on this machine alone, to watch runs train and draw.

    RUNS are run folders, or folders of runs; if left out, runs, or else this folder.
    """

    port: int = 0
    """The port at 127.0.0.1; 0 takes a free one."""
    browser: bool = False
    """Open the address in the browser."""


def run(words: list[str]) -> int:
    """Serves the page until Ctrl-C."""
    flags, about = settings_of(Options), (Options.__doc__ or "").strip()
    if words and words[-1] in HELP:
        read("ddpm studio [RUNS…]", ["--help"], flags, about)
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    options = Options(**read("ddpm studio", words[first:], flags))
    require(0 <= options.port < 65_536, "--port", options.port, "in 0 … 65535")
    folders = _folders(words[:first])
    try:
        import uvicorn

        from ddpm_jax.studio.server import make_app
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        need = 'pip install "ddpm_jax[studio]"'
        raise UserError(f"ddpm studio needs {error.name}, which is not installed: {need}") from None
    from ddpm_jax.studio.library import Library

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", options.port))
            listener.listen()  # Whoever opens the address early waits, and is not refused.
        except OSError as error:
            why = f"127.0.0.1:{options.port} can't be used ({reason(error)})"
            raise UserError(f"{why}; choose another --port, or 0 for a free one") from None
        port, token = listener.getsockname()[1], secrets.token_urlsafe(16)
        app = make_app(Library(folders), token=token, port=port)
        address = f"http://127.0.0.1:{port}/{token}/"
        print(f"open {address} in a browser of this machine; Ctrl-C ends the studio", flush=True)
        if options.browser:
            import webbrowser

            webbrowser.open(address)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="off",
            timeout_graceful_shutdown=1, ws="none",
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _folders(words: list[str]) -> list[Path]:
    """Returns the folders; raises UserError for one that does not exist."""
    default = "runs" if local_path("runs").is_dir() else "."
    found = [local_path(word) for word in words or [default]]
    for folder in found:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; name a run, or a folder of runs")
    return found
