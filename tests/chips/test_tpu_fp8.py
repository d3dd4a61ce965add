"""The 20B with experts in fp8 on one v6e, by the real TPU compiler, at 32,768 tokens."""

from tpu_programs import check_memory, installed, read_ratio

CASE = "v6e-1", "20b", "fp8"


@installed
def test_prefill_and_decode_fit():
    check_memory(*CASE)


@installed
def test_a_token_reads_little_more_than_it_must():
    assert 1 <= read_ratio(*CASE) <= 1.10
