"""Chapter 01: solutions with a line changed, as a reader would get it wrong."""

COUNTED = "counts[pair] = counts.get(pair, 0) + words[word]"
BEST = "best = min(counts, key=lambda pair: (-counts[pair], pair))"
LOOP = (
    "            at, glued = 0, []\n"
    "            while at < len(pieces):\n"
    "                found = tuple(pieces[at : at + 2]) == best\n"
    '                glued.append("".join(best) if found else pieces[at])\n'
    "                at += 2 if found else 1\n"
)
WHO = 'who = message.name if message.role == "tool" else message.role\n'
LAST = 'return [*ids, START, *encode("assistant")]'
CLOSED = "ids.append(CALL if calls else END)"
TO = '            who += f" to={message.recipient}"\n'
CHANNEL = "ids += [CHANNEL, *encode(message.channel)]"
KIND = 'ids += [*encode(" "), CONSTRAIN, *encode(kind)]'
SPELLED = (
    "    from gptoss_edu.tokenizer import Tokenizer\n"
    "    spelled, text = [], lambda token: Tokenizer().decode([token])\n"
    "    for token in ids:\n"
    "        spelled += encode(text(token)) if token >= 200000 else [token]\n"
    '    return [*spelled, *encode("<|start|>"), *encode("assistant")]'
)
REST = 'rest = after.replace("<|constrain|>", " ").split()'
RETURNED = "    return found\n"
PLANTED = [
    ("merges", "every word counts once", [("+ words[word]", "+ 1")]),
    (
        "merges",
        "a pair counts once per word",
        [("in zip(pieces, pieces[1:]):", "in set(zip(pieces, pieces[1:])):")],
    ),
    (
        "merges",
        "never counted again",
        [
            (
                "    for _ in range(count):\n        counts = {}\n",
                "    counts = {}\n    if True:\n",
            ),
            (
                "        if not counts:\n            break\n",
                "        return sorted(counts, key=lambda p: (-counts[p], p))[:count]\n",
            ),
        ],
    ),
    (
        "merges",
        "across words",
        [
            (
                "    pieces_of = {",
                '    words = {"".join(w * n for w, n in words.items()): 1}\n    pieces_of = {',
            )
        ],
    ),
    (
        "merges",
        "only the first place in a word",
        [
            (
                LOOP,
                "            places = [pair == best for pair in zip(pieces, pieces[1:])]\n"
                "            glued = list(pieces)\n"
                "            if any(places):\n"
                "                at = places.index(True)\n"
                '                glued[at : at + 2] = ["".join(best)]\n',
            )
        ],
    ),
    (
        "merges",
        "glued inside other pieces",
        [
            (
                LOOP,
                '            glued = " ".join(pieces).replace(" ".join(best), "".join(best))\n'
                "            glued = glued.split()\n",
            )
        ],
    ),
    ("merges", "the first pair seen wins a tie", [(BEST, "best = max(counts, key=counts.get)")]),
    (
        "merges",
        "the last in the alphabet wins a tie",
        [(BEST, "best = max(counts, key=lambda pair: (counts[pair], pair))")],
    ),
    ("merges", "the rarest pair", [("(-counts", "(counts")]),
    (
        "merges",
        "glued pieces are returned",
        [("merges.append(best)", 'merges.append("".join(best))')],
    ),
    ("conversation", "control tokens are spelled", [(f"    {LAST}", SPELLED)]),
    ("conversation", "a list inside the list", [("*encode(message.text)", "encode(message.text)")]),
    ("conversation", "messages are not closed", [(CLOSED, "pass")]),
    ("conversation", "nobody has the word", [(LAST, "return ids")]),
    ("conversation", "only start", [(LAST, "return [*ids, START]")]),
    (
        "conversation",
        "the channel is chosen for the model",
        [(LAST, LAST[:-1] + ', CHANNEL, *encode("analysis"), MESSAGE]')],
    ),
    (
        "conversation",
        "lines between messages",
        [(CLOSED, f'{CLOSED}\n        ids += encode("\\n")')],
    ),
    ("conversation", "a token at the beginning", [("ids = []", "ids = [199998]")]),
    ("conversation", "no channel", [(CHANNEL, "pass")]),
    (
        "conversation",
        "return in the history",
        [(CLOSED, 'ids.append(RETURN if message.channel == "final" else CALL if calls else END)')],
    ),
    ("conversation", "a call is closed by end", [(CLOSED, "ids.append(END)")]),
    (
        "conversation",
        "a tool's result is closed by call",
        [('message.role == "assistant" and message.recipient', "message.recipient")],
    ),
    ("conversation", "no recipient", [(TO, "            pass\n")]),
    (
        "conversation",
        "the recipient comes after the channel",
        [
            (TO, "            pass\n"),
            (
                "encode(message.channel)",
                'encode(message.channel + f" to={message.recipient}" * bool(message.recipient))',
            ),
        ],
    ),
    ("conversation", "the tool has no name", [(WHO, "who = message.role\n")]),
    (
        "conversation",
        "the marker is spelled",
        [(KIND, 'ids += encode(" " + message.content_type)')],
    ),
    ("conversation", "no space before the marker", [('*encode(" "), ', "")]),
    ("conversation", "no content type", [(KIND, "pass")]),
    (
        "conversation",
        "a user can forge messages",
        [
            (
                "*encode(message.text)",
                '*load_encoding().encode(message.text, allowed_special="all")',
            )
        ],
    ),
    ("header", "nobody speaks", [('else "assistant"', "else None")]),
    ("header", "an empty author", [('else "assistant"', 'else ""')]),
    ("header", "the recipient is the author", [("pop(0) if named", "pop(0) if words")]),
    ("header", "no recipient after the channel", [("in words + rest", "in words")]),
    ("header", "no recipient before the channel", [("in words + rest", "in rest")]),
    ("header", "to= is kept", [('.removeprefix("to=")', "")]),
    (
        "header",
        "the marker sticks to its neighbor",
        [(REST, 'rest = after.replace(" <|constrain|>", " ").split()')],
    ),
    (
        "header",
        "the marker is kept",
        [
            (
                RETURNED,
                '    if found["content_type"] and "<|constrain|>" in header:\n'
                '        found["content_type"] = "<|constrain|>" + found["content_type"]\n'
                + RETURNED,
            )
        ],
    ),
    (
        "header",
        "the marker is needed",
        [("        else:\n", '        elif "<|constrain|>" in header:\n')],
    ),
    (
        "header",
        "the content type is the recipient",
        [
            (
                RETURNED,
                '    if found["recipient"] is None:\n'
                '        found["recipient"] = found.pop("content_type")\n'
                '    return {"content_type": None} | found\n',
            )
        ],
    ),
    ("header", "empty words", [(".split()", '.split(" ")')]),
    (
        "header",
        "unknown channels are dropped",
        [
            (
                RETURNED,
                '    if found["channel"] not in ("analysis", "commentary", "final"):\n'
                '        found["channel"] = None\n' + RETURNED,
            )
        ],
    ),
]
FORMS = [
    (
        "merges",
        [("return merges", "return dict.fromkeys(merges)")],
        "should be a list of 2, found a dict",
    ),
    (
        "merges",
        [("return merges", "return iter(merges)")],
        "should be a list of 2, found a list_iterator",
    ),
    ("conversation", [(LAST, 'return " ".join(map(str, ids))')], "should be a list of"),
    (
        "header",
        [(RETURNED, "    return tuple(found.values())\n")],
        "should be a dict, found a tuple of 4",
    ),
]
