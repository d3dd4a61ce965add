"""Chapter 02: solutions with one line changed, as a reader would get it wrong."""

SPLIT = "first, second = jnp.split(x_BTNH, 2, axis=-1)"
NEIGHBORS = "first, second = x_BTNH[..., 0::2], x_BTNH[..., 1::2]"
JOIN = "jnp.concatenate([new_first, new_second], axis=-1)"
IN_TURN = "jnp.stack([new_first, new_second], axis=-1).reshape(x_BTNH.shape)"
FIRST, SECOND = "first * cos - second * sin", "second * cos + first * sin"
COS, SIN = "cos_BTC[:, :, None, :]", "sin_BTC[:, :, None, :]"
SORTED = "np.concatenate([w_DNH[..., 0::2], w_DNH[..., 1::2]], axis=-1)"
BORDERS = "border(beta_fast), border(beta_slow)"
RAMP = "np.clip((pair_C - low) / (high - low), 0, 1)"
BLEND = "plain_C * (1 - slow_C) + plain_C / factor * slow_C"
TURNS = "initial_context * plain_C / (2 * math.pi)"
CONCENTRATION = "0.1 * math.log(factor) + 1"
POSITION = "return position"
PLANTED = [
    ("rotate", "interleaved", [(SPLIT, NEIGHBORS), (JOIN, IN_TURN)]),
    ("rotate", "interleaved in, half-split out", [(SPLIT, NEIGHBORS)]),
    ("rotate", "backward", [(FIRST, "first * cos + second * sin"),
                            (SECOND, "second * cos - first * sin")]),
    ("rotate", "two minus signs", [(SECOND, "second * cos - first * sin")]),
    ("rotate", "two plus signs", [(FIRST, "first * cos + second * sin")]),
    ("rotate", "the second line uses the new first half",
     [(SECOND, "second * cos + new_first * sin")]),
    ("rotate", "cos and sin swapped", [("cos, sin = ", "sin, cos = ")]),
    ("rotate", "halves swapped", [("[new_first, new_second]", "[new_second, new_first]")]),
    ("rotate", "only the first half is turned", [(SECOND, "second")]),
    ("rotate", "the first token's angles for all",
     [(COS, "cos_BTC[:, :1, None, :]"), (SIN, "sin_BTC[:, :1, None, :]")]),
    ("rotate", "the first conversation's angles for all",
     [(COS, "cos_BTC[:1, :, None, :]"), (SIN, "sin_BTC[:1, :, None, :]")]),
    ("to_half_split", "the other way round",
     [(SORTED, "np.stack(np.split(w_DNH, 2, axis=-1), axis=-1).reshape(w_DNH.shape)")]),
    ("to_half_split", "nothing moves", [(SORTED, "w_DNH.copy()")]),
    ("to_half_split", "odd numbers first",
     [("0::2", "X"), ("1::2", "0::2"), ("X", "1::2")]),
    ("to_half_split", "halves swapped", [(SORTED, "np.roll(w_DNH, w_DNH.shape[-1] // 2, -1)")]),
    ("to_half_split", "reversed", [(SORTED, "np.flip(w_DNH, axis=-1)")]),
    ("to_half_split", "across heads",
     [(SORTED, "w_DNH.reshape(len(w_DNH), -1, 2).swapaxes(1, 2).reshape(w_DNH.shape)")]),
    ("yarn", "the ramp is rounded",
     [(BORDERS, "math.floor(border(beta_fast)), math.ceil(border(beta_slow))")]),
    ("yarn", "upside down", [(BORDERS, "border(beta_slow), border(beta_fast)")]),
    ("yarn", "upside down", [(BLEND, "plain_C * slow_C + plain_C / factor * (1 - slow_C)")]),
    ("yarn", "the ramp is not clipped", [(RAMP, "(pair_C - low) / (high - low)")]),
    ("yarn", "the ramp runs over turns",
     [(RAMP, f"np.clip((beta_fast - {TURNS}) / (beta_fast - beta_slow), 0, 1)")]),
    ("yarn", "wavelengths are blended",
     [(BLEND, "1 / ((1 - slow_C) / plain_C + factor / plain_C * slow_C)")]),
    ("yarn", "no YaRN", [(BLEND, "plain_C")]),
    ("yarn", "every pair is slowed", [(BLEND, "plain_C / factor")]),
    ("yarn", "slow pairs are sped up", [("plain_C / factor", "plain_C * factor")]),
    ("yarn", "half the exponent", [("-2 * pair_C", "-pair_C")]),
    ("yarn", "wrong base", [("pair_C = np", "theta = 10000\n    pair_C = np")]),
    ("yarn", "2π is missing", [("(2 * math.pi * beta)", "beta")]),
    ("yarn", "turns in the stretched context",
     [("turns = initial_context", "turns = initial_context * factor")]),
    ("yarn", "no concentration", [(CONCENTRATION, "1.0")]),
    ("yarn", "concentration squared", [(CONCENTRATION, f"({CONCENTRATION}) ** 2")]),
    ("yarn", "another logarithm", [("math.log(factor)", "math.log10(factor)")]),
    ("yarn", "concentration in the frequencies",
     [("return inv_C", f"inv_C = inv_C * ({CONCENTRATION})\n    return inv_C")]),
    ("first_lost_position", "the last that survives", [(POSITION, "return position - 1")]),
    ("first_lost_position", "the next that survives", [(POSITION, "return position + 1")]),
    ("first_lost_position", "the hidden bit is forgotten",
     [(POSITION, "return 2 ** jnp.finfo(dtype).nmant + 1")]),
    ("first_lost_position", "one over eps",
     [(POSITION, "return round(1 / float(jnp.finfo(dtype).eps))")]),
    ("first_lost_position", "the largest number",
     [(POSITION, "return int(float(jnp.finfo(dtype).max))")]),
    ("first_lost_position", "all bits",
     [(POSITION, "return 2 ** (8 * np.dtype(dtype).itemsize)")]),
    ("first_lost_position", "gaps of four", [(POSITION, "return 2 * (position - 1) + 1")]),
]  # fmt: skip
FORMS = [
    ("rotate", [(JOIN, "jnp.stack([new_first, new_second])")], "should have shape (2, 3, 5, 8)"),
    ("rotate", [(JOIN, "new_first, new_second")], "should be an array, found a tuple of 2"),
    ("rotate", [(JOIN, f"{JOIN}.astype(jnp.bfloat16)")], "should be float32, found bfloat16"),
    ("rotate", [("[:, :, None, :]", "")], "it stopped in line 4 of your function with "),
    ("to_half_split", [(SORTED, "w_DNH[..., 0::2]")], "should have shape (3, 2, 8), found (3, 2"),
    ("yarn", [(f", {CONCENTRATION}", "")], "should return 2 things, (inv_C, concentration)"),
    ("yarn", [("head_dim // 2", "head_dim")], "inv_C should have shape (32,), found (64,)"),
    ("first_lost_position", [(POSITION, "return str(position)")], "should be a number, found a"),
]
