"""The 20B, packed, on one v5e: the real TPU compiler takes both programs at 32,768 tokens.

Two compilations at full size, about a minute each on a quiet core.
"""

from tpu_programs import check_memory, installed, program, read_ratio

CASE = "v5e-1", "20b", "mxfp4"


@installed
def test_prefill_and_decode_fit():
    check_memory(*CASE)


@installed
def test_a_token_reads_little_more_than_it_must():
    assert 1 <= read_ratio(*CASE) <= 1.10


@installed
def test_eight_bits_are_refused_in_a_sentence():
    found = program("decode", "v5e-1", "20b", "fp8")
    assert not found.compiled
    assert found.reason.startswith("the TPU compiler refuses: the program needs 2")
    assert found.reason.endswith("there are 15.75G")
