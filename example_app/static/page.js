// The page: what a user does, and the state of the reading.

import { addLine, addNoLines, clear, element, make, showTimes } from "./result.js";
import { read } from "./service.js";

let running = null;
let countdown = 0;

async function start(picture, name) {
  running?.abort();
  const request = running = new AbortController();
  const begun = performance.now();
  const age = () => (performance.now() - begun) / 1000;
  let firstAt = null;
  let line = null;
  clear(picture);
  setBusy(true);
  say(`Looking for text in ${name} …`, "busy");
  try {
    for await (const event of read(picture, request.signal)) {
      if (running !== request) return;  // another picture was chosen
      if (event.event === "line") {
        if (!line) say(`Reading ${name} …`, "busy");
        line = event;
        firstAt ??= age();
        addLine(line);
        showProgress(line.number, line.of);
      } else if (event.event === "progress") {
        showProgress(event.done, event.of);
      } else {
        if (!line) addNoLines();
        showTimes(event.steps, age(), firstAt);
        say(`${name}: ${counted(element("boxes").children.length)}, ${event.width} × ${event.height} pixels.`);
      }
    }
    setBusy(false);
  } catch (error) {
    if (running !== request) return;
    setBusy(false);
    element("result").hidden = !line;
    if (request.signal.aborted) {
      say(line ? `${name}: cancelled after ${line.number} of ${line.of} lines.` : `${name}: cancelled.`);
    } else {
      say(`${name} could not be read${line ? " to the end" : ""}. ${sentence(error.message)}`, "failed");
      if (error.retryAfter !== undefined) offerRetry(() => start(picture, name), error.retryAfter);
    }
  }
}

// Screen readers speak this text. The lines are too many for that.
function say(text, kind = "") {
  element("status").className = kind;
  element("status").textContent = text;
}

function counted(lines) {
  return lines === 1 ? "1 line" : `${lines} lines`;
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1).replace(/\.?$/, ".");
}

function setBusy(isBusy) {
  const hadFocus = [element("cancel"), element("again")].includes(document.activeElement);
  element("result").ariaBusy = String(isBusy);
  element("working").hidden = !isBusy;
  element("progress").removeAttribute("value");
  element("progress-text").textContent = "";
  element("again").hidden = true;
  clearInterval(countdown);
  if (hadFocus) element(isBusy ? "cancel" : "file").focus();  // what had it is hidden now
}

function showProgress(done, of) {
  element("progress").max = of;
  element("progress").value = done;
  element("progress-text").textContent = `${done} of ${of}`;
}

// The button waits for as long as the service asks for.
function offerRetry(retry, seconds) {
  const button = element("again");
  const tick = () => {
    button.disabled = seconds > 0;
    button.textContent = seconds > 0 ? `Try again in ${seconds} s` : "Try again";
    if (seconds-- <= 0) clearInterval(countdown);
  };
  button.onclick = retry;
  button.hidden = false;
  countdown = setInterval(tick, 1000);
  tick();
}

async function readSample(name, title, button) {
  for (const other of document.querySelectorAll("#samples button")) other.ariaPressed = String(other === button);
  try {
    const response = await fetch(`/samples/${name}`);
    start(await response.blob(), title);
  } catch {
    say(`${title} could not be loaded. The service cannot be reached.`, "failed");
  }
}

function readFile(file) {
  if (!file) return;
  for (const other of document.querySelectorAll("#samples button")) other.ariaPressed = "false";
  start(file, file.name || "The picture");
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

function highlight(event) {
  const line = event.target.closest?.("[data-line]")?.dataset.line;
  for (const node of document.querySelectorAll("[data-line]")) node.classList.toggle("on", node.dataset.line === line);
}

element("file").addEventListener("change", ({ target }) => { readFile(target.files[0]); target.value = ""; });
element("cancel").addEventListener("click", () => running.abort());
element("overlay").addEventListener("change", ({ target }) => element("boxes").classList.toggle("text", target.checked));
element("boxes").classList.toggle("text", element("overlay").checked);
element("result").addEventListener("pointerover", highlight);
element("copy").addEventListener("click", async ({ target }) => {
  await navigator.clipboard.writeText([...document.querySelectorAll("#lines li span")].map((n) => n.textContent).join("\n"));
  target.textContent = "Copied";
  setTimeout(() => { target.textContent = "Copy text"; }, 2000);
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
