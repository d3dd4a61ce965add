"""Solutions with one place changed, as a reader would get them wrong: three for each exercise.

(module, exercise) -> [(the mistake that the checker should name, what stands there, what instead)].
"""

HALVES = "np.concatenate([w_DNH[..., 0::2], w_DNH[..., 1::2]], axis=-1)"
TIED = "params.embedding_VD, params.layers, params.norm_D"
PLANTED = {
    ("attention", "keys_read"): [
        ("odd layers slide", "layer % 2 == 0", "layer % 2 == 1"),
        ("every layer slides", " if slides else position + 1", ""),
        ("a window of one too many", "1, window)", "1, window + 1)"),
    ],
    ("attention", "stable_softmax"): [
        ("no maximum is subtracted", " - max_BNT1", ""),
        ("one sink for all heads", "sinks_N[None, :, None, None]", "sinks_N[0]"),
        ("the mask is upside down", "mask_BTS[", "~mask_BTS["),
    ],
    ("attention", "window_mask"): [
        ("one key too many", "(distance_BTS < window)", "(distance_BTS <= window)"),
        ("one key too few", "(distance_BTS < window)", "(distance_BTS < window - 1)"),
        ("the own key is hidden", "(distance_BTS >= 0)", "(distance_BTS > 0)"),
    ],
    ("attention", "shared_scores"): [
        ("heads come back in another order", "->BKGTS", "->BGKTS"),
        ("no scale", " / jnp.sqrt(H)", ""),
        ("divided by H", "jnp.sqrt(H)", "H"),
    ],
    ("attention", "streaming"): [
        ("the sum of values is not corrected", "sum_TH * shrink_T1", "sum_TH"),
        ("the sum of exps is not corrected", "total_T1 * shrink_T1", "total_T1"),
        ("no sink", "jnp.ones((T, 1))", "jnp.zeros((T, 1))"),
    ],
    ("bugs", "first_difference"): [
        ("counted from 1", "return index", "return index + 1"),
        ("NaN passes", "not np.abs(a - b).max() <= atol", "np.abs(a - b).max() > atol"),
        ("signed", "np.abs(a - b)", "(b - a)"),
    ],
    ("bugs", "reach"): [
        ("the query itself is not counted", " + 1", ""),
        ("the last query only", "(query - key).max()", "(query - key)[query == query.max()].max()"),
        ("the first head only", "nonzero(weights_NTS)", "nonzero(weights_NTS[:1])"),
    ],
    ("bugs", "window_test"): [
        ("the right one is refused", "0 <= q - k < limit", "0 < q - k < limit"),
        ("a query that cannot see itself passes", "6, 7, 8, 9]]", "6, 9]]"),
        ("padding passes", "[[-1, 0,", "[[0,"),
    ],
    ("colab", "next_range"): [
        ("from the start", "bytes={have}-", "bytes=0-"),
        ("one too far", "{have}", "{have + 1}"),
        ("whole and asked again", "have == size", "have == -1"),
    ],
    ("colab", "stalled"): [
        ("since the beginning", "since, most = now, count", "most = count"),
        ("any report counts", "if count > most", "if True"),
        ("one look late", ">= limit", "> limit"),
    ],
    ("colab", "first_token"): [
        ("compiling counted as prefill", "began - before", "began"),
        ("compiling counted as decode", "ticks[0] - after", "ticks[0]"),
        ("only the first program", "before + after", "before"),
    ],
    ("colab", "fetched"): [
        ("always from 0", "receive(len(have))", "receive(0)"),
        ("never forgives", "0 if piece else fruitless + 1", "fruitless + (not piece)"),
        ("one try too many", "fruitless == patience", "fruitless > patience"),
    ],
    ("full_model", "block"): [
        ("no residual around attention", "x_BTD = x_BTD + y_BTD", "x_BTD = y_BTD"),
        ("no residual around the experts", "return x_BTD + y_BTD, kv", "return y_BTD, kv"),
        ("the normed stream is kept", "h_BTD = rms", "x_BTD = h_BTD = rms"),
    ],
    ("full_model", "decode_step"): [
        ("position one too late", "cache.length_B[:, None]", "cache.length_B[:, None] + 1"),
        ("position one too early", "cache.length_B[:, None]", "cache.length_B[:, None] - 1"),
        ("position zero", "cache.length_B[:, None]", "jnp.zeros((len(token_B), 1), int)"),
    ],
    ("full_model", "top_p"): [
        ("sorted upward", "argsort(-logits_V)", "argsort(logits_V)"),
        ("the mask is left in sorted order", "order_V[kept_V]", "kept_V"),
        ("each token is compared with p", "kept_V = np.cumsum(p_V) - p_V < p", "kept_V = p_V >= p"),
    ],
    ("full_model", "prefill"): [
        ("the last column for all", "x_BTD[jnp.arange(len(x_BTD)), count_B - 1]", "x_BTD[:, -1]"),
        (
            "positions begin at zero",
            "cache.length_B[:, None] + jnp",
            "jnp.zeros((2, 1), int) + jnp",
        ),
        ("padding is counted", "cache.length_B + count_B", "cache.length_B + tokens_BT.shape[1]"),
    ],
    ("moe", "route"): [
        ("no bias", " + b_router_E", ""),
        ("zero for those not chosen", "-np.inf", "0"),
        ("the least likely experts", "np.argsort(logits_TE", "np.argsort(-logits_TE"),
    ],
    ("moe", "swiglu"): [
        ("gate and up swapped", "gate_F, up_F = gate", "up_F, gate_F = gate"),
        ("gate not clamped", "gate_F = np.minimum(gate_F, limit)", ""),
        ("up not clamped", "up_F = np.clip(up_F, -limit, limit)", ""),
    ],
    ("moe", "grouped"): [
        ("weights forgotten", "weight_TX[token, choice][:, None] * answer", "answer"),
        ("the last expert overwrites the others", "y_TD[token] +=", "y_TD[token] ="),
        ("the first weight for all choices", "weight_TX[token, choice]", "weight_TX[token, 0]"),
    ],
    ("moe", "active_parameters"): [
        ("all experts are counted", "X * expert", "E * expert"),
        ("the embedding is counted", "D + D * V", "D + 2 * D * V"),
        ("the unembedding is left out", "D + D * V", "D"),
    ],
    ("moe", "sorted_mixture"): [
        ("answers stay sorted", "jnp.zeros_like(y_RO).at[order_R].set(y_RO)", "y_RO"),
        ("tokens are tiled", "jnp.repeat(x_TD, X, axis=0)", "jnp.tile(x_TD, (X, 1))"),
        ("no weights", '"TX,TXO->TO", weight_TX, y_RO', '"TXO->TO", y_RO'),
    ],
    ("mxfp4", "decode_byte"): [
        ("high nibble first", "low, high =", "high, low ="),
        ("bias 128", "127", "128"),
        ("bias 126", "127", "126"),
    ],
    ("mxfp4", "quantize_block"): [
        ("the exponent is rounded", "math.floor", "round"),
        ("the largest lands at 1", " - 2\n", "\n"),
        ("the largest is signed", "largest = np.abs(w_32).max()", "largest = abs(w_32.max())"),
    ],
    ("mxfp4", "checkpoint_bytes"): [
        ("no scales", "* 17 // 32", "// 2"),
        ("twice the scales", "* 17 // 32", "* 18 // 32"),
        ("a scale is a float", "* 17 // 32", "* 20 // 32"),
    ],
    ("mxfp4", "best_byte"): [
        ("errors that are not squared", "gap.min(axis=1) ** 2", "gap.min(axis=1)"),
        ("the largest of equals", "np.argmin(losses)", "254 - np.argmin(losses[::-1])"),
        ("only the largest error", "(gap.min(axis=1) ** 2).sum()", "gap.min(axis=1).max()"),
    ],
    ("parity", "parity_test"): [
        ("too short for the window", "T = max(vocabulary, window + 1, 2 * context)", "T = window"),
        ("one conversation", "np.stack([tokens_T, tokens_T[::-1]])", "tokens_T[None]"),
        (
            "words for numbers",
            "gap_BTV = np.abs(reference(tokens_BT) - candidate(tokens_BT))",
            "gap_BTV = reference(tokens_BT).argmax(-1) != candidate(tokens_BT).argmax(-1)",
        ),
    ],
    ("precision", "needed_gib"): [
        ("everything in few bits", "others * 16", "others * bits"),
        ("others in 32 bits", "others * 16", "others * 32"),
        ("bits for bytes", " / 8", ""),
    ],
    ("precision", "pick"): [
        ("the narrowest", "max(", "min("),
        ("exactly full", "<= memory", "< memory"),
        ("the wrong way round", "<= memory", "> memory"),
    ],
    ("precision", "spec"): [
        ("an axis twice", '"whole" if axis in found else axis', "axis"),
        ("letters of the name", 'name.rsplit("_", 1)[-1]', 'name.replace("_", "")'),
        ("backwards", 'name.rsplit("_", 1)[-1]', 'reversed(name.rsplit("_", 1)[-1])'),
    ],
    ("precision", "first_flip"): [
        ("token first", "np.argwhere(flipped_LT)[0]", "np.argwhere(flipped_LT.T)[0][::-1]"),
        ("the last", "np.argwhere(flipped_LT)[0]", "np.argwhere(flipped_LT)[-1]"),
        ("swapped", "return int(layer), int(token)", "return int(token), int(layer)"),
    ],
    ("precision", "nearest_fp8"): [
        ("one bit too few", " - 3)", " - 2)"),
        ("no subnormal numbers", "np.maximum(exponent - 1, -6)", "(exponent - 1)"),
        ("half up", "np.round(x / step)", "np.floor(x / step + 0.5)"),
    ],
    ("precision", "must_stay_wide"): [
        ("the harmless one", "max(moved, key", "min(moved, key"),
        ("signed", "np.abs(network(rounded) - right)", "(network(rounded) - right)"),
        ("the rounding itself", "network(rounded) - right", "rounded[name] - tensors[name]"),
    ],
    ("precision", "summed_down"): [
        ("no sum over devices", 'jax.lax.psum(part_TD, "tensor")', "part_TD"),
        ("bias on every device", 'psum(part_TD, "tensor") + b_D', 'psum(part_TD + b_D, "tensor")'),
        ("the mean", "psum", "pmean"),
    ],
    ("primer", "compilations"): [
        (
            "values count",
            "(shape, dtype, static) for shape, dtype, _",
            "(shape, dtype, static, v) for shape, dtype, v",
        ),
        ("the dtype does not count", "{(shape, dtype, static)", "{(shape, static)"),
        ("static arguments do not count", "{(shape, dtype, static)", "{(shape, dtype)"),
    ],
    ("primer", "moving_averages"): [
        ("the parts are swapped", "keep * y + (1 - keep) * x", "keep * x + (1 - keep) * y"),
        ("it begins at zero", "leaf[0]", "0 * leaf[0]"),
        ("nothing is carried", "return carry, carry", "return first, carry"),
    ],
    ("primer", "weighted_values"): [
        ("conversations are mixed", "BSH->", "ASH->"),
        ("absolute weights", 'H", w_BTS,', 'H", jnp.abs(w_BTS),'),
        ("a mean", 'H", w_BTS,', 'H", w_BTS / w_BTS.shape[2],'),
    ],
    ("rope", "rotate"): [
        ("two minus signs", "second * cos + first * sin", "second * cos - first * sin"),
        ("two plus signs", "first * cos - second * sin", "first * cos + second * sin"),
        ("cos and sin swapped", "cos, sin = ", "sin, cos = "),
    ],
    ("rope", "shift_keys"): [
        ("forward", "shift * inv_C", "-shift * inv_C"),
        ("interleaved", "jnp.split(k_BSKH, 2, axis=-1)", "(k_BSKH[..., 0::2], k_BSKH[..., 1::2])"),
        ("the concentration again", "jnp.split(k_BSKH,", "jnp.split(1.3 * k_BSKH,"),
    ],
    ("rope", "to_half_split"): [
        ("nothing moves", HALVES, "w_DNH.copy()"),
        ("reversed", HALVES, "np.flip(w_DNH, axis=-1)"),
        ("halves swapped", HALVES, "np.roll(w_DNH, w_DNH.shape[-1] // 2, -1)"),
    ],
    ("rope", "yarn"): [
        ("no YaRN", "plain_C * (1 - slow_C) + plain_C / factor * slow_C", "plain_C"),
        ("slow pairs are sped up", "plain_C / factor", "plain_C * factor"),
        ("half the exponent", "-2 * pair_C", "-pair_C"),
    ],
    ("rope", "first_lost_position"): [
        ("the last that survives", "return position", "return position - 1"),
        ("the next that survives", "return position", "return position + 1"),
        ("one over eps", "return position", "return round(1 / float(jnp.finfo(dtype).eps))"),
    ],
    ("speed", "token_bytes"): [
        ("all experts", 'size * chosen / experts if name.endswith("experts") else size', "size"),
        ("one expert", "size * chosen / experts", "size / experts"),
        ("the embedding", 'if name != "embedding":', "if True:"),
    ],
    ("speed", "steps_that_agree"): [
        ("no tolerance", "abs(x - y) > 0.1 + 0.1 * abs(y)", "x != y"),
        ("absolute only", "abs(x - y) > 0.1 + 0.1 * abs(y)", "abs(x - y) > 0.1"),
        ("relative only", "abs(x - y) > 0.1 + 0.1 * abs(y)", "abs(x - y) > 0.1 * abs(y)"),
    ],
    ("speed", "context_bytes"): [
        ("keys only", "2 * 4 *", "4 *"),
        ("no window", "min(context, window or context)", "context"),
        ("always a whole window", "min(context, window or context)", "window or context"),
    ],
    ("speed", "prefill_bytes"): [
        ("one by one", "experts * (1 - (1 - chosen / experts) ** tokens)", "chosen * tokens"),
        ("all experts", "experts * (1 - (1 - chosen / experts) ** tokens)", "experts"),
        ("the rest per token", "+ other_bytes) / tokens", "+ other_bytes * tokens) / tokens"),
    ],
    ("speed", "tiled_product"): [
        ("nibbles the wrong way round", "reshape(J, U, 2)", "reshape(J, U, 2)[:, :, ::-1]"),
        ("only the last block", "y_LW[tile] +=", "y_LW[tile] ="),
        ("outputs dealt out", "y_LW.reshape", "y_LW.T.reshape"),
    ],
    ("start_here", "by_channel"): [
        ("only the last piece", 'texts.get(piece.channel, "") + piece', "piece"),
        ("spaces are stripped", "return texts", "return {k: v.strip() for k, v in texts.items()}"),
        ("spaces of each piece are stripped", "piece.text", "piece.text.strip()"),
    ],
    ("start_here", "count_parameters"): [
        ("a byte is one weight", "Mxfp4", "str"),
        ("layers only", "leaves(params,", "leaves(params.layers,"),
        ("tied embedding", "leaves(params,", f"leaves([{TIED}],"),
    ],
    ("start_here", "hidden_steps"): [
        ("counted from 1", "return step,", "return step + 1,"),
        ("signed", "np.abs(a - b).max()", "(a - b).max()"),
        ("the text does not grow", "(*ids, int(a.argmax()))", "ids"),
    ],
    ("start_here", "largest_difference"): [
        ("signed", "np.max(np.abs(a - b))", "np.max(a - b)"),
        ("absolute value of the maximum", "np.max(np.abs(a - b))", "abs(a.max() - b.max())"),
        ("mean", "np.max(", "np.mean("),
    ],
    ("tokens", "injection_test"): [
        (
            "one token only",
            "start end message channel constrain return call startoftext endoftext",
            "end",
        ),
        ("the first message only", '[("user", "Hi"), (role, ', "[(role, "),
        ("the text may be lost", " or text not in decode(ids)", ""),
    ],
    ("tokens", "merges"): [
        ("every word counts once", "+ words[word]", "+ 1"),
        ("the rarest pair", "(-counts", "(counts"),
        ("joined pieces are returned", "merges.append(best)", 'merges.append("".join(best))'),
    ],
    ("tokens", "conversation"): [
        ("a list inside the list", "*encode(message.text)", "encode(message.text)"),
        ("messages are not closed", "ids.append(CALL if calls else END)", "pass"),
        ("nobody has the word", 'return [*ids, START, *encode("assistant")]', "return ids"),
    ],
    ("tokens", "header"): [
        ("nobody speaks", 'else "assistant"', "else None"),
        ("an empty author", 'else "assistant"', 'else ""'),
        ("the recipient is the author", "pop(0) if named", "pop(0) if words"),
    ],
    ("training", "loss_positions"): [
        ("the first token of the reply is left out", "reply_at - 1,", "reply_at,"),
        ("the stop token is left out", "len(tokens) - 1", "len(tokens) - 2"),
        ("the targets are not moved", "where_L + 1", "where_L"),
    ],
    ("training", "uneven"): [
        ("padding counts", "[real_M]", ""),
        ("E is forgotten", "E * (", "("),
        ("the first choice only", "expert_MX[real_M]", "expert_MX[real_M, 0]"),
    ],
    ("training", "held_out"): [
        ("the task is left out", 'f"{task}|{pair}"', "pair"),
        ("smallest byte first", '"big"', '"little"'),
        ("the last four bytes", "digest[:4]", "digest[-4:]"),
    ],
    ("training", "adamw"): [
        ("no bias correction", "m / (1 - b1**t), v / (1 - b2**t)", "m, v"),
        ("ε inside the root", "(np.sqrt(fair_v) + eps)", "np.sqrt(fair_v + eps)"),
        ("v averages the gradients", "g**2", "abs(g)"),
    ],
}
