// A flow with all that is shown of it.

import { el, keyed, newId, setClass, setText } from './elements.js';
import { makeFigures } from './figures.js';
import { makeIncident } from './incident.js';
import { duration } from './numbers.js';
import { makePicture } from './picture.js';
import { makeRefusal } from './refusal.js';
import { severity } from './states.js';
import { makeStepTable } from './table.js';
import { makeTrial } from './trial.js';

export function makeFlow(first) {
  const id = newId('flow');
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
