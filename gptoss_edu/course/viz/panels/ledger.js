// What has to lie in the memory of one device, and whether it fits. Chapter 09.
function draw(data, values) {
  const chip = data.chips[values.chip], gib = 2 ** 30;
  const parts = [["weights", data.weights[values.precision] / chip.devices, SKY],
    ["keys and values", data.cache[values.context] / chip.devices, ORANGE], ["workspace", data.workspace, PALE]];
  const total = parts.reduce((sum, part) => sum + part[1], 0), most = Math.max(total, chip.memory) * 1.08;
  const X = bytes => 20 + (700 * bytes) / most;
  let left = 0;
  const bars = parts.map(([name, size, color], i) => {
    const begin = left;
    left += size;
    return [rect(X(begin), 20, X(left) - X(begin), 46, color, { stroke: INK }),
      rect(20 + 240 * i, 106, 14, 14, color, { stroke: INK }), label(40 + 240 * i, 118, `${name} ${(size / gib).toFixed(2)} GiB`)];
  });
  const full = [line(X(chip.memory), 8, X(chip.memory), 78, VERMILION, { "stroke-width": 4 }),
    label(X(chip.memory) - 90, 94, `full: ${(chip.memory / gib).toFixed(2)} GiB`)];
  const room = (chip.memory - total) / gib;
  const verdict = room >= 0 ? `fits, with ${room.toFixed(2)} GiB to spare` : `does not fit: ${(-room).toFixed(2)} GiB too much`;
  const each = chip.devices > 1 ? ` on each of ${chip.devices} devices` : "";
  return {
    picture: svg(760, 130, bars, full),
    text: `${values.precision} experts and ${values.context.toLocaleString("en-US")} tokens on ${values.chip} need` +
      ` ${(total / gib).toFixed(2)} of ${(chip.memory / gib).toFixed(2)} GiB${each}. It ${verdict}.`,
  };
}
