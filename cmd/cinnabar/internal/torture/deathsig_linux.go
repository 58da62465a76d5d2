package torture

import "syscall"

// childAttributes give a node a process group of its own, so that Ctrl-C
// reaches this process only, which stops the nodes in order; and have the kernel
// kill it should this process be killed. The kernel goes by the thread that
// started it: see [process.run].
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
