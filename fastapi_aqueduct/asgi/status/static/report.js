// The document that the server sends once a second.

import { makeChange } from './actions.js';
import { byId, el, keyed, setClass, setText } from './elements.js';
import { makeFlow } from './flow.js';
import { severity } from './states.js';

export function show(found) {
  const health = byId('health');
  setText(health, found.status);
  setClass(health, `pill ${severity(found.status)}`);
  document.title = `${found.status} · Pipelines`;
  setText(byId('process'), `pid ${found.process.pid} on ${found.process.host}`);
  const reasons = byId('reasons');
  setClass(reasons, `reasons ${severity(found.status)}`);
  reasons.hidden = !found.reasons.length;
  keyed(reasons, found.reasons, (reason) => reason, (reason) => ({ node: el('li', {}, reason), update() {} }));
  keyed(byId('flows'), found.flows.map((flow) => ({ flow, at: found.time })), ({ flow }) => flow.name, ({ flow }) => makeFlow(flow));
  byId('changes').hidden = !found.actions.length;
  keyed(byId('changes-list'), found.actions.map((change) => ({ change, now: found.time })), ({ change }) => String(change.begun_at), makeChange);
  document.body.dataset.documents = String(Number(document.body.dataset.documents ?? 0) + 1);
}
