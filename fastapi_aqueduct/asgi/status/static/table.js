// The table of steps.

import { makeDetails } from './details.js';
import { el, keyed, newId, setClass, setText } from './elements.js';
import { batchText, duration, perSecond, percent, times, whole } from './numbers.js';
import { serving, severity } from './states.js';

const COLUMNS = [
  ['Step', (step) => step.name],
  ['State', null],
  ['Workers', (step) => `${serving(step).filter((worker) => worker.state !== 'starting' && worker.state !== 'leaving').length} of ${step.nprocs}`],
  ['Busy', (step) => percent(step.busy_share)],
  ['Waiting', (step) => (step.queue_size ? `${whole.format(step.queued)} of ${whole.format(step.queue_size)}` : whole.format(step.queued))],
  ['Batch', (step) => batchText(step.batch)],
  ['Tasks', (step) => perSecond(step.throughput)],
  ['Wait p95', (step) => duration(step.queue_wait?.p95)],
  ['Call p50 · p95 · p99', (step) => times(step.handle_time)],
  ['Restarts', (step) => whole.format(step.restarts)],
];

export function makeStepTable(flow) {
  const head = el('tr', { role: 'row' }, ...COLUMNS.map(([label, text]) => el('th', { role: 'columnheader', scope: 'col', class: text ? '' : 'words' }, label)));
  head.append(el('td', { role: 'cell' }));
  const body = el('tbody', { role: 'rowgroup' });
  const caption = `Steps of ${flow.name}`;
  const node = el('table', { class: 'steps', role: 'table', 'aria-label': caption }, el('thead', { role: 'rowgroup' }, head), body);
  function update(found) {
    const rows = found.steps.flatMap((step) => [{ kind: 'row', step }, { kind: 'more', step }]);
    keyed(body, rows, ({ kind, step }) => `${kind} ${step.name}`, ({ kind, step }) => {
      const parts = pairs.get(step.name) ?? makeStep(found.name, step.name);
      pairs.set(step.name, parts);
      return parts[kind];
    });
  }
  const pairs = new Map();
  return { node, update };
}

function makeStep(flowName, stepName) {
  const id = newId('step');
  const cells = COLUMNS.map(([label], index) => (index
    ? el('td', { role: 'cell', 'data-label': label })
    : el('th', { role: 'rowheader', scope: 'row' })));
  const state = el('span', { class: 'pill' });
  cells[1].append(state);
  cells[1].className = 'words';
  const button = el('button', { type: 'button', class: 'plain', 'aria-expanded': 'false', 'aria-controls': id }, 'Details');
  button.setAttribute('aria-label', `Details of step ${stepName}`);
  const row = el('tr', { role: 'row' }, ...cells, el('td', { role: 'cell' }, button));
  const details = makeDetails(flowName, stepName);
  const more = el('tr', { class: 'more', role: 'row', id, hidden: true },
    el('td', { role: 'cell', colspan: COLUMNS.length + 1 }, details.node));
  button.addEventListener('click', () => {
    more.hidden = !more.hidden;
    button.setAttribute('aria-expanded', String(!more.hidden));
  });
  return {
    row: {
      node: row,
      update({ step }) {
        COLUMNS.forEach(([, text], index) => text && setText(cells[index], text(step)));
        const word = step.change && !step.trial ? step.change : step.state;
        setText(state, word);
        setClass(state, `pill ${step.state === 'asleep' || step.state === 'off' ? '' : step.change && !step.trial ? 'warn' : severity(step.state)}`);
      },
    },
    more: { node: more, update({ step }) { details.update(step); } },
  };
}
