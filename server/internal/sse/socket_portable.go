//go:build unix && !linux

package sse

import "net"

func newTransport(conn *net.TCPConn) (transport, error) { return newTCPTransport(conn) }
