// The question before a change.

import { byId, setText } from './elements.js';

export function ask(title, text, verb) {
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
