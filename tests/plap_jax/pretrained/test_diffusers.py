"""Diffusers pipelines as JAX functions with derivatives, by torchax, held against the same modules in PyTorch."""

import json
import socket
import sys
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import pretrained
from plap_jax.detectors import FluxGap, Query
from plap_jax.directions import sample_directions
from plap_jax.pretrained.networks import TextNetwork
from plap_jax.pretrained.schedules import BETA_SCHEDULES, SCHEDULERS, read_scheduler

tiny = pytest.importorskip("tests.helpers.tiny_diffusers", reason="needs PyTorch: make test-torch")
pytestmark = pytest.mark.torch
torch, diffusers = tiny.torch, tiny.diffusers

load_diffusers = partial(pretrained.load_diffusers, bridge="torchax")
PARITY = 1e-4  # float32 against float32, of numbers about 1
PROMPTS = ["a cat", "dogs and a long prompt that is cut"]
TIMES = np.array([0, 20, 500, 999])


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """(folder, its U-Net in PyTorch)."""
    folder = tmp_path_factory.mktemp("pixels")
    return folder, tiny.save_pixels(folder)


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """(folder, its modules in PyTorch)."""
    folder = tmp_path_factory.mktemp("latents")
    return folder, tiny.save_latents(folder)


@pytest.fixture(scope="module")
def loaded(pixels, latents):
    """Both, in float32."""
    return {"pixels": load_diffusers(pixels[0]), "latents": load_diffusers(latents[0], prompts=PROMPTS)}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def to_torch(x):
    return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())


def from_torch(x):
    return np.moveaxis(x.detach().float().numpy(), 1, -1)


@jax.jit
def batch(network, x, t, *conditions):
    return jax.vmap(network, in_axes=(0, 0, *(0 for _ in conditions)))(x, t, *conditions)


def text(modules, prompts):
    tokens = modules["tokenizer"](
        prompts, padding="max_length", max_length=tiny.LENGTH, truncation=True, return_tensors="pt"
    )
    with torch.inference_mode():
        return modules["text_encoder"](tokens.input_ids)[0]


def traced(monkeypatch):
    """Counts how often PyTorch's code is run by JAX."""
    calls, original = [], torch.func.functional_call

    def counted(module, *args):
        calls.append(module)
        return original(module, *args)

    monkeypatch.setattr(torch.func, "functional_call", counted)
    return calls


class TestParity:
    def test_unconditional_unet(self, pixels, loaded):
        x = normal(4, 8, 8, 1)
        with torch.inference_mode():
            expected = from_torch(pixels[1](to_torch(x), torch.from_numpy(TIMES)).sample)
        found = batch(loaded["pixels"].diffusion.network, x, TIMES)
        assert found.dtype == jnp.float32 and expected.std() > 0.1
        np.testing.assert_allclose(found, expected, atol=PARITY)

    def test_unet_given_text(self, latents, loaded):
        x, conditions = normal(4, 8, 8, 4), np.array([-1, 0, 1, 1])
        prompts = ["", *PROMPTS, PROMPTS[1]]
        with torch.inference_mode():
            states = text(latents[1], prompts)
            expected = latents[1]["unet"](to_torch(x), torch.from_numpy(TIMES), encoder_hidden_states=states).sample
        network = loaded["latents"].diffusion.network
        found = batch(network, x, TIMES, conditions)
        np.testing.assert_allclose(found, from_torch(expected), atol=PARITY)
        other = batch(network, x, TIMES, np.array([0, 1, -1, 0]))
        assert (np.abs(found - other).max(axis=(1, 2, 3)) > 100 * PARITY).all(), "the prompt must matter"

    def test_no_condition_is_the_empty_prompt(self):
        told = jnp.arange(3.0)[:, None, None] * jnp.ones((3, 5, 2))
        network = TextNetwork(lambda x, t, text: jnp.zeros_like(x) + text.mean(), told)
        found = [float(network(normal(8, 8, 4), 20, condition)[0, 0, 0]) for condition in (None, -1, 0, 1, 2, -2)]
        np.testing.assert_array_equal(found, [0, 0, 1, 2, np.nan, np.nan])

    def test_vae(self, latents, loaded):
        images, vae = np.tanh(normal(3, 16, 16, 3)), latents[1]["vae"]
        with torch.inference_mode():
            mean = vae.encode(to_torch(images)).latent_dist.mean
            back = vae.decode(mean).sample
        model = loaded["latents"]
        found = model.encode(images, batch_size=2)
        assert found.shape == (3, *model.shape) == (3, 8, 8, 4) and model.image_shape == (16, 16, 3)
        np.testing.assert_allclose(found, 0.5 * from_torch(mean), atol=PARITY)
        np.testing.assert_array_equal(found, model.encode(images, batch_size=2), err_msg="hidden randomness")
        np.testing.assert_allclose(model.decode(found), from_torch(back), atol=PARITY)

    def test_text_encoder(self, latents, loaded):
        (found,) = loaded["latents"].diffusion.network.embeddings
        assert found.shape == (3, tiny.LENGTH, 16)
        np.testing.assert_allclose(found, text(latents[1], ["", *PROMPTS]), atol=PARITY)

    def test_pixels_are_their_own_latents(self, loaded):
        images = normal(2, 8, 8, 1)
        assert loaded["pixels"].kind == "pixels" and loaded["pixels"].shape == loaded["pixels"].image_shape == (8, 8, 1)
        np.testing.assert_array_equal(loaded["pixels"].encode(images), images)
        np.testing.assert_array_equal(loaded["pixels"].decode(images), images)

    def test_a_learned_variance_is_left_out(self, tmp_path):
        unet = tiny.pixel_unet(out_channels=2)
        tiny.save_pixels(tmp_path, unet=unet, scheduler=diffusers.DDPMScheduler(variance_type="learned_range"))
        x = normal(1, 8, 8, 1)
        with torch.inference_mode():
            expected = from_torch(unet(to_torch(x), 7).sample)[..., :1]
        np.testing.assert_allclose(load_diffusers(tmp_path).diffusion.network(x[0], 7), expected[0], atol=PARITY)

    def test_both_bridges_give_the_same(self, pixels, latents, loaded):
        x = normal(4, 8, 8, 4)
        for name, folder, told, conditions in (
            ("pixels", pixels[0], {}, ()),
            ("latents", latents[0], {"prompts": PROMPTS}, ([-1, 0, 1, 1],)),
        ):
            network = load_diffusers(folder, bridge="callback", **told).diffusion.network
            points, conditions = x[..., : loaded[name].shape[-1]], [np.asarray(one) for one in conditions]
            expected = batch(loaded[name].diffusion.network, points, TIMES, *conditions)
            np.testing.assert_allclose(batch(network, points, TIMES, *conditions), expected, atol=PARITY)

    def test_a_call_has_no_derivatives(self, pixels):
        network = load_diffusers(pixels[0], bridge="callback").diffusion.network
        with pytest.raises(ValueError, match="which gives values and no derivatives: load it with bridge='torchax'"):
            jax.jvp(lambda x: network(x, 20), (normal(8, 8, 1),), (normal(8, 8, 1),))

    @pytest.mark.parametrize(("dtype", "atol"), [("float16", 0.02), ("bfloat16", 0.15)])
    def test_half_precision(self, pixels, loaded, dtype, atol):
        network = load_diffusers(pixels[0], dtype=dtype).diffusion.network
        assert {leaf.dtype for leaf in jax.tree.leaves(network)} == {jnp.dtype(dtype)}
        x = normal(4, 8, 8, 1)
        found, expected = (batch(net, x, TIMES) for net in (network, loaded["pixels"].diffusion.network))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=atol)
        assert not np.array_equal(found, expected)
        # In bfloat16 998 and 999 would be one number.
        last = batch(network, x[:1].repeat(4, axis=0), np.array([996, 997, 998, 999]))
        assert len(np.unique(last, axis=0)) == 4

    def test_half_precision_with_text(self, latents, loaded):
        model = load_diffusers(latents[0], prompts=PROMPTS, dtype="float16")
        assert model.diffusion.network.embeddings[0].dtype == jnp.float16
        x, conditions = normal(4, 8, 8, 4), np.array([-1, 0, 1, 1])
        found, expected = (batch(m.diffusion.network, x, TIMES, conditions) for m in (model, loaded["latents"]))
        np.testing.assert_allclose(found, expected, atol=0.02)
        images = np.tanh(normal(1, 16, 16, 3))
        np.testing.assert_array_equal(model.encode(images), loaded["latents"].encode(images))

    def test_pickle_that_is_allowed(self, pixels, tmp_path):
        diffusers.DDPMPipeline(pixels[1], diffusers.DDPMScheduler()).save_pretrained(tmp_path, safe_serialization=False)
        with pytest.raises(ValueError, match="^unet: no safetensors, only diffusion_pytorch_model.bin; pickle is code"):
            load_diffusers(tmp_path)
        network = load_diffusers(tmp_path, allow_pickle=True).diffusion.network
        with torch.inference_mode():
            expected = from_torch(pixels[1](to_torch(normal(1, 8, 8, 1)), 7).sample)[0]
        np.testing.assert_allclose(network(normal(1, 8, 8, 1)[0], 7), expected, atol=PARITY)


class TestSchedule:
    @pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # NumPy on tensors, in their constructors
    @pytest.mark.parametrize("name", SCHEDULERS)
    @pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
    def test_levels_are_those_of_diffusers(self, name, beta_schedule, tmp_path, x64):
        betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule=beta_schedule, num_train_timesteps=200)
        theirs = getattr(diffusers, name)(**betas)
        theirs.save_pretrained(tmp_path)
        ours, prediction = read_scheduler(json.loads((tmp_path / "scheduler_config.json").read_text()))
        assert prediction == "eps" and ours.t_min == 0 and ours.t_max == 199
        expected = theirs.alphas_cumprod.double().numpy()  # of β in float32
        steps = jnp.arange(200)
        np.testing.assert_allclose(ours.alpha(steps) ** 2, expected, rtol=2e-5)
        np.testing.assert_allclose(ours.sigma(steps) ** 2, 1 - expected, rtol=2e-4)

    def test_a_table_of_betas(self, tmp_path, x64):
        theirs = diffusers.DDIMScheduler(trained_betas=np.geomspace(1e-3, 0.3, 20).tolist(), num_train_timesteps=20)
        theirs.save_pretrained(tmp_path)
        ours, _ = read_scheduler(json.loads((tmp_path / "scheduler_config.json").read_text()))
        np.testing.assert_allclose(ours.alpha(jnp.arange(20)) ** 2, theirs.alphas_cumprod, rtol=2e-5)

    @pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
    def test_predictions(self, pixels, prediction, tmp_path):
        """Noised and denoised as the scheduler does it, at the same timestep."""
        scheduler = diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=False)
        tiny.save_pixels(tmp_path, unet=pixels[1], scheduler=scheduler)
        diffusion = load_diffusers(tmp_path).diffusion
        x0, noise, t = normal(8, 8, 1), normal(8, 8, 1, seed=1), 300
        x = diffusion.noised(x0, t, noise)
        theirs = scheduler.add_noise(to_torch(x0[None]), to_torch(noise[None]), torch.tensor([t]))
        np.testing.assert_allclose(x, from_torch(theirs)[0], atol=1e-5)
        scheduler.set_timesteps(1000)
        with torch.inference_mode():
            output = pixels[1](theirs, t).sample
            denoised = scheduler.step(output, t, theirs).pred_original_sample
        np.testing.assert_allclose(diffusion.denoise(x, t), from_torch(denoised)[0], atol=PARITY)
        back = scheduler.add_noise(denoised, to_torch(diffusion.eps(x, t)[None]), torch.tensor([t]))
        np.testing.assert_allclose(x, from_torch(back)[0], atol=PARITY)


class TestTransformations:
    def test_jvp_and_grad_against_finite_differences(self, pixels, loaded):
        network, x, v = loaded["pixels"].diffusion.network, normal(8, 8, 1), normal(8, 8, 1, seed=1)
        product = jax.jit(lambda f, x, v: jax.jvp(lambda y: f(y, 20), (x,), (v,))[1])(network, x, v)
        gradient = jax.jit(jax.grad(lambda x, f: jnp.sum(f(x, 20) * v)))(x, network)
        wide, h = tiny.pixel_unet().double(), 1e-5
        wide.load_state_dict({name: weight.double() for name, weight in pixels[1].state_dict().items()})
        ahead, behind = (to_torch(x[None].astype(np.float64) + s * h * v) for s in (1, -1))
        with torch.inference_mode():
            slope = (wide.eval()(ahead, 20).sample - wide(behind, 20).sample) / (2 * h)
        np.testing.assert_allclose(product, np.moveaxis(slope.numpy(), 1, -1)[0], atol=PARITY)
        np.testing.assert_allclose(np.sum(gradient * v), np.sum(slope.numpy() * np.moveaxis(v, -1, 0)), atol=1e-3)

    def test_vmap_is_one_batch(self, loaded):
        network, x = loaded["pixels"].diffusion.network, normal(4, 8, 8, 1)
        program = batch.lower(network, x, TIMES).as_text()
        results = [line.split("->")[-1].strip() for line in program.splitlines() if "stablehlo.convolution" in line]
        assert len(results) > 10 and all(result.startswith("tensor<4x") for result in results), results

    def test_one_trace_for_everything(self, tmp_path, monkeypatch):
        """Other points, levels and weights, mapped or differentiated or neither: PyTorch's code runs once."""
        for seed in (0, 1):
            unet = tiny.pixel_unet(norm_num_groups=2)  # an architecture that no other test has
            tiny.save_pixels(tmp_path / str(seed), unet=unet, seed=seed)
        calls = traced(monkeypatch)
        first, second = (load_diffusers(tmp_path / seed).diffusion for seed in "01")
        points = normal(6, 8, 8, 1)
        fn = jax.jit(lambda model, x, t: model.score(x, t))
        results = [fn(model, x, t) for model in (first, second) for x, t in zip(points, range(6), strict=True)]
        assert len(calls) == 1 and fn._cache_size() == 1
        assert len({float(r.sum()) for r in results}) == 12
        jax.eval_shape(jax.vmap(first.score, (0, None)), points, 3)
        jax.eval_shape(lambda x, v: jax.jvp(lambda x: first.score(x, 3), (x,), (v,)), points[0], points[1])
        assert len(calls) == 1

    def test_other_prompts_compile_nothing(self, latents, monkeypatch):
        model = load_diffusers(latents[0], prompts=PROMPTS, n_prompts=4)
        assert model.diffusion.network.embeddings[0].shape[0] == 5
        fn = jax.jit(lambda model, x, c: model.eps(x, 20, c))
        x = normal(8, 8, 4)
        before = [fn(model.diffusion, x, c) for c in (-1, 0, 1)]
        calls = traced(monkeypatch)
        swapped = model.with_prompts([PROMPTS[1], PROMPTS[0], "more"], size=4)
        after = [fn(swapped.diffusion, x, c) for c in (-1, 0, 1, 2, 3)]
        assert fn._cache_size() == 1 and not calls
        assert swapped.prompts == (PROMPTS[1], PROMPTS[0], "more") and model.prompts == tuple(PROMPTS)
        np.testing.assert_array_equal(np.stack(after[:3]), np.stack([before[0], before[2], before[1]]))
        assert np.isfinite(after[3]).all()
        assert np.isnan(after[4]).all(), "there is no prompt 3, and a neighbour's must not stand in"

    def test_tracing_in_several_threads(self, tmp_path):
        unet = tiny.save_pixels(tmp_path, unet=tiny.pixel_unet(norm_num_groups=8))
        network = load_diffusers(tmp_path).diffusion.network
        shapes, found = [(side, side, 1) for side in (8, 12, 16, 20)], {}
        barrier, interval = threading.Barrier(len(shapes)), sys.getswitchinterval()

        def trace(shape):
            barrier.wait()
            found[shape] = jax.eval_shape(network, normal(*shape), 20).shape

        threads = [threading.Thread(target=trace, args=(shape,)) for shape in shapes]
        try:
            sys.setswitchinterval(1e-6)  # so short that traces without a lock do mix
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert found == {shape: shape for shape in shapes}
        x = normal(12, 12, 1)
        with torch.inference_mode():
            expected = from_torch(unet(to_torch(x[None]), 20).sample)[0]
        np.testing.assert_allclose(network(x, 20), expected, atol=PARITY)

    def test_a_detector_that_takes_prompts(self, loaded, latents):
        """κ^Δ through JAX against the same cosines by forward passes of PyTorch, on the same directions."""
        model, key = loaded["latents"], jax.random.key(0)
        detector = FluxGap(0.3, n_samples=8)
        points, prompts = model.encode(np.tanh(normal(2, 16, 16, 3))), np.array([0, 1])
        found = detector.scores(model.diffusion, Query(points, prompts), key=key)
        assert found.shape == (2,) and (np.abs(found) < 1).all()
        t = int(model.diffusion.schedule.time_at(0.3))
        centre, radius = model.diffusion.ball(jnp.asarray(points[0]), t)
        n = np.asarray(sample_directions(key, 8, (8, 8, 4))).reshape(8, 8, 8, 4)
        x = to_torch(np.asarray(centre) + float(radius) * n)
        with torch.inference_mode():
            states = text(latents[1], [PROMPTS[0], ""])
            given, without = (
                latents[1]["unet"](x, t, encoder_hidden_states=s.expand(8, -1, -1)).sample for s in states
            )
        gap = from_torch(given - without).reshape(8, -1)
        cosines = np.sum(gap * n.reshape(8, -1), axis=1) / np.linalg.norm(gap, axis=1)
        np.testing.assert_allclose(found[0], cosines.mean(), atol=PARITY)

    def test_without_a_network_connection(self, pixels, latents, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("the network was asked")

        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        load_diffusers(pixels[0])
        load_diffusers(latents[0], prompts=["a"])
