// The figures of a flow.

import { el, setText, svg } from './elements.js';
import { bytes, count, duration, perSecond, whole } from './numbers.js';

const SPARKS = 60; // points of a small graph

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

export function makeFigures() {
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
      flow.recorded && `${whole.format(flow.recorded)} recorded`,
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
