"""Our stochastic traces, which come with replicates and standard errors, against those of matfree and traceax."""

from functools import partial

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest
import traceax
from jax.tree_util import Partial
from matfree import stochtrace
from scipy import stats

from plap_jax import p_laplacian_estimate
from plap_jax.operators import N_REPLICATES

DIM, N_PROBES, REPEATS = 20, 48, 4000
DECAYING = np.exp(-np.arange(DIM) / 4.0)
ROTATION = stats.ortho_group.rvs(DIM, random_state=0)
SYMMETRIC = (ROTATION * DECAYING) @ ROTATION.T


def product(matrix, x):
    return matrix @ x


def ours(matrix, method):
    """tr J of the score J x: Δ_2 u."""
    how = {"n_probes": N_PROBES, "method": method}
    return lambda key: p_laplacian_estimate(Partial(product, matrix), jnp.ones(DIM), 2.0, key=key, **how).value


def of_matfree(matrix, method):
    of_replicate = N_PROBES // N_REPLICATES // 2
    if method == "hutchinson":
        signs = stochtrace.sampler_signs(jnp.ones(DIM), num=N_PROBES)
        trace = stochtrace.estimator_monte_carlo(stochtrace.monte_carlo_trace(), sampler=signs)
        return lambda key: trace(partial(product, matrix), key)
    sphere = stochtrace.sampler_sphere(jnp.ones(DIM), num=of_replicate)
    trace = stochtrace.estimator_leave_one_out(stochtrace.leave_one_out_xtrace(), sampler=sphere)
    return lambda key: jnp.mean(
        jax.lax.map(lambda k: trace(partial(product, matrix), k), jax.random.split(key, N_REPLICATES))
    )


def of_traceax(matrix, method):
    operator = lineax.MatrixLinearOperator(matrix)
    if method == "hutchinson":
        return lambda key: traceax.HutchinsonEstimator().estimate(key, operator, N_PROBES)[0]
    name = {"hutch++": traceax.HutchPlusPlusEstimator, "xtrace": traceax.XTraceEstimator}[method]
    one = name(sampler=traceax.SphereSampler())
    of_one = partial(one.estimate, operator=operator, k=N_PROBES // N_REPLICATES)
    return lambda key: jnp.mean(jax.lax.map(lambda k: of_one(k)[0], jax.random.split(key, N_REPLICATES)))


@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        ("hutchinson", of_matfree),
        ("hutchinson", of_traceax),
        ("hutch++", of_traceax),
        ("xtrace", of_matfree),
        ("xtrace", of_traceax),
    ],
)
def test_the_law_is_that_of_other_libraries(method, theirs):
    """Other draws, the same number of products: equal standard deviations within 5 %, and no difference of laws."""
    matrix = jnp.asarray(SYMMETRIC, jnp.float32)
    # Not vmap: batched factorizations under a batched condition never return on a CPU (jax 0.10.2).
    every = [lambda f: jax.jit(jax.vmap(f)), lambda f: jax.jit(partial(jax.lax.map, f))]
    found, expected = (
        np.asarray(every[seed](of(matrix, method))(jax.random.split(jax.random.key(seed), REPEATS)))
        for seed, of in enumerate((ours, theirs))
    )
    np.testing.assert_allclose(found.std(), expected.std(), rtol=0.05)
    assert stats.ks_2samp(found, expected).pvalue > 1e-3
    assert expected.std() > 0.01
