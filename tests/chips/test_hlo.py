"""The counter against programs whose bytes are known: written down by hand as the TPU compiler
prints them, and compiled here for the CPU.
"""

import jax
import jax.numpy as jnp
import pytest

from gptoss_edu.chips import hlo

# ruff: noqa: E501 (lines as the compiler prints them)
# 32 experts [16, 256]: a loop of four reads one expert a turn, and one row of a table in the fast
# memory; before it, half of a table is fetched.
TPU = """\
HloModule jit_step, is_scheduled=true

%fused (param_0: u8[32,16,256], param_1: s32[]) -> f32[256] {
  %param_0 = u8[32,16,256]{2,1,0:T(8,128)(4,1)} parameter(0)
  %bitcast.1 = u8[32,16,256]{2,1,0:T(8,128)(4,1)} bitcast(%param_0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = u8[1,16,256]{2,1,0:T(8,128)(4,1)} dynamic-slice(%bitcast.1, %param_1, %zero, %zero), dynamic_slice_sizes={1,16,256}
  ROOT %sum = f32[256]{0:T(256)} reduce(%slice, %zero), dimensions={0,1}, to_apply=%add
}

%body (state: (s32[], u8[32,16,256], f32[64,256])) -> (s32[], u8[32,16,256], f32[64,256]) {
  %state = (s32[]{:T(128)S(6)}, u8[32,16,256]{2,1,0:T(8,128)(4,1)}, f32[64,256]{1,0:T(8,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%state), index=0
  %w = u8[32,16,256]{2,1,0:T(8,128)(4,1)} get-tuple-element(%state), index=1
  %near = f32[64,256]{1,0:T(8,128)S(1)} get-tuple-element(%state), index=2
  %one = f32[256]{0:T(256)S(1)} fusion(%w, %i), kind=kLoop, calls=%fused
  %two = f32[256]{0:T(256)S(1)} fusion(%near, %one), kind=kLoop, calls=%unseen
  ROOT %next = (s32[]{:T(128)S(6)}, u8[32,16,256]{2,1,0:T(8,128)(4,1)}, f32[64,256]{1,0:T(8,128)S(1)}) tuple(%i, %w, %near)
}

%condition (state.1: (s32[], u8[32,16,256], f32[64,256])) -> pred[] {
  %state.1 = (s32[]{:T(128)S(6)}, u8[32,16,256]{2,1,0:T(8,128)(4,1)}, f32[64,256]{1,0:T(8,128)S(1)}) parameter(0)
  %i.1 = s32[]{:T(128)S(6)} get-tuple-element(%state.1), index=0
  %four = s32[]{:T(128)} constant(4)
  ROOT %more = pred[]{:T(512)} compare(%i.1, %four), direction=LT
}

%unseen (param_0.1: f32[64,256], param_1.1: f32[256]) -> f32[256] {
  %param_0.1 = f32[64,256]{1,0:T(8,128)} parameter(0)
  ROOT %param_1.1 = f32[256]{0:T(256)} parameter(1)
}

ENTRY %main (w.1: u8[32,16,256], table.1: f32[64,250], x.1: bf16[3,100]) -> bf16[3,100] {
  %w.1 = u8[32,16,256]{2,1,0:T(8,128)(4,1)} parameter(0)
  %table.1 = f32[64,250]{1,0:T(8,128)} parameter(1)
  %x.1 = bf16[3,100]{1,0:T(4,128)(2,1)} parameter(2)
  %start = ((f32[64,250]{1,0:T(8,128)}), f32[32,250]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%table.1), slice={[0:32], [0:250]}
  %near.1 = f32[32,250]{1,0:T(8,128)S(1)} slice-done(%start)
  %copy.1 = (bf16[3,100]{1,0:T(4,128)(2,1)S(1)}, bf16[3,100]{1,0:T(4,128)(2,1)}, u32[]{:S(2)}) copy-start(%x.1)
  %copy.2 = bf16[3,100]{1,0:T(4,128)(2,1)S(1)} copy-done(%copy.1)
  %first = (s32[]{:T(128)S(6)}, u8[32,16,256]{2,1,0:T(8,128)(4,1)}, f32[64,256]{1,0:T(8,128)S(1)}) tuple(%w.1)
  %loop = (s32[]{:T(128)S(6)}, u8[32,16,256]{2,1,0:T(8,128)(4,1)}, f32[64,256]{1,0:T(8,128)S(1)}) while(%first), condition=%condition, body=%body
  %sum.1 = bf16[3,100]{1,0:T(4,128)(2,1)} all-reduce(%copy.2), channel_id=1, to_apply=%add
  ROOT %gather = bf16[24,100]{1,0:T(8,128)(2,1)} all-gather(%copy.2), channel_id=2, dimensions={0}
}
"""
LOOP, HALF, SMALL = 4 * 16 * 256, 32 * 256 * 4, 4 * 128 * 2  # 250 columns lie in tiles of 128


def test_a_tpu_program_is_charged_for_what_it_fetches():
    assert hlo.bytes_read(TPU) == LOOP + HALF + SMALL
    assert hlo.largest_reads(TPU, 3) == [(HALF, "start"), (LOOP, "one"), (SMALL, "copy.1")]


def test_messages_are_counted():
    reduce, gather = hlo.Messages(1, 600), hlo.Messages(1, 4800)
    assert hlo.collectives(TPU) == {"all-reduce": reduce, "all-gather": gather}


def test_a_loop_that_nobody_can_count_is_refused():
    with pytest.raises(ValueError, match="how often the loop loop runs"):
        hlo.bytes_read(TPU.replace("direction=LT", "direction=GT"))


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no HLO module: found no ENTRY in 'hello'"):
        hlo.bytes_read("hello")


@pytest.mark.parametrize(
    "shape, size",
    [
        ("f32[7,5]{1,0}", 140),
        ("bf16[7,5]{1,0:T(8,128)(2,1)}", 8 * 128 * 2),
        ("bf16[7,5]{0,1:T(8,128)(2,1)}", 8 * 128 * 2),
        ("u8[32,90,256]{2,0,1:T(32,128)(4,1)}", 32 * 90 * 256),
        ("u8[32,90,256]{2,1,0:T(32,128)(4,1)}", 32 * 96 * 256),
        ("pred[3]", 3),
        ("s4[6]{0}", 3),
        ("f8e4m3fn[6]{0}", 6),
        ("f32[]", 4),
    ],
)
def test_an_array_is_as_large_as_its_tiles(shape, size):
    assert hlo.arrays(shape)[0].bytes() == size


def compiled(function, *arguments, **options):
    return jax.jit(function, **options).lower(*arguments).compile().as_text()


W_EIO = jax.ShapeDtypeStruct((32, 48, 64), jnp.float32)
ONE = 4 * 48 * 64  # bytes of one expert
INDEX = jax.ShapeDtypeStruct((), jnp.int32)


@pytest.mark.parametrize(
    "function, arguments, size",
    [
        (lambda w: w * 2, (W_EIO,), 32 * ONE),
        (lambda w, e: w[e] * 2, (W_EIO, INDEX), ONE),
        (
            lambda w, e: jax.lax.map(lambda one: w[one] * 2, e),
            (W_EIO, jax.ShapeDtypeStruct((3,), jnp.int32)),
            3 * ONE,
        ),
        (lambda w: w[3:5] * 2, (W_EIO,), 2 * ONE),
    ],
    ids=["whole", "one expert", "a loop over three", "a slice"],
)
def test_cpu_programs_read_what_they_must(function, arguments, size):
    """Partial sums and indices come on top: little against an expert."""
    assert size <= hlo.bytes_read(compiled(function, *arguments)) < size + 0.15 * ONE


def test_a_donated_update_reads_only_what_it_writes():
    row = jax.ShapeDtypeStruct((1, 48, 64), jnp.float32)

    def write(w, row, place):
        return jax.lax.dynamic_update_slice(w, row, (place, 0, 0))

    kept = compiled(write, W_EIO, row, INDEX)
    donated = compiled(write, W_EIO, row, INDEX, donate_argnums=0)
    assert hlo.bytes_read(donated) < 1.1 * ONE
    assert hlo.bytes_read(kept) > 32 * ONE


def test_every_opcode_of_a_matrix_product_is_read():
    x = jax.ShapeDtypeStruct((96, 80), jnp.float32)
    text = compiled(lambda x, y: x @ y, x, jax.ShapeDtypeStruct((80, 72), jnp.float32))
    least = 4 * 80 * (96 + 72)
    assert least <= hlo.bytes_read(text) <= 3 * least  # a CPU may turn an operand first
