// The status page: draws what the server sends once a second. Everything that comes from there is set as text, never as
// HTML; the Content-Security-Policy of the page forbids the latter.

import { follow } from './connection.js';
import { byId } from './elements.js';
import { show } from './report.js';
import { drawLegend } from './worker.js';

drawLegend(byId('legend'));
follow(show);
