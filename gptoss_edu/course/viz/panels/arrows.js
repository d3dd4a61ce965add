// Two arrows turn with their positions; the score sees the angle between them alone. Chapter 02.
function draw(data, values) {
  const degrees = values["degrees per position"], moved = values["both moved by"];
  const q = values["query at"] + moved, k = values["key at"] + moved, turn = Math.PI / 180;
  const [x0, y0, radius] = [125, 120, 95], apart = (q - k) * degrees, score = Math.cos(apart * turn);
  const at = (angle, far) => [x0 + far * Math.cos(angle * turn), y0 - far * Math.sin(angle * turn)];
  const arrow = (angle, color, name, style) => {
    const [x, y] = at(angle, 0.92 * radius), [a, b] = at(angle, radius + 13), [c, d] = at(angle - 7, 0.8 * radius), [e, f] = at(angle + 7, 0.8 * radius);
    return [line(x0, y0, x, y, color, { "stroke-width": 3, ...style }), shape("polygon", { points: `${x},${y} ${c},${d} ${e},${f}`, fill: color }),
      label(a, b + 5, name, { "text-anchor": "middle", fill: color, "font-weight": "bold" })];
  };
  const short = ((((apart + 180) % 360) + 360) % 360) - 180, steps = 24;
  const arc = [...Array(steps + 1).keys()].map(i => at(k * degrees + (short * i) / steps, 38).join(",")).join(" ");
  const plot = d => [300 + 18 * d, 120 - 80 * Math.cos(d * degrees * turn)];
  const curve = [...Array(241).keys()].map(i => plot(i / 10).join(",")).join(" ");
  const distance = Math.abs(q - k), dot = plot(distance);
  const picture = svg(760, 245, shape("circle", { cx: x0, cy: y0, r: radius, fill: "none", stroke: LINE }),
    shape("polyline", { points: arc, fill: "none", stroke: INK, "stroke-width": 2 }),
    arrow(k * degrees, VERMILION, "k", { "stroke-dasharray": "7 4" }), arrow(q * degrees, BLUE, "q"),
    line(300, 120, 735, 120, LINE), line(300, 35, 300, 205, LINE), label(306, 30, "score of two arrows of length 1"),
    shape("polyline", { points: curve, fill: "none", stroke: BLUE, "stroke-width": 1.6 }),
    shape("circle", { cx: dot[0], cy: dot[1], r: 6, fill: ORANGE, stroke: INK }),
    [0, 6, 12, 18, 24].map(d => label(300 + 18 * d, 224, d, { "text-anchor": "middle", "font-size": 12 })), label(480, 241, "distance", { "font-size": 12 }),
    label(276, 45, "+1", { "font-size": 12 }), label(280, 204, "−1", { "font-size": 12 }));
  return { picture, text: `Query at ${q}, key at ${k}: distance ${distance}, ${Math.abs(short).toFixed(0)}° between the arrows, score ${score.toFixed(2)}.` };
}
