"""Formats of expert weights: what each keeps, what it costs, and which one fits where."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu import load_model
from gptoss_edu.chips import precision
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, TINY
from gptoss_edu.cpu.scaled import Scaled, to_int8
from gptoss_edu.model import forward, init_params
from gptoss_edu.mxfp4 import Mxfp4, quantize
from gptoss_edu.shapes import matmul, num_bytes
from gptoss_edu.weights.layout import HF_PACKED, HF_PLAIN, stored_bytes

GIB = 2**30
CONVERTED = ("fp8", "int8", "mxfp4")


@pytest.fixture(scope="module")
def w_EIO():
    """Random weights [3, 64, 40]; one column zero, one tiny, one huge."""
    w = np.random.default_rng(0).standard_normal((3, 64, 40)).astype(np.float32)
    w[1, :, 5], w[2, :, 7], w[0, :, 9] = 0, w[2, :, 7] * 1e-20, w[0, :, 9] * 1e20
    return jnp.asarray(w)


@pytest.mark.parametrize("rounded, steps", [(precision.to_fp8, 16), (to_int8, 254)])
def test_eight_bits_err_by_half_a_step_at_most(w_EIO, rounded, steps):
    w = rounded(w_EIO)
    assert (w.shape, w.dtype) == (w_EIO.shape, jnp.float32)
    largest_E1O = jnp.abs(w_EIO).max(axis=1, keepdims=True)
    error_EIO = jnp.abs(w[:] - w_EIO)
    if rounded is precision.to_fp8:  # a step is a part of the number itself, down to subnormals
        allowed_EIO = jnp.maximum(jnp.abs(w_EIO) / steps, largest_E1O * 2.0**-17)
    else:
        allowed_EIO = largest_E1O / steps * 1.001
    assert (error_EIO <= allowed_EIO).all()
    assert (w[1][:, 5] == 0).all()


def test_fp8_keeps_mxfp4_exactly(w_EIO):
    packed = quantize(w_EIO)
    np.testing.assert_array_equal(precision.to_fp8(packed[:])[:], packed[:].astype(jnp.float32))


def test_fp8_scale_is_the_smallest_power_of_two_without_overflow(w_EIO):
    scale_EO = np.asarray(precision.to_fp8(w_EIO).scale_EJO)[:, 0]
    assert (np.frexp(scale_EO)[0] == 0.5).all()
    largest_EO = np.abs(np.asarray(w_EIO)).max(axis=1)
    alive = largest_EO > 0
    assert (largest_EO[alive] / scale_EO[alive] <= 448).all()
    assert (largest_EO[alive] / scale_EO[alive] > 224).all()
    exactly = precision.to_fp8(jnp.full((1, 32, 1), 448.0))
    assert exactly.scale_EJO[0, 0, 0] == 1


@pytest.mark.parametrize("rounded", [precision.to_fp8, to_int8])
def test_product_is_the_product_with_the_decoded_matrix(w_EIO, rounded):
    w = rounded(w_EIO[:, :, :5])
    x_TI = jnp.asarray(np.random.default_rng(1).standard_normal((7, 64)), jnp.float32)
    for expert in range(3):
        expected_TO = np.asarray(x_TI, np.float64) @ np.asarray(w[expert], np.float64)
        found_TO = matmul("TI,EIO->TO", x_TI, w, expert)
        np.testing.assert_allclose(found_TO, expected_TO, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", precision.FORMATS)
def test_recode_equals_converting_all_experts_at_once(name, w_EIO):
    packed = quantize(w_EIO)
    kinds = {"fp8": Scaled, "int8": Scaled, "mxfp4": Mxfp4}
    found = precision.recode(packed, name)
    assert isinstance(found, kinds.get(name, jax.Array))
    whole = {"fp8": precision.to_fp8, "int8": to_int8}.get(name, lambda w: w)(packed[:])
    np.testing.assert_array_equal(found[:], whole[:].astype(found[:].dtype))


def test_recode_refuses_a_word_it_does_not_know(w_EIO):
    with pytest.raises(ValueError, match="'fp6' is unknown; expected one of"):
        precision.recode(w_EIO, "fp6")


@pytest.mark.parametrize("name", precision.FORMATS)
def test_bytes_are_those_of_the_converted_weights(name):
    params = init_params(TINY, jax.random.key(0), jnp.bfloat16)
    assert precision.weight_bytes(TINY, name) == num_bytes(precision.convert(params, name))


@pytest.mark.parametrize("name, gib", [("mxfp4", 12.82), ("fp8", 21.2), ("bf16", 38.96)])
def test_bytes_of_the_20b(name, gib):
    assert precision.weight_bytes(GPT_OSS_20B, name) / GIB == pytest.approx(gib, abs=0.06)


def test_cache_of_the_20b():
    per_token = precision.cache_bytes(GPT_OSS_20B, 4097) - precision.cache_bytes(GPT_OSS_20B, 4096)
    assert per_token == 24 * 1024 + 4 * 12  # keys, values, and the position beside them
    fixed = (precision.cache_bytes(GPT_OSS_20B, 1) - per_token) / 2**20
    assert fixed == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize(
    "name, gib, devices, config, expected",
    [
        ("v5e-1", 15.75, 1, GPT_OSS_20B, "mxfp4"),
        ("v6e-1", 31.25, 1, GPT_OSS_20B, "fp8"),
        ("v2-8", 7.5, 8, GPT_OSS_20B, "bf16"),
        ("h100", 79.0, 1, GPT_OSS_20B, "bf16"),
        ("v6e-8", 31.25, 8, GPT_OSS_120B, "bf16"),
        ("v5e-8", 15.75, 8, GPT_OSS_120B, "fp8"),
        ("v2-8", 7.48, 8, GPT_OSS_120B, None),
        ("v5e-1", 15.75, 1, GPT_OSS_120B, None),
    ],
)
def test_the_chip_chooses(name, gib, devices, config, expected):
    choice = precision.choose_precision(name, int(gib * GIB), config, context=4096, devices=devices)
    assert choice.precision == expected, choice.reason
    assert f"{name} has {gib:.2f} GiB" in choice.reason
    assert ("None of them fits" in choice.reason) == (expected is None)


@pytest.fixture(scope="module")
def pocket():
    return load_model()


@pytest.fixture(scope="module")
def tokens_BT(pocket):
    model, _ = pocket
    text = "How many r's are in strawberry? What is 345 + 278? Spell lemon."
    return jnp.array([model.tokenizer.to_rows(model.tokenizer.encode(text))])


def test_each_layer_is_converted_while_loading(pocket):
    convert = functools.partial(precision.convert_layer, precision="int8")
    _, params = load_model(each_layer=convert)
    expected = precision.convert(pocket[1], "int8")
    for found, wanted in zip(params.layers, expected.layers, strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("name", precision.FORMATS)
def test_divergence_grows_as_bits_are_lost(pocket, tokens_BT, name):
    model, params = pocket
    truth = precision.convert(params, "f32")
    found = precision.divergence(
        truth, precision.convert(params, name), tokens_BT, model.config, name
    )
    assert found.flips_L.shape == (model.config.num_layers,)
    if name in ("f32", "mxfp4", "fp8"):  # the same weights in other words
        assert found.kl < 1e-6
        assert found.top1 == 1
        assert (found.flips_L == 0).all()
    else:
        assert 1e-7 < found.kl < 0.2
        assert found.top1 > 0.8


@pytest.mark.parametrize("name", CONVERTED)
def test_the_network_reads_every_format(name):
    params = precision.convert(init_params(TINY, jax.random.key(1)), name)
    plain = jax.tree.map(
        lambda w: w[:].astype(jnp.float32),
        params,
        is_leaf=lambda w: isinstance(w, Mxfp4 | Scaled),
    )
    tokens_BT = jnp.arange(14).reshape(2, 7)
    np.testing.assert_allclose(
        forward(params, tokens_BT, TINY), forward(plain, tokens_BT, TINY), atol=2e-5
    )


@pytest.mark.parametrize("name", precision.FORMATS)
def test_error_of_one_layer(pocket, name):
    """Formats that hold MXFP4 exactly differ by the order of sums alone."""
    model, params = pocket
    x_BTD = jax.random.normal(jax.random.key(2), (1, 24, model.config.hidden_size))
    truth = precision.convert_layer(params.layers[0], "f32")
    other = precision.convert_layer(params.layers[0], name)
    error = precision.layer_error(truth, other, x_BTD, model.config, name)
    assert error < 1e-5 if name in ("f32", "mxfp4", "fp8") else 1e-4 < error < 0.1


@pytest.mark.parametrize("config", [GPT_OSS_20B, GPT_OSS_120B], ids=["20b", "120b"])
@pytest.mark.parametrize("name, layout", [("mxfp4", HF_PACKED), ("bf16", HF_PLAIN)])
def test_traced_shapes_take_what_the_file_takes(config, name, layout):
    """Two counts that share nothing: shapes as jax traces them, and the name map of checkpoints."""
    assert precision.weight_bytes(config, name) == stored_bytes(config, layout)
