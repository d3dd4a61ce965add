// A patient's chart: stages down, tokens across, dark where it differs from the healthy model. a2.
// Each row is a string with one character per token: "#" is equal, and ten steps are one decade.
const SHADES = [[253, 231, 37], [94, 201, 98], [33, 145, 140], [59, 82, 139], [68, 1, 84]];

const value = code => (code === "#" ? 0 : 10 ** ((code.charCodeAt(0) - 36) / 10 - 6));
const shown = x => (x === 0 ? "0" : x < 0.01 ? x.toExponential(0) : x.toPrecision(2));
function shade(x) {
  const at = Math.min(Math.max((Math.log10(x) + 6) / 7, 0), 1) * 4, i = Math.min(Math.floor(at), 3);
  return `rgb(${SHADES[i].map((c, k) => Math.round(c + (SHADES[i + 1][k] - c) * (at - i))).join()})`;
}

function draw(data, values) {
  const rows = data.rows[values.patient].map(row => [...row].map(value)), limit = values["count from"];
  const stage = data.stages.indexOf(values.stage), token = values.token;
  const X = 96, W = 640 / rows[0].length, H = 19, bad = rows.map(row => row.findIndex(x => x >= limit));
  const first = bad.findIndex(at => at >= 0);
  const cells = rows.map((row, s) => [
    label(X - 8, 31 + H * s, data.stages[s], { "text-anchor": "end", "font-size": 12, "font-weight": s === stage ? 700 : 400 }),
    rect(X, 17 + H * s, 640, H - 2, "#ffffff"),
    ...row.map((x, t) => (x >= limit ? rect(X + W * t, 17 + H * s, W + 0.3, H - 2, shade(x)) : "")),
  ]);
  const ring = (s, t, color) =>
    rect(X + W * t - 2, 15 + H * s, W + 4, H + 2, "none", { stroke: color, "stroke-width": 2.5 });
  const from = first < 0 ? "" : ring(first, bad[first], VERMILION);
  const begins = first < 0 ? "no stage differs by that much" :
    `it begins at ${data.stages[first]}, token ${bad[first]}, with a difference of ${shown(rows[first][bad[first]])}`;
  const many = first < 0 ? "" : ` (${rows[first].filter(x => x >= limit).length} of ${rows[0].length} tokens in that row)`;
  return {
    picture: svg(750, 48 + H * rows.length, cells, from, ring(stage, token, INK),
      label(X, 36 + H * rows.length, "token 0", { "font-size": 12 }),
      label(X + 640, 36 + H * rows.length, `token ${rows[0].length - 1}`, { "font-size": 12, "text-anchor": "end" })),
    text: `Patient ${values.patient}, differences from ${limit} on: ${begins}${many}. At ${values.stage}, ` +
      `token ${token}, the difference is ${shown(rows[stage][token])}.`,
  };
}
