"""Command line: ``python -m analytic coefficient --family independent --degree 3 --noise vp --latex``.

Every command prints to standard output.  Bad input ends with exit code 2 and one line on standard error that names the
value and the fix; a check that is computed and does not hold ends with exit code 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from analytic import parse
from analytic.algebra.families import check_degree
from analytic.algebra.laws import LAWS
from analytic.algebra.program import PROGRAM_METHODS
from analytic.errors import AnalyticError
from analytic.numbers.digits import STARTS, digit_loss, digit_table, textbook
from analytic.score import ScoreCoefficient
from analytic.text import report
from analytic.text.generate import LANGUAGES
from analytic.text.printing import FORMS
from analytic.theory.approximation import LAWS as KNOWN_LAWS
from analytic.theory.approximation import Approximation
from analytic.theory.derivation import Derivation
from analytic.theory.divergence import Divergence
from analytic.theory.finite import FiniteSampleBound
from analytic.theory.hermite import HermiteTwin
from analytic.theory.limits import theorems as all_theorems
from analytic.theory.response import Response
from analytic.theory.sensitivity import Sensitivity
from analytic.theory.wiener import WienerSystem

HELP = """Closed forms of the wavelet score: derive, print, prove, differentiate, evaluate and compile them.

Examples:

  python -m analytic coefficient --family independent --degree 3 --noise vp --latex

  python -m analytic derive --family band --degree 2

  python -m analytic evaluate --moments 1,1/2,1/3,1/4,1/5 --sigma 1/10

  python -m analytic code --degree 2 --language c"""

app = typer.Typer(
    name="analytic",
    help=HELP,
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
FullOption = Annotated[bool, typer.Option("--full", help="Write out every term (default: long sums are cut).")]


@app.callback(invoke_without_command=True, help=HELP)
def _start(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(short_help="System and closed form (15), (16), (21).")
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
    full: FullOption = False,
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
    typer.echo(found.latex(form, full=full) if latex or form != "auto" else found.written(full=full))


@app.command(short_help="NumPy, torch or C source for theta.")
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


@app.command(short_help="The derivation, every step recomputed.")
def derive(
    family: FamilyOption = "independent",
    degree: DegreeOption = 3,
    noise: NoiseOption = "ve",
    ridge: RidgeOption = None,
    radius: RadiusOption = 1,
    interactions: InteractionsOption = "pairwise",
    neighbours: NeighboursOption = None,
    check: Annotated[bool, typer.Option(help="Recompute every step by its second route.")] = True,
    latex: LatexOption = False,
    full: FullOption = False,
) -> int:
    """Step by step: Stein's identity, normal equations, system, noisy moments, (ridge,) cofactor formula, denoiser."""
    found = Derivation(
        ScoreCoefficient(
            family,
            degree,
            noise,
            ridge=ridge,
            radius=radius,
            interactions=interactions,
            neighbours=neighbours,
        )
    )
    typer.echo(found.latex(full=full) if latex else found.written(full=full))
    if not check:
        return 0
    verdicts = found.check()
    mark = "% " if latex else ""
    typer.echo(mark + ("" if latex else "\n") + "Recomputed now:")
    for title, holds in verdicts.items():
        typer.echo(f"{mark}  {title}: {'holds' if holds else 'FAILS'}")
    return 0 if all(verdicts.values()) else 1


@app.command(short_help="The Hermite twin with its proof.")
def hermite(
    family: FamilyOption = "independent",
    degree: DegreeOption = 3,
    basis: Annotated[str, typer.Option(help="hermite or standardized.")] = "hermite",
    radius: RadiusOption = 1,
    interactions: InteractionsOption = "pairwise",
    neighbours: NeighboursOption = None,
    latex: LatexOption = False,
) -> int:
    """The Hermite twin: T, G_He = T G T^T, b_He = T b, det T, with each identity recomputed (for VE and VP alike)."""
    twin = HermiteTwin(family, degree, basis=basis, radius=radius, interactions=interactions, neighbours=neighbours)
    if latex:
        typer.echo(twin.latex())
        for claim, holds in twin.check().items():
            typer.echo(f"% {claim}: {'holds' if holds else 'FAILS'}")
    else:
        typer.echo(str(twin))
    return 0 if twin.holds else 1


@app.command(short_help="Features of a Wiener estimate, exactly.")
def wiener(
    degree: DegreeOption = 2,
    coordinates: Annotated[
        int, typer.Option(parser=_integer, metavar="Q", help="Coordinates of the estimate, each to the degree.")
    ] = 2,
    latex: LatexOption = False,
    full: FullOption = False,
) -> int:
    """Powers of a linear estimate u = A y with correlated noise: G and B in clean moments, each formula recomputed."""
    return _proved(WienerSystem(degree, coordinates), latex, full)


def _proved(found: WienerSystem | Divergence | FiniteSampleBound, latex: bool, full: bool) -> int:
    """Print an object with the verdicts of its claims; 1 where one fails."""
    if latex:
        typer.echo(found.latex(full=full))
        for claim, holds in found.check().items():
            typer.echo(f"% {claim}: {'holds' if holds else 'FAILS'}")
    else:
        typer.echo(found.written(full=full))
    return 0 if found.holds else 1


@app.command(short_help="The score's divergence, its mean and the risk.")
def divergence(
    family: FamilyOption = "independent",
    degree: DegreeOption = 3,
    noise: NoiseOption = "ve",
    ridge: RidgeOption = None,
    radius: RadiusOption = 1,
    interactions: InteractionsOption = "pairwise",
    neighbours: NeighboursOption = None,
    latex: LatexOption = False,
    full: FullOption = False,
) -> int:
    """d c / d w as a polynomial, E[div c] = -theta . b, and Stein's risk; each identity recomputed."""
    options = {"radius": radius, "interactions": interactions, "neighbours": neighbours, "ridge": ridge}
    return _proved(Divergence(ScoreCoefficient(family, degree, noise, **options)), latex, full)  # type: ignore[arg-type]


@app.command(short_help="A bound on what N images cost.")
def bound(degree: DegreeOption = 2, noise: NoiseOption = "ve", latex: LatexOption = False) -> int:
    """Finite samples: a bound on the excess risk for data in an interval; the steps that are identities recomputed."""
    return _proved(FiniteSampleBound(degree, noise), latex, True)


@app.command(short_help="Best polynomials against a known posterior mean.")
def approximation(
    law: Annotated[str, typer.Option(help=f"{', '.join(KNOWN_LAWS)}.")] = "two-atom",
    sigma: Annotated[str, typer.Option(help="Noise level, e.g. 0.5 or 1/2.")] = "1/2",
    degree: Annotated[int, typer.Option(parser=_integer, metavar="N", help="Largest degree.")] = 9,
) -> None:
    """How well a polynomial of degree n can do where the posterior mean is known, and what double precision reaches."""
    found = Approximation(law, float(parse.number(sigma)), degree)
    typer.echo(f"{law} ({KNOWN_LAWS[law][0]}), sigma = {found.sigma:g}: E (D - D_n)^2 over the variance of D")
    typer.echo(f"{'n':>4} {'best':>12} {'monomials':>12} {'Hermite':>12}")
    for n, error in enumerate(found.errors):
        reached = [found.reached(n, basis) / found.scale if n else error / found.scale for basis in ("monomial", "hermite")]
        typer.echo(f"{n:>4} {error / found.scale:12.3e} {reached[0]:12.3e} {reached[1]:12.3e}")
    try:
        typer.echo(str(found.rate()))
    except AnalyticError as reason:
        typer.echo(f"no rate: {reason}")


@app.command(short_help="Limits as theorems, verdicts computed.")
def theorems(
    degree: DegreeOption = 3,
    noise: NoiseOption = "general",
    latex: LatexOption = False,
) -> int:
    """Limits as theorems: Gaussian data, little and much noise, skewness and kurtosis; each verdict is computed now."""
    verdicts = []
    for theorem in all_theorems(degree, noise):
        verdicts.append(theorem.holds)
        if latex:
            typer.echo(f"% {theorem.name}: {'holds' if verdicts[-1] else 'FAILS'}\n\\[\n{theorem.latex()}\n\\]")
        else:
            typer.echo(f"{theorem}\n")
    typer.echo(f"{'% ' if latex else ''}{sum(verdicts)} of {len(verdicts)} theorems hold")
    return 0 if all(verdicts) else 1


@app.command(short_help="d theta_k / d mu_p, exactly.")
def sensitivity(
    family: FamilyOption = "independent",
    degree: DegreeOption = 2,
    noise: NoiseOption = "ve",
    ridge: RidgeOption = None,
    radius: RadiusOption = 1,
    interactions: InteractionsOption = "pairwise",
    neighbours: NeighboursOption = None,
    moment: Annotated[
        list[str] | None,
        typer.Option(help="Clean moment to differentiate by, e.g. 3 or (mixed) 110; repeatable (default: all)."),
    ] = None,
    standardised: Annotated[
        bool, typer.Option("--standardised", help="By the cumulants in the standardised coordinate (independent).")
    ] = False,
    language: Annotated[
        str | None, typer.Option(help=f"Source text instead of formulas: {', '.join(LANGUAGES)}.")
    ] = None,
    latex: LatexOption = False,
) -> None:
    """How a moment moves the score: d theta_k / d mu_p by implicit differentiation (the question below (21))."""
    if standardised:
        if family != "independent" or ridge or moment or language:
            raise AnalyticError(
                "--standardised is of the independent family, without --ridge, --moment and --language: leave them out"
            )
        response = Response(degree)
        typer.echo(response.latex() if latex else str(response))
        return
    options = {"radius": radius, "interactions": interactions, "neighbours": neighbours, "ridge": ridge}
    found = Sensitivity(ScoreCoefficient(family, degree, noise, **options), moments=moment or None)  # type: ignore[arg-type]
    if language is not None:
        typer.echo(found.code(language), nl=False)
    else:
        typer.echo(found.latex() if latex else str(found))


MomentsOption = Annotated[
    str | None,
    typer.Option(help="Clean moments, exact: 1,1/2,1/3 in order (mu_0 = 1 first), or mu_1=1/2,mu_2=1/3 by name."),
]
PointsOption = Annotated[
    str | None, typer.Option(help="Equally likely points instead: 0,1,3; several coordinates: '1 2 0, 3 1 1'.")
]
LawOption = Annotated[str | None, typer.Option(help=f"A named law instead: {', '.join(LAWS)}.")]
SigmaOption = Annotated[str | None, typer.Option(help="Level of ve, such as 1/10.")]
AbarOption = Annotated[str | None, typer.Option(help="Level of vp, in (0, 1).")]


@app.command(short_help="Rational moments in, rational theta out.")
def evaluate(
    family: FamilyOption = "independent",
    degree: Annotated[
        int | None,
        typer.Option(parser=_integer, metavar="N", help="Degree (default: from the number of --moments, else 2)."),
    ] = None,
    noise: Annotated[str | None, typer.Option(help="ve, vp, general or clean (default: by the level given).")] = None,
    basis: BasisOption = "monomial",
    ridge: RidgeOption = None,
    strength: Annotated[str, typer.Option("--lambda", help="Value of the ridge lambda.")] = "0",
    radius: RadiusOption = 1,
    interactions: InteractionsOption = "pairwise",
    neighbours: NeighboursOption = None,
    moments: MomentsOption = None,
    points: PointsOption = None,
    law: LawOption = None,
    sigma: SigmaOption = None,
    abar: AbarOption = None,
    a: Annotated[str | None, typer.Option("--a", help="Signal scale of general.")] = None,
    s: Annotated[str | None, typer.Option("--s", help="Noise scale of general.")] = None,
    slopes: Annotated[bool, typer.Option("--sensitivity", help="Also d theta_k / d mu_p, exact.")] = False,
    digits: Annotated[int, typer.Option(parser=_integer, metavar="N", help="Decimals printed beside.")] = 12,
    latex: LatexOption = False,
    full: Annotated[bool, typer.Option("--full", help="Write out fractions of more than 200 digits.")] = False,
) -> None:
    """Exact coefficients from exact moments (rational in, rational out), with float64's error and the condition number."""
    if degree is None:
        listed = moments is not None and "=" not in moments and family == "independent"
        count = len([item for item in str(moments).split(",") if item.strip()])
        if listed and (count < 3 or count % 2 == 0):
            raise AnalyticError(f"--moments holds {count} values: give mu_0 = 1 to mu_2n, an odd number of at least 3")
        degree = (count - 1) // 2 if listed else 2
    if noise is None:
        noise = "vp" if abar is not None else "general" if a is not None or s is not None else "ve"
    if digits < 1:
        raise AnalyticError(f"--digits must be >= 1, got {digits}")
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
    level = parse.level_of(found, sigma, abar, a, s)
    values = parse.moments_of_choice(found, moments, points, law)
    lam = parse.number(strength)
    if lam != 0 and ridge is None:
        raise AnalyticError(f"--lambda {strength} needs --ridge unit, raw or denoiser")
    jacobian = None
    if slopes:
        by = Sensitivity(found)
        jacobian = (by.moment_symbols, by.exact(values, *level, ridge=lam))
    typer.echo(report.evaluation(found, values, level, lam, digits=digits, slopes=jacobian, latex=latex, full=full))


@app.command(short_help="Where float64 loses 3, 6, 9 digits.")
def digits(
    law: Annotated[
        list[str] | None, typer.Option(help=f"Named law, repeatable: {', '.join(LAWS)} (default: the first four).")
    ] = None,
    moments: Annotated[
        str | None, typer.Option(help="Moments of your own coefficient instead: 1,mu_1,...,mu_2n, exact or decimal.")
    ] = None,
    sigma: Annotated[str, typer.Option(help="VE levels, comma-separated.")] = "1/10,1/2,1",
    degree: Annotated[int, typer.Option(parser=_integer, metavar="N", help="Highest degree of the named laws.")] = 12,
    start: Annotated[str, typer.Option(help=f"What is rounded to float64: {', '.join(STARTS)}.")] = "system",
    latex: LatexOption = False,
) -> None:
    """Degrees at which float64 loses 3, 6 and 9 digits: monomial, standardised and Hermite, against exact rationals."""
    levels = parse.numbers(sigma)
    if not levels:
        raise AnalyticError("--sigma is empty: give levels such as 1/10,1")
    for value in levels:
        if value <= 0:
            raise AnalyticError(f"--sigma holds {value}: every level must be > 0, such as 1/10")
    check_degree(degree)
    if moments is not None:
        if law:
            raise AnalyticError("give --law or --moments, not both")
        values = parse.numbers(moments)
        if len(values) < 3:
            raise AnalyticError(f"--moments holds {len(values)} values: give at least mu_0 = 1, mu_1, mu_2")
        if values[0] != 1:
            raise AnalyticError(f"the first of --moments must be mu_0 = 1, got {values[0]}")
        records = [record for value in levels for record in digit_loss(values, value, start=start)]
    else:
        names = law or ["gaussian", "uniform", "laplace", "exponential"]
        records = textbook(names, levels, degree=degree, start=start)
    table = digit_table(records)
    typer.echo(table.latex() if latex else str(table))


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
