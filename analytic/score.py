"""The score coefficient of the public interface: the system and its solution with values, source text and printing."""

from __future__ import annotations

from analytic.algebra.coefficient import Coefficient
from analytic.numbers.evaluate import Evaluator
from analytic.text.generate import source_of
from analytic.text.printing import latex_of, text_of


class ScoreCoefficient(Coefficient):
    """Closed form of the optimal score coefficient of a family (equations (15), (16) and (21)), ready to use.

    Its arguments, its system and its solution are those of :class:`analytic.algebra.coefficient.Coefficient`; what is
    added is :meth:`lambdify` (values with their accuracy), :meth:`code` (source text) and :meth:`latex`.

    >>> c = ScoreCoefficient("independent", degree=1, noise="ve")
    >>> c.theta[1], c.lambdify()([1.0, 0.0, 3.0], 1.0).tolist()
    (-1/(-m_1**2 + m_2), [0.0, -0.25])
    >>> "return" in c.code("numpy"), len(c.latex()) > 100, len(c.written()) > 100
    (True, True, True)
    """

    def lambdify(
        self,
        backend: str = "numpy",
        *,
        method: str = "auto",
        precision: str = "double-double",
        cse: bool = True,
        tolerance: float | None = 1e-3,
    ) -> Evaluator:
        """A function ``f(moments, *level, ridge=0) -> theta``, shape (F, ...).

        Args:
            backend: ``numpy``, ``torch``, ``mpmath`` (its working precision applies) or ``exact`` (rationals).
            method: see :meth:`program`.
            precision: ``double-double`` (default: the formula in 32 digits, float64 in and out) or ``double``.
                Only for numpy and torch.
            cse: name common subexpressions first.
            tolerance: largest relative error of the result, ``max_k |error_k| / max_k |theta_k|``, arithmetic and
                rounding of the moments together; beyond it the function raises.  None: no check but ``det G > 0``.
                ``f.accuracy(moments, *level)`` returns both errors.

        The moments vector has shape (M, ...) in the order of :attr:`moment_exponents` (``mu_0 = 1`` first; one
        coordinate: 2n + 1 of them); trailing axes broadcast over coefficients and against the noise level.  ``level``
        is sigma (VE), abar (VP), a and s (general), or nothing (clean).

        Raises (the function):
            AnalyticError: moments of the wrong length, mu_0 != 1, NaN, or a level out of range.
            SingularCoefficient: det G (or a pivot) is not positive, or the error exceeds the tolerance
                (NumericallySingular, NearlyConstant): never a silent wrong number.
        """
        return Evaluator(self, backend, method, precision, cse, tolerance)

    def code(self, language: str = "numpy", *, method: str = "auto", name: str = "theta", cse: bool = True) -> str:
        """Source text of a function that computes theta: ``numpy``, ``torch`` or ``c``."""
        return source_of(self, language, method, name, cse)

    def latex(self, form: str = "auto", *, full: bool = True) -> str:
        """LaTeX of the system and its solution.

        Args:
            form: ``cofactor`` (numerators over det G in noisy moments, then the noisy moments), ``clean`` (in clean
                moments), ``determinant`` (Cramer's rule, nothing expanded), ``system`` (G, b and equation (21)) or
                ``auto``: the first of cofactor and system that stays readable.
            full: write every term; False: sums beyond 40 terms are cut and the rest counted.

        Raises:
            AnalyticError: unknown form.
        """
        return latex_of(self, form, full)

    def _repr_latex_(self) -> str:
        return "$\\displaystyle " + self.latex(full=False) + "$"

    def written(self, *, full: bool = False) -> str:
        """Plain text; unless ``full``, sums beyond 40 terms are cut and the rest counted."""
        return text_of(self, full)

    def __str__(self) -> str:
        return self.written()
