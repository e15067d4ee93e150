"""The transformer: patches, positions, what it is told, derivatives, bfloat16, training, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from plap_jax.data import digits
from plap_jax.diffusion import Diffusion, RectifiedFlow, VPLinear
from plap_jax.networks import DiT
from plap_jax.networks.dit import positions
from plap_jax.networks.tokens import attend
from plap_jax.training import TrainConfig, load_diffusion, save_diffusion, train
from tests.helpers.perturbed import call, image, perturbed, quick

TINY = {"width": 8, "depth": 2, "heads": 2, "mlp_ratio": 2, "embed_dim": 4}
SHAPE = (4, 6, 2)


def make(shape=SHAPE, seed=0, perturb=True, **kwargs):
    """A small network; perturbed, none of its parameters is at a special value such as 0."""
    network = DiT(shape, **{**TINY, **kwargs}, rngs=nnx.Rngs(seed))
    return perturbed(network, seed) if perturb else network


@pytest.mark.parametrize(
    ("shape", "kwargs"),
    [((8, 8, 1), {}), ((28, 28, 1), {"patch": 4}), ((32, 48, 3), {"patch": 8, "heads": 4}), ((3, 5, 2), {"patch": 1})],
)
def test_shapes(shape, kwargs):
    network = make(shape, perturb=False, **kwargs)
    assert jax.eval_shape(network, image(shape), 0.3) == jax.ShapeDtypeStruct(shape, jnp.float32)


def test_zero_at_the_start_and_blocks_that_do_nothing():
    network = make(perturb=False)
    np.testing.assert_array_equal(call(network, image(SHAPE), 0.3), np.zeros(SHAPE))
    h, e = image((6, 8)), image((4,))
    for block in network.blocks:
        np.testing.assert_array_equal(block(h, e), h)
    assert np.abs(call(perturbed(network), image(SHAPE), 0.3)).max() > 0


def test_number_of_parameters():
    """Counted by hand."""
    w, e, r, depth, channels = 8, 4, 2, 2, 2 * 2**2
    block = (e * 6 * w + 6 * w) + 3 * w * w + (w * w + w) + (w * r * w + r * w) + (r * w * w + w)
    ends = (channels * w + w) + (e * 2 * w + 2 * w) + (w * channels + channels)
    expected = (e * e + e) + ends + depth * block
    count = lambda network: sum(leaf.size for leaf in jax.tree.leaves(network))  # noqa: E731
    assert count(make()) == expected
    assert count(make(n_conditions=3)) == expected + 4 * e


def test_against_numpy():
    """One block, one head, in double precision by the plain formulae."""
    with jax.enable_x64(True):
        network = jax.tree.map(lambda a: a.astype(jnp.float64), make((4, 4, 1), depth=1, heads=1))
        x = image((4, 4, 1), dtype=np.float64)
        found = network(x, 0.7)
        embedding = np.asarray(network.embedding(x, 0.7, None))

    def dense(layer, h):
        return h @ np.asarray(layer.kernel[...]) + (0 if layer.bias is None else np.asarray(layer.bias[...]))

    def told(h, scale, shift):
        normed = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6)
        return (1 + scale) * normed + shift

    squares = [np.asarray(x)[i : i + 2, j : j + 2].ravel() for i in (0, 2) for j in (0, 2)]
    h = dense(network.first, np.stack(squares)) + positions(2, 2, 8)
    (block,) = network.blocks
    a, b, g, a2, b2, g2 = np.split(dense(block.told, embedding), 6)
    q, k, v = np.split(dense(block.project, told(h, a, b)), 3, axis=1)
    weights = np.exp(q @ k.T / np.sqrt(8))
    h = h + g * dense(block.out, weights / weights.sum(1, keepdims=True) @ v)
    inner = dense(block.inner, told(h, a2, b2))
    gelu = inner / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
    h = h + g2 * dense(block.outer, gelu)
    out = dense(network.last, told(h, *np.split(dense(network.told, embedding), 2))).reshape(2, 2, 2, 2)
    np.testing.assert_allclose(found[..., 0], out.transpose(0, 2, 1, 3).reshape(4, 4), rtol=1e-9)


def test_positions_tell_all_tokens_apart():
    found = positions(3, 5, 16)
    assert found.shape == (15, 16)
    apart = np.linalg.norm(found[:, None] - found, axis=-1)
    assert apart[~np.eye(15, dtype=bool)].min() > 0.1
    np.testing.assert_allclose(found[7], positions(2, 3, 16)[5])  # row 1, column 2, whatever the size


def test_only_positions_tell_tokens_apart(monkeypatch):
    """Without them patches that are exchanged come out exchanged; with them not."""

    def exchanged(x):
        return jnp.concatenate([x[:, 2:4], x[:, :2], x[:, 4:]], axis=1)

    network, x = make(), image(SHAPE)
    assert np.abs(exchanged(network(x, 0.3)) - network(exchanged(x), 0.3)).max() > 0.01
    monkeypatch.setattr("plap_jax.networks.dit.positions", lambda rows, columns, width: np.zeros((1, width)))
    np.testing.assert_allclose(exchanged(network(x, 0.3)), network(exchanged(x), 0.3), rtol=1e-4, atol=1e-5)


def test_level_and_caption_are_told():
    network, x = make(n_conditions=3), image(SHAPE)
    out = {c: call(network, x, 0.5, jnp.asarray(c)) for c in (-1, 0, 2)}
    np.testing.assert_allclose(call(network, x, 0.5), out[-1], rtol=1e-5, atol=1e-6)  # no caption is −1
    assert min(np.abs(out[a] - out[b]).max() for a, b in ((-1, 0), (0, 2))) > 1e-3
    assert np.abs(call(network, x, 3.0) - call(network, x, 0.5)).max() > 1e-3
    assert np.isnan(call(network, x, 0.5, jnp.asarray(3))).all()  # beyond the table


def test_every_parameter_has_a_gradient_and_every_pixel_a_say():
    network, x = make(n_conditions=2), image(SHAPE)
    loss = quick(jax.grad(lambda network, x: jnp.sum(network(x, 0.5, jnp.asarray(1)) ** 2), argnums=(0, 1)))
    gradients, of_pixels = loss(network, x)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(gradient).max() > 1e-6, jax.tree_util.keystr(path)
    assert np.all(np.abs(of_pixels) > 1e-7)


def test_a_batch_is_a_loop_and_heads_are_independent():
    network, x, levels = make(), image((3, *SHAPE)), jnp.linspace(-8, 8, 3)
    batched = quick(jax.vmap(DiT.__call__, (None, 0, 0)))(network, x, levels)
    np.testing.assert_allclose(
        batched, [call(network, *each) for each in zip(x, levels, strict=True)], rtol=1e-4, atol=1e-5
    )
    query, key, value = image((3, 2, 5, 4))
    both = attend(query, key, value)
    np.testing.assert_allclose(both[1], attend(query[1], key[1], value[1]), rtol=1e-6)


def test_bfloat16_computes_in_it_and_keeps_parameters_and_output():
    exact, rounded, x = make(), make(dtype="bfloat16"), image(SHAPE)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    one, other = call(exact, x, 0.5), call(rounded, x, 0.5)
    assert one.dtype == other.dtype == jnp.float32
    assert 1e-5 < np.abs(one - other).max() / np.abs(one).max() < 0.05
    products = [e for e in jax.make_jaxpr(rounded)(x, 0.5).eqns if e.primitive.name in ("exp", "rsqrt")]
    assert {str(e.invars[0].aval.dtype) for e in products} == {"float32"}  # softmax and norms


def test_there_and_back(tmp_path):
    saved = Diffusion(make(seed=3, n_conditions=2), RectifiedFlow(), "flow", data_std=0.5, conditioning="log_snr")
    save_diffusion(tmp_path / "net", saved)
    found = load_diffusion(tmp_path / "net")  # made from its notes alone
    assert jax.tree.structure(found) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, found, saved)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "prediction"), [(VPLinear(), "eps"), (RectifiedFlow(), "flow")], ids=["VPLinear", "RectifiedFlow"]
)
def test_it_trains_on_digits(schedule, prediction):
    """The loss falls far below what the best linear denoiser of the pixels, one by one, could reach."""
    points = digits(seed=0).train[:256]
    std = float(points.std())
    start = Diffusion(
        DiT((8, 8, 1), width=32, depth=2, heads=2, rngs=nnx.Rngs(0)), schedule, prediction, std, "log_snr"
    )
    config = TrainConfig(n_steps=600, batch_size=64, learning_rate=3e-3, warmup_steps=30, chunk_steps=200)
    losses = np.asarray(train(start, points, key=jax.random.key(0), config=config).losses)
    t = np.linspace(schedule.t_min, schedule.t_max, 400)
    alpha, sigma = np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t))
    known = 1 / (alpha**2 * std**2 + sigma**2)
    left = {"eps": (alpha * std) ** 2 * known, "flow": (alpha + sigma) ** 2 * std**2 * known}
    assert losses[-100:].mean() < 0.6 * left[prediction].mean()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shape": (4, 4)}, r"shape=\(4, 4\): must be \(h, w, c\)"),
        ({"shape": (4, 5, 1)}, r"shape=\(4, 5, 1\): h and w must be divisible by patch=2"),
        ({"patch": 3}, r"shape=\(4, 6, 2\): h and w must be divisible by patch=3"),
        ({"patch": 0}, "patch=0: must be an integer >= 1"),
        ({"width": 6}, "width=6: must be divisible by 4"),
        ({"heads": 3}, "width=8: must be divisible by heads=3"),
        ({"depth": 0}, "depth=0: must be an integer >= 1"),
        ({"mlp_ratio": 1.5}, "mlp_ratio=1.5: must be an integer >= 1"),
        ({"dtype": "float16"}, "dtype='float16': must be None or \"bfloat16\""),
        ({"n_conditions": 0}, "n_conditions=0: must be >= 1, or None"),
        ({"embed_dim": 5}, "embed_dim=5: must be even and >= 2"),
    ],
)
def test_bad_sizes_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        make(**kwargs)
    assert "\n" not in str(caught.value)


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match=r"x=\(4, 4, 1\): must have the shape of the network, \(4, 6, 2\)"):
        make()(jnp.ones((4, 4, 1)), 0.0)
    with pytest.raises(ValueError, match="condition=1: must be None: this network has no captions"):
        make()(image(SHAPE), 0.0, 1)
