"""Number lines, bytes, blocks and errors: what the sentences say is what the numbers are."""

import numpy as np
import pytest
from looks import check, contrast

from gptoss_edu.course import viz
from gptoss_edu.course.viz.colors import INK, ORANGE, SKY
from gptoss_edu.mxfp4 import VALUES, quantize


def test_number_line_has_every_value_once():
    alt = check(viz.number_line({"FP4": VALUES, "two": [-1.0, 0.25]}, bits=4))
    fp4 = "FP4: -6 -4 -3 -2 -1.5 -1 -0.5 0 0.5 1 1.5 2 3 4 6"
    assert alt == f"Number lines. {fp4}; two: -1 0.25."
    assert check(viz.number_line({"one": [1.0]})) == "Number lines. one: 1."


def test_byte_is_taken_apart_low_nibble_first():
    assert check(viz.byte_picture(0xE3, 126)) == (
        "Byte 0xe3, bits 11100011: the low nibble is the first weight, 1.5 times 0.5;"
        " the high nibble is the second, -4 times 0.5."
    )


@pytest.fixture
def weights():
    return 0.05 * np.random.default_rng(0).standard_normal(32).astype(np.float32)


def test_block_stores_what_the_library_stores(weights):
    packed = quantize(weights[None, :, None])
    block = viz.Block(weights, int(packed.scales_EJO[0, 0, 0]))
    np.testing.assert_array_equal(block.stored, np.asarray(packed[0, :], np.float64).ravel())
    lost = np.linalg.norm(block.stored - weights) / np.linalg.norm(weights)
    assert block.error == pytest.approx(lost)


def test_what_is_cut_off_becomes_six_times_the_scale(weights):
    small = viz.Block(weights, 117)
    worth = 2.0**-10
    assert small.cut.sum() == (np.abs(weights) > 6 * worth).sum() > 20
    np.testing.assert_array_equal(small.stored[small.cut], np.sign(weights[small.cut]) * 6 * worth)
    assert not viz.Block(weights, 140).cut.any()
    assert viz.Block(np.zeros(32), 127).error == 0


def test_panels_tell_scale_error_and_what_is_cut_off(weights):
    blocks = {"small": viz.Block(weights, 117), "good": viz.Block(weights, 122)}
    alt = check(viz.block_panels(blocks))
    assert f"small, scale byte 117: error {blocks['small'].error:.0%}" in alt
    assert f"{blocks['small'].cut.sum()} cut off; good, scale byte 122" in alt
    check(viz.block_panels({"alone": blocks["good"]}))
    check(viz.block_panels({"zero": viz.Block(np.zeros(32), 127)}))


def test_errors_have_two_digits_and_exact_is_a_word():
    errors = {"a": (16, 0.00171), "b": (4.25, 0.1174), "c": (8, 0.0), "d": (1, 0.991)}
    assert check(viz.error_bars(errors)) == (
        "Errors by format. a, 16 bits: 0.17 %; b, 4.25 bits: 12 %; c, 8 bits: exact;"
        " d, 1 bits: 99 %."
    )
    assert check(viz.error_bars({"only": (4, 0.0)})).endswith("only, 4 bits: exact.")


def test_an_fp4_number_lies_inside_a_float():
    alt = check(viz.float_picture(0b1101))
    assert alt.startswith("The FP4 code 1101, -3, inside the 32 bits of a float32, 1 10000000 1000")


def test_histograms_count_what_lands_on_each_value():
    alt = check(viz.grid_histograms([0.1, -0.6, 0.6, 5.5], {"two": [0, 1], "three": [0, 1, 6]}))
    assert alt.endswith("two: 25 on 0, 75 on 1; three: 25 on 0, 50 on 1, 25 on 6.")


def test_neighbors_in_memory_are_named():
    rows = {"ours": [(u, 0) for u in range(4)], "published": [(7, 2 * u) for u in range(4)]}
    assert check(viz.memory_rows(rows)) == (
        "4 neighboring bytes in memory. ours: outputs 0 to 3, inputs 0 to 1; published: outputs 7,"
        " inputs 0 to 7."
    )


@pytest.mark.parametrize("ground", [SKY, ORANGE])
def test_text_in_memory_cells_is_readable(ground):
    assert contrast(ground, INK) >= 4.5
