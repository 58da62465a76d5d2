//go:build !linux

package hubproc

import "syscall"

// childAttributes give a child a process group of its own, so that Ctrl-C
// reaches this process only, which stops its children in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
