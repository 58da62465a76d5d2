//go:build !linux

package torture

import "syscall"

// childAttributes give a node a process group of its own, so that Ctrl-C
// reaches this process only, which stops the nodes in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
