"""Methods that know the prompt: late guidance, prompt embedding, random tokens, initial noise."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hydra.utils import instantiate
from jax.experimental import io_callback
from omegaconf import OmegaConf

from plap_jax.diffusion import Diffusion, VPLinear
from plap_jax.mitigation import (
    Band,
    GapNoise,
    Guard,
    LateGuidance,
    PromptEmbedding,
    RandomTokens,
    SharpNoise,
    Unmitigated,
    generate,
)
from plap_jax.mitigation.gap import gap_at_start, norm
from plap_jax.networks import ResidualMLP
from plap_jax.pretrained import UserModel
from plap_jax.pretrained.networks import TextNetwork
from plap_jax.sampling import DDIM, ProbabilityFlow, guided, sample, starting_points
from tests.helpers.counting_network import COUNTING, counts
from tests.helpers.places import ROOT
from tests.helpers.planted_mixture import DIM, SHARP, is_copy, planted_diffusion

KEY, SHAPE, N = jax.random.key(0), (DIM,), 24
MIXED = np.arange(N) % 2  # prompt 1 stands for the planted point


def counted(kind, x):
    def count(x):
        counts[kind] += 1
        return np.asarray(x)

    return io_callback(count, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@jax.custom_vjp
def answer(x):
    return counted("evaluations", x)


answer.defvjp(lambda x: (answer(x), None), lambda _, back: (counted("products", back),))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Asked:
    """ε̂ = x, counted, with reverse-mode derivatives also under vmap."""

    def __call__(self, x, t, condition=None):
        return answer(x if condition is None else x + 0 * jnp.asarray(condition, x.dtype))


def asked(method, diffusion, condition):
    """Evaluations of the network for one sample, as counted within it; and as the method says."""
    counts.update(evaluations=0, products=0)
    found = jax.block_until_ready(jax.jit(method.sampled)(diffusion, KEY, jnp.ones(3), condition))
    jax.effects_barrier()
    return counts["evaluations"] + 2 * counts["products"], int(found.nfe)


# --- late guidance


def test_late_guidance_of_scale_one_changes_nothing():
    model = planted_diffusion()
    plain = sample(model, KEY, N, shape=SHAPE, sampler=DDIM(10), conditions=MIXED)
    for diffusion in (model, guided(model, 1.0)):
        late = sample(diffusion, KEY, N, shape=SHAPE, sampler=LateGuidance(DDIM(10)), conditions=MIXED)
        np.testing.assert_allclose(late, plain, atol=5e-6)


def test_it_begins_when_the_gap_has_its_first_minimum():
    """Against a slow twin, step by step."""
    model, steps, scale = planted_diffusion(), 12, 4.0
    starts = starting_points(model, KEY, 4, shape=SHAPE)
    conditions = np.arange(4) % 2
    found = generate(guided(model, scale), KEY, 4, shape=SHAPE, method=LateGuidance(DDIM(steps)), conditions=conditions)
    times, schedule = DDIM(steps).times(model.schedule), model.schedule
    eps = jax.jit(model.eps)
    for i, c in enumerate(conditions):
        x, sizes, since = jnp.asarray(starts[i]), [], steps
        for k, t in enumerate(times):
            without, told = eps(x, jnp.float32(t), -1), eps(x, jnp.float32(t), c)
            sizes.append(float(jnp.linalg.norm(told - without)))
            if since == steps and k > 0 and sizes[-1] > sizes[-2]:
                since = k
            noise = without + (scale if k >= since else 1.0) * (told - without)
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            x0 = (x - sigma * noise) / alpha
            x = x0 if k == steps - 1 else schedule.alpha(times[k + 1]) * x0 + schedule.sigma(times[k + 1]) * noise
        assert found.notes["late_from"][i] == since
        np.testing.assert_allclose(found.notes["gap_first"][i], sizes[0], rtol=1e-4)
        np.testing.assert_allclose(found.image[i], x, atol=2e-3)
    assert (found.nfe == 2 * steps).all()


def test_a_fixed_share_and_its_cost():
    model, method = guided(planted_diffusion(), 3.0), LateGuidance(DDIM(10), until=0.0)
    plain = sample(model, KEY, N, shape=SHAPE, sampler=DDIM(10), conditions=MIXED)
    late = generate(model, KEY, N, shape=SHAPE, method=method, conditions=MIXED)
    np.testing.assert_allclose(late.image, plain, atol=5e-5)
    assert (late.notes["late_from"] == 0).all()
    cost, told = asked(LateGuidance(DDIM(10)), guided(COUNTING, 3.0), jnp.asarray(1))
    assert cost == told == 20


@pytest.mark.slow
def test_solvers_are_looked_at_between_their_steps():
    method = LateGuidance(ProbabilityFlow(1e-2, 1e-2), nodes=6)
    cost, told = asked(method, guided(COUNTING, 3.0), jnp.asarray(1))
    assert cost == told
    made = sample(guided(planted_diffusion(), 1.0), KEY, N, shape=SHAPE, sampler=method, conditions=MIXED)
    plain = sample(planted_diffusion(), KEY, N, shape=SHAPE, sampler=ProbabilityFlow(), conditions=MIXED)
    np.testing.assert_allclose(made, plain, atol=0.05)


# --- what is told


def captioned():
    """A network with a caption table that tells its captions apart."""
    network = ResidualMLP(SHAPE, width=8, depth=1, n_conditions=5, embed_dim=4, rngs=nnx.Rngs(0))
    graph, state = nnx.split(network)
    leaves, structure = jax.tree.flatten(state)
    rng = np.random.default_rng(0)
    leaves = [leaf + jnp.asarray(rng.normal(0, 0.5, leaf.shape), leaf.dtype) for leaf in leaves]
    return Diffusion(nnx.merge(graph, jax.tree.unflatten(structure, leaves)), VPLinear(), conditioning="log_snr")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ByToken:
    """The noise x plus the first number of each of two tokens and a vector, as a network of channels first."""

    def __call__(self, x, level, tokens, vector):
        return 0.5 * x + tokens[0, :, 0].sum() + 0.1 * vector[0].sum()


def of_texts():
    """Three prompts of two tokens and a vector, and a row that is not filled."""
    tokens = jnp.asarray([[[0.0], [0.0]], [[1.0], [10.0]], [[2.0], [20.0]], [[3.0], [30.0]], [[jnp.nan]] * 2])
    vectors = jnp.asarray([[0.0], [5.0], [6.0], [7.0], [jnp.nan]])
    return Diffusion(TextNetwork(ByToken(), (tokens, vectors)), VPLinear())


CAPTIONS = np.array([0, 2, -1])


@pytest.mark.parametrize(("make", "shape"), [(captioned, SHAPE), (of_texts, (2, 2, 1))])
def test_prompt_embeddings_are_moved_until_the_gap_is_small(make, shape):
    model = make()
    method = PromptEmbedding(DDIM(4), target=1e-3, max_steps=20, learning_rate=0.1)
    found = generate(model, KEY, 3, shape=shape, method=method, conditions=CAPTIONS)
    starts = starting_points(model, KEY, 3, shape=shape)
    size = np.sqrt(np.prod(shape))
    expected = [norm(gap_at_start(model, jnp.asarray(x), c)) / size for x, c in zip(starts, CAPTIONS, strict=True)]
    np.testing.assert_allclose(found.notes["gap_before"], expected, rtol=1e-4, atol=1e-6)
    assert (found.notes["gap_after"][:2] < 0.9 * found.notes["gap_before"][:2]).all()
    assert found.notes["prompt_steps"][2] == 0 and (found.notes["prompt_steps"][:2] > 0).all()
    np.testing.assert_array_equal(found.nfe, 4 + 1 + 3 * (1 + found.notes["prompt_steps"]))
    lax = PromptEmbedding(DDIM(4), target=1e6, max_steps=20, learning_rate=0.1)
    stayed = generate(model, KEY, 3, shape=shape, method=lax, conditions=CAPTIONS)
    plain = sample(model, KEY, 3, shape=shape, sampler=DDIM(4), conditions=CAPTIONS)
    np.testing.assert_allclose(stayed.image, plain, rtol=1e-4, atol=1e-4)
    assert np.abs(found.image[:2] - plain[:2]).max() > 1e-4


@pytest.mark.parametrize(("make", "shape"), [(captioned, SHAPE), (of_texts, (2, 2, 1))])
def test_random_tokens_are_those_of_other_prompts(make, shape):
    model, n = make(), 40
    conditions = np.append(np.zeros(n - 1, int), -1)
    made = {
        share: generate(model, KEY, n, shape=shape, method=RandomTokens(DDIM(2), share), conditions=conditions)
        for share in (0.0, 0.5, 1.0)
    }
    plain = sample(model, KEY, n, shape=shape, sampler=DDIM(2), conditions=conditions)
    np.testing.assert_allclose(made[0.0].image, plain, rtol=1e-4, atol=1e-4)
    assert (made[1.0].notes["replaced"][:-1] == 1).all() and made[1.0].notes["replaced"][-1] == 0
    assert 0.2 < made[0.5].notes["replaced"].mean() < 0.8
    kept = made[0.5].notes["replaced"] == 0
    np.testing.assert_allclose(made[0.5].image[kept], plain[kept], rtol=1e-4, atol=1e-4)
    changed = np.abs(made[1.0].image - plain).reshape(n, -1).max(axis=1) > 1e-4
    assert changed[:-1].all() and not changed[-1]


# --- initial noise


def test_the_initial_noise_is_moved_until_the_gap_is_small():
    model = planted_diffusion()
    method = GapNoise(DDIM(4), threshold=0.2, learning_rate=0.1, max_steps=10, candidates=2)
    found = generate(model, KEY, N, shape=SHAPE, method=method, conditions=MIXED)
    starts = jnp.asarray(starting_points(model, KEY, N, shape=SHAPE))
    gaps = jax.jit(jax.vmap(lambda x, c: norm(gap_at_start(model, x, c)) / np.sqrt(DIM)))(starts, MIXED)
    np.testing.assert_allclose(found.notes["loss_before"], gaps, rtol=1e-3, atol=1e-5)
    assert (found.notes["loss_after"] <= np.maximum(0.2, found.notes["loss_before"])).all()
    below = gaps <= 0.2
    assert (found.notes["noise_steps"][below] == 0).all()
    plain = sample(model, KEY, N, shape=SHAPE, sampler=DDIM(4), conditions=MIXED)
    np.testing.assert_allclose(found.image[below], plain[below], atol=5e-5)


@pytest.mark.parametrize("method", [GapNoise(DDIM(4), 1e-9, candidates=2), SharpNoise(DDIM(4), 1e-9, candidates=2)])
def test_its_cost_is_counted(method):
    cost, told = asked(method, Diffusion(Asked(), VPLinear()), jnp.asarray(1))
    assert cost == told > 4


def test_sharpness_is_the_formula():
    model = planted_diffusion()
    x, t = jnp.linspace(-1, 1, DIM), model.schedule.t_max
    pull = model.score(x, t, 1) - model.score(x, t, -1)
    ahead = x + pull / jnp.linalg.norm(pull)
    sharp = jnp.linalg.norm(model.score(ahead, t, 1) - model.score(ahead, t, -1)) + 0.05 * jnp.linalg.norm(x)
    found = SharpNoise(DDIM(4)).loss(model, x, jnp.asarray(1))
    np.testing.assert_allclose(found, sharp / np.sqrt(DIM), rtol=1e-3)


CONFIGS = {
    "guard": Guard,
    "late_guidance": LateGuidance,
    "none": Unmitigated,
    "prompt_embedding": PromptEmbedding,
    "random_tokens": RandomTokens,
    "sharp_noise": SharpNoise,
    "gap_noise": GapNoise,
}


def test_the_configs_hold_the_defaults():
    folder = ROOT / "conf" / "mitigation"
    assert {path.stem for path in folder.glob("*.yaml")} == set(CONFIGS)
    for name, kind in CONFIGS.items():
        more = (Band.watching(n_nodes=9),) if kind is Guard else ()
        config = OmegaConf.load(folder / f"{name}.yaml")
        assert instantiate(config)(DDIM(9), *more) == kind(DDIM(9), *more)
        own = {field.name for field in dataclasses.fields(kind)} - {"sampler", "band"}
        assert set(config) == {"_target_", "_partial_"} | own


# --- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LateGuidance(DDIM(2), early=float("nan")), "early=nan: must be a finite number"),
        (lambda: LateGuidance(DDIM(2), until=1.5), "until=1.5: must lie in [0, 1], or be None"),
        (lambda: LateGuidance(DDIM(2), nodes=1), "nodes=1: must be an integer >= 2"),
        (lambda: PromptEmbedding(DDIM(2), target=0.0), "target=0.0: must be finite and > 0"),
        (lambda: PromptEmbedding(DDIM(2), max_steps=0), "max_steps=0: must be an integer >= 1"),
        (lambda: RandomTokens(DDIM(2), 1.1), "share=1.1: must lie in [0, 1]"),
        (lambda: SharpNoise(DDIM(2), threshold=-1.0), "threshold=-1.0: must be finite and > 0"),
        (lambda: GapNoise(DDIM(2), candidates=0), "candidates=0: must be an integer >= 1"),
    ],
)
def test_strengths_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError) as refused:
        make()
    assert str(refused.value) == message


@pytest.mark.parametrize("kind", [LateGuidance, PromptEmbedding, RandomTokens, SharpNoise, GapNoise])
def test_methods_that_need_a_prompt_say_so(kind):
    with pytest.raises(ValueError) as refused:
        generate(captioned(), KEY, 2, shape=SHAPE, method=kind(DDIM(2)))
    assert str(refused.value) == f"conditions=None: {kind.__name__} needs a prompt for each sample"


@pytest.mark.parametrize("make", [generate, sample])
def test_what_an_audit_takes_is_no_diffusion_yet(make):
    how = {"method": Unmitigated(DDIM(2))} if make is generate else {"sampler": DDIM(2)}
    with pytest.raises(
        ValueError, match=r"^diffusion='UserModel': must be a Diffusion; that of a UserModel is plap_jax"
    ):
        make(UserModel(lambda x, t, condition: x, VPLinear(), SHAPE), KEY, 2, shape=SHAPE, **how)


@pytest.mark.parametrize("kind", [PromptEmbedding, RandomTokens])
def test_networks_without_a_table_are_refused(kind):
    with pytest.raises(ValueError, match=r"^model='MixtureNetwork': must have a caption table or a text encoder"):
        generate(planted_diffusion(), KEY, 2, shape=SHAPE, method=kind(DDIM(2)), conditions=[0, 1])


def test_the_planted_point_is_what_its_prompt_gives():
    made = sample(planted_diffusion(), KEY, 4, shape=SHAPE, sampler=DDIM(10), conditions=np.ones(4, int))
    assert is_copy(made).all() and made == pytest.approx(np.broadcast_to(SHARP, made.shape), abs=0.05)
