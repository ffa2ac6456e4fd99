// Workers as squares of the picture and of its legend.

import { el, svg } from './elements.js';

const WORKER_STATES = {
  ready: 'ready', busy: 'busy', starting: 'starting', hanging: 'hanging', unhealthy: 'unhealthy', leaving: 'leaving',
};

function drawWorker(state, x, y) {
  const parts = [svg('rect', { class: `worker ${state}`, x, y, width: 11, height: 11, rx: 2.5 })];
  if (state === 'hanging') parts.push(svg('path', { class: 'mark', d: `M${x + 5.5} ${y + 2}v4.4m0 1.3v1.6` }));
  if (state === 'unhealthy') parts.push(svg('path', { class: 'mark', d: `M${x + 3} ${y + 3}l5 5m0 -5l-5 5` }));
  return parts;
}

export const SQUARE = 15; // the room of one worker

// As many workers as have room; the number of the others takes that of two.
export function drawWorkers(workers, x, y, room) {
  const most = Math.min(12, Math.floor(room / SQUARE));
  const shown = workers.length > most ? workers.slice(0, Math.max(0, most - 2)) : workers;
  const parts = shown.flatMap((worker, index) => drawWorker(worker.state, x + index * SQUARE, y));
  if (shown.length < workers.length) {
    const rest = `+${workers.length - shown.length}`;
    parts.push(svg('text', { class: 'quiet', x: x + shown.length * SQUARE + 2, y: y + 9.5 }, rest));
  }
  return parts;
}

export function drawLegend(node) {
  for (const [state, word] of Object.entries(WORKER_STATES)) {
    const sign = svg('svg', { width: 13, height: 13, 'aria-hidden': 'true' }, ...drawWorker(state, 1, 1));
    node.append(el('li', {}, sign, word));
  }
}
