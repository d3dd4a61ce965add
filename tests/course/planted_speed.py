"""Chapter 08: solutions with one line changed, as a reader would get it wrong."""

SHARE = 'size * chosen / experts if name.endswith("experts") else size'
FITS = "abs(x - y) > 0.1 + 0.1 * abs(y)"
SEEN = "min(context, window or context)"
TOUCHED = "experts * (1 - (1 - chosen / experts) ** tokens)"
PLANTED = [
    ("token_bytes", "all experts", [(SHARE, "size")]),
    ("token_bytes", "one expert", [("size * chosen / experts", "size / experts")]),
    ("token_bytes", "the embedding", [('if name != "embedding":', "if True:")]),
    (
        "token_bytes",
        "no unembedding",
        [('if name != "embedding":', 'if "embedding" not in name:')],
    ),
    ("token_bytes", "a share of everything", [(SHARE, "size * chosen / experts")]),
    ("steps_that_agree", "no tolerance", [(FITS, "x != y")]),
    ("steps_that_agree", "absolute only", [(FITS, "abs(x - y) > 0.1")]),
    ("steps_that_agree", "relative only", [(FITS, "abs(x - y) > 0.1 * abs(y)")]),
    ("steps_that_agree", "tokens not compared", [("a != b or ", "")]),
    ("steps_that_agree", "all that agree", [("break", "continue")]),
    ("steps_that_agree", "one side", [("abs(x - y)", "(x - y)")]),
    ("context_bytes", "keys only", [("2 * 4 *", "4 *")]),
    ("context_bytes", "no window", [(SEEN, "context")]),
    ("context_bytes", "always a whole window", [(SEEN, "window or context")]),
    ("context_bytes", "full layers forgotten", [(SEEN, "min(context, window)")]),
    ("prefill_bytes", "one by one", [(TOUCHED, "chosen * tokens")]),
    ("prefill_bytes", "no overlap", [(TOUCHED, "min(experts, chosen * tokens)")]),
    ("prefill_bytes", "all experts", [(TOUCHED, "experts")]),
    (
        "prefill_bytes",
        "the same twice",
        [(TOUCHED, "experts * (1 - (1 - 1 / experts) ** (chosen * tokens))")],
    ),
    (
        "prefill_bytes",
        "the rest per token",
        [("+ other_bytes) / tokens", "+ other_bytes * tokens) / tokens")],
    ),
    ("prefill_bytes", "the sum", [(" / tokens", "")]),
]

FORMS = [
    ("token_bytes", [("return total", "return str(total)")], "should be a number, found a str"),
    ("steps_that_agree", [("return steps", "return [steps]")], "found a list"),
    ("context_bytes", [("return 2", "return str(2"), ("tokens\n", "tokens)\n")], "found a str"),
    ("prefill_bytes", [("return (", "return str(("), (" / tokens", " / tokens)")], "a str"),
]
