"""The `ddpm` command: `main` dispatches, `arguments` reads the words, one thin file per command."""

from ddpm_jax.cli.main import COMMANDS, Command, main

__all__ = ["COMMANDS", "Command", "main"]
