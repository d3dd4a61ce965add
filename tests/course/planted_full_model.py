"""Chapter 06: solutions with one line changed, as a reader would get it wrong."""

ADD = ("x_BTD = x_BTD + y_BTD", "x_BTD = y_BTD")
NORM_1 = "rms_norm(x_BTD, layer.attention.norm_D, config.rms_eps)"
NORM_2 = "rms_norm(x_BTD, layer.moe.norm_D, config.rms_eps)"
RETURN = "return x_BTD + y_BTD, kv"
NEW_CACHE = "Cache(tuple(stores), cache.length_B + 1)"
COLUMN = "cache.length_B[:, None]"
KEPT = "kept_V = np.cumsum(p_V) - p_V < p"
ANSWER = "return np.where(allowed_V, logits_V, -np.inf)"
PLANTED = [
    ("block", "no residual around attention", [ADD]),
    ("block", "no residual around the experts", [(RETURN, "return y_BTD, kv")]),
    ("block", "no norm before attention", [(NORM_1, "x_BTD")]),
    ("block", "no norm before the experts", [(NORM_2, "x_BTD")]),
    ("block", "the normed stream is kept", [("h_BTD = rms", "x_BTD = h_BTD = rms")]),
    (
        "block",
        "post-norm",
        [
            (f"h_BTD = {NORM_1}", "h_BTD = x_BTD"),
            (f"h_BTD = {NORM_2}", f"h_BTD = x_BTD = {NORM_1}"),
            (RETURN, f"x_BTD = x_BTD + y_BTD\n    return {NORM_2}, kv"),
        ],
    ),
    ("block", "one norm for both halves", [("moe.norm_D", "attention.norm_D")]),
    (
        "block",
        "swapped norms",
        [("moe.norm_D", "X"), ("attention.norm_D", "moe.norm_D"), ("X", "attention.norm_D")],
    ),
    (
        "block",
        "both halves read the same stream",
        [
            ("    x_BTD = x_BTD + y_BTD\n", ""),
            ("y_BTD, _ =", "more_BTD, _ ="),
            (RETURN, "return x_BTD + y_BTD + more_BTD, kv"),
        ],
    ),
    ("block", "the window is ignored", [(" kv, window)\n", " kv, None)\n")]),
    ("block", "the old store is returned", [("y_BTD, kv, _ =", "y_BTD, _, _ =")]),
    ("decode_step", "position one too late", [(COLUMN, f"{COLUMN} + 1")]),
    ("decode_step", "position one too early", [(COLUMN, f"{COLUMN} - 1")]),
    ("decode_step", "position zero", [(COLUMN, "jnp.zeros((len(token_B), 1), int)")]),
    (
        "decode_step",
        "one position for all prompts",
        [(COLUMN, "jnp.full((len(token_B), 1), int(cache.length_B[0]))")],
    ),
    (
        "decode_step",
        "the longest prompt's position for all",
        [(COLUMN, "jnp.full((len(token_B), 1), int(max(cache.length_B)))")],
    ),
    ("decode_step", "odd layers slide", [("config.window(index)", "config.window(1 - index)")]),
    ("decode_step", "odd layers slide", [("config.window(index)", "config.sliding_window")]),
    (
        "decode_step",
        "no last norm",
        [("unembed(params, x_B1D, config.rms_eps)", "x_B1D @ params.unembedding_DV")],
    ),
    ("decode_step", "the old cache is returned", [(NEW_CACHE, "cache")]),
    ("decode_step", "the length does not grow", [("cache.length_B + 1", "cache.length_B")]),
    ("decode_step", "the stores are not kept", [("tuple(stores)", "cache.layers")]),
    (
        "top_p",
        "the token that crosses p is dropped",
        [(KEPT, "kept_V = np.cumsum(p_V) <= p")],
    ),
    ("top_p", "sorted upward", [("argsort(-logits_V)", "argsort(logits_V)")]),
    ("top_p", "the mask is left in sorted order", [("order_V[kept_V]", "kept_V")]),
    (
        "top_p",
        "the sorted logits are returned",
        [(ANSWER, "return np.where(kept_V, logits_V[order_V], -np.inf)")],
    ),
    (
        "top_p",
        "logits are added up",
        [("p_V = np.exp(logits_V[order_V] - logits_V.max())\n    p_V = p_V / p_V.sum()",
          "p_V = logits_V[order_V]")],
    ),
    ("top_p", "each token is compared with p", [(KEPT, "kept_V = p_V >= p")]),
    ("top_p", "1 - p", [("- p_V < p", "- p_V < 1 - p")]),
    ("top_p", "zero instead of minus infinity", [("-np.inf", "0")]),
    (
        "top_p",
        "probabilities are returned",
        [(ANSWER, "q_V = np.exp(logits_V)\n    return np.where(allowed_V, q_V / q_V.sum(), 0)")],
    ),
    (
        "top_p",
        "renormalized probabilities are returned",
        [(ANSWER, "q_V = allowed_V * np.exp(logits_V)\n    return q_V / q_V.sum()")],
    ),
]  # fmt: skip

FORMS = [
    ("block", [(", kv\n", ", kv, None\n")], "2 things, (x_BTD, kv), and returned a tuple of 3"),
    ("block", [("x_BTD + y_BTD, kv", "(x_BTD + y_BTD)[0], kv")], "shape (2, 3, 24), found (3"),
    ("block", [("x_BTD + y_BTD, kv", "x_BTD + y_BTD, [kv]")], "kv should be a FullKV, found a"),
    (
        "block",
        [("x_BTD + y_BTD, kv", "(x_BTD + y_BTD).astype(jnp.bfloat16), kv")],
        "x_BTD should be float32, found bfloat16",
    ),
    ("decode_step", [("logits_B1V[:, 0]", "logits_B1V")], "(2, 31), found (2, 1, 31)"),
    ("decode_step", [(NEW_CACHE, "tuple(stores)")], "should be a Cache, found a tuple of 2"),
    ("decode_step", [("tuple(stores)", "stores")], "its parts are not those expected"),
    ("top_p", [(ANSWER, "return logits_V[allowed_V]")], "should have shape (7,), found ("),
    ("top_p", [(ANSWER, "return allowed_V")], "should be float32, found bool"),
    ("top_p", [(ANSWER, "return list(logits_V)")], "should be an array, found a list of 7"),
]  # fmt: skip
