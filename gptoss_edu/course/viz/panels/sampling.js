// Temperature, then top-k, top-p and min-p, as the library applies them. Chapter 06.
// The tokens of a place are sorted, so each filter keeps the first so many of them.
function draw(data, values) {
  const { names, logits } = data[values.place], tau = values.temperature, V = logits.length;
  const sum = (numbers, end = V) => numbers.slice(0, end).reduce((all, one) => all + one, 0);
  const weights = logits.map((z, i) => (tau ? Math.exp(z / tau) : +!i)), plain = logits.map(z => Math.exp(z));
  let kept = Math.min(values["top-k"], V);
  if (values["top-p"] < 1) {
    const enough = values["top-p"] * sum(weights, kept);
    let n = 0;
    for (let before = 0; n < kept && before < enough; n++) before += weights[n];
    kept = n;
  }
  while (kept > 1 && weights[kept - 1] < values["min-p"] * weights[0]) kept--;
  const together = sum(plain), own = plain.map(w => w / together), all = sum(weights, kept);
  const chances = weights.map((w, i) => (i < kept ? w / all : 0)), shown = names.length;
  const percent = p => (p >= 0.0995 ? (100 * p).toFixed(0) : (100 * p).toPrecision(1)) + " %";
  const row = (name, chance, before, possible, y) => [
    label(112, y + 15, name, { "text-anchor": "end", "font-family": "monospace" }),
    rect(120, y, 480 * chance, 19, BLUE),
    rect(120, y, 480 * before, 19, "none", { stroke: INK }),
    label(128 + 480 * Math.max(chance, before), y + 15, possible ? percent(chance) : "never", { fill: possible ? INK : "#a33f00" }),
  ];
  const rows = names.map((name, i) => row(name, chances[i], own[i], i < kept, 6 + 25 * i));
  const rest = numbers => sum(numbers) - sum(numbers, shown);
  rows.push(row(`${(V - shown).toLocaleString("en")} others`, rest(chances), rest(own), kept > shown, 14 + 25 * shown));
  const nats = -sum(chances.map(p => (p ? p * Math.log(p) : 0)));
  const settings = ["temperature", "top-k", "top-p", "min-p"].map(name => `${name} ${values[name]}`).join(", ");
  return {
    picture: svg(760, 65 + 25 * shown, rows, label(120, 57 + 25 * shown, "blue: chance to be drawn; outline: the model's own probability")),
    text: `${settings}: ${kept.toLocaleString("en")} of ${V.toLocaleString("en")} tokens can be drawn, the likeliest with ${percent(chances[0])}; entropy ${Math.abs(nats).toFixed(2)} nats.`,
  };
}
