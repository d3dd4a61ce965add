// Calls of a compiled function: which find a program, and which wait for one? Chapter a0.
function draw(calls, values) {
  const shown = calls.slice(0, values.calls), programs = [];
  const rows = calls.map((call, row) => {
    const key = call.join(" · "), made = row < values.calls, fresh = made && !programs.includes(key);
    if (fresh) programs.push(key);
    const fill = !made ? "none" : fresh ? "#f3c98b" : PALE;
    return [
      rect(10, 8 + 30 * row, 430, 26, fill, { stroke: LINE, "stroke-width": 0.6 }),
      label(20, 26 + 30 * row, key, { opacity: made ? 1 : 0.45 }),
      made ? label(330, 26 + 30 * row, fresh ? "compiles" : "runs", { "font-weight": fresh ? "bold" : "normal" }) : [],
    ];
  });
  const kept = [label(480, 26, "programs that are kept"), programs.map((key, row) => [
    rect(480, 38 + 30 * row, 265, 26, "#bfe0f4", { stroke: INK, "stroke-width": 0.8 }), label(490, 56 + 30 * row, key)])];
  const last = shown[shown.length - 1].join(" · "), before = shown.slice(0, -1).some(call => call.join(" · ") === last);
  return { picture: svg(760, 16 + 30 * calls.length, rows, kept), text: `Call ${values.calls}, ${last}: ${before ? "a program is there, and runs" : "no program fits, so one is compiled"}. Programs so far: ${programs.length}.` };
}
