// The buttons of a step.

import { post } from './actions.js';
import { el, keyed, setClass, setText } from './elements.js';
import { count } from './numbers.js';
import { ask } from './question.js';

export function makeControls(flowName, stepName) {
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
    setClass(answer, 'answer');
    setText(answer, ''); // that of the change before
    if (!await ask(title, text, verb)) return;
    for (const button of buttons) button.disabled = true;
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
