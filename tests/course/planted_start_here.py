"""Chapter 00: solutions with one line changed, as a reader would get it wrong."""

MAXIMUM = "np.max(np.abs(a - b))"
PLANTED = [
    ("by_channel", "only the last piece", [("texts.get(piece.channel, \"\") + piece", "piece")]),
    (
        "by_channel",
        "only the first piece",
        [('texts.get(piece.channel, "") + piece.text', "texts.get(piece.channel, piece.text)")],
    ),
    (
        "by_channel",
        "joined with spaces",
        [
            ('texts.get(piece.channel, "") + piece', '(texts.get(piece.channel, "") + " " + piece'),
            (".text\n", ".text).removeprefix(' ')\n"),
        ],
    ),
    (
        "by_channel",
        "lists instead of text",
        [('""', "[]"), ("+ piece.text", "+ [piece.text]")],
    ),
    (
        "by_channel",
        "spaces are stripped",
        [("return texts", "return {k: v.strip() for k, v in texts.items()}")],
    ),
    ("by_channel", "spaces of each piece are stripped", [("piece.text", "piece.text.strip()")]),
    (
        "by_channel",
        "a channel that comes back begins anew",
        [
            ("texts = {}", "texts, before = {}, None"),
            (
                'texts[piece.channel] = texts.get(piece.channel, "") + piece.text',
                'kept = texts[piece.channel] if piece.channel == before else ""\n'
                "        texts[piece.channel], before = kept + piece.text, piece.channel",
            ),
        ],
    ),
    (
        "by_channel",
        "only the final channel",
        [("return texts", "return {'final': texts['final']}")],
    ),
    ("count_parameters", "bytes", [("math.prod(leaf.shape)", "leaf.nbytes"), ("Mxfp4", "str")]),
    ("count_parameters", "arrays", [("math.prod(leaf.shape)", "1"), ("Mxfp4", "str")]),
    ("count_parameters", "one layer", [("leaves(params,", "leaves([vars(params)[n] if n != 'layers'"
     " else params.layers[0] for n in vars(params)],")]),
    ("count_parameters", "layers only", [("leaves(params,", "leaves(params.layers,")]),
    (
        "count_parameters",
        "tied embedding",
        [("leaves(params,", "leaves([params.embedding_VD, params.layers, params.norm_D],")],
    ),
    ("count_parameters", "a byte is one weight", [("Mxfp4", "str")]),
    (
        "count_parameters",
        "scales are counted",
        [("math.prod(leaf.shape)", "leaf.size * (1 + (leaf.dtype == 'uint8'))"), ("Mxfp4", "str")],
    ),
    (
        "count_parameters",
        "scales are counted once",
        [("math.prod(leaf.shape)", "leaf.size * (1 + (leaf.dtype == 'uint8' and leaf.ndim == 4))"),
         ("Mxfp4", "str")],
    ),
    ("largest_difference", "signed", [(MAXIMUM, "np.max(a - b)")]),
    ("largest_difference", "absolute value of the maximum", [(MAXIMUM, "abs(a.max() - b.max())")]),
    ("largest_difference", "mean", [("np.max(", "np.mean(")]),
    ("largest_difference", "sum", [("np.max(", "np.sum(")]),
    ("largest_difference", "relative", [(MAXIMUM, "np.max(np.abs((a - b) / b))")]),
    ("largest_difference", "NaN is skipped", [("np.max(", "np.nanmax(")]),
    ("largest_difference", "NaN is returned", [("math.inf if math.isnan(largest) else ", "")]),
    (
        "largest_difference",
        "shapes are broadcast",
        [("    if a.shape != b.shape:\n        return math.inf\n", "")],
    ),
]  # fmt: skip

FORMS = [
    ("by_channel", [("return texts", "return list(texts)")], "should be a dict, found a list"),
    ("count_parameters", [("return sum", "return str")], "should be a number, found a str"),
    ("largest_difference", [(MAXIMUM, "np.max(np.abs(a - b), axis=0)")], "TypeError"),
]  # fmt: skip
