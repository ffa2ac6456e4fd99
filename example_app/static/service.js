// The service: sends pictures, and yields what it answers as it arrives.

// Why a picture was not read. `retryAfter`: seconds until another attempt may succeed; undefined: none will.
export class ReadingError extends Error {
  constructor(message, retryAfter) {
    super(message);
    this.retryAfter = retryAfter;
  }
}

// Send a picture and yield an event for each line, and one at the end. An abort of the signal ends the work.
export async function* read(picture, signal) {
  const response = await answer(picture, signal);
  if (!response.ok) throw await refusal(response);
  let last;
  for await (last of events(response.body)) yield last;
  if (last?.event !== "summary") throw lost();
}

async function answer(picture, signal) {
  const headers = { "Content-Type": picture.type || "application/octet-stream" };
  try {
    return await fetch("/ocr/stream", { method: "POST", body: picture, headers, signal });
  } catch {
    throw new ReadingError("the service cannot be reached", 0);
  }
}

async function refusal(response) {
  const { status, headers } = response;
  const { detail } = await response.json().catch(() => ({}));
  const reason = typeof detail === "string" ? detail : detail?.map((mistake) => mistake.msg).join(", ");
  // A picture that is refused once is always refused; anything else may pass.
  const retryAfter = status < 500 ? undefined : Number(headers.get("Retry-After")) || 0;
  return new ReadingError(reason || `the service answered with status ${status}`, retryAfter);
}

function lost() {
  return new ReadingError("the connection was lost before all lines were read", 0);
}

// Server-Sent Events. EventSource cannot send a picture.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (let part; !(part = await next(reader)).done;) {
      const blocks = (rest + part.value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        // Other lines are comments, which keep the connection open.
        const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        if (data.length) yield JSON.parse(data.join("\n"));
      }
    }
  } finally {
    reader.cancel().catch(() => {});  // has failed, if the connection has
  }
}

async function next(reader) {
  try {
    return await reader.read();
  } catch {
    throw lost();
  }
}
