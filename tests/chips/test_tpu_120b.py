"""The 120B, packed, cut for eight v6e, by the real TPU compiler: configuration is all it takes."""

from tpu_programs import check_memory, installed, messages, read_ratio

CASE = "v6e-8", "120b", "mxfp4"


@installed
def test_prefill_and_decode_fit():
    check_memory(*CASE)


@installed
def test_a_token_reads_little_more_than_it_must():
    assert 1 <= read_ratio(*CASE) <= 1.15


@installed
def test_three_messages_a_layer_and_one_for_the_embedding():
    """Attention adds up; what the experts made is collected between and after their products."""
    assert messages(*CASE) == {"all-reduce": 36 + 1, "all-gather": 2 * 36}
