// What has gone wrong of late.

import { el, setText } from './elements.js';
import { ago, whole } from './numbers.js';

const KINDS = {
  death: 'worker died', launch: 'launch failed', unhealthy: 'model unhealthy', error: 'error', timeout: 'timed out',
};

export function makeIncident() {
  const time = el('time');
  const kind = el('b');
  const text = el('span');
  const node = el('li', {}, time, el('span', {}, kind, text));
  function update({ incident, step, now }) {
    setText(time, ago(incident.at, now));
    time.dateTime = new Date(incident.at * 1000).toISOString();
    const times = incident.count > 1 ? ` × ${whole.format(incident.count)}` : '';
    setText(kind, `${step} · ${KINDS[incident.kind] ?? incident.kind}${times} `);
    setText(text, incident.kind === 'timeout' ? incident.text : `${incident.subject}: ${incident.text}`);
  }
  return { node, update };
}
