"""The 20B in bfloat16, cut for the eight devices of a v2-8, by the real TPU compiler."""

from tpu_programs import check_memory, installed, messages, read_ratio

CASE = "v2-8", "20b", "bf16"


@installed
def test_prefill_and_decode_fit():
    check_memory(*CASE)


@installed
def test_a_token_reads_little_more_than_it_must():
    assert 1 <= read_ratio(*CASE) <= 1.15


@installed
def test_two_sums_a_layer_and_one_for_the_embedding():
    assert messages(*CASE) == {"all-reduce": 2 * 24 + 1}
