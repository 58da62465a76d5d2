package bench

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	stat := "42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 8 0 1000 123456 256 18446744073709551615 1 1 0 0"
	got, err := parseStat(stat)
	want := usage{cpu: 2 * time.Second, memory: 256 * int64(os.Getpagesize()), known: true}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "42 (a", "42 (a) S 1", strings.Replace(stat, "150", "x", 1)} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q: got %+v", bad, got)
		}
	}
}

func TestUsageOfNobody(t *testing.T) {
	t.Parallel()
	if got, err := usageOf(nil); err != nil || got.known {
		t.Errorf("got %+v, %v", got, err)
	}
	got, err := usageOf([]int{os.Getpid()})
	if _, missing := os.Stat("/proc/self/stat"); missing != nil {
		t.Skip("there is no /proc")
	}
	if err != nil || !got.known || got.memory == 0 {
		t.Errorf("of this process: %+v, %v", got, err)
	}
	if _, err := usageOf([]int{1 << 30}); err == nil {
		t.Error("a process that is not there has used something")
	}
}
