// What was refused before it became a task.

import { el, setText } from './elements.js';
import { perSecond, whole } from './numbers.js';

const REFUSALS = {
  queue_full: 'the queue was full',
  tenant_over_share: 'a tenant had its share of the queue',
  deadline_unreachable: 'the deadline could not be met',
  step_unavailable: 'a step had no worker',
  overloaded: 'too many bodies were arriving',
  arena_full: 'shared memory was full',
  task_too_large: 'larger than shared memory',
  not_running: 'the flow did not run',
  forked: 'called in a fork of the process',
  body_too_large: 'the body was too large',
  body_too_slow: 'the body was too slow',
  unsupported_body: 'the type was not accepted',
  body_length_mismatch: 'the length was not as announced',
  malformed_body: 'the body was malformed',
};

export function makeRefusal() {
  const cells = [el('span'), el('span'), el('span', { class: 'quiet' })];
  const node = el('li', {}, ...cells);
  function update([reason, { total, rate }]) {
    setText(cells[0], REFUSALS[reason] ?? reason);
    setText(cells[1], whole.format(total));
    setText(cells[2], rate ? perSecond(rate) : '');
  }
  return { node, update };
}
