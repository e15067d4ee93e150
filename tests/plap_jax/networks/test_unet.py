"""The U-Net: shapes, what it is told, derivatives, bfloat16, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from plap_jax.checkpoints import CheckpointError
from plap_jax.diffusion import Diffusion, VPLinear
from plap_jax.networks import UNet
from plap_jax.networks.tokens import fold, unfold
from plap_jax.networks.unet import _GroupNorm
from plap_jax.training import load_diffusion, save_diffusion
from tests.helpers.perturbed import call, image, perturbed, quick

TINY = {"width": 4, "multipliers": (1, 2), "groups": 2, "embed_dim": 4}
SHAPE = (4, 4, 2)


def make(shape=SHAPE, seed=0, perturb=True, **kwargs):
    """A small network; perturbed, none of its parameters is at a special value such as 0."""
    network = UNet(shape, **{**TINY, **kwargs}, rngs=nnx.Rngs(seed))
    return perturbed(network, seed) if perturb else network


@pytest.mark.parametrize(
    ("shape", "kwargs"),
    [
        ((8, 8, 1), {"multipliers": (1, 2, 2)}),
        ((16, 16, 3), {"multipliers": (1, 2, 2)}),
        ((24, 24, 1), {"multipliers": (1, 2, 2), "patch": 2}),
        ((28, 28, 1), {"multipliers": (1, 2)}),
        ((32, 32, 3), {"multipliers": (1, 2, 2, 2)}),
        ((64, 64, 3), {"multipliers": (1, 2), "patch": 4}),
        ((64, 64, 3), {"multipliers": (1, 2, 2, 2)}),
        ((6, 12, 2), {"multipliers": (2, 1), "patch": 3, "attention": (), "n_blocks": 2}),
        ((4, 4, 1), {"multipliers": (1,), "attention": (0,)}),
    ],
)
def test_shapes(shape, kwargs):
    network = make(shape, perturb=False, **kwargs)
    assert jax.eval_shape(network, image(shape), 0.3) == jax.ShapeDtypeStruct(shape, jnp.float32)


def test_zero_at_the_start():
    network = make(multipliers=(1,), perturb=False)
    np.testing.assert_array_equal(call(network, image(SHAPE), 0.3), np.zeros(SHAPE))
    assert np.abs(call(perturbed(network), image(SHAPE), 0.3)).max() > 0


def test_number_of_parameters():
    """Counted by hand for one level, one block each way, no attention."""
    c, w, e = 2, 4, 6
    norm, conv = 2 * w, 9 * w * w + w
    plain = norm + conv + (e * 2 * w + 2 * w) + conv
    joined = 2 * norm + (9 * 2 * w * w + w) + (e * 2 * w + 2 * w) + conv + (2 * w * w + w)
    expected = (e * e + e) + (9 * c * w + w) + 2 * plain + joined + norm + (9 * w * c + c)
    network = make(multipliers=(1,), attention=(), embed_dim=e)
    assert sum(leaf.size for leaf in jax.tree.leaves(network)) == expected
    attention = norm + 3 * w * w + (w * w + w)
    network = make(multipliers=(1,), attention=(0,), embed_dim=e)
    assert sum(leaf.size for leaf in jax.tree.leaves(network)) == expected + 3 * attention


def test_output_depends_on_point_level_and_caption():
    network, x = make(multipliers=(1,), n_conditions=3), image(SHAPE)
    outputs = np.stack([call(network, x, 0.0, c) for c in (0, 1, 2, -1)])
    assert len(np.unique(outputs, axis=0)) == 4
    np.testing.assert_allclose(call(network, x, 0.0), outputs[3], rtol=1e-4, atol=1e-5)
    assert np.isnan(call(network, x, 0.0, 3)).all()
    assert np.abs(call(network, x, 0.1, 0) - outputs[0]).max() > 1e-3
    assert np.abs(call(network, 2 * x, 0.0, 0) - outputs[0]).max() > 1e-3


def test_every_parameter_and_every_pixel_has_a_gradient():
    network, x = make(n_conditions=2), image(SHAPE)
    target, captions = image(SHAPE, seed=2), jnp.array([0, 1, -1])

    def loss(network, x):
        return jnp.mean((jax.vmap(network, (None, None, 0))(x, 0.5, captions) - target) ** 2)

    gradients = jax.tree_util.tree_leaves_with_path(quick(jax.grad(loss, argnums=(0, 1)))(network, x))
    for path, gradient in gradients:
        assert np.abs(gradient).max() > 1e-6, jax.tree_util.keystr(path)
    assert (np.abs(gradients[-1][1]) > 1e-6).all()


def test_a_batch_is_a_loop():
    network = make(multipliers=(1,))
    x, levels = image((3, *SHAPE)), jnp.linspace(-8, 8, 3)
    batched = quick(jax.vmap(UNet.__call__, (None, 0, 0)))(network, x, levels)
    loop = [call(network, *each) for each in zip(x, levels, strict=True)]
    np.testing.assert_allclose(batched, loop, rtol=1e-4, atol=1e-5)


def test_derivatives_in_double_precision(x64):
    network, x = make(), image(SHAPE, dtype=np.float64)
    along = image(SHAPE, seed=4, dtype=np.float64)

    @quick
    def both(x):
        return jax.jvp(lambda x: network(x, 1.0), (x,), (along,))

    step = 1e-5
    output, product = both(x)
    assert output.dtype == jnp.float64
    difference = (both(x + step * along)[0] - both(x - step * along)[0]) / (2 * step)
    np.testing.assert_allclose(product, difference, rtol=1e-6, atol=1e-8)


def test_bfloat16_computes_in_it_and_keeps_parameters_and_output():
    exact, rounded = make(multipliers=(1,)), make(multipliers=(1,), dtype="bfloat16")
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(exact), jax.tree.leaves(rounded))
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    x = image(SHAPE)
    one, other = call(exact, x, 0.5), call(rounded, x, 0.5)
    assert one.dtype == other.dtype == jnp.float32
    error = np.abs(one - other).max() / np.abs(one).max()
    assert 1e-5 < error < 0.05


def test_what_is_computed_in_bfloat16():
    def dtypes(primitive):
        found = [e for e in jax.make_jaxpr(network)(x, 0.5).eqns if e.primitive.name == primitive]
        return [str(e.invars[0].aval.dtype) for e in found]

    for network, x, narrow in (
        (make(dtype="bfloat16"), image(SHAPE), "bfloat16"),
        (make(dtype="bfloat16"), image(SHAPE).astype(jnp.bfloat16), "bfloat16"),
        (make(), image(SHAPE), "float32"),
    ):
        assert dtypes("conv_general_dilated") == [narrow] * 11 + ["float32"]  # the last is the output layer
        assert dtypes("exp") == ["float32"] * 3  # softmax
        assert set(dtypes("rsqrt")) == {"float32"}  # norms
        assert jax.eval_shape(network, x, 0.5).dtype == jnp.float32


def test_group_norm_against_numpy():
    norm = perturbed(_GroupNorm(6, 3, nnx.Rngs(0)))
    h = 5 + 2 * np.random.default_rng(0).normal(size=(4, 3, 6))
    groups = h.reshape(12, 3, 2)
    mean, variance = groups.mean((0, 2), keepdims=True), groups.var((0, 2), keepdims=True)
    expected = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(h.shape) * norm.scale[...] + norm.shift[...]
    np.testing.assert_allclose(norm(jnp.asarray(h, jnp.float32)), expected, rtol=1e-4, atol=1e-5)
    # 256 is where bfloat16 cannot count on: sums in it would be off by far
    wide = (100 + np.random.default_rng(0).normal(size=(32, 32, 6))).astype(jnp.bfloat16)
    rounded = norm(jnp.asarray(wide))
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(np.float32), norm(jnp.asarray(wide, jnp.float32)), rtol=0.02, atol=0.02)


def test_folding():
    h = image((4, 6, 3))
    folded = fold(h, 2)
    np.testing.assert_array_equal(folded[1, 2], h[2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(unfold(folded, 2), h)


def test_two_networks_of_one_architecture_share_compiled_code():
    call(make(multipliers=(1,)), image(SHAPE), 0.0)
    before = call._cache_size()
    call(make(multipliers=(1,), seed=5), image(SHAPE), 0.1)
    assert call._cache_size() == before


def test_initial_weights_compile_nothing(caplog):
    """A program per shape would take seconds before the first step."""
    make(perturb=False)  # what nnx.Rngs itself needs
    with jax.log_compiles():
        UNet((12, 20, 5), width=6, multipliers=(1, 3, 5), groups=3, embed_dim=10, n_conditions=7, rngs=nnx.Rngs(1))
        assert not caplog.records
        jnp.ones(1234)
        assert caplog.records, "compilations would not be seen"


def test_there_and_back(tmp_path):
    saved = Diffusion(make(seed=3), VPLinear(), data_std=0.5, conditioning="log_snr")
    save_diffusion(tmp_path / "net", saved)
    like = Diffusion(make(seed=4), VPLinear(), data_std=0.5, conditioning="log_snr")
    jax.tree.map(np.testing.assert_array_equal, load_diffusion(tmp_path / "net", like), saved)
    wider = Diffusion(make(width=8), VPLinear(), data_std=0.5, conditioning="log_snr")
    with pytest.raises(CheckpointError, match="is expected"):
        load_diffusion(tmp_path / "net", wider)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shape": (4, 4)}, r"shape=\(4, 4\): must be \(h, w, c\)"),
        ({"shape": (4, 0, 1)}, r"shape=\(4, 0, 1\): must hold positive sizes"),
        ({"shape": (4, 5, 1)}, r"shape=\(4, 5, 1\): h and w must be divisible by 2 = patch \* 2\^\(levels - 1\)"),
        ({"multipliers": (1, 1, 1), "patch": 2}, r"shape=\(4, 4, 2\): h and w must be divisible by 8 = .*3 levels"),
        ({"width": 0}, "width=0: must be >= 1"),
        ({"multipliers": ()}, r"multipliers=\(\): must hold an integer >= 1 for each level"),
        ({"multipliers": 2}, "multipliers=2: must hold an integer >= 1"),
        ({"multipliers": (1, 0)}, r"multipliers=\(1, 0\): must hold an integer >= 1"),
        ({"n_blocks": 0}, "n_blocks=0: must be >= 1"),
        ({"patch": 0}, "patch=0: must be >= 1"),
        ({"attention": (2,)}, r"attention=\(2,\): must hold levels in -2 \.\.\. 1"),
        ({"attention": ("a",)}, r"attention=\('a',\): must hold levels"),
        ({"groups": 3}, r"groups=3: must be >= 1 and divide the channels of each level, \[4, 8\]"),
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
    with pytest.raises(ValueError, match=r"x=\(4, 4, 1\): must have the shape of the network, \(4, 4, 2\)"):
        make()(jnp.ones((4, 4, 1)), 0.0)
    with pytest.raises(ValueError, match="condition=1: must be None: this network has no captions"):
        make()(image(SHAPE), 0.0, 1)
