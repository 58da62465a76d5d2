// Subscribes with fetch-event-source.
import {fetchEventSource} from "/node_modules/fetch-event-source/lib/esm/index.js";

happened.bytes = 0;

// count lets the test see what the library does not report.
async function count(...args) {
  const response = await fetch(...args);
  const counter = new TransformStream({
    transform(chunk, controller) {
      happened.bytes += chunk.length;
      controller.enqueue(chunk);
    },
  });
  return new Response(response.body.pipeThrough(counter), response);
}

// hide makes the page believe that its tab is in the background, or back.
window.hide = (hidden) => {
  Object.defineProperty(document, "hidden", {configurable: true, value: hidden});
  document.dispatchEvent(new Event("visibilitychange"));
};

const hub = new URLSearchParams(location.search).get("hub");
fetchEventSource(`${hub}&${setup.cursor}`, {
  fetch: count,
  headers: setup.token ? {Authorization: `Bearer ${setup.token}`} : {},
  credentials: setup.token ? "omit" : "include",
  onopen: async (response) => {
    if (!response.ok) throw new Error(`status ${response.status}`);
    happened.opened++;
  },
  onmessage: (e) => happened.updates.push({id: e.id, data: e.data}),
  // Without this the library takes the end of a stream for the end of it all.
  onclose: () => {
    throw new Error("the stream ended");
  },
  onerror: () => {
    happened.errors++;
    return 100;
  },
});
