// Package hubproc runs hubs as processes of their own, for commands that put
// hubs to the test.
package hubproc
