"""Chapter a1: solutions with one line changed, as a reader would get it wrong."""

MEAN = "probability_ME[real_M].mean(axis=0)"
PLANTED = [
    (
        "loss_positions",
        "every token counts",
        [("np.arange(reply_at - 1, len(tokens) - 1)", "np.arange(len(tokens) - 1)")],
    ),
    (
        "loss_positions",
        "each token is asked for itself",
        [("reply_at - 1, len(tokens) - 1", "reply_at, len(tokens)"), ("where_L + 1", "where_L")],
    ),
    (
        "loss_positions",
        "the first token of the reply is left out",
        [("reply_at - 1,", "reply_at,")],
    ),
    ("loss_positions", "the stop token is left out", [("len(tokens) - 1", "len(tokens) - 2")]),
    (
        "loss_positions",
        "the prompt counts and the reply does not",
        [("reply_at - 1, len(tokens) - 1", "reply_at - 1")],
    ),
    ("loss_positions", "the targets are not moved", [("where_L + 1", "where_L")]),
    ("uneven", "padding counts", [("[real_M]", "")]),
    ("uneven", "E is forgotten", [("E * (", "(")]),
    ("uneven", "the first choice only", [("expert_MX[real_M]", "expert_MX[real_M, 0]")]),
    ("uneven", "choices per token", [("/ len(chosen)", "/ real_M.sum()")]),
    ("uneven", "shares alone", [(MEAN, "share_E")]),
    ("uneven", "probabilities alone", [(f"share_E * {MEAN}", f"{MEAN} ** 2")]),
    (
        "uneven",
        "each token for itself",
        [
            (
                f"(share_E * {MEAN}).sum()",
                "np.take_along_axis(probability_ME[real_M], expert_MX[real_M], 1).mean()",
            )
        ],
    ),
    ("held_out", "the task is left out", [('f"{task}|{pair}"', "pair")]),
    ("held_out", "smallest byte first", [('"big"', '"little"')]),
    ("held_out", "the last four bytes", [("digest[:4]", "digest[-4:]")]),
    ("held_out", "one byte", [("digest[:4]", "digest[:1]")]),
    (
        "held_out",
        "Python's own hash",
        [('int.from_bytes(digest[:4], "big")', 'hash(f"{task}|{pair}")')],
    ),
    ("held_out", "the wrong side", [("== 0", "!= 0")]),
]
