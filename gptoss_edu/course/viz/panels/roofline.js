// A chip's roofline, and where a batch of conversations stands on it. Chapter 07.
function draw(data, values) {
  const chip = data.chips[values.chip], width = data.formats[values.experts], batch = values.batch;
  const [rate, peak] = chip, hidden = data.count * (1 - Math.pow(1 - data.chosen / data.count, batch));
  const touched = values["which experts"] === "all the same" ? data.chosen : hidden;
  const bytes = width.other + (width.experts * touched) / data.count + batch * data.cache[values.context];
  const work = batch * (data.flops + data.seen[values.context]), intensity = work / bytes, ridge = peak / rate;
  const most = Math.min(peak, rate * intensity), speed = (batch * most) / work;
  const X = value => 70 + (600 * Math.log10(value / 0.5)) / 4, Y = value => 290 - (250 * Math.log10(value / 1e11)) / 5;
  const ticks = [1, 10, 100, 1000].map(v => [line(X(v), 40, X(v), 290, PALE), label(X(v) - 10, 308, v)]);
  const levels = [1e12, 1e13, 1e14, 1e15].map(v => [line(70, Y(v), 670, Y(v), PALE), label(20, Y(v) + 5, v / 1e12)]);
  const roof = [line(X(0.5), Y(rate * 0.5), X(ridge), Y(peak), BLUE, { "stroke-width": 3 }),
    line(X(ridge), Y(peak), 670, Y(peak), BLUE, { "stroke-width": 3 }),
    line(X(ridge), Y(peak), X(ridge), 290, LINE, { "stroke-dasharray": "4 4" }),
    label(X(ridge) - 30, Y(peak) - 10, `ridge ${ridge.toFixed(0)}`)];
  const dot = shape("circle", { cx: X(Math.min(intensity, 5000)), cy: Y(most), r: 8, fill: VERMILION, stroke: INK });
  const limit = intensity < ridge ? "memory" : "arithmetic";
  return {
    picture: svg(720, 335, ticks, levels, roof, dot, label(20, 24, "tera-operations per second, at most"),
      label(430, 328, "operations per byte read")),
    text: `${batch} conversation${batch > 1 ? "s" : ""} read ${(bytes / 1e9).toFixed(2)} GB a step:` +
      ` ${intensity.toFixed(1)} operations per byte, ridge at ${ridge.toFixed(0)}. At most` +
      ` ${Math.round(speed).toLocaleString("en-US")} tokens/s together, ${(speed / batch).toFixed(1)} for each, limited by ${limit}.` +
      " Whether the model fits is another question.",
  };
}
