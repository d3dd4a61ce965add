"""Chapter 05: solutions with one line changed, as a reader would get it wrong."""

PAIR = "return VALUES[low] * worth, VALUES[high] * worth"
WORTH = "worth = 2.0 ** (scale - 127)"
SIGN = "8 * np.signbit(w_32)"
CODE = "np.take(EVEN_FIRST, gap.argmin(axis=1))"
BYTES = "code_32[0::2] | code_32[1::2] << 4"
EXPONENT = "math.floor(math.log2(largest)) - 2"
SUM = "(packed * 17 // 32 + 2 * layer)"
TABLES = "2 * config.vocab_size * D + D"
PLANTED = [
    ("decode_byte", "high nibble first", [("low, high =", "high, low =")]),
    ("decode_byte", "sign lost", [("VALUES[low]", "VALUES[low & 7]"), ("[high]", "[high & 7]")]),
    (
        "decode_byte",
        "two's complement",
        [
            ("low, high = byte & 15, byte >> 4", "table = [*VALUES[:8], 0, *(-VALUES[7:0:-1])]\n"
             "    low, high = byte & 15, byte >> 4"),
            (PAIR, "return table[low] * worth, table[high] * worth"),
        ],
    ),
    (
        "decode_byte",
        "whole numbers",
        [(PAIR, "return tuple((n & 7) * worth * (-1) ** (n >> 3) for n in (low, high))")],
    ),
    (
        "decode_byte",
        "no zero",
        [(PAIR, "return tuple((1 + (n & 1) / 2) * 2.0 ** ((n >> 1 & 3) - 1) * worth"
          " * (-1) ** (n >> 3) for n in (low, high))")],
    ),
    ("decode_byte", "bias 128", [("127", "128")]),
    ("decode_byte", "bias 126", [("127", "126")]),
    ("decode_byte", "the scale byte is a factor", [(WORTH, "worth = scale")]),
    ("decode_byte", "the exponent is a factor", [(WORTH, "worth = scale - 127")]),
    ("decode_byte", "divided by the scale", [("* worth", "/ worth")]),
    ("decode_byte", "no scale", [(WORTH, "worth = 1")]),
    ("quantize_block", "high nibble first", [(BYTES, "code_32[1::2] | code_32[0::2] << 4")]),
    (
        "quantize_block",
        "halves of the block share a byte",
        [(BYTES, "code_32[:16] | code_32[16:] << 4")],
    ),
    ("quantize_block", "nothing is cut off", [(EXPONENT, "math.ceil(math.log2(largest / 6))")]),
    (
        "quantize_block",
        "largest / 6 without care",
        [(EXPONENT, "math.floor(math.log2(largest / 6))")],
    ),
    ("quantize_block", "the exponent is rounded", [("math.floor", "round")]),
    ("quantize_block", "the largest lands at 1", [(" - 2\n", "\n")]),
    ("quantize_block", "the largest is signed", [("largest = np.abs(w_32).max()",
     "largest = abs(w_32.max())")]),
    ("quantize_block", "bias 128", [("127", "128")]),
    ("quantize_block", "bias 126", [("127", "126")]),
    ("quantize_block", "the exponent without its bias", [("exponent + 127", "exponent")]),
    (
        "quantize_block",
        "rounded toward zero",
        [(f"{CODE} +", "np.searchsorted(VALUES[:8], np.abs(w_32) / 2.0**exponent, 'right') - 1 +")],
    ),
    ("quantize_block", "ties go toward zero", [("VALUES[EVEN_FIRST]", "VALUES[:8]"),
     (CODE, "gap.argmin(axis=1)")]),
    ("quantize_block", "ties go away from zero", [("VALUES[EVEN_FIRST]", "VALUES[7::-1]"),
     (CODE, "7 - gap.argmin(axis=1)")]),
    (
        "quantize_block",
        "whole numbers",
        [(f"{CODE} +", "np.minimum(np.round(np.abs(w_32) / 2.0**exponent), 7).astype(int) +")],
    ),
    ("quantize_block", "not divided by the scale", [("w_32 / 2.0**exponent", "w_32")]),
    ("quantize_block", "multiplied by the scale", [("w_32 / 2.0**e", "w_32 * 2.0**e")]),
    ("quantize_block", "sign lost", [(SIGN, "0")]),
    (
        "quantize_block",
        "two's complement",
        [(f"{CODE} + {SIGN}", f"{CODE} * np.where(w_32 < 0, -1, 1) & 15")],
    ),
    (
        "quantize_block",
        "no negative zero",
        [(f"{CODE} + {SIGN}", f"{CODE}\n    code_32 = code_32 + 8 * ((w_32 < 0) & (code_32 > 0))")],
    ),
    ("checkpoint_bytes", "no scales", [("* 17 // 32", "// 2")]),
    ("checkpoint_bytes", "twice the scales", [("* 17 // 32", "* 18 // 32")]),
    ("checkpoint_bytes", "a scale is a float", [("* 17 // 32", "* 20 // 32")]),
    ("checkpoint_bytes", "a byte per weight", [("* 17 // 32", "* 33 // 32")]),
    ("checkpoint_bytes", "nothing is packed", [("* 17 // 32", "* 2")]),
    (
        "checkpoint_bytes",
        "everything is packed",
        [(SUM, "((packed + D * qkv + queries * D + D * E) * 17 // 32"
          " + 2 * (layer - D * qkv - queries * D - D * E))"),
         ("2 * outside", "2 * D + 2 * config.vocab_size * D * 17 // 32")],
    ),
    ("checkpoint_bytes", "no expert biases", [(" + E * (2 * F + D)", "")]),
    (
        "checkpoint_bytes",
        "no attention biases",
        [("(D + 1) * qkv + (queries + 1) * D", "D * qkv + queries * D")],
    ),
    (
        "checkpoint_bytes",
        "no biases at all",
        [("(D + 1) * qkv + (queries + 1) * D", "D * qkv + queries * D"),
         ("(D + 1) * E + E * (2 * F + D)", "D * E")],
    ),
    ("checkpoint_bytes", "no sinks", [(" + config.num_heads\n", "\n")]),
    ("checkpoint_bytes", "no norms", [("layer = 2 * D + ", "layer = "), (TABLES, TABLES[:-4])]),
    ("checkpoint_bytes", "no last norm", [(TABLES, TABLES[:-4])]),
    ("checkpoint_bytes", "no router", [("(D + 1) * E + ", "")]),
    (
        "checkpoint_bytes",
        "gate without up",
        [("E * 3 * D * F", "E * 2 * D * F"), ("(2 * F + D)", "(F + D)")],
    ),
    ("checkpoint_bytes", "tied embedding", [(TABLES, TABLES[4:])]),
    ("checkpoint_bytes", "float32", [("2 * layer", "4 * layer"), ("2 * outside", "4 * outside")]),
    ("checkpoint_bytes", "one layer", [("config.num_layers * ", "")]),
    (
        "checkpoint_bytes",
        "only the chosen experts",
        [("E * 3 * D * F", "config.experts_per_token * 3 * D * F")],
    ),
]  # fmt: skip

FORMS = [
    ("decode_byte", [(PAIR, "return [VALUES[n] * worth for n in (low, high, low)]")],
     "2 things, (first, second), and returned a list of 3"),
    ("quantize_block", [(".astype(np.uint8)", "")], "block_U should be uint8, found int64"),
    ("quantize_block", [(BYTES, "code_32")], "should have shape (16,), found (32,)"),
    ("quantize_block", [("return bytes_U.astype(np.uint8), exponent + 127",
     "return bytes_U.astype(np.uint8)")], "should return 2 things, (block_U, scale)"),
    ("checkpoint_bytes", [("return config", "return f'{config.hidden_size} B'; config")],
     "should be a number, found a str"),
]  # fmt: skip
