package hubproc

import "syscall"

// childAttributes give a child a process group of its own, so that Ctrl-C
// reaches this process only, which stops its children in order; and have the kernel
// kill it should this process be killed. The kernel goes by the thread that
// started it: see [Process.run].
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
