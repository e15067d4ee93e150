"""An independent twin in NumPy and SciPy, double precision: mixtures, the operator, and flux by quadrature."""

import numpy as np
from scipy import special, stats


class Mixture:
    """q = Σ_k w_k N(μ_k, Σ_k) by textbook formulae; rows of ``x`` are points ``(m, d)``."""

    def __init__(self, weights, means, covariances):
        self.weights, self.means, self.covariances = (np.asarray(a, np.float64) for a in (weights, means, covariances))
        self.precisions = np.linalg.inv(self.covariances)

    def log_joint(self, x):
        parts = zip(self.weights, self.means, self.covariances, strict=True)
        logs = [np.log(w) + stats.multivariate_normal(m, c).logpdf(x).reshape(len(x)) for w, m, c in parts]
        return np.stack(logs, axis=-1)

    def log_prob(self, x):
        return special.logsumexp(self.log_joint(x), axis=-1)

    def parts(self, x):
        posterior = special.softmax(self.log_joint(x), axis=-1)
        return posterior, -np.einsum("kij,mkj->mki", self.precisions, x[:, None] - self.means)

    def score(self, x):
        return np.einsum("mk,mki->mi", *self.parts(x))

    def hessian(self, x):
        posterior, scores = self.parts(x)
        outer = np.einsum("mki,mkj->mkij", scores, scores) - self.precisions
        s = self.score(x)
        return np.einsum("mk,mkij->mij", posterior, outer) - s[:, :, None] * s[:, None, :]

    def p_laplacian(self, x, p):
        s, hessian = self.score(x), self.hessian(x)
        norm = np.linalg.norm(s, axis=-1)
        along = np.einsum("mi,mij,mj->m", s, hessian, s) / norm**2
        return norm ** (p - 2) * (np.trace(hessian, axis1=1, axis2=2) + (p - 2) * along)

    def noised(self, alpha, sigma):
        identity = np.eye(self.means.shape[1])
        return Mixture(self.weights, alpha * self.means, alpha**2 * self.covariances + sigma**2 * identity)


def inward(score, x, radius, p, n):
    """−|s|^{p−2} ⟨s, n⟩ at x + r n, rows of ``n`` being directions."""
    s = score(x + radius * n)
    return -(np.linalg.norm(s, axis=-1) ** (p - 2)) * np.sum(s * n, axis=-1)


def circle_kappa(score, x, radius, p, n_points=4096):
    """κ_p in the plane: trapezoid rule over the angle."""
    angle = 2 * np.pi * (np.arange(n_points) + 0.5) / n_points
    return inward(score, x, radius, p, np.stack([np.cos(angle), np.sin(angle)], axis=-1)).mean()


def sphere_kappa(score, x, radius, p, n_points=96):
    """κ_p in space: Gauss–Legendre in the height, trapezoid in the longitude."""
    height, weight = np.polynomial.legendre.leggauss(n_points)
    angle = 2 * np.pi * np.arange(2 * n_points) / (2 * n_points)
    across = np.sqrt(1 - height**2)[:, None]
    n = np.stack(np.broadcast_arrays(across * np.cos(angle), across * np.sin(angle), height[:, None]), axis=-1)
    values = inward(score, x, radius, p, n.reshape(-1, 3)).reshape(n.shape[:2])
    return np.sum(weight * values.mean(axis=1)) / 2


def planar_kappa(weights, means, variances, x, radius, p, dim, n_points=96):
    """κ_p in dimension ≥ 4 of isotropic components whose means and the centre ``x`` lie in one plane.

    The integrand depends on the projection y of n onto that plane alone, whose density is ∝ (1 − |y|²)^{d/2−2}.
    """
    weights, means, variances = (np.asarray(a, np.float64) for a in (weights, means, variances))
    node, weight = special.roots_jacobi(n_points, dim / 2 - 2, 0)
    squared, angle = (node + 1) / 2, 2 * np.pi * np.arange(2 * n_points) / (2 * n_points)
    y = np.sqrt(squared)[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    height = radius**2 * (1 - squared)[:, None]
    offset = x + radius * y[:, :, None] - means
    distance = np.sum(offset**2, axis=-1) + height[..., None]
    posterior = special.softmax(np.log(weights) - distance / (2 * variances) - dim / 2 * np.log(variances), axis=-1)
    in_plane = -np.einsum("abk,abki->abi", posterior / variances, offset)
    pull = np.sum(posterior / variances, axis=-1)
    norm = np.sqrt(np.sum(in_plane**2, axis=-1) + pull**2 * height)
    values = norm ** (p - 2) * (pull * height / radius - np.sum(in_plane * y, axis=-1))
    return np.sum(weight * values.mean(axis=1)) / np.sum(weight)
