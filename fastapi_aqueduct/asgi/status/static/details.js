// The details of a step: its workers and buttons.

import { makeControls } from './controls.js';
import { el, keyed, setText } from './elements.js';
import { count, duration, whole } from './numbers.js';

const WORKER_COLUMNS = ['Worker', 'State', 'Tasks', 'Version', 'Device', ''];

export function makeDetails(flowName, stepName) {
  const facts = el('p', { class: 'quiet' });
  const body = el('tbody');
  const head = el('tr', {}, ...WORKER_COLUMNS.map((label) => el('th', { scope: 'col', class: label ? '' : 'words' }, label)));
  const workers = el('table', { class: 'workers', 'aria-label': `Workers of ${stepName}` }, el('thead', {}, head), body);
  const controls = makeControls(flowName, stepName);
  const node = el('div', {}, facts, workers, controls.node);
  function update(step) {
    const transfer = step.transfer_time ? `transfer p95 ${duration(step.transfer_time.p95)}` : '';
    const causes = Object.entries(step.restarts_by_cause).map(([cause, number]) => `${number} by ${cause}`);
    const levels = step.queued_by_priority;
    const notes = [
      `${step.handler}, version ${step.version}`,
      transfer,
      causes.length ? `deaths: ${causes.join(', ')}` : '',
      step.retries ? `${count(step.retries, 'task')} tried again` : '',
      step.coalesced ? `${count(step.coalesced, 'task')} shared the run of another` : '',
      step.recycled ? `${count(step.recycled, 'worn worker')} replaced` : '',
      step.failed_launches ? `failed launches: ${whole.format(step.failed_launches)}` : '',
      step.log_records_dropped ? `${count(step.log_records_dropped, 'log record')} dropped` : '',
      levels.length > 1 ? `waiting by priority: ${levels.join(', ')}` : '',
      step.expected_wait ? `next worker in ${duration(step.expected_wait)}` : '',
    ];
    setText(facts, notes.filter(Boolean).join(' · '));
    keyed(body, step.workers, (worker) => `${worker.role} ${worker.index} ${worker.pid}`, makeWorker);
    workers.hidden = !step.workers.length;
    controls.update(step);
  }
  return { node, update };
}

function makeWorker() {
  const cells = WORKER_COLUMNS.map((label, index) => el(index ? 'td' : 'th', { class: index === 5 ? 'words' : '' }));
  const node = el('tr', {}, ...cells);
  function update(worker) {
    const role = worker.role === 'serving' ? '' : ` (${worker.role})`;
    const hanging = worker.hanging_for ? `no call has returned for ${duration(worker.hanging_for)}` : '';
    const ceiling = worker.batch_ceiling ? `at most ${count(worker.batch_ceiling, 'task')} fit into its memory` : '';
    const texts = [
      `${worker.index}: ${worker.pid ? `pid ${worker.pid}` : 'being launched'}${role}`,
      worker.state,
      whole.format(worker.tasks),
      `v${worker.version}`,
      worker.device ?? '–',
      worker.problem || hanging || ceiling,
    ];
    texts.forEach((text, index) => setText(cells[index], text));
    cells[1].classList.toggle('bad', worker.state === 'hanging' || worker.state === 'unhealthy');
  }
  return { node, update };
}
