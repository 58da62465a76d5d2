// Subscribes with an EventSource for Node and prints what happens, one JSON
// document on each line.
//
//	node node.cjs DIRECTORY LIBRARY URL [TOKEN]
"use strict";
const http = require("node:http");
const {createRequire} = require("node:module");

const [directory, library, url, token] = process.argv.slice(2);
const print = (what) => process.stdout.write(JSON.stringify(what) + "\n");

// Print how much arrives, of which the library does not report all. This sees
// what libraries built on node:http receive, not what fetch does.
const request = http.request;
http.request = (options, onResponse) =>
  request(options, (response) => {
    response.on("data", (chunk) => print({bytes: chunk.length}));
    onResponse(response);
  });

const exported = createRequire(`${directory}/`)(library);
const EventSource = exported.EventSource ?? exported; // the latter before release 3

// Releases differ in where they take the token from, and ignore the other.
const headers = token ? {Authorization: `Bearer ${token}`} : {};
const source = new EventSource(url, {
  headers,
  fetch: (input, init) => fetch(input, {...init, headers: {...init.headers, ...headers}}),
});
source.onopen = () => print({opened: 1});
source.onerror = () => print({errors: 1});
source.onmessage = (e) => print({update: {id: e.lastEventId, data: e.data}});
