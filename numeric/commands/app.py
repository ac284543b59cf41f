"""One command for everything: ``python -m numeric COMMAND``, installed as ``wavelet-score``.

Bad input ends with exit code 2 and one line on standard error that names the value and the fix.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import typer

from numeric.commands import claims, figures, fit, generate, recommend, table1, train

HELP = """Analytic diffusion scores in wavelet bases: fit, train, generate, test, draw.

Examples:

  wavelet-score fit model.safetensors --family local --degree 3

  wavelet-score figures --only fig5

  wavelet-score formulas coefficient --family independent --degree 3 --noise vp"""

app = typer.Typer(
    name="wavelet-score", help=HELP, add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    pretty_exceptions_enable=False,
)  # fmt: skip


def reported(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command with errors of input, data, memory and files as one line on standard error and exit code 2."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, ArithmeticError, MemoryError, OSError, RuntimeError) as error:
            if type(error).__module__.split(".")[0] in ("typer", "click"):
                raise
            if type(error) is RuntimeError:  # not one of ours: the place matters
                raise
            typer.secho(f"error: {' '.join(str(error).split()) or type(error).__name__}", err=True, fg="red")
            raise typer.Exit(2) from error

    return command


for name, module in (
    ("fit", fit), ("recommend", recommend), ("train", train), ("generate", generate), ("claims", claims), ("figures", figures), ("table1", table1)
):  # fmt: skip
    app.command(name)(reported(module.main))


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
def formulas(context: typer.Context) -> None:
    """Formulas of the score coefficients: what `python -m analytic` does (`formulas --help` lists it)."""
    from analytic.cli import main as analytic_main

    raise typer.Exit(analytic_main(context.args or ["--help"]))


def main() -> None:
    """Entry point of the installed command."""
    app(prog_name="wavelet-score" if "wavelet-score" in sys.argv[0] else "python -m numeric")
