// The status page: draws what the server sends once a second. Everything that comes from there is set as text, never as
// HTML; the Content-Security-Policy of the page forbids the latter.

const SVG = 'http://www.w3.org/2000/svg';
const STALE = 5000; // milliseconds without news after which the connection counts as lost
const LONGEST_WAIT = 8000; // milliseconds between two attempts to connect
const SPARKS = 60; // points of a small graph

const BOX = { least: 186, most: 270, height: 100, trial: 34, gap: 36, lane: 16 };

const BAD = new Set(['broken', 'unavailable', 'failed', 'hanging', 'unhealthy', 'stopped', 'stopping', 'draining']);
const WARN = new Set(['degraded', 'waking', 'starting', 'steps_initialized']);

const WORKER_STATES = {
  ready: 'ready', busy: 'busy', starting: 'starting', hanging: 'hanging', unhealthy: 'unhealthy', leaving: 'leaving',
};
const KINDS = {
  death: 'worker died', launch: 'launch failed', unhealthy: 'model unhealthy', error: 'error', timeout: 'timed out',
};
const REFUSALS = {
  queue_full: 'the queue was full',
  deadline_unreachable: 'the deadline could not be met',
  step_unavailable: 'a step had no worker',
  overloaded: 'too many bodies were arriving',
  arena_full: 'shared memory was full',
  task_too_large: 'larger than shared memory',
  not_running: 'the flow did not run',
  body_too_large: 'the body was too large',
  body_too_slow: 'the body was too slow',
  unsupported_body: 'the type was not accepted',
  body_length_mismatch: 'the length was not as announced',
  malformed_body: 'the body was malformed',
};

const byId = (id) => document.getElementById(id);

// --- Elements ---------------------------------------------------------------------------------------------------

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

// Only what has changed: screen readers read a changed text again, and a selection in it is lost.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

// Keeps one view for each key: `make` returns { node, update }.
function keyed(parent, items, keyOf, make) {
  const known = parent.views ?? (parent.views = new Map());
  const wanted = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    let key = keyOf(item);
    while (wanted.has(key)) key += ' ';
    wanted.add(key);
    if (!known.has(key)) known.set(key, make(item));
    const view = known.get(key);
    if (view.node !== place) parent.insertBefore(view.node, place);
    else place = place.nextElementSibling;
    view.update(item);
  }
  for (const [key, view] of known) {
    if (!wanted.has(key)) {
      view.node.remove();
      known.delete(key);
    }
  }
}

// --- Numbers ----------------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat('en');

function digits(value) {
  if (value === 0) return '0';
  if (value >= 100) return whole.format(Math.round(value));
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function perSecond(value) {
  return value === null || value === undefined ? '–' : `${digits(value)}/s`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

function percent(value) {
  return value === null || value === undefined ? '–' : `${Math.round(value * 100)} %`;
}

function ago(at, now) {
  const seconds = Math.round(Math.max(0, now - at));
  return seconds < 1 ? 'now' : `${seconds < 120 ? `${seconds} s` : duration(seconds)} ago`;
}

function count(number, noun) {
  return `${whole.format(number)} ${noun}${number === 1 ? '' : 's'}`;
}

const severity = (state) => (BAD.has(state) ? 'bad' : WARN.has(state) ? 'warn' : 'good');
const times = (found) => (found ? `${duration(found.p50)} · ${duration(found.p95)} · ${duration(found.p99)}` : '–');
const serving = (step) => step.workers.filter((worker) => worker.role === 'serving');
const beside = (step) => step.workers.filter((worker) => worker.role !== 'serving');
const batchText = (batch) => (batch?.size ? `${digits(batch.size)} of ${batch.limit ?? '–'}` : '–');

// --- The picture ------------------------------------------------------------------------------------------------

// The pipeline as boxes with places. A shape is a list of names, and of lists of branches beside each other. Boxes of a
// line stand on one axis: `above` and `below` are what an item needs on both sides of it.
function layOut(shape, steps, width, isNarrow) {
  const heightOf = (name) => BOX.height + (steps.get(name)?.trial ? BOX.trial : 0);
  const boxes = [];
  const arrows = [];
  const brackets = [];
  const height = (size) => size.above + size.below;

  function measure(item) {
    if (typeof item === 'string') {
      return { width, above: BOX.height / 2, below: heightOf(item) - BOX.height / 2 };
    }
    const branches = item.map(measureLine);
    const across = branches.reduce((sum, size) => sum + height(size) + BOX.lane, -BOX.lane);
    const along = Math.max(...branches.map((size) => size.width));
    return { width: along + (isNarrow ? BOX.lane : 0), above: across / 2, below: across / 2 };
  }

  function measureLine(line) {
    const sizes = line.map(measure);
    if (isNarrow) {
      const down = sizes.reduce((sum, size) => sum + height(size) + BOX.gap, -BOX.gap);
      return { width: Math.max(...sizes.map((size) => size.width)), above: down / 2, below: down / 2 };
    }
    return {
      width: sizes.reduce((sum, size) => sum + size.width + BOX.gap, -BOX.gap),
      above: Math.max(...sizes.map((size) => size.above)),
      below: Math.max(...sizes.map((size) => size.below)),
    };
  }

  // Each returns where arrows come in and go out.
  function placeLine(line, x, y) {
    const { above } = measureLine(line);
    const ends = [];
    const starts = [];
    for (const item of line) {
      const size = measure(item);
      starts.push(isNarrow ? y : x);
      ends.push(place(item, x, isNarrow ? y : y + above - size.above));
      if (isNarrow) y += height(size) + BOX.gap;
      else x += size.width + BOX.gap;
    }
    for (let index = 1; index < ends.length; index += 1) {
      const bend = starts[index] - BOX.gap / 2; // between the items, where no box is
      for (const from of ends[index - 1].out) for (const to of ends[index].in) arrows.push({ from, to, bend });
    }
    return { in: ends[0].in, out: ends[ends.length - 1].out };
  }

  function place(item, x, y) {
    if (typeof item === 'string') {
      boxes.push({ name: item, x, y, width });
      const middle = y + BOX.height / 2;
      return isNarrow
        ? { in: [{ x: x + 24, y }], out: [{ x: x + 24, y: y + heightOf(item) }] }
        : { in: [{ x, y: middle }], out: [{ x: x + width, y: middle }] };
    }
    const ends = { in: [], out: [] };
    if (isNarrow) brackets.push({ x: x + 4, y, height: height(measure(item)) });
    for (const branch of item) {
      const own = measureLine(branch);
      const found = placeLine(branch, isNarrow ? x + BOX.lane : x + (measure(item).width - own.width) / 2, y);
      ends.in.push(...found.in);
      ends.out.push(...found.out);
      y += height(own) + BOX.lane;
    }
    // In a narrow picture branches stand one below the other: arrows go to the first and from the last.
    return isNarrow ? { in: ends.in.slice(0, 1), out: ends.out.slice(-1) } : ends;
  }

  const size = measureLine(shape);
  placeLine(shape, 1, 1);
  return { boxes, arrows, brackets, width: size.width + 2, height: height(size) + 2 };
}

// How many boxes stand one after the other.
function lengthOf(item) {
  return typeof item === 'string' ? 1 : Math.max(...item.map((line) => line.reduce((sum, part) => sum + lengthOf(part), 0)));
}

function depthOf(item) {
  return typeof item === 'string' ? 0 : 1 + Math.max(...item.flat().map(depthOf));
}

function drawArrow({ from, to, bend }, isNarrow) {
  const path = isNarrow
    ? `M${from.x} ${from.y}V${bend}H${to.x}V${to.y - 6}`
    : `M${from.x} ${from.y}H${bend}V${to.y}H${to.x - 6}`;
  const tip = isNarrow
    ? `M${to.x} ${to.y - 1}l-4 -7h8z`
    : `M${to.x - 1} ${to.y}l-7 -4v8z`;
  return [svg('path', { class: 'arrow', d: path }), svg('path', { class: 'tip', d: tip })];
}

function drawWorker(state, x, y) {
  const parts = [svg('rect', { class: `worker ${state}`, x, y, width: 11, height: 11, rx: 2.5 })];
  if (state === 'hanging') parts.push(svg('path', { class: 'mark', d: `M${x + 5.5} ${y + 2}v4.4m0 1.3v1.6` }));
  if (state === 'unhealthy') parts.push(svg('path', { class: 'mark', d: `M${x + 3} ${y + 3}l5 5m0 -5l-5 5` }));
  return parts;
}

function drawWorkers(workers, x, y, most) {
  const shown = workers.length > most ? workers.slice(0, most - 2) : workers;
  const parts = shown.flatMap((worker, index) => drawWorker(worker.state, x + index * 15, y));
  if (shown.length < workers.length) {
    const rest = `+${workers.length - shown.length}`;
    parts.push(svg('text', { class: 'quiet', x: x + shown.length * 15 + 2, y: y + 9.5 }, rest));
  }
  return parts;
}

function cut(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

function boxClass(step) {
  if (step.state === 'asleep' || step.state === 'off') return 'box rest';
  const found = severity(step.state);
  return found === 'good' ? 'box' : `box ${found}`;
}

function drawBox(step, { x, y, width }) {
  const right = x + width - 10;
  const inner = width - 20;
  const group = svg('g');
  group.append(
    svg('rect', { class: boxClass(step), x, y, width, height: BOX.height, rx: 6 }),
    svg('text', { class: 'name', x: x + 10, y: y + 20 }, cut(step.name, Math.floor((width - 60) / 8.5))),
    svg('text', { class: 'quiet', x: right, y: y + 20, 'text-anchor': 'end' }, `v${step.version}`),
  );
  const word = step.change && !step.trial ? `being ${step.change}` : step.state === 'ready' ? '' : step.state;
  if (word) {
    const colour = step.change && !step.trial ? 'warn' : severity(step.state);
    group.append(svg('text', { class: colour === 'good' ? 'quiet' : colour, x: right, y: y + 41, 'text-anchor': 'end' }, word));
  }
  const workers = serving(step);
  if (workers.length) group.append(...drawWorkers(workers, x + 10, y + 31, word ? 6 : 12));
  else group.append(svg('text', { class: 'quiet', x: x + 10, y: y + 41 }, 'no workers'));
  const part = step.queue_size ? Math.min(1, step.queued / step.queue_size) : 0;
  group.append(
    svg('rect', { class: 'track', x: x + 10, y: y + 52, width: inner, height: 6, rx: 3 }),
    svg('text', { class: 'quiet', x: x + 10, y: y + 73 }, `${whole.format(step.queued)} waiting`),
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
    svg('text', { class: 'trial', x: x + 24, y: y + 17 }, text),
    ...drawWorkers(beside(step), x + width - 24, y + 8, 2),
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

function makePicture() {
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

function drawLegend(node) {
  for (const [state, word] of Object.entries(WORKER_STATES)) {
    const sign = svg('svg', { width: 13, height: 13, 'aria-hidden': 'true' }, ...drawWorker(state, 1, 1));
    node.append(el('li', {}, sign, word));
  }
}

// --- Figures of a flow ------------------------------------------------------------------------------------------

function makeFigure(label) {
  const value = el('span');
  const note = el('small');
  const body = el('dd', {}, value);
  const node = el('div', {}, el('dt', {}, label), body);
  return {
    node,
    body,
    set(text, more = '') {
      setText(value, text);
      setText(note, more);
      if (more && !note.parentNode) value.after(note);
    },
  };
}

function makeSpark() {
  const line = svg('path');
  const area = svg('path', { class: 'area' });
  const node = svg('svg', { class: 'spark', viewBox: `0 0 ${SPARKS - 1} 20`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, area, line);
  const values = [];
  return {
    node,
    add(value) {
      values.push(value ?? 0);
      if (values.length > SPARKS) values.shift();
      const most = Math.max(...values, 1e-9);
      const left = SPARKS - values.length;
      const points = values.map((item, index) => `${left + index} ${(18.5 - (item / most) * 17).toFixed(1)}`);
      line.setAttribute('d', `M${points.join('L')}`);
      area.setAttribute('d', `M${left} 20L${points.join('L')}L${SPARKS - 1} 20Z`);
    },
  };
}

function makeBar() {
  const inner = el('i');
  const node = el('span', { class: 'bar' }, inner);
  return {
    node,
    set(part) {
      inner.style.width = `${Math.min(100, part * 100).toFixed(1)}%`;
      node.classList.toggle('full', part > 0.8);
    },
  };
}

// The tasks of a second, from one document to the next: the rates of the document are over half a minute.
function makeMeter() {
  let last = null;
  return (total, at) => {
    const rate = last && at > last.at && total >= last.total ? (total - last.total) / (at - last.at) : 0;
    last = { total, at };
    return rate;
  };
}

function makeFigures() {
  const figures = {
    rate: makeFigure('Completed'),
    time: makeFigure('Time of a task'),
    first: makeFigure('First item of a stream'),
    flight: makeFigure('In flight'),
    bad: makeFigure('Failed'),
    memory: makeFigure('Shared memory'),
    jobs: makeFigure('Jobs'),
  };
  const spark = makeSpark();
  const bar = makeBar();
  const meter = makeMeter();
  figures.rate.body.append(spark.node);
  figures.memory.body.append(bar.node);
  const node = el('dl', { class: 'figures' }, ...Object.values(figures).map((figure) => figure.node));
  function update(flow, at) {
    const { completed, failed, timed_out: late, cancelled } = flow.outcomes;
    spark.add(meter(completed.total, at));
    figures.rate.set(perSecond(completed.rate), `${whole.format(completed.total)} since the start`);
    const total = flow.total_time;
    figures.time.set(
      total ? `p50 ${duration(total.p50)}` : '–',
      total ? `p95 ${duration(total.p95)} · p99 ${duration(total.p99)}${total.is_recent ? '' : ' since the start'}` : '',
    );
    figures.first.node.hidden = !flow.first_item;
    if (flow.first_item) {
      figures.first.set(`p50 ${duration(flow.first_item.p50)}`, `p95 ${duration(flow.first_item.p95)}`);
    }
    figures.flight.set(whole.format(flow.in_flight), flow.uploads ? `${count(flow.uploads, 'upload')} arriving` : '');
    const wrong = [
      failed.total && `${whole.format(failed.total)} failed`,
      late.total && `${whole.format(late.total)} timed out`,
      cancelled.total && `${whole.format(cancelled.total)} cancelled`,
    ];
    const rates = [failed.rate, late.rate].filter((rate) => rate !== null);
    const rate = rates.length ? rates.reduce((sum, item) => sum + item, 0) : null;
    figures.bad.set(perSecond(rate), wrong.filter(Boolean).join(' · ') || 'none since the start');
    const { used, touched, limit, blocks } = flow.memory;
    figures.memory.set(bytes(used), `of ${bytes(limit)} · ${count(blocks, 'block')} · ${bytes(touched)} touched`);
    bar.set(limit ? used / limit : 0);
    figures.jobs.node.hidden = !flow.jobs;
    if (flow.jobs) {
      const { pending, ended, oldest_age: age } = flow.jobs;
      const counts = (states) => Object.entries(states).map(([state, number]) => `${whole.format(number)} ${state}`);
      const oldest = age ? ` · oldest ${duration(age)}` : '';
      figures.jobs.set(counts(pending).join(' · '), `${counts(ended).join(' · ')}${oldest}`);
    }
  }
  return { node, update };
}

// --- Steps ------------------------------------------------------------------------------------------------------

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

function makeStepTable(flow) {
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

let numbered = 0;

function makeStep(flowName, stepName) {
  numbered += 1;
  const id = `step-${numbered}`;
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

const WORKER_COLUMNS = ['Worker', 'State', 'Tasks', 'Version', 'Device', ''];

function makeDetails(flowName, stepName) {
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
    const texts = [
      `${worker.index}: ${worker.pid ? `pid ${worker.pid}` : 'being launched'}${role}`,
      worker.state,
      whole.format(worker.tasks),
      `v${worker.version}`,
      worker.device ?? '–',
      worker.problem || hanging,
    ];
    texts.forEach((text, index) => setText(cells[index], text));
    cells[1].classList.toggle('bad', worker.state === 'hanging' || worker.state === 'unhealthy');
  }
  return { node, update };
}

function makeControls(flowName, stepName) {
  const target = { flow: flowName, step: stepName };
  const answer = el('p', { class: 'answer', role: 'status' });
  const restart = el('button', { type: 'button' }, 'Restart');
  const input = el('input', { type: 'number', min: '1', max: '10000', step: '1', 'aria-label': `Number of workers of ${stepName}` });
  const scale = el('button', { type: 'button' }, 'Scale');
  const choice = el('select', { 'aria-label': `Handler for ${stepName}` });
  const replace = el('button', { type: 'button' }, 'Replace');
  const replacing = el('span', {}, choice, replace);
  const buttons = [restart, scale, replace];
  let isTouched = false;
  input.addEventListener('input', () => { isTouched = true; });

  async function change(path, body, title, text, verb) {
    if (!await ask(title, text, verb)) return;
    for (const button of buttons) button.disabled = true;
    setClass(answer, 'answer');
    setText(answer, '…');
    const found = await post(path, { ...target, ...body });
    setClass(answer, `answer ${found.isGood ? 'good' : 'bad'}`);
    setText(answer, found.text);
    isTouched = false;
    for (const button of buttons) button.disabled = false;
  }

  const where = `step ${stepName} of flow ${flowName}`;
  restart.addEventListener('click', () => change('restart', {}, `Restart ${where}?`,
    'Its workers are replaced by fresh ones, one after the other. No task is lost.', 'Restart'));
  scale.addEventListener('click', () => {
    const number = input.valueAsNumber;
    if (!Number.isInteger(number)) {
      input.focus();
      return;
    }
    change('scale', { nprocs: number }, `Give ${count(number, 'worker')} to ${where}?`,
      'Workers that are too many answer their tasks first.', 'Scale');
  });
  replace.addEventListener('click', () => change('replace', { handler: choice.value }, `Replace the handler of ${where} by ${choice.value}?`,
    'The workers are replaced one after the other. If the new handler cannot start, all stays as it is.', 'Replace'));

  const node = el('div', {}, el('div', { class: 'controls' }, restart, el('span', {}, input, scale), replacing), answer);
  function update(step) {
    if (!isTouched && document.activeElement !== input && input.value !== String(step.nprocs)) input.value = step.nprocs;
    replacing.hidden = !step.replacements.length;
    keyed(choice, step.replacements, (name) => name, (name) => ({ node: el('option', { value: name }, name), update() {} }));
  }
  return { node, update };
}

// --- Trials, incidents, refusals --------------------------------------------------------------------------------

const SIDE = [
  ['Tasks', (side) => whole.format(side.tasks)],
  ['Failed', (side) => `${whole.format(side.failed)}${side.tasks ? ` (${percent(side.failed / side.tasks)})` : ''}`],
  ['Errors', (side) => Object.entries(side.errors).map(([name, number]) => `${name} × ${number}`).join(', ') || '–'],
  ['Deaths', (side) => whole.format(side.deaths)],
  ['Call p50 · p95 · p99', (side) => times(side.handle_time)],
];

function makeTrial() {
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

function makeIncident() {
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

function makeRefusal() {
  const cells = [el('span'), el('span'), el('span', { class: 'quiet' })];
  const node = el('li', {}, ...cells);
  function update([reason, { total, rate }]) {
    setText(cells[0], REFUSALS[reason] ?? reason);
    setText(cells[1], whole.format(total));
    setText(cells[2], rate ? perSecond(rate) : '');
  }
  return { node, update };
}

// --- Flows ------------------------------------------------------------------------------------------------------

function makeFlow(first) {
  numbered += 1;
  const id = `flow-${numbered}`;
  const name = el('h2', { id }, first.name);
  const state = el('span', { class: 'pill' });
  const note = el('span', { class: 'quiet' });
  const figures = makeFigures();
  const picture = makePicture();
  const table = makeStepTable(first);
  const trials = el('div', { class: 'columns trials' });
  const incidents = el('ol', { class: 'log' });
  const refusals = el('ul', { class: 'tally' });
  const recent = el('section', {}, el('h3', {}, 'Recent restarts and errors'), incidents);
  const refused = el('section', {}, el('h3', {}, 'Refused before they became tasks'), refusals);
  const node = el('section', { class: 'card flow', 'aria-labelledby': id },
    el('header', {}, name, state, note), figures.node, picture.node, table.node, trials,
    el('div', { class: 'columns' }, recent, refused));

  function update({ flow, at }) {
    setText(state, flow.state);
    setClass(state, `pill ${severity(flow.state)}`);
    const silent = flow.silent_for ? `no sign of life for ${duration(flow.silent_for)}` : '';
    const template = flow.template ? `template pid ${flow.template.pid ?? '–'}` : '';
    setText(note, [flow.reason, silent, template].filter(Boolean).join(' · '));
    figures.update(flow, at);
    picture.update(flow);
    table.update(flow);
    keyed(trials, flow.steps.filter((step) => step.trial), (step) => step.name, makeTrial);
    const found = flow.steps.flatMap((step) => step.incidents.map((incident) => ({ incident, step: step.name, now: at })));
    found.sort((one, other) => other.incident.at - one.incident.at);
    keyed(incidents, found.slice(0, 12), ({ incident, step }) => `${step} ${incident.kind} ${incident.subject}`, makeIncident);
    recent.hidden = !found.length;
    keyed(refusals, Object.entries(flow.refusals), ([reason]) => reason, makeRefusal);
    refused.hidden = !Object.keys(flow.refusals).length;
  }
  return { node, update };
}

function makeChange() {
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

function show(found) {
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

// --- Questions and changes --------------------------------------------------------------------------------------

function ask(title, text, verb) {
  const dialog = byId('question');
  setText(byId('question-title'), title);
  setText(byId('question-text'), text);
  setText(byId('question-yes'), verb);
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

byId('question-yes').addEventListener('click', () => byId('question').close('yes'));
byId('question-no').addEventListener('click', () => byId('question').close(''));

async function post(path, body) {
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

// --- The connection ---------------------------------------------------------------------------------------------

let source = null;
let seenAt = 0;
let wait = 500;
let timer = 0;

function say(state, text) {
  document.body.dataset.connection = state;
  setText(byId('connection'), text);
}

function connect() {
  clearTimeout(timer);
  source?.close();
  source = new EventSource('events');
  source.addEventListener('message', (event) => {
    seenAt = Date.now();
    wait = 500;
    say('live', 'Live');
    show(JSON.parse(event.data));
  });
  source.addEventListener('end', () => {
    say('ended', 'The server is stopping; this is the last that it has told');
    source.close();
    connectLater();
  });
  source.addEventListener('error', () => {
    // It connects again by itself, unless the answer was no stream: the server refuses, or a proxy has no server.
    if (source.readyState === EventSource.CLOSED) connectLater();
  });
}

function connectLater() {
  clearTimeout(timer);
  timer = setTimeout(connect, wait);
  wait = Math.min(LONGEST_WAIT, wait * 2);
}

setInterval(() => {
  if (document.hidden || document.body.dataset.connection === 'ended') return;
  const silent = Date.now() - seenAt;
  if (silent > STALE) say('lost', seenAt ? `Connection lost; this is ${duration(Math.round(silent / 1000))} old. Trying again …` : 'No connection. Trying again …');
}, 1000);

document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    clearTimeout(timer);
    source?.close();
  } else {
    connect();
  }
});

drawLegend(byId('legend'));
connect();
