"""Command line: ``python -m analytic coefficient --family independent --degree 3 --noise vp --latex``.

Every command prints to standard output.  Bad input ends with exit code 2 and one line on standard error that names the
value and the fix.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from analytic.coefficient import ScoreCoefficient
from analytic.errors import AnalyticError
from analytic.generate import LANGUAGES
from analytic.printing import FORMS
from analytic.program import PROGRAM_METHODS

app = typer.Typer(
    name="analytic",
    help="Closed forms of the wavelet score: derive, print, differentiate and compile them.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an integer: give a number such as 3") from None


FamilyOption = Annotated[str, typer.Option(help="independent, band (alias band-tied) or local.")]
DegreeOption = Annotated[int, typer.Option(parser=_integer, metavar="N", help="Polynomial degree n >= 1.")]
NoiseOption = Annotated[str, typer.Option(help="ve (sigma), vp (abar), general (a, s) or clean (s = 0).")]
BasisOption = Annotated[str, typer.Option(help="monomial, standardized or hermite.")]
RidgeOption = Annotated[str | None, typer.Option(help="Symbolic ridge lambda: unit, raw or denoiser.")]
RadiusOption = Annotated[int, typer.Option(parser=_integer, metavar="R", help="Chebyshev radius of the local family.")]
InteractionsOption = Annotated[str, typer.Option(help="pairwise or full, of the local family.")]
NeighboursOption = Annotated[
    int | None,
    typer.Option(parser=_integer, metavar="K", help="Distinct neighbours of the local family (default: all)."),
]
LatexOption = Annotated[bool, typer.Option("--latex", help="LaTeX instead of text.")]


@app.callback(invoke_without_command=True)
def _start(context: typer.Context) -> None:
    """Closed forms of the wavelet score: derive, print, differentiate and compile them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def coefficient(
    family: FamilyOption = "independent",
    degree: DegreeOption = 3,
    noise: NoiseOption = "ve",
    basis: BasisOption = "monomial",
    ridge: RidgeOption = None,
    radius: RadiusOption = 1,
    interactions: InteractionsOption = "pairwise",
    neighbours: NeighboursOption = None,
    latex: LatexOption = False,
    form: Annotated[str, typer.Option(help=f"LaTeX form: {', '.join(FORMS)}.")] = "auto",
) -> None:
    """The normal system and the closed form of its solution (equations (15), (16), (21))."""
    found = ScoreCoefficient(
        family,
        degree,
        noise,
        basis=basis,
        ridge=ridge,
        radius=radius,
        interactions=interactions,
        neighbours=neighbours,
    )
    typer.echo(found.latex(form) if latex or form != "auto" else str(found))


@app.command()
def code(
    family: FamilyOption = "independent",
    degree: DegreeOption = 3,
    noise: NoiseOption = "ve",
    basis: BasisOption = "monomial",
    ridge: RidgeOption = None,
    radius: RadiusOption = 1,
    interactions: InteractionsOption = "pairwise",
    neighbours: NeighboursOption = None,
    language: Annotated[str, typer.Option(help=f"{', '.join(LANGUAGES)}.")] = "numpy",
    method: Annotated[str, typer.Option(help=f"{', '.join(PROGRAM_METHODS)}.")] = "auto",
    name: Annotated[str, typer.Option(help="Name of the generated function.")] = "theta",
    cse: Annotated[bool, typer.Option(help="Name common subexpressions first.")] = True,
) -> None:
    """Source text of a function that computes theta from clean moments and the noise level."""
    found = ScoreCoefficient(
        family,
        degree,
        noise,
        basis=basis,
        ridge=ridge,
        radius=radius,
        interactions=interactions,
        neighbours=neighbours,
    )
    typer.echo(found.code(language, method=method, name=name, cse=cse), nl=False)


# Newer versions of typer carry their own copy of click, so the base of its usage errors is found through typer.
_USAGE_ERRORS: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, or 2 for bad input)."""
    try:
        result = app(
            args=list(sys.argv[1:] if arguments is None else arguments),
            prog_name="python -m analytic",
            standalone_mode=False,
        )
    except AnalyticError as error:
        return _refuse(str(error))
    except _USAGE_ERRORS as error:
        return _refuse(f"{error.format_message()} (--help lists the commands and options)")
    return result if isinstance(result, int) else 0


def _refuse(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2
