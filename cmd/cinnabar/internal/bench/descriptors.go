package bench

import (
	"fmt"
	"syscall"
)

// spareDescriptors are for everything but streams.
const spareDescriptors = 300

// maxStreams is how many this process may hold. The runtime has raised the soft
// limit to the hard one.
func maxStreams() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return int(min(limit.Cur, 1<<30)) - spareDescriptors, nil
}

func checkDescriptors(streams int) error {
	most, err := maxStreams()
	if err != nil || streams <= most {
		return err
	}
	return fmt.Errorf("%d streams need more than the %d descriptors that a process may have here; raise the limit (ulimit -n), or use more --processes",
		streams, most+spareDescriptors)
}

// processesFor is how many it takes to hold so many streams.
func processesFor(streams int) (int, error) {
	most, err := maxStreams()
	if err != nil || most < 1 {
		return 1, err
	}
	return max((streams+most-1)/most, 1), nil
}
