"""Chapter 07: solutions with one line changed, as a reader would get it wrong."""

TOTAL = "(weights + cache) / 2**30 / devices"
FITTING = "fitting = [name for name in needs if needs[name] <= memory]"
PICKED = 'max(fitting, key=needs.get) if fitting else "nothing"'
LETTERS = 'name.rsplit("_", 1)[-1]'
TAKEN = '"whole" if axis in found else axis'
SETS = "np.sort(truth_LTX, axis=-1) != np.sort(other_LTX, axis=-1)"
FIRST = "np.argwhere(flipped_LT)[0]"
PLANTED = [
    ("needed_gib", "everything in few bits", [("others * 16", "others * bits")]),
    ("needed_gib", "others in 32 bits", [("others * 16", "others * 32")]),
    ("needed_gib", "bits for bytes", [(" / 8", "")]),
    ("needed_gib", "GB", [("2**30", "10**9")]),
    ("needed_gib", "no cache", [("(weights + cache)", "weights")]),
    ("needed_gib", "one device holds all", [(" / devices", "")]),
    ("pick", "the narrowest", [("max(", "min(")]),
    ("pick", "the first", [(PICKED, 'fitting[0] if fitting else "nothing"')]),
    ("pick", "exactly full", [("<= memory", "< memory")]),
    ("pick", "the wrong way round", [("<= memory", "> memory")]),
    ("pick", "something anyway", [('"nothing"', "min(needs, key=needs.get)")]),
    ("spec", "an axis twice", [(TAKEN, "axis")]),
    ("spec", "letters of the name", [(LETTERS, 'name.replace("_", "")')]),
    ("spec", "backwards", [(LETTERS, f"reversed({LETTERS})")]),
    ("spec", "backwards", [(f"found.append({TAKEN})", f"found.insert(0, {TAKEN})")]),
    (
        "spec",
        "whole axes left out",
        [("return found", 'return [axis for axis in found if axis != "whole"]')],
    ),
    ("spec", "keys left whole", [("NKPFVO", "NPFVO")]),
    ("spec", "width cut", [("NKPFVO", "NKPFVOD")]),
    ("first_flip", "order counts", [(SETS, "truth_LTX != other_LTX")]),
    ("first_flip", "token first", [(FIRST, "np.argwhere(flipped_LT.T)[0][::-1]")]),
    (
        "first_flip",
        "token first",
        [(FIRST, "min(np.argwhere(flipped_LT), key=lambda place: tuple(place[::-1]))")],
    ),
    ("first_flip", "the last", [(FIRST, "np.argwhere(flipped_LT)[-1]")]),
    ("first_flip", "swapped", [("return int(layer), int(token)", "return int(token), int(layer)")]),
]

FORMS = [
    ("needed_gib", [(TOTAL, f"str({TOTAL})")], "should be a number, found a str"),
    ("pick", [(PICKED, "fitting")], "found a list"),
    ("spec", [("return found", 'return " ".join(found)')], "found a str"),
    ("first_flip", [("return int(layer), int(token)", "return int(layer)")], "2 things"),
]
