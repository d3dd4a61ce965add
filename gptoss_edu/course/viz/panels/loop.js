// The loop that writes: text, ids, vectors, layers, scores, one more token. Chapter 00.
function draw(replies, values) {
  const data = replies[values.effort], at = Math.min(values.token, data.steps.length - 1), end = data.begin + at, guesses = data.steps[at], shown = 8;
  const picked = data.texts[end], chip = (x, text, id, fill) => [
    rect(x, 8, 82, 44, fill, { stroke: INK, "stroke-width": 0.8, rx: 4 }),
    label(x + 41, 27, text, { "text-anchor": "middle", "font-size": 13 }),
    label(x + 41, 44, id, { "text-anchor": "middle", "font-size": 11 }),
  ];
  const arrow = (x1, y1, x2, y2) => {
    const turn = Math.atan2(y2 - y1, x2 - x1), side = a => `${x2 - 8 * Math.cos(turn + a)},${y2 - 8 * Math.sin(turn + a)}`;
    return [line(x1, y1, x2, y2, INK, { "stroke-width": 1.5 }), shape("polygon", { points: `${x2},${y2} ${side(0.45)} ${side(-0.45)}`, fill: INK })];
  };
  const before = [...Array(shown).keys()].map(place => {
    const index = end - shown + place;
    return index < 0 ? [] : chip(88 * place, data.texts[index], data.ids[index], index < data.begin ? PALE : "#d9d0f2");
  });
  const stages = [["a vector", "for each id"], ["the layers", "of the network"], [`${data.vocabulary.toLocaleString("en")} scores,`, "probabilities"]];
  const boxes = stages.map(([first, second], place) => [
    rect(10 + 150 * place, 100, 122, 56, "#bfe0f4", { stroke: INK, "stroke-width": 0.8 }),
    label(71 + 150 * place, 124, first, { "text-anchor": "middle" }),
    label(71 + 150 * place, 143, second, { "text-anchor": "middle" }),
    place ? arrow(150 * place - 16, 128, 150 * place + 8, 128) : arrow(71, 54, 71, 98),
  ]);
  const bars = guesses.map(([text, share], place) => [
    label(545, 104 + 22 * place, text, { "text-anchor": "end", "font-weight": text === picked ? "bold" : "normal" }),
    rect(552, 92 + 22 * place, 130 * share, 15, text === picked ? ORANGE : BLUE),
    label(558 + 130 * share, 104 + 22 * place, share < 0.005 ? "less than 0.01" : share.toFixed(2), { "font-size": 12 }),
  ]);
  const picture = svg(800, 205, before, chip(88 * shown, "?", "next", ORANGE), boxes, arrow(434, 128, 458, 128), bars, arrow(770, 90, 745, 56), label(700, 78, "append", { "font-size": 12 }));
  const share = (guesses.find(([text]) => text === picked) || ["", 0])[1];
  return { picture, text: `Token ${at} of the reply: “${picked}” is picked and appended; its probability was ${share.toFixed(2)}. ` +
    (at === data.steps.length - 1 ? "With it the reply is over." : `Next the network reads a text of ${end + 1} tokens.`) };
}
