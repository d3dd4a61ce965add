// What every panel needs: native inputs, which a keyboard moves and a screen reader reads, and a
// drawing that is made anew whenever one of them changes. Nothing is fetched, nothing moves by itself.
const INK = "#1f1f1f", PALE = "#e9e6df", LINE = "#8a867d", BLUE = "#0072b2", SKY = "#56b4e9";
const ORANGE = "#e69f00", VERMILION = "#d55e00", GREEN = "#009e73", PINK = "#cc79a7";

const escaped = text => String(text).replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
const attributes = style =>
  Object.entries(style).map(([key, value]) => ` ${key}="${escaped(value)}"`).join("");
const shape = (name, style) => `<${name}${attributes(style)}/>`;
const rect = (x, y, width, height, fill, style = {}) =>
  shape("rect", { x, y, width: Math.max(width, 0), height: Math.max(height, 0), fill, ...style });
const line = (x1, y1, x2, y2, stroke = INK, style = {}) => shape("line", { x1, y1, x2, y2, stroke, ...style });
const label = (x, y, text, style = {}) =>
  `<text${attributes({ x, y, fill: INK, "font-size": 14, ...style })}>${escaped(text)}</text>`;
const svg = (width, height, ...parts) =>
  `<svg viewBox="0 0 ${width} ${height}" width="100%" style="max-width:${width}px;display:block"` +
  ` aria-hidden="true" font-family="sans-serif">${parts.flat(Infinity).join("")}</svg>`;

// One input: a slider over numbers, a list of words, or a line to type.
function input(name, values, start) {
  const typed = typeof values === "string", words = !typed && typeof values[0] === "string";
  const box = document.createElement(words ? "select" : "input");
  if (typed) Object.assign(box, { type: "text", value: values, maxLength: 40, spellcheck: false });
  else if (words) values.forEach(value => box.add(new Option(value)));
  else Object.assign(box, { type: "range", min: 0, max: values.length - 1, step: 1 });
  if (words) box.selectedIndex = start;
  else if (!typed) box.value = start;
  const read = () => (typed ? box.value : values[words ? box.selectedIndex : +box.value]);
  const shown = document.createElement("output"), whole = document.createElement("label");
  whole.style.cssText = "display:inline-flex;gap:.6em;align-items:center;margin:.2em 1.4em .2em 0";
  whole.append(`${name}`, box);
  if (!typed && !words) whole.append(shown);
  return { box, whole, read, show: () => {
    shown.textContent = read();
    if (box.type === "range") box.setAttribute("aria-valuetext", read());
  } };
}

// Put the panel in place of its picture. `draw(data, values)` returns {picture, text}.
function show(root, panel, draw) {
  const figure = document.createElement("div"), text = document.createElement("p");
  const inputs = Object.entries(panel.controls).map(([name, values]) => [name, input(name, values, panel.start[name])]);
  text.setAttribute("aria-live", "polite");
  text.style.margin = ".4em 0 0";
  const redraw = () => {
    inputs.forEach(([, one]) => one.show());
    const made = draw(panel.data, Object.fromEntries(inputs.map(([name, one]) => [name, one.read()])));
    figure.innerHTML = made.picture;
    text.textContent = made.text;
  };
  inputs.forEach(([, one]) => one.box.addEventListener("input", redraw));
  redraw(); // where this fails the picture stays
  root.replaceChildren(...inputs.map(([, one]) => one.whole), figure, text);
}
