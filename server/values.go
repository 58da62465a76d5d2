package server

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// Secret is a value that is never printed.
type Secret string

// String implements fmt.Stringer.
func (Secret) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return "[redacted]" }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Switch is on or off; 1, 0, true and false are understood too.
type Switch bool

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Switch) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "on", "true", "1", "yes":
		*s = true
	case "off", "false", "0", "no":
		*s = false
	default:
		return fmt.Errorf("%q is neither on nor off", text)
	}
	return nil
}

// String implements fmt.Stringer.
func (s Switch) String() string {
	if s {
		return "on"
	}
	return "off"
}

// Bytes is a size, written as a number with an optional unit: B, kB, MB, GB,
// KiB, MiB or GiB.
type Bytes int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	value := strings.TrimSpace(string(text))
	digits := strings.TrimRight(value, "BKMGTkmgtib ")
	number, err := strconv.ParseInt(digits, 10, 64)
	factor, known := map[string]int64{
		"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
	}[strings.ToLower(strings.TrimSpace(value[len(digits):]))]
	if err != nil || !known || number < 0 || number > (1<<62)/factor {
		return fmt.Errorf("%q is not a size such as 64MiB", value)
	}
	*b = Bytes(number * factor)
	return nil
}

// String implements fmt.Stringer.
func (b Bytes) String() string {
	for _, unit := range []struct {
		name string
		size Bytes
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if b >= unit.size && b%unit.size == 0 {
			return strconv.FormatInt(int64(b/unit.size), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
