// Tokens per second that a memory allows, by bandwidth and by what one token reads. Chapter 08.
function draw(data, values) {
  const rate = values["bandwidth, GB/s"] * 1e9, context = values.context;
  const names = Object.keys(data.weights), most = 60;
  const rows = names.map((name, i) => {
    const bytes = data.weights[name] + data.cache[context], speed = rate / bytes, y = 14 + 46 * i;
    return [label(10, y + 19, name), rect(210, y, 380, 28, PALE),
      rect(210, y, Math.min(speed / most, 1) * 380, 28, SKY, { stroke: INK }),
      label(600, y + 19, `${speed.toFixed(1)} (${(bytes / 1e9).toFixed(2)} GB)`)];
  });
  const speeds = names.map(name => (rate / (data.weights[name] + data.cache[context])).toFixed(1));
  return {
    picture: svg(760, 30 + 46 * names.length, rows, line(210, 14, 210, 6 + 46 * names.length)),
    text: `Tokens per second at ${values["bandwidth, GB/s"]} GB/s after ${context.toLocaleString("en-US")} tokens, by bytes alone: ` +
      names.map((name, i) => `${name} ${speeds[i]}`).join("; ") + ". Bars end at 60.",
  };
}
