"""Chapter 04: solutions with one line changed, as a reader would get it wrong."""

# What follows the line that strikes out those that were not chosen.
STRUCK = "np.put_along_axis(logits_TE, worst_TX, -np.inf, axis=-1)"
EXP = "exp_TE = np.exp(logits_TE - logits_TE.max(axis=-1, keepdims=True))"
RETURN = "return exp_TE / exp_TE.sum(axis=-1, keepdims=True)"
ALL = "exp_TE = np.exp(logits_TE)\n    all_TE = exp_TE / exp_TE.sum(axis=-1, keepdims=True)"
SIGMOIDS = "exp_TE = 1 / (1 + np.exp(-logits_TE))"
WORST = "np.argsort(logits_TE, axis=-1)[:, :-k]"
SPLIT = "gate_up_P[..., 0::2], gate_up_P[..., 1::2]"
GATE = "gate_F = np.minimum(gate_F, limit)"
UP = "up_F = np.clip(up_F, -limit, limit)"
RESULT = "gate_F * jax.nn.sigmoid(alpha * gate_F) * (up_F + 1)"
WEIGHT = "weight_TX[token, choice][:, None] * answer"
EXPERT = "expert = D * 2 * F + 2 * F + F * D + D"
ATTENTION = "attention = (D * N * H + N * H) + 2 * (D * K * H + K * H) + (N * H * D + D) + N"
LAYER = "2 * D + attention + router + X * expert"
PLANTED = [
    (
        "route",
        "softmax over all experts",
        [(STRUCK, ALL), (EXP, "np.put_along_axis(all_TE, worst_TX, 0, -1)"),
         (RETURN, "return all_TE")],
    ),
    (
        "route",
        "softmax twice",
        [(STRUCK, ALL.replace("exp_TE", "e_TE") + "\n    logits_TE = all_TE\n    " + STRUCK)],
    ),
    (
        "route",
        "logits as weights",
        [(STRUCK, STRUCK.replace("-np.inf", "0")), (EXP, ""), (RETURN, "return logits_TE")],
    ),
    (
        "route",
        "logits divided by their sum",
        [(STRUCK, STRUCK.replace("-np.inf", "0")), (EXP, "exp_TE = logits_TE")],
    ),
    (
        "route",
        "sigmoid",
        [(STRUCK, SIGMOIDS), (EXP, "np.put_along_axis(exp_TE, worst_TX, 0, -1)")],
    ),
    (
        "route",
        "a sigmoid for each",
        [(STRUCK, SIGMOIDS), (EXP, "np.put_along_axis(exp_TE, worst_TX, 0, -1)"),
         (RETURN, "return exp_TE")],
    ),
    ("route", "even weights", [(EXP, "exp_TE = np.isfinite(logits_TE).astype(np.float32)")]),
    ("route", "the least likely experts", [(WORST, "np.argsort(-logits_TE, axis=-1)[:, :-k]")]),
    (
        "route",
        "all tokens to the same experts",
        [(WORST, WORST + "\n    worst_TX[:] = worst_TX[0]")],
    ),
    ("route", "no bias", [(" + b_router_E", "")]),
    ("route", "zero for those not chosen", [("-np.inf", "0")]),
    (
        "swiglu",
        "halves instead of interleaved",
        [(SPLIT, "np.split(gate_up_P, 2, axis=-1)")],
    ),
    ("swiglu", "gate and up swapped", [("gate_F, up_F = gate", "up_F, gate_F = gate")]),
    (
        "swiglu",
        "up is the gate, in halves",
        [(SPLIT, "np.split(gate_up_P, 2, axis=-1)[::-1]")],
    ),
    ("swiglu", "gate not clamped", [(GATE, "")]),
    ("swiglu", "gate clamped on both sides", [(GATE, "gate_F = np.clip(gate_F, -limit, limit)")]),
    ("swiglu", "up not clamped", [(UP, "")]),
    ("swiglu", "up clamped from above only", [(UP, "up_F = np.minimum(up_F, limit)")]),
    ("swiglu", "nothing clamped", [(UP, ""), (GATE, "")]),
    ("swiglu", "no + 1", [("(up_F + 1)", "up_F")]),
    (
        "swiglu",
        "+ 1 before the clamp",
        [(UP, "up_F = np.clip(up_F + 1, -limit, limit)"), ("(up_F + 1)", "up_F")],
    ),
    ("swiglu", "alpha missing", [("alpha * gate_F)", "gate_F)")]),
    (
        "swiglu",
        "alpha outside of the sigmoid",
        [(RESULT, "alpha * gate_F * jax.nn.sigmoid(gate_F) * (up_F + 1)")],
    ),
    ("swiglu", "only the sigmoid", [("gate_F * jax.nn", "jax.nn")]),
    ("grouped", "weights forgotten", [(WEIGHT, "answer")]),
    ("grouped", "plain mean", [(WEIGHT, "answer / expert_TX.shape[1]")]),
    (
        "grouped",
        "the first weight for all choices",
        [("weight_TX[token, choice]", "weight_TX[token, 0]")],
    ),
    ("grouped", "the last expert overwrites the others", [("y_TD[token] +=", "y_TD[token] =")]),
    (
        "grouped",
        "the input is weighed",
        [
            ("ask(expert, x_TD[token])",
             "ask(expert, weight_TX[token, choice][:, None] * x_TD[token])"),
            (WEIGHT, "answer"),
        ],
    ),
    (
        "grouped",
        "only the first choice",
        [("y_TD, asked =", "expert_TX, weight_TX = expert_TX[:, :1], weight_TX[:, :1]\n"
          "    y_TD, asked =")],
    ),
    ("grouped", "asked once per choice", [("asked += 1", "asked += len(token)")]),
    (
        "grouped",
        "all experts are asked",
        [("np.unique(expert_TX)", "range(expert_TX.max() + 2)")],
    ),
    (
        "grouped",
        "the tokens stay sorted",
        [("return y_TD,", "return y_TD[np.argsort(expert_TX[:, 0], kind='stable')],")],
    ),
    ("active_parameters", "all experts are counted", [("X * expert", "E * expert")]),
    (
        "active_parameters",
        "everything is counted",
        [("X * expert", "E * expert"), ("D + D * V", "D + 2 * D * V")],
    ),
    ("active_parameters", "the embedding is counted", [("D + D * V", "D + 2 * D * V")]),
    ("active_parameters", "the unembedding is left out", [("D + D * V", "D")]),
    ("active_parameters", "gate and up counted as one", [("D * 2 * F + 2 * F", "D * F + F")]),
    (
        "active_parameters",
        "the experts' biases are left out",
        [(EXPERT, "expert = D * 2 * F + F * D")],
    ),
    (
        "active_parameters",
        "no biases at all",
        [
            (EXPERT, "expert = D * 2 * F + F * D"),
            (ATTENTION, "attention = D * N * H + 2 * D * K * H + N * H * D + N"),
            ("D * E + E", "D * E"),
        ],
    ),
    (
        "active_parameters",
        "the router only looks at the chosen",
        [("router = D * E + E", "router = D * X + X")],
    ),
    ("active_parameters", "no router", [(" + router", "")]),
    (
        "active_parameters",
        "as many key heads as query heads",
        [("2 * (D * K * H + K * H)", "2 * (D * N * H + N * H)")],
    ),
    ("active_parameters", "the sinks are left out", [("+ D) + N", "+ D)")]),
    (
        "active_parameters",
        "the norms are left out",
        [(LAYER, "attention + router + X * expert"), ("layer + D + D * V", "layer + D * V")],
    ),
    ("active_parameters", "the last norm is left out", [("layer + D + D * V", "layer + D * V")]),
    ("active_parameters", "one layer", [("config.num_layers * layer", "layer")]),
]  # fmt: skip

FORMS = [
    (
        "route",
        [(RETURN, "return np.sort(exp_TE / exp_TE.sum(-1, keepdims=True))[:, -k:]")],
        "weight_TE should have shape (1, 5), found (1, 2)",
    ),
    ("swiglu", [("gate_F, up_F =", "gate_F = up_F =")], "h_F should have shape (3,)"),
    ("grouped", [("y_TD, asked\n", "y_TD\n")], "2 things, (y_TD, asked), and returned an array"),
    ("active_parameters", [("return ", "return str(config), ")], "should be a number, found a tu"),
]  # fmt: skip
