// Package bench puts load on a hub and measures what it does: any Mercure hub,
// over HTTP, and with one scenario over SQL. It shares no code with the hub.
//
// Streams are read without a goroutine each where that is possible, and nothing
// of an update is kept but its number, so that one process holds as many
// streams as it may have descriptors, and costs less than the hub it measures.
// Several processes hold more.
//
// What is measured is checked: every update carries the number that its
// publisher gave it, and the time. A stream that misses a number, sees one
// twice or behind a later one is a violation, and so are two streams that
// see the same updates in different orders.
//
// Latencies run from when an update was sent, or at a rate, from when it was
// due, to when it was read from the socket. Memory is the growth of what is
// resident in the processes of the hub; what the kernel holds for their sockets
// comes on top.
package bench
