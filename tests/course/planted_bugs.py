"""Chapter a2: solutions with one line changed, as a reader would get it wrong."""

EQUAL = "if row_S.tolist() != wanted_S"
KEYS = "[[-1, 0, 3, 4, 5, 6, 7, 8, 9]]"
FARTHEST = "int((query - key).max()) + 1"
GAP = "np.inf if a.shape != b.shape else np.nan_to_num(np.abs(a - b).max(), nan=np.inf)"
PLANTED = [
    (
        "first_difference",
        "the largest difference",
        [
            ("    for index", "    found = []\n    for index"),
            ("return index", f"found.append(({GAP}, -index))"),
            ("return -1", "return -max(found)[1] if found else -1"),
        ],
    ),
    (
        "first_difference",
        "the last difference",
        [
            ("    for index", "    found = -1\n    for index"),
            ("return index", "found = index"),
            ("return -1", "return found"),
        ],
    ),
    ("first_difference", "counted from 1", [("return index", "return index + 1")]),
    (
        "first_difference",
        "NaN passes",
        [("not np.abs(a - b).max() <= atol", "np.abs(a - b).max() > atol")],
    ),
    ("first_difference", "signed", [("np.abs(a - b)", "(b - a)")]),
    ("first_difference", "mean", [(".max()", ".mean()")]),
    ("first_difference", "shapes are broadcast", [("a.shape != b.shape or ", "")]),
    ("first_difference", "no tolerance", [("<= atol", "<= 0")]),
    ("reach", "the query itself is not counted", [(" + 1", "")]),
    ("reach", "keys are counted", [(FARTHEST, "int((weights_NTS > 0).sum(axis=-1).max())")]),
    (
        "reach",
        "the last query only",
        [("(query - key).max()", "(query - key)[query == query.max()].max()")],
    ),
    ("reach", "the first head only", [("nonzero(weights_NTS)", "nonzero(weights_NTS[:1])")]),
    ("reach", "all keys", [(FARTHEST, "weights_NTS.shape[2]")]),
    (
        "reach",
        "the strongest key",
        [
            (
                "nonzero(weights_NTS)",
                "nonzero(weights_NTS == weights_NTS.max(axis=-1, keepdims=True))",
            )
        ],
    ),
    ("window_test", "the right one is refused", [("0 <= q - k < limit", "0 < q - k < limit")]),
    (
        "window_test",
        "one key too many passes",
        [(EQUAL, "if any(w and not s for s, w in zip(row_S, wanted_S))")],
    ),
    (
        "window_test",
        "one key too few passes",
        [(EQUAL, "if any(s and not w for s, w in zip(row_S, wanted_S))")],
    ),
    (
        "window_test",
        "no window passes",
        [(EQUAL, "if row_S.tolist() not in (wanted_S, [0 <= k <= q for k in k_BS[0]])")],
    ),
    (
        "window_test",
        "the future passes",
        [("[[7, 8]]", "[[8]]"), ("8, 9]]", "8]]")],
    ),
    ("window_test", "a query that cannot see itself passes", [("6, 7, 8, 9]]", "6, 9]]")]),
    ("window_test", "padding passes", [("[[-1, 0,", "[[0,")]),
    (
        "window_test",
        "places for positions passes",
        [("[[7, 8]]", "[[0, 1, 2, 3, 4, 5]]"), (KEYS, "[[0, 1, 2, 3, 4, 5, -1]]")],
    ),
    ("window_test", "a window on full layers passes", [("(4, None)", "(4,)")]),
]
