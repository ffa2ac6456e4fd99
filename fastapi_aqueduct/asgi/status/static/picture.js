// The picture of a flow.

import { el, svg } from './elements.js';
import { BOX, depthOf, layOut, lengthOf } from './layout.js';
import { batchText, compact, count, duration, perSecond, percent } from './numbers.js';
import { beside, serving, severity } from './states.js';
import { cut, widthOf } from './text.js';
import { SQUARE, drawWorkers } from './worker.js';

// Fonts of the texts whose width decides what has room beside them; the style sheet has the same.
const NAME = '600 13px';
const WORD = '600 12px';
const SMALL = '11px';
const SPACE = 8;

function drawArrow({ from, to, bend }, isNarrow) {
  const path = isNarrow
    ? `M${from.x} ${from.y}V${bend}H${to.x}V${to.y - 6}`
    : `M${from.x} ${from.y}H${bend}V${to.y}H${to.x - 6}`;
  const tip = isNarrow
    ? `M${to.x} ${to.y - 1}l-4 -7h8z`
    : `M${to.x - 1} ${to.y}l-7 -4v8z`;
  return [svg('path', { class: 'arrow', d: path }), svg('path', { class: 'tip', d: tip })];
}

function boxClass(step) {
  if (step.state === 'asleep' || step.state === 'off') return 'box rest';
  const found = severity(step.state);
  return found === 'good' ? 'box' : `box ${found}`;
}

function drawBox(step, { x, y, width }) {
  const right = x + width - 10;
  const inner = width - 20;
  const version = `v${step.version}`;
  const group = svg('g');
  group.append(
    svg('title', {}, step.name),
    svg('rect', { class: boxClass(step), x, y, width, height: BOX.height, rx: 6 }),
    svg('text', { class: 'name', x: x + 10, y: y + 20 }, cut(step.name, NAME, inner - SPACE - widthOf(version, SMALL))),
    svg('text', { class: 'quiet', x: right, y: y + 20, 'text-anchor': 'end' }, version),
  );
  const word = step.change && !step.trial ? `being ${step.change}` : step.state === 'ready' ? '' : step.state;
  if (word) {
    const colour = step.change && !step.trial ? 'warn' : severity(step.state);
    group.append(svg('text', { class: colour === 'good' ? 'quiet' : colour, x: right, y: y + 41, 'text-anchor': 'end' }, word));
  }
  const workers = serving(step);
  if (workers.length) group.append(...drawWorkers(workers, x + 10, y + 31, inner - (word ? SPACE + widthOf(word, WORD) : 0)));
  else group.append(svg('text', { class: 'quiet', x: x + 10, y: y + 41 }, 'no workers'));
  const part = step.queue_size ? Math.min(1, step.queued / step.queue_size) : 0;
  group.append(
    svg('rect', { class: 'track', x: x + 10, y: y + 52, width: inner, height: 6, rx: 3 }),
    svg('text', { class: 'quiet', x: x + 10, y: y + 73 }, `${compact(step.queued)} waiting`),
    svg('text', { class: 'quiet', x: right, y: y + 73, 'text-anchor': 'end' }, step.batch ? `batch ${batchText(step.batch)}` : ''),
    svg('text', { x: x + 10, y: y + 91 }, perSecond(step.throughput)),
    svg('text', { x: right, y: y + 91, 'text-anchor': 'end' }, step.handle_time ? `p95 ${duration(step.handle_time.p95)}` : ''),
  );
  if (part > 0) {
    const full = part > 0.8 ? 'fill full' : 'fill';
    group.append(svg('rect', { class: full, x: x + 10, y: y + 52, width: Math.max(4, part * inner), height: 6, rx: 3 }));
  }
  if (step.trial) group.append(...drawTrial(step, x, y + BOX.height + 6, width));
  return group;
}

function drawTrial(step, x, y, width) {
  const { role, candidate, share } = step.trial;
  const text = `${role} v${candidate.version}${role === 'canary' ? ` · ${percent(share)}` : ''}`;
  return [
    svg('rect', { class: 'box trial', x: x + 14, y, width: width - 14, height: BOX.trial - 8, rx: 6 }),
    svg('text', { class: 'trial', x: x + 24, y: y + 17 }, cut(text, '12px', width - 60)),
    ...drawWorkers(beside(step), x + width - 24, y + 8, SQUARE),
  ];
}

function describe(flow) {
  const parts = flow.steps.map((step) => {
    const trial = step.trial ? `, ${step.trial.role} of version ${step.trial.candidate.version}` : '';
    const workers = count(serving(step).length, 'worker');
    return `${step.name}: ${step.state}, ${workers}, ${count(step.queued, 'task')} waiting${trial}`;
  });
  return `The steps in order. ${parts.join('. ')}.`;
}

export function makePicture() {
  const node = el('div', { class: 'picture', role: 'img', tabindex: '0' });
  let drawn = '';
  function update(flow) {
    const room = node.clientWidth - 2 * parseFloat(getComputedStyle(node).paddingLeft);
    const steps = new Map(flow.steps.map((step) => [step.name, step]));
    const length = lengthOf([flow.shape]);
    const fitting = (room - 2 - BOX.gap * (length - 1)) / length;
    const isNarrow = fitting < BOX.least && room < 560;
    const width = isNarrow
      ? room - 2 - BOX.lane * depthOf([flow.shape]) + BOX.lane
      : Math.round(Math.min(BOX.most, Math.max(BOX.least, fitting)));
    const layout = layOut(flow.shape, steps, width, isNarrow);
    const signature = JSON.stringify([width, isNarrow, flow.shape, flow.steps]);
    if (signature === drawn) return;
    drawn = signature;
    node.setAttribute('aria-label', describe(flow));
    const scale = layout.width > room && !isNarrow ? Math.max(0.8, room / layout.width) : 1;
    const size = { width: layout.width * scale, height: layout.height * scale };
    const parts = [
      ...layout.brackets.map(({ x, y, height }) => svg('path', { class: 'arrow', d: `M${x + 5} ${y}H${x}v${height}h5` })),
      ...layout.arrows.flatMap((arrow) => drawArrow(arrow, isNarrow)),
      ...layout.boxes.filter((box) => steps.has(box.name)).map((box) => drawBox(steps.get(box.name), box)),
    ];
    const attributes = { ...size, viewBox: `0 0 ${layout.width} ${layout.height}`, 'aria-hidden': 'true' };
    node.replaceChildren(svg('svg', attributes, ...parts));
  }
  return { node, update };
}
