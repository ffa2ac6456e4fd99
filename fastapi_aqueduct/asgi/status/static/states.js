// States of steps, workers and flows.

const BAD = new Set(['broken', 'unavailable', 'failed', 'hanging', 'unhealthy', 'stopped', 'stopping', 'draining']);
const WARN = new Set(['degraded', 'waking', 'starting', 'steps_initialized']);

export const severity = (state) => (BAD.has(state) ? 'bad' : WARN.has(state) ? 'warn' : 'good');
export const serving = (step) => step.workers.filter((worker) => worker.role === 'serving');
export const beside = (step) => step.workers.filter((worker) => worker.role !== 'serving');
