// 32 weights, the byte of their scale, and where each of them lands. Chapter 05.
const GRID = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

function draw(data, values) {
  const weights = data.weights[+values["weights of output"]], byte = values["scale byte"];
  const scale = 2 ** (byte - 127), top = data.top, y = w => 150 - 130 * w / top;
  const nearest = w => Math.sign(w) * scale * GRID.reduce((best, v) =>
    Math.abs(Math.abs(w) / scale - v) < Math.abs(Math.abs(w) / scale - best) ? v : best);
  const stored = weights.map(nearest), cut = weights.map(w => Math.abs(w) > 6 * scale);
  const lines = GRID.flatMap(v => (v ? [v, -v] : [0])).filter(v => Math.abs(v * scale) <= 1.1 * top);
  const square = numbers => numbers.reduce((sum, x) => sum + x * x, 0);
  const error = 100 * Math.sqrt(square(weights.map((w, i) => stored[i] - w)) / square(weights));
  const zeros = stored.filter(w => w === 0).length, lost = cut.filter(Boolean).length;
  const marks = weights.map((w, i) => {
    const x = 20 + 21 * i;
    return [
      line(x, y(w), x, y(stored[i]), INK),
      shape("circle", { cx: x, cy: y(w), r: 5, fill: "none", stroke: INK }),
      cut[i]
        ? label(x, y(stored[i]) + 6, "×", { fill: VERMILION, "text-anchor": "middle", "font-size": 20 })
        : shape("circle", { cx: x, cy: y(stored[i]), r: 3.5, fill: BLUE }),
    ];
  });
  const named = v => Math.abs(v) >= 4 || (Number.isInteger(v) && 130 * scale / top > 13);
  const grid = lines.map(v => [
    line(10, y(v * scale), 690, y(v * scale), v ? LINE : INK, { "stroke-width": 0.7 }),
    named(v) ? label(698, y(v * scale) + 5, v, { "font-size": 12 }) : "",
  ]);
  return {
    picture: svg(740, 300, grid, marks),
    text: `Byte ${byte}: scale 2^${byte - 127} = ${scale.toPrecision(3)}, error ${error.toFixed(1)} % of the weights' length; `
      + `${lost} of 32 weights are cut off, ${zeros} become zero. (Circle: a weight. Dot: what is stored. Cross: cut off.)`,
  };
}
