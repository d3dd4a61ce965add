"""Chapter 03: solutions with one line changed, as a reader would get it wrong."""

KEYS = "return min(position + 1, window) if slides else position + 1"
MAXIMUM = "jnp.maximum(masked_BNTS.max(axis=-1, keepdims=True), sinks_1N11)"
HIDE = "jnp.where(mask_BTS[:, None], scores_BNTS, -jnp.inf)"
SHARES = "return exp_BNTS / total_BNT1, (exp_sink_BNT1 / total_BNT1)[..., 0]"
TOTAL = "exp_BNTS.sum(axis=-1, keepdims=True) + exp_sink_BNT1"
ALONE = "jax.nn.softmax(masked_BNTS, axis=-1)"
CAUSAL = "(distance_BTS >= 0)"
NEAR = "(distance_BTS < window)"
SPLIT = "q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)"
EINSUM = 'jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH)'
JOIN = "return scores_BKGTS.reshape(B, N, T, S)"
PLANTED = [
    ("keys_read", "odd layers slide", [("layer % 2 == 0", "layer % 2 == 1")]),
    ("keys_read", "every layer slides", [(" if slides else position + 1", "")]),
    ("keys_read", "no layer slides", [(KEYS, "return position + 1")]),
    ("keys_read", "a window of one too many", [("1, window)", "1, window + 1)")]),
    ("keys_read", "a window of one too few", [("1, window)", "1, window - 1)")]),
    ("keys_read", "the own key is forgotten", [("position + 1", "position")]),
    (
        "keys_read",
        "the sink is counted",
        [("position + 1", "position + 2"), ("2, window)", "2, window + 1)")],
    ),
    ("stable_softmax", "no maximum is subtracted", [(" - max_BNT1", "")]),
    (
        "stable_softmax",
        "the maximum without the sink",
        [(MAXIMUM, "masked_BNTS.max(axis=-1, keepdims=True)")],
    ),
    (
        "stable_softmax",
        "the maximum includes hidden keys",
        [(MAXIMUM, MAXIMUM.replace("masked", "scores"))],
    ),
    (
        "stable_softmax",
        "one maximum for all rows",
        [(MAXIMUM, "jnp.maximum(masked_BNTS.max(), sinks_N.max())")],
    ),
    (
        "stable_softmax",
        "the sink after the softmax",
        [
            (SHARES, f"p_BNTS = {ALONE}\n    e_1N11 = jnp.exp(sinks_1N11)\n    {SHARES}"),
            ("exp_BNTS / total_BNT1,", "p_BNTS / (1 + e_1N11),"),
            ("(exp_sink_BNT1 / total_BNT1)", "(e_1N11 / (1 + e_1N11) + 0 * max_BNT1)"),
        ],
    ),
    (
        "stable_softmax",
        "softmax twice",
        [(HIDE, f"jnp.where(mask_BTS[:, None], jax.nn.softmax({HIDE}, axis=-1), -jnp.inf)")],
    ),
    (
        "stable_softmax",
        "the weights sum to one",
        [("return exp_BNTS / total_BNT1", f"return {ALONE}")],
    ),
    (
        "stable_softmax",
        "the sink is kept as a key",
        [
            ("    return", "    mass_BNT1 = exp_sink_BNT1 / total_BNT1\n    return"),
            (
                "return exp_BNTS / total_BNT1,",
                "return jnp.concatenate([exp_BNTS / total_BNT1, mass_BNT1], axis=-1),",
            ),
        ],
    ),
    (
        "stable_softmax",
        "the sink is added without exp",
        [(TOTAL, TOTAL.replace("exp_sink_BNT1", "sinks_1N11 - max_BNT1"))],
    ),
    ("stable_softmax", "one sink for all heads", [("sinks_N[None, :, None, None]", "sinks_N[0]")]),
    (
        "stable_softmax",
        "masked after the softmax",
        [
            (HIDE, "scores_BNTS"),
            ("return exp_BNTS / total_BNT1", "return mask_BTS[:, None] * exp_BNTS / total_BNT1"),
        ],
    ),
    ("stable_softmax", "hidden keys score zero", [(HIDE, "mask_BTS[:, None] * scores_BNTS")]),
    ("stable_softmax", "the mask is upside down", [("mask_BTS[", "~mask_BTS[")]),
    (
        "stable_softmax",
        "the sink mass is not divided",
        [("(exp_sink_BNT1 / total_BNT1)", "exp_sink_BNT1")],
    ),
    ("window_mask", "one key too many", [(NEAR, "(distance_BTS <= window)")]),
    ("window_mask", "one key too few", [(NEAR, "(distance_BTS < window - 1)")]),
    ("window_mask", "the next token is visible", [(CAUSAL, "(distance_BTS >= -1)")]),
    ("window_mask", "the own key is hidden", [(CAUSAL, "(distance_BTS > 0)")]),
    (
        "window_mask",
        "the own key is hidden, and one more at the far end is seen",
        [(CAUSAL, "(distance_BTS > 0)"), (NEAR, "(distance_BTS <= window)")],
    ),
    (
        "window_mask",
        "the future is visible",
        [(f"{CAUSAL} & ", "")],
    ),
    ("window_mask", "the window is ignored", [(f" & {NEAR}", "")]),
    ("window_mask", "empty slots are visible", [(" & (position_BS[:, None, :] >= 0)", "")]),
    (
        "window_mask",
        "slots instead of positions",
        [
            (
                "position_BT[:, :, None] - position_BS[:, None, :]",
                "(jnp.arange(position_BT.shape[1])[:, None] + position_BS.shape[1]"
                " - position_BT.shape[1] - jnp.arange(position_BS.shape[1])[None])[None]",
            ),
        ],
    ),
    (
        "window_mask",
        "the mask is upside down",
        [("return mask_BTS & (distance_BTS < window)", f"return ~(mask_BTS & {NEAR})"),
         ("return mask_BTS\n", "return ~mask_BTS\n")],
    ),
    (
        "shared_scores",
        "the keys are copied",
        [
            (SPLIT, "k_BSNH = jnp.repeat(k_BSKH, N // K, axis=2)"),
            (EINSUM, 'jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH)'),
        ],
    ),
    (
        "shared_scores",
        "key heads are tiled",
        [
            (SPLIT, "q_BTGKH = q_BTNH.reshape(B, T, N // K, K, H)"),
            (EINSUM, 'jnp.einsum("BTGKH,BSKH->BGKTS", q_BTGKH, k_BSKH)'),
        ],
    ),
    ("shared_scores", "heads come back in another order", [("->BKGTS", "->BGKTS")]),
    (
        "shared_scores",
        "one key head for all",
        [(EINSUM, 'jnp.einsum("BTKGH,BSH->BKGTS", q_BTKGH, k_BSKH[:, :, 0])')],
    ),
    ("shared_scores", "no scale", [(" / jnp.sqrt(H)", "")]),
    ("shared_scores", "divided by H", [("jnp.sqrt(H)", "H")]),
    ("shared_scores", "multiplied by the square root", [("/ jnp.sqrt(H)", "* jnp.sqrt(H)")]),
]  # fmt: skip
FORMS = [
    ("keys_read", [("return min", "return str")], "it stopped in line 3"),
    ("stable_softmax", [(SHARES, "return exp_BNTS / total_BNT1")], "return 2 things"),
    ("stable_softmax", [("[..., 0]", "")], "sink_mass_BNT should have shape (2, 3, 5)"),
    ("window_mask", [("return mask_BTS", "return 1 * mask_BTS")], "should be bool, found int32"),
    ("shared_scores", [(JOIN, "return scores_BKGTS")], "(1, 12, 2, 50), found (1, 3, 4, 2, 50)"),
    ("shared_scores", [("BKGTS", "BTKGS"), ("B, N, T, S)", "B, T, N, S)")], "found (1, 2, 12, 50)"),
]
