// Elements of the page. Text is set as text, and only where it has changed.

const SVG = 'http://www.w3.org/2000/svg';

export const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

// Only what has changed: screen readers read a changed text again, and a selection in it is lost.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

// Keeps one view for each key: `make` returns { node, update }.
export function keyed(parent, items, keyOf, make) {
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

let numbered = 0;

export function newId(name) {
  numbered += 1;
  return `${name}-${numbered}`;
}
