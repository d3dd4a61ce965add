// Byte pair encoding, one merge at a time. Chapter 01.
function draw(data, values) {
  const steps = data[values.word], last = steps.length - 1, at = Math.min(values.merges, last);
  const edges = step => { let x = 0; return step.map(([, , bytes]) => [x, (x += bytes)]); };
  const made = new Set(at ? edges(steps[at - 1]).map(String) : edges(steps[0]).map(String));
  const bytes = steps[0].length, unit = Math.min(46, 740 / bytes), pieces = edges(steps[at]);
  const now = steps[at].map(([text, id], index) => {
    const [begin, end] = pieces[index], x = 10 + unit * begin, fresh = !made.has(String(pieces[index]));
    return [
      rect(x + 2, 14, unit * (end - begin) - 4, 40, fresh ? "#f3c98b" : PALE, { stroke: INK, "stroke-width": fresh ? 2 : 0.7, rx: 3 }),
      label(x + (unit * (end - begin)) / 2, 33, text, { "text-anchor": "middle" }),
      label(x + (unit * (end - begin)) / 2, 48, id, { "text-anchor": "middle", "font-size": 9.5 }),
    ];
  });
  const fresh = steps[at].find((_, index) => !made.has(String(pieces[index])));
  const told = at === 0 ? `${bytes} bytes, and as many pieces.`
    : `Merge ${at} of ${last} makes “${fresh[0]}”, id ${fresh[1].toLocaleString("en")}: the lowest id of all pairs.`;
  const left = at === last ? ` No pair is left: ${steps[at].length} token${steps[at].length === 1 ? "" : "s"}.` : "";
  return { picture: svg(760, 66, now), text: told + left + (values.merges > last ? " (There are no more merges.)" : "") };
}
