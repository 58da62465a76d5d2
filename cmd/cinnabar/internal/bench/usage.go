package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the unit of /proc/PID/stat on every Linux there is.
const ticksPerSecond = 100

// usage is what processes of this machine have used.
type usage struct {
	cpu    time.Duration
	memory int64 // bytes that are resident
	known  bool
}

// usageOf adds up processes; unknown if there are none, or no /proc.
func usageOf(pids []int) (sum usage, err error) {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, os.ErrNotExist) {
			if _, err := os.Stat("/proc/self/stat"); err != nil {
				return usage{}, nil // another system
			}
			return usage{}, fmt.Errorf("there is no process %d; has the hub ended?", pid)
		}
		if err != nil {
			return usage{}, err
		}
		one, err := parseStat(string(stat))
		if err != nil {
			return usage{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		sum.cpu += one.cpu
		sum.memory += one.memory
		sum.known = true
	}
	return sum, nil
}

func parseStat(stat string) (usage, error) {
	// The name, in parentheses, may contain anything.
	end := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[end+1:])
	if end < 0 || len(fields) < 22 {
		return usage{}, errors.New("too few fields")
	}
	var numbers [3]int64
	for i, field := range []int{11, 12, 21} { // utime, stime, rss, counted from the state
		n, err := strconv.ParseInt(fields[field], 10, 64)
		if err != nil {
			return usage{}, err
		}
		numbers[i] = n
	}
	return usage{
		cpu:    time.Duration(numbers[0]+numbers[1]) * time.Second / ticksPerSecond,
		memory: numbers[2] * int64(os.Getpagesize()), known: true,
	}, nil
}
