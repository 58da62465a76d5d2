// Package torture runs a cluster of hubs as real processes, publishes numbered
// updates to it from everywhere, disturbs it in every way it can think of, and
// checks that the hub kept its promises. It talks to the hub over HTTP and SQL
// only, as users do, and shares no code with it.
//
// What is checked, of every subscriber that was there all the time (dropping
// its stream and resuming on another node counts as being there), of replays
// on every node, and of the log itself:
//
//   - what was acknowledged is there exactly once;
//   - all see the same order, that of the log;
//   - what was rolled back, or refused with "nothing was published", is nowhere;
//   - the updates of a transaction keep their order;
//   - what was acknowledged before another publish began comes before it;
//   - private updates reach nobody without a grant, and matchers are obeyed;
//   - what has an unknown outcome is there once or not at all;
//   - no node ends by itself, and each stops in order when it is told to.
//
// Every disturbance comes from a plan that follows from the seed. What the
// machine does between two of them does not, so a seed repeats the circumstances
// of a failure and not its every step.
//
// Memory is bounded: 16 bytes for each update, and 4 bytes and a bit for each
// delivery. Publishing ends early after [maxUpdates] updates.
package torture
