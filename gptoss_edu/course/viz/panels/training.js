// What a model says while it learns: the loss of every step, and replies at some of them. Chapter a1.
function draw(data, values) {
  const at = data.steps.indexOf(values.step), which = data.questions.indexOf(values.question);
  const { text, right } = data.replies[at][which], last = data.loss.length;
  const low = Math.floor(Math.log10(Math.min(...data.loss))), high = Math.ceil(Math.log10(Math.max(...data.loss)));
  const x = step => 70 + 660 * step / last, y = loss => 15 + 150 * (high - Math.log10(loss)) / (high - low);
  const powers = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
  const ticks = powers.map(value => [
    line(70, y(value), 730, y(value), PALE),
    label(62, y(value) + 5, +value.toPrecision(1), { "text-anchor": "end", "font-size": 12 }),
  ]);
  const curve = data.loss.map((loss, i) => `${x(i + 1).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
  const rows = text.match(/.{1,88}/gsu) || [""];
  const said = rows.slice(0, 4).map((row, i) =>
    label(10, 245 + 20 * i, row, { "font-family": "monospace", "font-size": 13, "xml:space": "preserve" }));
  const verdict = right ? "right" : "wrong";
  return {
    picture: svg(760, 320, ticks, shape("polyline", { points: curve, fill: "none", stroke: BLUE, "stroke-width": 1.5 }),
      line(x(values.step), 15, x(values.step), 165, VERMILION, { "stroke-dasharray": "5 4" }),
      label(10, 190, `loss in nats; red: after ${values.step} of ${last} steps`, { "font-size": 12 }),
      label(10, 220, `${values.question}  →  ${verdict}`, { fill: right ? "#00664d" : "#a33f00", "font-weight": "bold" }), said),
    text: `After ${values.step} steps ${data.scores[at]} of ${data.asked} held-out questions are answered right; this one is ${verdict}.`,
  };
}
