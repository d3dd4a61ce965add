"""Figures of machines say in words what they draw."""

from looks import check

from gptoss_edu.chips.fit import GIB, Ledger
from gptoss_edu.course import viz

LEDGERS = {
    "small": Ledger(4 * GIB, GIB, GIB // 2, 8 * GIB),
    "large": Ledger(16 * GIB, GIB, GIB // 2, 8 * GIB),
}


def test_formats_are_counted_from_zero_to_their_largest():
    alt = check(viz.format_lines({"even": range(11), "crowded": [0, 0.125, 0.25, 1, 4]}))
    assert "even: 11 values, 1 below a tenth" in alt
    assert "crowded: 5 values, 3 below a tenth" in alt


def test_ledger_says_what_fits():
    alt = check(viz.memory_ledger(LEDGERS))
    assert "small: 5.5 of 8.0 GiB, fits" in alt
    assert "large: 17.5 of 8.0 GiB, does not fit" in alt


def test_roofline_has_a_ridge_and_a_limit_on_each_side_of_it():
    alt = check(
        viz.roofline_plot({"chip": (1e12, 2e14), "slow": (1e11, 1e13)}, {"one": 2, "many": 1000})
    )
    assert "chip: ridge at 200 operations per byte; one 2, many 200" in alt
    assert "slow: ridge at 100 operations per byte; one 0.2, many 10" in alt


def test_near_ties_counts_what_can_change_the_answer():
    alt = check(
        viz.near_ties([0.1, 1.0, 3.0], {"coarse": [0.2, 1.0, 0.0], "fine": [0.01, 0.0, 0.0]})
    )
    assert "coarse: 2 of 3; fine: 0 of 3" in alt


def test_timeline_tells_the_seconds_of_each_part():
    alt = check(
        viz.timeline({"first": {"compile": 2.0, "decode": 0.25}, "second": {"decode": 0.25}})
    )
    assert "first: compile 2.00 s, decode 0.25 s; second: decode 0.25 s" in alt


def test_the_chip_is_told_from_memory_to_multiplier():
    alt = check(viz.tpu_chip())
    assert alt.index("HBM") < alt.index("VMEM") < alt.index("MXU") < alt.index("float32")


def test_map_says_what_is_cut_and_what_is_whole():
    arrays = {
        "w_EDP": ((4, 6, 8), ("expert", None, "tensor")),
        "norm_D": ((6,), (None,)),
        "w_DN": ((6, 8), (None, "tensor")),
    }
    alt = check(viz.sharding_map(arrays, {"tensor": 2, "expert": 2}, {"w_EDP": ["expert"]}))
    assert alt.startswith("Parts of arrays on 4 devices.")
    assert "w_EDP: cut along expert and cut along tensor, products added along expert" in alt
    assert "norm_D: whole on every device" in alt
    assert "w_DN: cut along tensor" in alt


READ = {"short": {"experts": 3e9, "cache": 0}, "long": {"experts": 3e9, "cache": 1.5e9}}


def test_bytes_of_a_token_are_told_part_by_part():
    alt = check(viz.token_bytes(READ))
    assert "short: 3.00 GB, of which experts 3.00, cache 0.00" in alt
    assert "long: 4.50 GB, of which experts 3.00, cache 1.50" in alt
    assert "short: 3000.00 MB" in viz.token_bytes(READ, unit=1e6).alt


def test_tiles_spare_a_core_its_jumps():
    alt = check(viz.tile_order(inputs=4, outputs=8, width=4))
    assert "by rows, core 1 jumps 3 times; in tiles of 4, core 1 jumps 0 times" in alt
