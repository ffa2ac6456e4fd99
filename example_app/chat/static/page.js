const element = (id) => document.getElementById(id);
const hint = element("status").textContent;

// Tokens of an answer: a small model may repeat itself without an end.
const LIMIT = 400;

let messages = [];
let answering = null;
const model = findModel();

function add(role, text) {
  const item = element("message").content.firstElementChild.cloneNode(true);
  item.className = role;
  item.querySelector(".who").textContent = role === "user" ? "You" : "Model";
  item.querySelector(".text").textContent = text;
  element("conversation").append(item);
  element("welcome").hidden = true;
  element("new").disabled = false;
  return item;
}

// The page follows the answer as long as the reader has not scrolled up.
function follow(change) {
  const box = element("scroll");
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  change();
  if (isAtEnd) box.scrollTop = box.scrollHeight;
}

function report(problem) {
  element("problem").hidden = !problem;
  element("problem").textContent = problem;
}

function setBusy(item, isBusy) {
  if (isBusy) item.ariaBusy = "true";
  else item.removeAttribute("aria-busy");
  element("send").hidden = isBusy;
  element("stop").hidden = !isBusy;
  element("status").textContent = isBusy ? "The model answers …" : hint;
}

async function ask(text) {
  if (answering || !text.trim()) return;
  report("");
  const request = answering = new AbortController();
  const question = add("user", text.trim());
  const item = add("assistant", "");
  const conversation = [...messages, { role: "user", content: text.trim() }];
  setBusy(item, true);
  element("scroll").scrollTop = element("scroll").scrollHeight;
  const begun = performance.now();
  let usage = null, reason = null, problem = "";
  try {
    for await (const chunk of stream(conversation, request.signal)) {
      usage = chunk.usage ?? usage;
      reason = chunk.choices[0]?.finish_reason ?? reason;
      follow(() => item.querySelector(".text").append(chunk.choices[0]?.delta.content ?? ""));
    }
  } catch (error) {
    if (!request.signal.aborted) problem = error.message;
  }
  if (answering !== request) return;  // a new conversation has begun
  answering = null;
  const seconds = (performance.now() - begun) / 1000;
  follow(() => {
    setBusy(item, false);
    finish(item, { conversation, question, usage, reason, problem, seconds });
  });
}

function finish(item, { conversation, question, usage, reason, problem, seconds }) {
  const answer = item.querySelector(".text").textContent;
  if (answer) messages = [...conversation, { role: "assistant", content: answer }];
  if (problem) report(problem);
  if (!answer && problem) {
    item.remove();
    question.remove();
    // The question comes back, so that it can be sent again.
    element("text").value ||= conversation.at(-1).content;
    element("welcome").hidden = messages.length > 0;
    element("new").disabled = !messages.length;
  }
  item.querySelector(".note").textContent = note(usage, reason, problem, seconds);
  if (!getSelection().toString()) element("text").focus();
}

function note(usage, reason, problem, seconds) {
  if (problem) return "Cut off.";
  if (!usage) return "Stopped.";
  const speed = `${usage.completion_tokens} tokens in ${seconds.toFixed(1)} s`;
  return reason === "length" ? `${speed}, cut off at the limit.` : `${speed}.`;
}

async function* stream(conversation, signal) {
  const options = { max_tokens: LIMIT, stream: true, stream_options: { include_usage: true } };
  const body = { model: await model, messages: conversation, ...options };
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal })
    .catch((error) => { throw signal.aborted ? error : new Error("The service cannot be reached."); });
  if (!response.ok) throw new Error(await explain(response));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    yield chunk;
  }
  throw new Error("The connection was lost before the answer was complete.");
}

async function explain(response) {
  const answer = await response.json().catch(() => null);
  return answer?.error?.message ?? `The service answered with status ${response.status}.`;
}

// The data of server-sent events; EventSource sends only GET requests.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The connection was lost before the answer was complete.");
    });
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

function begin() {
  answering?.abort();
  answering = null;
  messages = [];
  report("");
  element("conversation").replaceChildren();
  element("welcome").hidden = false;
  element("new").disabled = true;
  element("send").hidden = false;
  element("stop").hidden = true;
  element("status").textContent = hint;
  element("text").focus();
}

async function findModel() {
  const response = await fetch("/v1/models").catch(() => null);
  const [{ id }] = (await response?.json())?.data ?? [{ id: "" }];
  element("model").textContent = id;
  if (!id) report("The service cannot be reached.");
  return id;
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (answering) return;
  const text = element("text").value;
  element("text").value = "";
  ask(text);
});
element("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  element("form").requestSubmit();
});
element("stop").addEventListener("click", () => answering?.abort());
element("new").addEventListener("click", begin);
element("ideas").addEventListener("click", ({ target }) => { if (target.closest("button")) ask(target.textContent); });
document.addEventListener("keydown", ({ key }) => { if (key === "Escape") answering?.abort(); });
