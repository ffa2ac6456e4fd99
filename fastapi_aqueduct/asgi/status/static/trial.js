// Canaries and shadows.

import { el, setText } from './elements.js';
import { count, percent, times, whole } from './numbers.js';

const SIDE = [
  ['Tasks', (side) => whole.format(side.tasks)],
  ['Failed', (side) => `${whole.format(side.failed)}${side.tasks ? ` (${percent(side.failed / side.tasks)})` : ''}`],
  ['Errors', (side) => Object.entries(side.errors).map(([name, number]) => `${name} × ${number}`).join(', ') || '–'],
  ['Deaths', (side) => whole.format(side.deaths)],
  ['Call p50 · p95 · p99', (side) => times(side.handle_time)],
];

export function makeTrial() {
  const title = el('h3');
  const heads = [el('th', { scope: 'col' }), el('th', { scope: 'col' })];
  const cells = SIDE.map(() => [el('td'), el('td')]);
  const rows = SIDE.map(([label], index) => el('tr', {}, el('th', { scope: 'row' }, label), ...cells[index]));
  const table = el('table', {}, el('thead', {}, el('tr', {}, el('td'), ...heads)), el('tbody', {}, ...rows));
  const node = el('section', {}, title, table);
  function update(step) {
    const { role, baseline, candidate, share, skipped } = step.trial;
    const note = role === 'canary' ? `${percent(share)} of the tasks` : `${count(skipped, 'task')} skipped`;
    setText(title, `${role === 'canary' ? 'Canary' : 'Shadow'} of ${step.name}: ${note}`);
    [baseline, candidate].forEach((side, column) => {
      setText(heads[column], `${column ? role : 'serving'} v${side.version}`);
      SIDE.forEach(([, text], index) => setText(cells[index][column], text(side)));
    });
    table.setAttribute('aria-label', title.textContent);
  }
  return { node, update };
}
