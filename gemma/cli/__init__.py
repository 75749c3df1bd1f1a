"""The `gemma` command: each verb is one public call of the library."""

from gemma.cli._main import main as main
