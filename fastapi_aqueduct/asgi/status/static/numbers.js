// Numbers in words: what the server measures, as people read it.

export const whole = new Intl.NumberFormat('en');

const few = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });

// Where there is little room.
export const compact = (number) => (number < 10_000 ? whole : few).format(number);

// Between a number and its unit no line ends.
const NBSP = '\u00a0';

function digits(value) {
  if (value === 0) return '0';
  if (value >= 100) return whole.format(Math.round(value));
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function perSecond(value) {
  return value === null || value === undefined ? '–' : `${digits(value)}/s`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)}${NBSP}µs`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)}${NBSP}ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)}${NBSP}s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)}${NBSP}min` : `${Math.round(seconds / 3600)}${NBSP}h`;
}

export function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)}${NBSP}${units[unit]}`;
}

export function percent(value) {
  return value === null || value === undefined ? '–' : `${Math.round(value * 100)}${NBSP}%`;
}

export function ago(at, now) {
  const seconds = Math.round(Math.max(0, now - at));
  return seconds < 1 ? 'now' : `${seconds < 120 ? `${seconds}${NBSP}s` : duration(seconds)} ago`;
}

export function count(number, noun) {
  return `${whole.format(number)} ${noun}${number === 1 ? '' : 's'}`;
}
export const times = (found) => (found ? `${duration(found.p50)} · ${duration(found.p95)} · ${duration(found.p99)}` : '–');
export const batchText = (batch) => (batch?.size ? `${digits(batch.size)} of ${batch.limit ?? '–'}` : '–');
