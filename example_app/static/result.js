// The result: the lines over the picture and in a list, and the times of the steps.

const SVG = "http://www.w3.org/2000/svg";

export const element = (id) => document.getElementById(id);

export function make(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function draw(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function seconds(value) {
  return value < 0.1 ? `${(value * 1000).toFixed(1)} ms` : `${value.toFixed(2)} s`;
}

function percent(value) {
  return `${Math.round(value * 100)} %`;
}

// Show a picture without lines.
export function clear(picture) {
  URL.revokeObjectURL(element("picture").src);
  element("picture").src = URL.createObjectURL(picture);
  element("stage").hidden = false;
  element("unseen").hidden = true;
  element("boxes").replaceChildren();
  element("lines").replaceChildren();
  element("count").textContent = "";
  element("copy").disabled = true;
  element("timing").hidden = true;
  element("result").hidden = false;
}

// The boxes are in pixels of the upright picture, as the browser counts them.
element("picture").addEventListener("load", ({ target: { naturalWidth, naturalHeight } }) => {
  element("stage").classList.toggle("small", naturalWidth < 480);
  element("boxes").setAttribute("viewBox", `0 0 ${naturalWidth} ${naturalHeight}`);
});
element("picture").addEventListener("error", () => {
  element("stage").hidden = true;
  element("unseen").hidden = false;
});

export function addLine(line) {
  const list = element("lines");
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 4;
  element("boxes").append(overlay(line));
  list.append(entry(line));
  element("count").textContent = list.children.length;
  element("copy").disabled = false;
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

export function addNoLines() {
  element("count").textContent = 0;
  element("lines").append(make("li", { className: "none", textContent: "No text was found." }));
}

// A line of text over its box: written from the first corner towards the second, stretched to the width of the box.
function overlay(line) {
  const [[x, y], [right, slope], , [left, bottom]] = line.box;
  const width = Math.hypot(right - x, slope - y);
  const height = Math.hypot(left - x, bottom - y);
  const angle = Math.atan2(slope - y, right - x) * 180 / Math.PI;
  const group = draw("g", { "data-line": line.number });
  const text = draw("text", {
    transform: `translate(${x} ${y}) rotate(${angle})`, x: width * 0.02, y: height * 0.76, "font-size": height * 0.74,
    textLength: width * 0.96, lengthAdjust: "spacingAndGlyphs",
  });
  text.textContent = line.text;
  group.append(draw("polygon", { points: line.box.map((point) => point.join(",")).join(" ") }), text);
  return group;
}

function entry(line) {
  const level = make("i");
  level.style.width = percent(line.score);
  const item = make("li", {}, make("span", { textContent: line.text }), make("div", { className: "score" }, level),
    make("data", { value: line.score, textContent: percent(line.score) }));
  item.dataset.line = line.number;
  return item;
}

// Times are in seconds; `first` is that of the first line, from the beginning.
export function showTimes(steps, total, first) {
  const spent = steps.reduce((sum, step) => sum + step.queue_time + step.handle_time, 0);
  const rest = { name: "Sending and answering", queue_time: null, handle_time: Math.max(0, total - spent), colour: "rest" };
  const rows = steps.map((step, index) => ({ ...step, name: step.step.replace(/^step\d+_/, ""), colour: index % 3 + 1 }));
  element("total").textContent = (first ? `first line after ${seconds(first)}, ` : "") + `${seconds(total)} in all`;
  element("timeline").replaceChildren(...[...rows, rest].flatMap((row) => [
    slice(row, row.queue_time ?? 0, "queue"), slice(row, row.handle_time, ""),
  ]));
  element("times").replaceChildren(...[...rows, rest].map((row) => make("tr", {},
    make("th", { scope: "row", className: `colour-${row.colour}`, textContent: row.name }),
    make("td", { textContent: row.queue_time === null ? "" : seconds(row.queue_time) }),
    make("td", { textContent: seconds(row.handle_time) }))));
  element("timing").hidden = false;
}

function slice(row, time, kind) {
  const part = make("i", { className: `colour-${row.colour} ${kind}`, title: `${row.name}: ${seconds(time)}` });
  // Whole milliseconds and more: growth factors that add up to less than 1 would leave the bar unfilled.
  part.style.flex = `${time * 1000 + 1} 0 0`;
  return part;
}
