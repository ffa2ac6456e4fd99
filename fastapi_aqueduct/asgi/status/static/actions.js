// Changes that the server is asked for.

import { el, setClass, setText } from './elements.js';
import { ago } from './numbers.js';

export async function post(path, body) {
  try {
    const headers = { 'Content-Type': 'application/json', 'X-Aqueduct-Action': 'status page' };
    // Not relative to the document: its address may have a name and a password, with which fetch refuses to work.
    const url = new URL(path, location.origin + location.pathname);
    const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
    const found = await response.json().catch(() => null);
    return { isGood: response.ok, text: problem(found?.detail) ?? `The server answers ${response.status}.` };
  } catch {
    return { isGood: false, text: 'The server does not answer.' };
  }
}

function problem(detail) {
  if (typeof detail === 'string') return detail;
  if (!Array.isArray(detail)) return null;
  return detail.map((item) => `${(item.loc ?? []).slice(1).join('.')}: ${item.msg}`).join('; ');
}

export function makeChange() {
  const time = el('time');
  const text = el('span');
  const node = el('li', {}, time, text);
  function update({ change, now }) {
    setText(time, ago(change.begun_at, now));
    const end = change.state === 'running' ? 'under way' : change.state === 'done' ? 'done' : change.text;
    setText(text, `${change.flow} · ${change.step} · ${change.what} · ${change.client}: ${end}`);
    setClass(text, change.state === 'failed' ? 'bad' : '');
  }
  return { node, update };
}
