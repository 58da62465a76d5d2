// Subscribes with event-source-polyfill, in the release that setup names.
await import(`/node_modules/${setup.library}/src/eventsource.js`);

const hub = new URLSearchParams(location.search).get("hub");
const options = {heartbeatTimeout: setup.heartbeatTimeout};
if (setup.token) {
  options.headers = {Authorization: `Bearer ${setup.token}`};
} else {
  options.withCredentials = true;
}
const source = new EventSourcePolyfill(`${hub}&${setup.cursor}`, options);
source.onopen = () => happened.opened++;
source.onerror = () => happened.errors++;
source.onmessage = (e) => happened.updates.push({id: e.lastEventId, data: e.data});

// One at a hub without heartbeats, to compare with.
if (setup.silent) {
  const control = new EventSourcePolyfill(setup.silent, options);
  happened.silentErrors = 0;
  control.onerror = () => happened.silentErrors++;
}
