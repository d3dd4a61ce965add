// One token's way to its experts: logits, the few that are kept, their softmax. Chapter 04.
function draw(data, values) {
  const at = data.tokens.indexOf(values.token), logits = data.logits[values.layer][at];
  const order = logits.map((_, e) => e).sort((a, b) => logits[b] - logits[a] || a - b);
  const asked = order.slice(0, values["experts asked"]);
  const exps = logits.map(z => Math.exp(z - logits[order[0]]));
  const sum = asked.reduce((total, e) => total + exps[e], 0);
  const weight = logits.map((_, e) => (asked.includes(e) ? exps[e] / sum : 0));
  const most = Math.max(...logits.map(Math.abs), 1), height = 28 * logits.length;
  const rows = logits.map((z, e) => {
    const y = 34 + 28 * e, kept = weight[e] > 0, from = 250 + Math.min(0, 90 * z / most);
    return [
      line(92, 34 + height / 2, 150, y + 9, LINE),
      rect(from, y, 90 * Math.abs(z) / most, 18, kept ? BLUE : PALE, { stroke: kept ? BLUE : LINE }),
      label(352, y + 14, z.toFixed(1), { "font-size": 12 }),
      rect(400, y - 3, 92, 24, kept ? "#8ccfb9" : "#fcfbf8", { stroke: kept ? INK : LINE, "stroke-dasharray": kept ? "0" : "3 3" }),
      label(412, y + 14, `expert ${e}`, { fill: kept ? INK : "#5f5b52" }),
      kept ? line(492, y + 9, 640, 34 + height / 2, INK, { "stroke-width": 0.8 + 8 * weight[e] }) : "",
      kept ? label(500, y + 4, weight[e].toFixed(2), { "font-size": 13, "font-weight": "bold" }) : "",
    ];
  });
  const name = values.token.replace(/^\d+ · /, "");
  const heads = [label(160, 20, "logit of the router"), label(400, 20, "asked"), label(500, 20, "softmax over these")];
  const ends = [
    rect(8, 19 + height / 2, 84, 30, "#b3ddf6", { stroke: INK }), label(16, 39 + height / 2, name.slice(0, 10)),
    rect(640, 19 + height / 2, 70, 30, "#b3ddf6", { stroke: INK }), label(655, 39 + height / 2, "sum"),
    line(250, 28, 250, 30 + height, LINE),
  ];
  const told = asked.map(e => `expert ${e} with weight ${weight[e].toFixed(2)}`).join(", ");
  return {
    picture: svg(730, 44 + height, rows, heads, ends),
    text: `On layer ${values.layer} the token ${name} asks ${told}. Together the weights are 1.`,
  };
}
