"""The product's own programs at full size, by the real TPU compiler, at 32,768 tokens.

The 20B packed on one v5e, in fp8 on one v6e and in bfloat16 cut for a v2-8; the 120B packed and cut
for eight v6e, where configuration is all it takes. About a minute a program on a quiet core.
"""

import pytest
from tpu_programs import check_memory, installed, messages, program, read_ratio

MOST_READ = {
    ("v5e-1", "20b", "mxfp4"): 1.10,
    ("v6e-1", "20b", "fp8"): 1.10,
    ("v2-8", "20b", "bf16"): 1.15,
    ("v6e-8", "120b", "mxfp4"): 1.15,
}


@installed
@pytest.mark.parametrize("case", MOST_READ, ids="-".join)
def test_prefill_and_decode_fit(case):
    check_memory(*case)


@installed
@pytest.mark.parametrize("case", MOST_READ, ids="-".join)
def test_a_token_reads_little_more_than_it_must(case):
    assert 1 <= read_ratio(*case) <= MOST_READ[case]


@installed
def test_eight_bits_are_refused_in_a_sentence():
    found = program("decode", "v5e-1", "20b", "fp8")
    assert not found.compiled
    assert found.reason.startswith("the TPU compiler refuses: the program needs 2")
    assert found.reason.endswith("there are 15.75G")


@installed
def test_two_sums_a_layer_and_one_for_the_embedding():
    assert messages("v2-8", "20b", "bf16") == {"all-reduce": 2 * 24 + 1}


@installed
def test_three_messages_a_layer_and_one_for_the_embedding():
    """Attention adds up; what the experts made is collected between and after their products."""
    assert messages("v6e-8", "120b", "mxfp4") == {"all-reduce": 36 + 1, "all-gather": 2 * 36}
