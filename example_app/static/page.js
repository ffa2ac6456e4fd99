const element = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

let running = null;
let shown = null;

function make(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function draw(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function say(text, kind = "") {
  element("status").className = kind;
  element("status").textContent = text;
}

function seconds(value) {
  return value < 0.1 ? `${(value * 1000).toFixed(1)} ms` : `${value.toFixed(2)} s`;
}

function percent(value) {
  return `${Math.round(value * 100)} %`;
}

async function read(picture, name) {
  running?.abort();
  const request = running = new AbortController();
  show(picture);
  say(`Reading ${name} …`, "busy");
  const begun = performance.now();
  try {
    const headers = { "Content-Type": picture.type || "application/octet-stream" };
    const response = await fetch("/ocr", { method: "POST", body: picture, headers, signal: request.signal });
    const answer = await response.json();
    if (!response.ok) throw new Error(explain(answer.detail, response.status));
    present(answer, (performance.now() - begun) / 1000);
    say(`${name}: ${answer.width} × ${answer.height} pixels.`);
  } catch (error) {
    if (request.signal.aborted) return;
    element("result").hidden = true;
    say(`${name} could not be read: ${error.message}`, "failed");
  }
}

function explain(detail, status) {
  return typeof detail === "string" ? detail : `the service answered with status ${status}`;
}

function show(picture) {
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(picture);
  element("picture").src = shown;
  element("boxes").replaceChildren();
  element("lines").replaceChildren();
  element("times").replaceChildren();
  element("timeline").replaceChildren();
  element("count").textContent = element("total").textContent = "";
  element("result").hidden = false;
}

function present(answer, total) {
  const { width, height, lines } = answer;
  element("stage").classList.toggle("small", width < 480);
  element("boxes").setAttribute("viewBox", `0 0 ${width} ${height}`);
  element("count").textContent = lines.length;
  element("boxes").replaceChildren(...lines.map(overlay));
  element("lines").replaceChildren(...lines.map(entry));
  if (!lines.length) element("lines").append(make("li", { className: "none", textContent: "No text was found." }));
  timing(answer.steps, total);
}

// A line of text over its box: written from the first corner towards the second, stretched to the width of the box.
function overlay(line, index) {
  const [[x, y], [right, slope], , [left, bottom]] = line.box;
  const width = Math.hypot(right - x, slope - y);
  const height = Math.hypot(left - x, bottom - y);
  const angle = Math.atan2(slope - y, right - x) * 180 / Math.PI;
  const group = draw("g", { "data-line": index });
  const text = draw("text", {
    transform: `translate(${x} ${y}) rotate(${angle})`, x: width * 0.02, y: height * 0.76, "font-size": height * 0.74,
    textLength: width * 0.96, lengthAdjust: "spacingAndGlyphs",
  });
  text.textContent = line.text;
  group.append(draw("polygon", { points: line.box.map((point) => point.join(",")).join(" ") }), text);
  return group;
}

function entry(line, index) {
  const level = make("i");
  level.style.width = percent(line.score);
  const item = make("li", {}, make("span", { textContent: line.text }), make("div", { className: "score" }, level),
    make("output", { textContent: percent(line.score) }));
  item.dataset.line = index;
  return item;
}

function timing(steps, total) {
  const spent = steps.reduce((sum, step) => sum + step.queue_time + step.handle_time, 0);
  const rest = { name: "Sending and answering", queue_time: null, handle_time: Math.max(0, total - spent), colour: "rest" };
  const rows = steps.map((step, index) => ({ ...step, name: step.step.replace(/^step\d+_/, ""), colour: index % 3 + 1 }));
  element("total").textContent = `${seconds(total)} in all`;
  element("timeline").replaceChildren(...[...rows, rest].flatMap((row) => [
    slice(row, row.queue_time ?? 0, "queue"), slice(row, row.handle_time, ""),
  ]));
  element("times").replaceChildren(...[...rows, rest].map((row) => make("tr", {},
    make("th", { scope: "row", className: `colour-${row.colour}`, textContent: row.name }),
    make("td", { textContent: row.queue_time === null ? "" : seconds(row.queue_time) }),
    make("td", { textContent: seconds(row.handle_time) }))));
}

function slice(row, time, kind) {
  const part = make("i", { className: `colour-${row.colour} ${kind}`, title: `${row.name}: ${seconds(time)}` });
  // Whole milliseconds and more: growth factors that add up to less than 1 would leave the bar unfilled.
  part.style.flex = `${time * 1000 + 1} 0 0`;
  return part;
}

function highlight(event) {
  const line = event.target.closest?.("[data-line]")?.dataset.line;
  for (const node of document.querySelectorAll("[data-line]")) node.classList.toggle("on", node.dataset.line === line);
}

async function readSample(name, title, button) {
  for (const other of document.querySelectorAll("#samples button")) other.ariaPressed = String(other === button);
  const response = await fetch(`/samples/${name}`);
  await read(await response.blob(), title);
}

function readFile(file) {
  if (!file) return;
  for (const other of document.querySelectorAll("#samples button")) other.ariaPressed = "false";
  read(file, file.name || "The picture");
}

async function listSamples() {
  const samples = await (await fetch("/samples/samples.json")).json();
  for (const [name, { title }] of Object.entries(samples)) {
    const picture = make("img", { src: `/samples/thumbnails/${name.replace(/\.\w+$/, ".jpg")}`, alt: "", loading: "lazy" });
    const button = make("button", { type: "button", ariaPressed: "false" }, picture, make("span", { textContent: title }));
    button.addEventListener("click", () => readSample(name, title, button));
    element("samples").append(make("li", {}, button));
  }
}

element("file").addEventListener("change", ({ target }) => { readFile(target.files[0]); target.value = ""; });
element("overlay").addEventListener("change", ({ target }) => element("boxes").classList.toggle("text", target.checked));
element("boxes").classList.toggle("text", element("overlay").checked);
element("result").addEventListener("pointerover", highlight);
element("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText([...document.querySelectorAll("#lines li span")].map((n) => n.textContent).join("\n"));
  say("The text was copied.");
});
document.addEventListener("paste", ({ clipboardData }) => readFile(clipboardData.files[0]));
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  readFile(event.dataTransfer.files[0]);
});
listSamples();
