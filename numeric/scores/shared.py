"""The ``shared`` readout: one feature vector of all coefficients, a dense ridge to all outputs (Sec. 3, App. C).

This is the paper's code, with the noise integrated exactly instead of sampled.  Clean data enter through one matrix, the
Gram matrix of all monomials (:mod:`numeric.scores.joint`).  Systems are solved in Wick-ordered monomials
(:mod:`numeric.scores.contraction`), whose noisy Gram matrix is the clean one and a correction; the ridge on the requested
features becomes a sparse matrix there, so that a noise level costs one Cholesky factor and its solves, and little else.
Monomials are sorted by degree: the systems of lower degrees are leading blocks, and one factor serves all degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from numeric.derivatives import outside_transforms
from numeric.noise import NoiseLevel, as_noise
from numeric.scores.base import WaveletEstimator
from numeric.scores.contraction import CROSS_BYTES, conjugate, rescaled, translation, wick_map
from numeric.scores.crossval import GCV_GRID, gcv_scores
from numeric.scores.dense import add_penalty_, backward_solve, cholesky_, forward_solve, mirror, root_mean_squares
from numeric.scores.groups import StandardErrors
from numeric.scores.influence_shared import shared_delta_errors
from numeric.scores.joint import JointMoments
from numeric.scores.solve import hermite_coefficients
from numeric.scores.sparse import sparse_product


@dataclass(frozen=True)
class SharedSolution:
    """The readout at one noise level and degree.

    Attributes:
        readout: ``(P, channels * n_coefficients)``; acts on centred noisy monomials over ``scale``.
        scale: ``(P,)`` root mean square of the centred noisy monomials.
        expected_error: exact expected squared error summed over pixels, before clamping, on the fitted images.
        ridge: the lambda used.
    """

    readout: Tensor
    scale: Tensor
    expected_error: float
    ridge: float

    @property
    def nbytes(self) -> int:
        return self.readout.nbytes + self.scale.nbytes


@dataclass(frozen=True)
class NormalEquations:
    """The regularised system in Wick-ordered monomials (P of them).

    Attributes:
        gram: ``(P, P)`` with the penalty, on and below the diagonal. rhs: ``(P, channels * n_coefficients)``, b.
        second: ``E|t|^2`` of the target. scale: ``(P,)`` root mean squares of the centred noisy monomials.
        unwick: Wick-ordered monomials in noisy ones. strength: lambda. penalty: B of ``lambda B B^T``.
    """

    gram: Tensor
    rhs: Tensor
    second: float
    scale: np.ndarray
    unwick: sp.csr_matrix
    strength: float
    penalty: sp.csr_matrix


class SharedWaveletScore(WaveletEstimator):
    """Wavelet score with the ``shared`` readout: every pixel reads all features.  Degree 1 *is* the linear denoiser.

    Args: as :class:`numeric.scores.own.WaveletScore`; ``ridge="gcv"`` chooses one lambda per noise level (all outputs share
        one system). Every ``mode`` of the transform can be had; in over-complete ones the noise is correlated and its
        exact integration costs the square of the number of ways to take letters out of monomials, which is realistic at
        small sizes and degrees up to 3 (8 x 8 and 16 x 16). It refuses what would take too long.
        ``device`` is that of the products of the pass, the noise integration and the solves.

    What is penalised: a fixed ridge acts on all features as they are, the intercept included, scaled to unit second moment
    (``ridge_scaling="raw"``: unscaled). ``ridge="gcv"`` acts on features centred at their mean and scaled to unit variance,
    and leaves the intercept free: where the images lie far from zero nothing is shrunk towards zero then.

    Memory is ``2 P^2 + 3 P n`` float64 for P features and n coefficients: the clean Gram matrix and a system that is made
    and factored in place (independent, degree 3: P = 3,073 and 0.2 GiB at 32 x 32, P = 12,289 and 3.4 GiB at 64 x 64).
    ``ridge="gcv"`` holds about ``8 P^2``.

    Example:
        >>> import torch
        >>> from numeric import SharedWaveletScore, WaveletScore, ve
        >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model, level = SharedWaveletScore('independent', degree=2).fit(images), ve(0.5)
        >>> len(model.monomials_) == model.count(2), model.noisy_gram(level, 1).shape, model.trace_coefficients(level).shape
        (True, (65, 65), torch.Size([129]))
        >>> len(model.solve_degrees(level, [1, 2])), model.chosen_ridge(level)
        (2, 1e-06)
        >>> model.expected_mse_of(WaveletScore('independent', 2).fit(images), level) > model.expected_mse(level)
        True
        >>> type(model.normal_equations(level, model.count(1))).__name__
        'NormalEquations'
    """

    readout = "shared"
    moments_class = JointMoments
    passes = 2

    def __init__(
        self,
        family: str = "independent",
        degree: int = 3,
        radius: int = 1,
        interactions: str = "pairwise",
        channels_coupled: bool = False,
        wavelet: str = "db2",
        levels: int | None = None,
        basis: str = "monomial",
        ridge: float | str = 1e-6,
        ridge_side: str = "denoiser",
        ridge_scaling: str = "unit",
        mode: str = "periodization",
        synthesis: str = "pseudo-inverse",
        device: str = "cpu",
    ) -> None:
        self.family, self.degree, self.radius, self.interactions = family, degree, radius, interactions
        self.channels_coupled, self.wavelet, self.levels = channels_coupled, wavelet, levels
        self.basis, self.ridge, self.ridge_side, self.ridge_scaling = basis, ridge, ridge_side, ridge_scaling
        self.mode, self.synthesis, self.device = mode, synthesis, device

    # ----- fitting -----------------------------------------------------------------------------------------------------

    def new_moments(self, shape: tuple[int, int, int], memory_limit: int | None = None) -> JointMoments:
        self.check_settings()
        moments = JointMoments(self.new_transform(shape), self.family_, int(self.degree), shape[0], str(self.device))
        # The clean Gram matrix and a system; cross-validation holds more.
        moments.check_memory(8 if isinstance(self.ridge, str) else 2)
        if not moments.transform.is_orthonormal:
            _ = moments.noise  # refuses what would take too long
        return moments

    def accumulate(self, moments: Any, data: Any, batch_size: int, bar: Any, checkpoint: Any, every: float) -> None:
        moments.fit(data, batch_size, bar, checkpoint, every)

    def prepare(self) -> None:
        moments = self.moments_
        self.channels_, self.mean_, self.n_images_ = moments.channels, moments.mean, moments.count

    @property
    def monomials_(self) -> Any:
        """The features' :class:`~numeric.scores.monomials.MonomialSet`."""
        return self.fitted().monomials

    def count(self, degree: int) -> int:
        """Number of features up to a degree (they are sorted by degree)."""
        return self.monomials_.count(degree)

    # ----- the normal equations ------------------------------------------------------------------------------------------

    def _feature_map(self, noise: NoiseLevel, size: int, sd: np.ndarray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """The requested features in centred noisy monomials, and the inverse map; sparse, lower triangular."""
        monomials = self.monomials_
        if self.basis == "monomial":
            shift = noise.alpha * self.mean_
            return translation(monomials, shift, size), translation(monomials, -shift, size)
        he = hermite_coefficients(monomials.degree)
        units = np.append(sd, 1.0)[monomials.rows[:size]].prod(axis=1)
        inverse = sp.diags(units) @ rescaled(monomials, np.linalg.inv(he), np.ones_like(sd), size)
        return rescaled(monomials, he, sd, size), inverse.tocsr()

    def _right_hand_side(self, noise: NoiseLevel, gram: Tensor) -> tuple[Tensor, float]:
        """``E[:phi: t]`` for the target t of the ridge's side, and ``E|t|^2`` summed over pixels.

        On the denoiser's side t is the clean coefficient, on the score's side ``-z / s^2`` (Stein's identity: then this is
        ``-E[d phi / d v]``), of which the denoiser is ``D = (v + s^2 theta.phi) / a`` by Tweedie.
        """
        moments, n, size = self.moments_, len(self.mean_), len(gram)
        linear = slice(1, 1 + n)
        powers = torch.as_tensor(noise.alpha ** self.monomials_.degrees[:size].astype(float), device=gram.device)
        clean = moments.gram[:size, : 1 + n] * powers[:, None]  # E[:phi: u] and E[:phi:]
        if self.ridge_.side == "score":
            # What noise adds to E[:phi: v], over -s^2.
            rhs = gram[:, linear].clone()
            rhs[linear] = self._symmetric(gram, linear)
            rhs[0] = gram[linear, 0]
            rhs -= noise.alpha * clean[:, 1:]
            rhs *= -1.0 / noise.sigma**2
            covariance = moments.covariance
            second = n if covariance is None else self._pixel_trace(covariance)
            return rhs, float(second) / noise.sigma**2
        mean = torch.as_tensor(self.mean_, device=gram.device)
        rhs = clean[:, 1:].addr_(clean[:, 0].clone(), mean)
        return rhs, self._clean_second_moment(moments, self.mean_)

    @staticmethod
    def _symmetric(gram: Tensor, part: slice) -> Tensor:
        """A diagonal block, whole, of a matrix known on and below the diagonal."""
        lower = gram[part, part].tril()
        return lower + lower.tril(-1).T

    def _clean_second_moment(self, moments: JointMoments, about: np.ndarray) -> float:
        """``E|u + about|^2`` of the clean coefficients less the moments' mean, summed over pixels."""
        n = len(about)
        covariance = moments.gram[1 : 1 + n, 1 : 1 + n]
        if self.transform_.is_orthonormal:
            return float(covariance.diagonal().sum()) + float(about @ about)
        return self._pixel_trace(covariance.cpu().numpy() + np.outer(about, about))

    def _pixel_trace(self, matrix: np.ndarray) -> float:
        """Sum over pixels of the variance of ``W^+ w`` for coefficients w of covariance ``matrix``."""
        if self.transform_.is_orthonormal:
            return float(np.trace(matrix))
        synthesis = self._synthesis()
        return float(np.einsum("ip,ip->", synthesis, matrix @ synthesis))

    def _synthesised(self, columns: Tensor) -> Tensor:
        """Columns for pixels in place of columns for coefficients: errors of overlapping atoms do not add up."""
        if self.transform_.is_orthonormal:
            return columns
        return columns @ torch.as_tensor(self._synthesis(), device=columns.device)

    def _synthesis(self) -> np.ndarray:
        """``(W^+)^T`` of all channels, ``(channels * n_coefficients, channels * pixels)``."""
        identity = torch.eye(self.transform_.n_coefficients, dtype=torch.float64)[:, None]
        return np.kron(np.eye(self.channels_), self.transform_.inverse(identity).flatten(1).numpy())

    def solve_degrees(self, noise: NoiseLevel | float, degrees: Sequence[int]) -> list[SharedSolution]:
        """The readouts of several degrees at one noise level, from one Cholesky factor where the ridge is a number.

        Raises:
            NotFittedError, FamilyError (degree out of range), SingularGramError.
        """
        self.fitted()
        level, ridge = as_noise(noise), self.ridge_
        keys = {d: (level, d, self.basis, ridge) for d in degrees}
        missing = sorted({d for d in degrees if keys[d] not in self._solutions})
        for d in missing:
            self.count(d)
        groups = [[d] for d in missing] if isinstance(ridge.strength, str) else [missing] if missing else []
        made: dict[int, SharedSolution] = {d: self._solutions[keys[d]] for d in degrees if d not in missing}
        for group in groups:
            with outside_transforms():
                found = self._solve(level, group)
            for d, solution in zip(group, found):
                made[d] = self._solutions.put(keys[d], solution, solution.nbytes)
        return [made[d] for d in degrees]

    def solve(self, noise: NoiseLevel | float, degree: int | None = None) -> SharedSolution:
        """Readout to clean coefficients and the exact expected squared error, from the moments alone.

        Pixel ridge equals wavelet ridge plus synthesis (equation (24), Lemma C.1).
        """
        self.fitted()
        return self.solve_degrees(noise, [int(self.degree) if degree is None else degree])[0]

    def normal_equations(self, noise: NoiseLevel, size: int) -> NormalEquations:
        """``(G + lambda Q) theta = b`` of the leading Wick-ordered monomials.

        With requested features ``psi = N R M :phi:`` (M the Wick map, R the basis, N the scaling) a penalty
        ``lambda sum w_k theta_k^2`` on their coefficients is ``lambda theta^T Q theta`` with ``Q = B B^T`` and
        ``B = (N R M)^-1 w^(1/2)``: sparse, but for the column of the intercept.
        """
        moments, ridge, n = self.moments_, self.ridge_, len(self.mean_)
        a, s, covariance = noise.alpha, noise.sigma, moments.covariance
        gram = moments.wick_gram(a, s, size)
        wick = wick_map(self.monomials_, s, covariance, size)
        unwick = wick_map(self.monomials_, s, covariance, size, sign=-1.0)
        scale = root_mean_squares(wick, gram)
        to, back = self._feature_map(noise, size, scale[1 : 1 + n])
        maps = (to @ wick).tocsr()
        rhs, second = self._right_hand_side(noise, gram)
        inverse = (unwick @ back).tocsr()
        if isinstance(ridge.strength, str):
            strength, penalty = self._cross_validated(noise, gram, rhs, second, maps, inverse)
        else:
            strength = ridge.strength
            weights = root_mean_squares(maps, gram) if ridge.scaling == "unit" else np.ones(size)
            penalty = (inverse @ sp.diags(weights)).tocsr()
        if strength:
            add_penalty_(gram, strength, penalty)
        return NormalEquations(gram, rhs, second, scale, unwick, float(strength), penalty)

    def _solve(self, noise: NoiseLevel, degrees: Sequence[int]) -> list[SharedSolution]:
        """Solutions of several degrees from one factor."""
        a, s, n = noise.alpha, noise.sigma, len(self.mean_)
        system = self.normal_equations(noise, self.count(max(degrees)))
        factor = cholesky_(system.gram, "shared Gram matrix")
        half = forward_solve(factor, system.rhs)
        out = []
        for degree in degrees:
            m = self.count(degree)
            theta = backward_solve(factor, half[:m])
            error = self._penalised_error(noise, theta, system.rhs[:m], system.second, system.strength, system.penalty[:m, :m])
            readout = sparse_product(system.unwick[:m, :m].T, theta)
            if self.ridge_.side == "score":  # Tweedie: D = (v + s^2 theta.phi) / a
                readout *= s**2 / a
                readout[torch.arange(1, 1 + n), torch.arange(n)] += 1.0 / a
                readout[0] += torch.as_tensor(self.mean_, device=readout.device)
            here = torch.as_tensor(system.scale[:m], device=readout.device)
            out.append(SharedSolution(readout.mul_(here[:, None]), here, error, system.strength))
        return out

    def _penalised_error(
        self, noise: NoiseLevel, theta: Tensor, rhs: Tensor, second: float, strength: float, penalty: sp.csr_matrix
    ) -> float:
        """``E|theta.phi - t|^2 = E|t|^2 - theta.b - lambda theta.Q theta``, by the normal equations, as an error of D."""
        theta, rhs = self._synthesised(theta), self._synthesised(rhs)
        error = second - float((theta * rhs).sum())
        if strength:
            error -= strength * float(torch.linalg.vector_norm(sparse_product(penalty.T, theta))) ** 2
        return error * (noise.sigma**4 / noise.alpha**2 if self.ridge_.side == "score" else 1.0)

    def _cross_validated(
        self, noise: NoiseLevel, gram: Tensor, rhs: Tensor, second: float, maps: sp.csr_matrix, inverse: sp.csr_matrix
    ) -> tuple[float, sp.csr_matrix]:
        """Lambda by generalised cross-validation (one, because one system serves all outputs), and the penalty's B.

        The features are centred and scaled to unit variance (``ridge_scaling="raw"``: centred), the intercept is free.
        """
        size = len(gram)
        powers = noise.alpha ** self.monomials_.degrees[:size].astype(float)
        mean = maps @ (powers * self.moments_.gram[:size, 0].cpu().numpy())  # of the requested features
        mean[0] = 0.0
        column = sp.csr_matrix((mean, (np.arange(size), np.zeros(size, dtype=int))), shape=(size, size))
        centring, back = sp.eye(size) - column, sp.eye(size) + column
        centred = (centring @ maps).tocsr()
        if self.ridge_.scaling == "unit":
            norm = root_mean_squares(centred, gram)
        else:
            norm = np.ones(size)
        free = norm.copy()
        free[0] = 0.0
        penalty = (inverse @ back @ sp.diags(free)).tocsr()
        features = (sp.diags(1.0 / norm) @ centred).tocsr()
        device = gram.device

        def dense(matrix: Tensor) -> Tensor:
            whole = conjugate(features, mirror(matrix.clone()).cpu().numpy())
            return torch.as_tensor(whole[1:, 1:], device=device)[None]

        clean = self.moments_.gram[:size, :size]
        weights = torch.as_tensor(powers, device=device)
        turned = sparse_product(features, rhs)[1:][None]
        if self.ridge_.side == "denoiser":  # centred features see the target less its mean
            second = float(self.moments_.gram.diagonal()[1 : 1 + len(self.mean_)].sum())
        elif self.moments_.covariance is not None:
            second = float(np.trace(self.moments_.covariance)) / noise.sigma**2
        scores = gcv_scores(
            dense(gram),
            dense(clean * weights * weights[:, None]),
            turned,
            torch.tensor([second], dtype=torch.float64, device=device),
            self.n_images_,
            "noise" if self.ridge_.side == "score" else "image",
        )
        return float(GCV_GRID[int(scores[:, 0].argmin())]), penalty

    # ----- standard errors -----------------------------------------------------------------------------------------------

    def coefficients(self, noise: NoiseLevel, degree: int, like: Self) -> list[Tensor]:
        """The readout ``(P, outputs)`` in noisy monomials centred at ``alpha`` times the mean of ``like``."""
        solution = self.solve(noise, degree)
        readout, shift = solution.readout / solution.scale[:, None], noise.alpha * (like.mean_ - self.mean_)
        return [sparse_product(translation(self.monomials_, shift, len(readout)).T, readout).cpu()]

    def delta_errors(self, images: Any, noise: NoiseLevel, degree: int, outputs: Sequence[int] | None, bar: Any) -> StandardErrors:
        return shared_delta_errors(self, images, noise, degree, outputs, bar)

    # ----- exact errors --------------------------------------------------------------------------------------------------

    def noisy_gram(self, noise: NoiseLevel | float, degree: int) -> np.ndarray:
        """Exact ``E[phi phi^T]`` of the noisy centred monomials, ``(P, P)``; the noise integrated by Wick's theorem."""
        level, moments = as_noise(noise), self.fitted()
        size = self.count(degree)
        gram = mirror(moments.wick_gram(level.alpha, level.sigma, size)).cpu().numpy()
        return conjugate(wick_map(moments.monomials, level.sigma, moments.covariance, size), gram)

    def _error_of(self, readout: Tensor, noise: NoiseLevel, moments: JointMoments) -> float:
        """Exact expected squared error, summed over pixels, of ``D = readout.phi`` on the images of ``moments``.

        Args:
            readout: ``(P, channels * n_coefficients)`` for noisy monomials centred at ``alpha`` times the moments' mean.
        """
        size, n = len(readout), len(moments.mean)
        wick = wick_map(moments.monomials, noise.sigma, moments.covariance, size)
        theta = sparse_product(wick.T, readout.to(moments.gram.device))
        theta[0] -= torch.as_tensor(moments.mean, device=theta.device)  # the error is taken about the mean
        powers = torch.as_tensor(noise.alpha ** moments.monomials.degrees[:size].astype(float), device=theta.device)
        cross = self._synthesised(moments.gram[:size, 1 : 1 + n] * powers[:, None])
        theta = self._synthesised(theta)
        gram = mirror(moments.wick_gram(noise.alpha, noise.sigma, size))
        error, step = self._clean_second_moment(moments, np.zeros(n)), max(1, CROSS_BYTES // (8 * size))
        for start in range(0, theta.shape[1], step):
            part, other = theta[:, start : start + step], cross[:, start : start + step]
            error += float((part * (gram @ part)).sum() - 2.0 * (part * other).sum())
        return error

    def expected_mse(self, noise: NoiseLevel | float, degree: int | None = None, moments: JointMoments | None = None) -> float:
        """Exact expected MSE per pixel, before clamping.

        Args:
            moments: of other images (held-out), with this estimator's settings; by default the fitted ones.
        """
        solution, level = self.solve(noise, degree), as_noise(noise)
        if moments is None:
            return solution.expected_error / self._pixels
        if moments.config != self.moments_.config:
            raise ValueError("the held-out moments have other settings than the fitted ones: make them with new_moments")
        readout = solution.readout / solution.scale[:, None]
        # Moved to the fitted mean, the coordinates that the readout is written in.
        return self._error_of(readout, level, moments.about(self.mean_)) / self._pixels

    def expected_mse_of(self, model: Any, noise: NoiseLevel | float, degree: int | None = None) -> float:
        """Exact expected MSE per pixel, before clamping, of an ``own`` readout, from these joint moments.

        In an over-complete basis overlapping coefficients make the error of a pixel together, so the moments of all of
        them are needed at once: those of this object, on the images it was fitted on (the model's or others).

        Args:
            model: a fitted :class:`~numeric.scores.own.WaveletScore` of the same transform whose features are among this one's.

        Raises:
            ValueError: another transform, other channels, or features that this object does not have.
        """
        moments = self.fitted()
        solution, level = model.solve(noise, degree), as_noise(noise)
        if model.transform_.config != self.transform_.config or model.moments_.channels != self.channels_:
            raise ValueError(
                f"the joint moments are of {self.transform_} with {self.channels_} channel(s), the model is of "
                f"{model.transform_} with {model.moments_.channels}: fit both alike"
            )
        size, width = self.count(min(solution.degree, moments.degree)), moments.degree
        readout = np.zeros((size, len(self.mean_)))
        for block, part in zip(model.moments_.blocks, solution.blocks):
            exponents = part.plan.basis[: part.denoiser.shape[1]]
            # h acts on ((v - centre) / scale)^alpha; here the scale moves into the coefficient.
            factors = part.denoiser.cpu().numpy() * np.exp(-(exponents @ np.log(part.scale.cpu().numpy())).T)
            variables = block.block.variables
            for column, row in enumerate(exponents):
                letters = np.full((len(variables), max(width, int(row.sum()))), -1)
                places = np.repeat(np.arange(len(row)), row)
                if len(places):
                    letters[:, : len(places)] = variables[:, places]
                try:
                    numbers = moments.monomials.index(letters)
                    readout[numbers, block.block.targets] += factors[:, column]
                except (KeyError, IndexError):
                    raise ValueError(
                        f"{model.label} has features that the joint moments lack ({self.label}, degree {moments.degree}): "
                        "fit them with the model's family and degree"
                    ) from None
        # From the model's centre to this object's: v - a m = (v - a c) + a (c - m).
        shift = level.alpha * (self.mean_ - model.mean_.cpu().numpy())
        if np.any(shift != 0):
            readout = translation(moments.monomials, shift, size).T @ readout
        return self._error_of(torch.from_numpy(readout), level, moments) / self._pixels

    @property
    def _pixels(self) -> int:
        return self.channels_ * self.transform_.shape[0] * self.transform_.shape[1]

    def chosen_ridge(self, noise: NoiseLevel | float, degree: int | None = None) -> float:
        """The lambda used at a noise level, for ``ridge="gcv"`` the chosen one."""
        return self.solve(noise, degree).ridge

    # ----- use ---------------------------------------------------------------------------------------------------------

    def trace_coefficients(self, noise: NoiseLevel) -> Tensor:
        """``tr dD/dy`` as one polynomial: its coefficients ``(P,)`` in the centred noisy monomials, float64.

        ``D = W^- R^T phi(W y)``; each monomial loses one of its letters j, and what is left is weighted by the readout to the
        coefficients that the synthesis and the transform bring back to j, ``R (W W^-)^T``.  One scalar product an image.
        """
        solution, projection = self.solve(noise), self.transform_.projection
        readout = (solution.readout / solution.scale[:, None]).cpu().numpy()
        if projection is not None:
            parts = readout.reshape(len(readout), self.channels_, -1)
            readout = np.einsum("pcl,ml->pcm", parts, projection, optimize=True).reshape(readout.shape)
        return torch.from_numpy(self.monomials_.derivative_sum(lambda p, j: readout[p, j], 1, len(readout)))

    def jacobian_trace(self, y: Tensor, noise: NoiseLevel) -> Tensor:
        coefficients = self.kept(("trace", noise, self.degree, self.basis, self.ridge_), lambda: self.trace_coefficients(noise), lambda c: c.nbytes)
        v = self.transform_.forward(y).flatten(1) - torch.as_tensor(noise.alpha * self.mean_).to(y)
        return coefficients.to(y) @ self.monomials_.features(v, len(coefficients))

    def at_degrees(self, y: Tensor, noise: NoiseLevel, degrees: Sequence[int]) -> Tensor:
        solutions = self.solve_degrees(noise, degrees)
        v = self.transform_.forward(y).flatten(1) - torch.as_tensor(noise.alpha * self.mean_).to(y)
        features = self.monomials_.features(v, self.count(max(degrees)))
        out = []
        for solution in solutions:
            phi = features[: len(solution.scale)] / solution.scale[:, None].to(y)
            w = (phi.T @ solution.readout.to(y)).reshape(len(y), self.channels_, self.transform_.n_coefficients)
            out.append(self.transform_.inverse(w))
        return torch.stack(out)
