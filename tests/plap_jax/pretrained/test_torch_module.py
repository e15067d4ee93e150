"""Any PyTorch module, called from JAX: the same numbers, one call for a batch, refusals in one line."""

import csv
import importlib.util
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from benchmarks.gpu_check import correctness
from benchmarks.gpu_check.sizes import SMOKE
from plap_jax import audit_images, detectors, flux, load_torch, map_points, p_laplacian
from plap_jax.audit.command_line import main
from plap_jax.detectors import FLIPD, FluxDensity, FluxGap, Query
from plap_jax.diffusion import EDM, DiscreteVP, RectifiedFlow, VPLinear
from plap_jax.pretrained import as_pretrained
from plap_jax.pretrained.extra import OLDEST, callback
from tests.helpers import memorizing_model

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-torch")
ours = pytest.importorskip("tests.helpers.mixture_in_torch")
pytestmark = pytest.mark.torch
bridge = callback()

SHAPE, SCHEDULE = (4, 4, 1), VPLinear()


def points(n, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def linear(x, t):
    """Whose values are known without PyTorch."""
    return 2 * x + t[:, None, None, None]


class Small(torch.nn.Module):
    def __init__(self, channels=1, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.convolution = torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.dropout = torch.nn.Dropout(0.5)
        self.rows = []

    def forward(self, x, t):
        self.rows.append(len(x))
        return self.dropout(self.convolution(x) * (1 + t)[:, None, None, None])


def by_hand(module, x, t):
    with torch.inference_mode():
        found = module(torch.tensor(np.moveaxis(x, -1, 1)), torch.full((len(x),), t, dtype=torch.from_numpy(x).dtype))
    return np.moveaxis(found.numpy(), 1, -1)


class TestBridge:
    def test_on_the_device_that_both_frameworks_see(self):
        """On a card by DLPack; a float32 of a card may have passed TF32."""
        check = correctness.checks(SMOKE)["PyTorch module called from JAX beside PyTorch on the CPU"]()
        assert check.difference <= (1e-5 if jax.default_backend() == "cpu" else check.allowed)

    @pytest.mark.parametrize("shares", [True, False])
    def test_one_call_for_all_axes(self, shares, monkeypatch):
        """Mapped twice, in a loop, compiled or not: all points at once, and the values of a loop in PyTorch."""
        monkeypatch.setattr(bridge, "_shares_memory", lambda host: shares)
        module = Small()
        network = load_torch(module, SCHEDULE, "eps", SHAPE).diffusion.network
        x, directions = points(6), points(5, seed=1)

        def around(network, x):
            return jax.vmap(lambda n: network(x + n, 0.3))(directions)

        module.rows.clear()
        found = jax.jit(jax.vmap(around, (None, 0)))(network, x)
        assert [rows for rows in module.rows if rows > 1] == [30]
        expected = by_hand(module, (x[:, None] + directions).reshape(-1, *SHAPE), 0.3).reshape(found.shape)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        loop = jax.jit(lambda f, x: jax.lax.scan(lambda carry, _: (f(carry, 0.3), None), x, None, length=3)[0])
        expected = x
        for _ in range(3):
            expected = by_hand(module, expected, 0.3)
        np.testing.assert_allclose(jax.vmap(loop, (None, 0))(network, x), expected, rtol=1e-5, atol=1e-6)

    def test_nothing_is_compiled_twice(self):
        compiled = []

        @jax.jit
        def score(model, x, t):
            compiled.append(1)
            return model.score(x, t)

        module, x = Small(), points(1)[0]
        for _ in range(2):  # loaded again: the same module is the same function
            model = load_torch(module, SCHEDULE, "eps", SHAPE).diffusion
            values = [score(model, x, t) for t in (0.2, 0.4)]
            assert not np.array_equal(*values)
        assert len(compiled) == 1 and not jax.tree.leaves(model.network), "no weights in JAX"
        score(load_torch(Small(seed=1), SCHEDULE, "eps", SHAPE).diffusion, x, 0.2)
        assert len(compiled) == 2, "another module is another function"

    def test_a_cap_on_the_batch(self):
        module = Small()
        model = load_torch(module, SCHEDULE, "eps", SHAPE, max_batch=4).diffusion
        module.rows.clear()
        x = points(10)
        found = map_points(model.eps_at(0.3), x, batch_size=10)
        np.testing.assert_allclose(found, by_hand(Small().eval(), x, 0.3), atol=1e-6)
        assert [rows for rows in module.rows if rows > 1] == [4, 4, 2]

    def test_memory_that_runs_out_halves_the_batch(self):
        def hungry(x, t):
            rows.append(len(x))
            if len(x) > 3:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return linear(x, t)

        rows = []
        model = load_torch(hungry, SCHEDULE, "eps", SHAPE).diffusion
        rows.clear()
        x = points(7)
        np.testing.assert_allclose(map_points(model.eps_at(0.5), x, batch_size=7), 2 * x + 0.5, atol=1e-6)
        assert [count for count in rows if count > 1] == [7, 4, 2, 2, 2]

    def test_a_module_in_training_is_put_into_eval_mode(self):
        module = Small().train()
        model, x = load_torch(module, SCHEDULE, "eps", SHAPE).diffusion, points(1)[0]
        np.testing.assert_array_equal(model.eps(x, 0.3), model.eps(x, 0.3))
        assert not module.training and module.convolution.weight.requires_grad, "no more of it is touched"

    def test_a_module_that_writes_on_its_inputs(self):
        """JAX's arrays stay what they are."""

        def careless(x, t):
            return x.mul_(2).add_(t.mul_(3)[:, None, None, None])

        network, x = load_torch(careless, SCHEDULE, "eps", SHAPE).diffusion.network, jnp.asarray(points(5))
        before, t = np.array(x), jnp.float32(0.5)
        found = jax.jit(lambda x, t: (jax.vmap(lambda x: network(x, t))(x), x, t))(x, t)
        np.testing.assert_allclose(found[0], 2 * before + 1.5, rtol=1e-6)
        np.testing.assert_array_equal(found[1], before)
        np.testing.assert_array_equal(network(x[0], t), found[0][0])
        np.testing.assert_array_equal(x, before)
        assert float(t) == float(found[2]) == 0.5

    def test_half_precision(self):
        module = Small().to(torch.bfloat16)
        told = []
        model = load_torch(lambda x, t: told.append((x.dtype, t.dtype)) or x, SCHEDULE, "eps", SHAPE)
        assert set(told) == {(torch.float32, torch.float32)} and model.diffusion.eps(points(1)[0], 0.3).shape == SHAPE
        x = points(3)
        found = map_points(load_torch(module, SCHEDULE, "eps", SHAPE).diffusion.eps_at(0.3), x)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, by_hand(Small().eval(), x, 0.3), atol=0.03)

    def test_double_precision(self, x64):
        module = Small().double()
        x = points(1).astype(np.float64)
        found = load_torch(module, SCHEDULE, "eps", SHAPE).diffusion.eps(jnp.asarray(x[0]), 0.3)
        expected = by_hand(module, x, 0.3)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, expected[0], atol=1e-12)

    def test_several_threads(self):
        """One module is in one call at a time."""
        inside, most = [], []

        def counted(x, t):
            inside.append(1)
            most.append(len(inside))
            found = linear(x, t)
            for _ in range(20):
                found = found + torch.tanh(x) * 0
            inside.pop()
            return found

        model, x, found = load_torch(counted, SCHEDULE, "eps", SHAPE).diffusion, points(8), {}
        fn = jax.jit(lambda x: jax.vmap(lambda x: model.eps(x, 0.5))(x))
        threads = [
            threading.Thread(target=lambda i=i: found.update({i: [np.asarray(fn(i * x)) for _ in range(20)]}))
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(most) == 1
        for i in range(4):
            for value in found[i]:
                np.testing.assert_allclose(value, 2 * i * x + 0.5, atol=1e-6)


class TestDerivatives:
    def test_whoever_asks_for_one_is_told_the_bridge(self):
        model, x = ours.factory().diffusion, points(1)[0]
        score = model.score_at(0.3)
        asking = [
            lambda: jax.jvp(score, (x,), (x,)),
            lambda: jax.jit(jax.grad(lambda x: jnp.sum(score(x))))(x),
            lambda: p_laplacian(score, jnp.asarray(x), 2.0),
            lambda: map_points(Partial(jax.jacfwd(score)), x[None]),
        ]
        for ask in asking:
            with pytest.raises(ValueError, match="^this model is PyTorch called from JAX.*bridge='torchax'"):
                ask()

    def test_a_detector_that_takes_some_is_refused_before_it_begins(self):
        model, query, key = ours.factory().diffusion, Query(points(2)), jax.random.key(0)
        assert not model.has_derivatives and as_pretrained(memorizing_model.factory()).diffusion.has_derivatives
        kinds = [kind for kind in vars(detectors).values() if getattr(kind, "needs_derivatives", False)]
        named = {"BallAverage", "CurvatureDifference", "FLIPD", "LHSD", "PLaplacianAt", "Sharpness"}
        assert {kind.__name__ for kind in kinds} == named
        line = "^detector='FLIPD': needs derivatives, and this model is PyTorch called from JAX: load it with bridge='t"
        with pytest.raises(ValueError, match=line):
            FLIPD(0.3).scores(model, query, key=key)
        with pytest.raises(ValueError, match=line):
            images = memorizing_model.images(9, seed=1)
            audit_images(ours.factory(), images, key=key, sigma=0.3, detector=FLIPD(0.3))

    def test_of_the_time_alone_there_are_some(self):
        schedule, network = SCHEDULE, load_torch(linear, SCHEDULE, "eps", SHAPE).diffusion.network
        x = points(1)[0]
        slope = jax.jvp(lambda t: schedule.sigma(t) * network(x, 0.5), (0.5,), (1.0,))[1]
        expected = jax.grad(schedule.sigma)(0.5) * (2 * x + 0.5)
        np.testing.assert_allclose(slope, expected, rtol=1e-5)


class TestWhatTheModuleIsTold:
    @pytest.mark.parametrize(
        ("schedule", "time", "t", "expected"),
        [
            (VPLinear(), "time", 0.25, 0.25),
            (EDM(), "time", 0.25, 0.25),
            (EDM(0.01, 10), "time", 10, 10.0),
            (DiscreteVP.linear(1000, 1e-4, 0.02), "time", 250, 250),
            (DiscreteVP.linear(1000, 1e-4, 0.02), "fraction", 999, 1.0),
            (RectifiedFlow(), "sigma", 0.5, 1.0),
            (EDM(), "log_snr", 0.25, -2 * np.log(0.25)),
            (EDM(), lambda sigma: sigma.log() / 4, 0.25, np.log(0.25) / 4),
            (RectifiedFlow(), lambda t: 1000 * t, 0.25, 250),
        ],
    )
    def test_time(self, schedule, time, t, expected):
        whole = schedule.discrete and time == "time"

        def shown(x, t):
            assert t.dtype == (torch.int64 if whole else torch.float32) and t.shape == x.shape[:1]
            return t[:, None, None, None].expand(x.shape)

        model = load_torch(shown, schedule, "eps", SHAPE, time=time).diffusion
        np.testing.assert_allclose(model.network(points(1)[0], t), np.full(SHAPE, expected), rtol=1e-5)

    @pytest.mark.parametrize(
        ("condition", "n"),
        [
            (range(10, 14), None),
            (torch.tensor([10.0, 11, 12, 13], dtype=torch.bfloat16), None),
            (lambda numbers: torch.where(numbers < 0, 13, 10 + numbers), 3),
            (lambda numbers: (torch.where(numbers < 0, 13, 10 + numbers),), 3),
            (lambda numbers: {"condition": torch.where(numbers < 0, 13, 10 + numbers)}, 3),
        ],
    )
    def test_condition(self, condition, n):
        def shown(x, t, condition):
            return condition.to(x.dtype)[:, None, None, None].expand(x.shape)

        made = load_torch(shown, SCHEDULE, "eps", SHAPE, condition=condition, n_conditions=n)
        assert made.n_conditions == 3
        numbers = np.array([0, 1, 2, -1, 3, -2])
        found = map_points(Partial(made.diffusion.network), points(6), np.full(6, 0.5, np.float32), numbers)
        np.testing.assert_array_equal(found[:, 0, 0, 0], [10, 11, 12, 13, np.nan, np.nan])
        assert float(made.diffusion.network(points(1)[0], 0.5)[0, 0, 0]) == 13
        gap = FluxGap(0.3).scores(made.diffusion, Query(points(2), np.array([0, 2])), key=jax.random.key(0))
        assert np.isfinite(gap).all()

    def test_embeddings(self):
        table = np.random.default_rng(0).normal(size=(4, 7, 5)).astype(np.float32)

        def shown(x, t, text):
            assert text.shape[1:] == (7, 5)
            return text.sum((1, 2))[:, None, None, None].expand(x.shape)

        network = load_torch(shown, SCHEDULE, "eps", SHAPE, condition=table).diffusion.network
        found = map_points(Partial(network), points(2), np.full(2, 0.5, np.float32), np.array([1, -1]))
        np.testing.assert_allclose(found[:, 0, 0, 0], table[[1, 3]].sum((1, 2)), rtol=1e-5)

    def test_a_learned_variance_is_left_out(self):
        x = points(1, shape=(4, 6, 3))[0]
        model = load_torch(lambda x, t: torch.cat([2 * x, 0 * x], 1), SCHEDULE, "eps", (4, 6, 3)).diffusion
        np.testing.assert_allclose(model.eps(x, 0.5), 2 * x)


class TestAgainstTheSameModelInJax:
    def test_kappa(self):
        theirs = as_pretrained(memorizing_model.factory()).diffusion
        images = np.concatenate([memorizing_model.MEMORIZED[:4], memorizing_model.images(4, seed=9)])
        for sigma in (0.1, 0.5):
            detector = FluxDensity(sigma)
            found, expected = (
                detector.scores(model, Query(images), key=jax.random.key(0))
                for model in (ours.factory().diffusion, theirs)
            )
            np.testing.assert_allclose(found, expected, atol=1e-5)
            assert found[:4].min() > found[4:].max()

    def test_kappa_is_a_loop_in_pytorch(self):
        """Noise shell, one forward pass, mean cosine: nothing of JAX but the directions."""
        made = ours.factory()
        x0, t, key = memorizing_model.MEMORIZED[0], 0.2, jax.random.key(3)
        centre, radius = made.diffusion.ball(x0, t)
        found = flux(made.diffusion.score_at(t), centre, radius=radius, key=key, n_samples=32).value
        drawn = jax.random.normal(key, (32, 16))
        drawn = torch.tensor(np.asarray(drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)))
        module = ours.MixtureNoise().eval()
        alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
        with torch.inference_mode():
            x = (torch.tensor(alpha * x0.reshape(1, 16)) + sigma * 4 * drawn).reshape(32, 1, 4, 4)
            noise = module(x, torch.full((32,), sigma / alpha)).reshape(32, 16)
            expected = torch.nn.functional.cosine_similarity(noise, drawn).mean()
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_an_audit(self):
        """Scores as with the model in JAX; in other units too, whose noise levels are those that mean the same."""
        images = np.concatenate([memorizing_model.MEMORIZED, memorizing_model.images(30, seed=5)])
        how = {"reference": memorizing_model.images(60, seed=6), "key": jax.random.key(0), "noise_levels": (0.22,)}
        models = (as_pretrained(memorizing_model.factory()), ours.factory(), ours.unit_interval())
        expected, found, other = (audit_images(model, images, **how).score for model in models)
        assert found[:12].min() > np.median(found[12:])
        np.testing.assert_allclose(found, expected, atol=2e-3)
        np.testing.assert_allclose(other, expected, atol=2e-3)


class Labelled(Small):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(4, 1)

    def forward(self, x, t, label):
        return super().forward(x, t) + self.embedding(label)[:, :, None, None]


@pytest.mark.skipif(importlib.util.find_spec("torchax") is None, reason="needs the extra torchax")
class TestTorchax:
    def test_values_and_derivatives(self):
        module = Small()
        how = {"schedule": SCHEDULE, "prediction": "eps", "shape": SHAPE, "time": lambda t: 2 * t}
        called, traced = (load_torch(module, bridge=name, **how).diffusion for name in ("callback", "torchax"))
        x, v = points(2)
        assert traced.has_derivatives and len(jax.tree.leaves(traced.network)) == 2
        found, slope = jax.jit(lambda f, x, v: jax.jvp(lambda x: f(x, 0.3), (x,), (v,)))(traced.network, x, v)
        np.testing.assert_allclose(found, called.network(x, 0.3), atol=1e-5)
        np.testing.assert_allclose(
            slope, by_hand(module, v[None], 0.6)[0] - by_hand(module, 0 * v[None], 0.6)[0], atol=1e-5
        )
        assert not module.convolution.weight.is_meta, "the module keeps its weights"
        detector, key = FLIPD(0.3, n_probes=2), jax.random.key(0)
        assert np.isfinite(detector.scores(traced, Query(points(2)), key=key)).all()

    def test_conditions(self):
        module, x = Labelled(), points(4)
        how = {"condition": range(4), "schedule": SCHEDULE, "prediction": "eps", "shape": SHAPE}
        numbers, t = np.array([0, 2, -1, 3]), np.full(4, 0.5, np.float32)
        called, traced = (
            map_points(Partial(load_torch(module, bridge=name, **how).diffusion.network), x, t, numbers)
            for name in ("callback", "torchax")
        )
        assert np.isnan(called[3]).all()
        np.testing.assert_allclose(traced, called, atol=1e-5)

    def test_refusals(self, monkeypatch):
        refused("module='function': must be a PyTorch module with bridge='torchax'", linear, *rest(), bridge="torchax")
        refused("max_batch=3: must be None with bridge='torchax'", Small(), *rest(), bridge="torchax", max_batch=3)
        wide = torch.nn.Conv2d(3, 3, 1)
        refused("module: must be a function of tensors (x, t), and raised", wide, *rest(), bridge="torchax")
        monkeypatch.setattr("plap_jax.pretrained.extra.version", lambda name: "2.12.0")
        refused("torch=2.12.0: only 2.13.0 was tested, install it by", Small(), *rest(), bridge="torchax")
        load_torch(Small(), *rest())  # which any version can do


def test_curvature_maps_are_those_of_the_same_model_in_jax():
    how = {"key": jax.random.key(0), "reference": memorizing_model.images(300, 2), "noise_levels": (0.16, 0.32)}
    one, other = (
        audit_images(model, memorizing_model.MEMORIZED, **how) for model in (memorizing_model.factory(), ours.factory())
    )
    assert one.maps.rows.tolist() == other.maps.rows.tolist() == list(range(len(memorizing_model.MEMORIZED)))
    np.testing.assert_allclose(other.maps.value, one.maps.value, atol=2e-3)


def test_a_factory_is_audited_from_a_terminal(tmp_path, capsys):
    """With a baseline that is a module, too; the memorized images lead the table."""
    images = np.concatenate([memorizing_model.images(8, seed=3), memorizing_model.MEMORIZED[:4]])
    np.save(tmp_path / "images.npy", images)
    own, other = (f"tests.helpers.mixture_in_torch:{name}" for name in ("factory", "unit_interval"))
    words = ["--model", own, "--images", str(tmp_path / "images.npy"), "--out", str(tmp_path / "out")]
    assert main([*words, "--sigma", "0.2"]) == 0, capsys.readouterr().err
    with (tmp_path / "out" / "audit.csv").open(newline="") as handle:
        first = [int(row["file"]) for row in csv.DictReader(handle)][:4]
    assert sorted(first) == [8, 9, 10, 11]
    assert main([*words, "--baseline", other, "--noise-levels", "0.2"]) == 0, capsys.readouterr().err
    assert main(["--model", own.replace("factory", "no_tensor"), *words[2:]]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "module: must be a function of tensors (x, t), and raised TypeError: it returned dict" in line


def refused(line, *arguments, **more):
    with pytest.raises(ValueError) as found:
        load_torch(*arguments, **more)
    assert str(found.value).startswith(line) and "\n" not in str(found.value), str(found.value)


class TestRefusals:
    def test_arguments(self):
        good = (linear, SCHEDULE, "eps", SHAPE)
        refused("schedule='str': must be one of plap_jax.diffusion", linear, "linear", "eps", SHAPE)
        refused("prediction='noise': must be one of eps, ", linear, SCHEDULE, "noise", SHAPE)
        refused("shape=(4, 4): must be (h, w, c)", linear, SCHEDULE, "eps", (4, 4))
        refused("module='int': must be a PyTorch module", 3, SCHEDULE, "eps", SHAPE)
        refused("time='steps': must be one of time, fraction, sigma, log_snr, or", *good, time="steps")
        refused("bridge='onnx': must be one of callback, torchax", *good, bridge="onnx")
        refused("scale=0: must be > 0", *good, scale=0)
        refused("shift=(1, 2): must be one finite number, or one for each of 1 channels", *good, shift=(1, 2))
        refused("max_batch=0: must be >= 1, or None", *good, max_batch=0)
        refused("condition='a cat': must be numbers (n + 1, ...)", *good, condition="a cat")
        refused("n_conditions=None: must be >= 1: condition is a function", *good, condition=lambda k: k)
        refused("n_conditions=3: must be None: no condition", *good, n_conditions=3)

    def test_a_module_that_is_called_otherwise(self):
        refused(
            "module: must be a function of tensors (x, t), and raised TypeError: ", lambda x: x, SCHEDULE, "eps", SHAPE
        )
        wide = torch.nn.Conv2d(3, 3, 1)
        refused(
            "module: must be a function of tensors (x, t), and raised RuntimeError: ",
            lambda x, t: wide(x),
            SCHEDULE,
            "eps",
            SHAPE,
        )
        refused("module=(2, 3, 4, 4): must return (batch, c, h, w)", lambda x, t: x.repeat(1, 3, 1, 1), *rest())
        refused("module='NaN or infinity': must return finite numbers", lambda x, t: x / 0, *rest())

    def test_a_module_that_returns_no_tensor(self):
        with pytest.raises(ValueError, match="raised TypeError: it returned dict, and must return a tensor$"):
            ours.no_tensor()

    def test_weights_that_are_not_finite(self):
        module = Small()
        with torch.no_grad():
            module.convolution.bias.fill_(torch.inf)
        refused("module: weight convolution.bias='NaN or infinity': must be finite", module, *rest())

    def test_a_condition_it_does_not_take(self):
        model = load_torch(linear, *rest()).diffusion
        with pytest.raises(ValueError, match="^condition=0: must be None: this model has no prompts$"):
            model.eps(points(1)[0], 0.5, 0)

    def test_an_old_pytorch(self, monkeypatch):
        monkeypatch.setattr("plap_jax.pretrained.extra.version", lambda name: "2.3.1+cpu")
        refused(
            f"torch=2.3.1+cpu: is too old, install pip install '.[torch]' in the repository, or PyTorch {OLDEST}",
            linear,
            *rest(),
        )


def rest():
    return SCHEDULE, "eps", SHAPE
