"""Chapter 09: solutions with one line changed, as a reader would get it wrong."""

PLANTED = [
    ("next_range", "from the start", [("bytes={have}-", "bytes=0-")]),
    ("next_range", "one too far", [("{have}", "{have + 1}")]),
    ("next_range", "whole and asked again", [("have == size", "have == -1")]),
    ("next_range", "too long and kept", [("have == size", "have >= size")]),
    ("stalled", "since the beginning", [("since, most = now, count", "most = count")]),
    ("stalled", "any report counts", [("if count > most", "if True")]),
    ("stalled", "one look late", [(">= limit", "> limit")]),
    ("stalled", "the place", [("return now", "return seconds.index(now)")]),
    ("first_token", "compiling counted as prefill", [("began - before", "began")]),
    ("first_token", "compiling counted as decode", [("ticks[0] - after", "ticks[0]")]),
    ("first_token", "only the first program", [("before + after", "before")]),
    ("first_token", "posts for gaps", [("(len(ticks) - 1)", "len(ticks)")]),
]

FORMS = [
    ("next_range", [('f"bytes={have}-"', "have")], "found an int"),
    ("stalled", [("return -1", "return None")], "Is there a `return`"),
    ("first_token", [(", decode / (len(ticks) - 1)", "")], "3 things"),
]
