// The connection to the server.

import { byId, setText } from './elements.js';
import { duration } from './numbers.js';

const STALE = 5000; // milliseconds without news after which the connection counts as lost
const LONGEST_WAIT = 8000; // milliseconds between two attempts to connect

let source = null;
let seenAt = 0;
let wait = 500;
let timer = 0;
let show = () => {};

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
    say('ended', 'The server is stopping; this is its last state');
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

export function follow(handle) {
  show = handle;
  connect();
}
