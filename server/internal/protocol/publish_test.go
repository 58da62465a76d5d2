package protocol

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePublish(t *testing.T) {
	t.Parallel()
	retry := func(n int64) *int64 { return &n }
	for _, tc := range []struct {
		name, body string
		want       Update
	}{
		{"topic only", "topic=a", Update{Topics: []string{"a"}}},
		{
			"everything",
			"topic=https%3A%2F%2Fh%2F1&topic=b&data=l1%0Al2&private=on&id=x&type=ping&retry=3000",
			Update{ID: "x", Topics: []string{"https://h/1", "b"}, Data: "l1\nl2", Private: true, Type: "ping", Retry: retry(3000)},
		},
		// Spec: P-5
		{"duplicate topics are stored once, in order", "topic=b&topic=a&topic=b&topic=a", Update{Topics: []string{"b", "a"}}},
		{"commas do not separate topics", "topic=a,b", Update{Topics: []string{"a,b"}}},
		// Spec: P-3, Q-10
		{"unknown fields", "topic=a&target=x&Topic=*&data%00=y&%FF=%FF", Update{Topics: []string{"a"}}},
		// Spec: P-4, Q-11
		{"first of single-valued fields", "topic=a&data=1&data=2&id=3&id=4&type=5&type=6&retry=7&retry=8", Update{ID: "3", Topics: []string{"a"}, Data: "1", Type: "5", Retry: retry(7)}},
		{"rules apply to the first only", "topic=a&id=1&id=%23&type=b&type=mercure&retry=1&retry=x", Update{ID: "1", Topics: []string{"a"}, Type: "b", Retry: retry(1)}},
		// Spec: P-4, Q-12
		{"empty optional fields", "topic=a&id=&type=&retry=", Update{Topics: []string{"a"}}},
		{"empty first occurrence", "topic=a&id=&id=x", Update{Topics: []string{"a"}}},
		// Spec: P-6
		{"any UTF-8 as data", "topic=a&data=%00%0D%0A%EF%BB%BF%E2%80%8B", Update{Topics: []string{"a"}, Data: "\x00\r\n\uFEFF\u200B"}},
		{"unencoded JSON", `topic=a&data={"b": "c;d"}`, Update{Topics: []string{"a"}, Data: `{"b": "c;d"}`}},
		// Spec: P-7
		{"private, empty", "topic=a&private=", Update{Topics: []string{"a"}, Private: true}},
		{"private without equals sign", "topic=a&private", Update{Topics: []string{"a"}, Private: true}},
		{"private=0", "topic=a&private=0", Update{Topics: []string{"a"}, Private: true}},
		{"private=false", "topic=a&private=false", Update{Topics: []string{"a"}, Private: true}},
		{"private=off", "topic=a&private=off", Update{Topics: []string{"a"}, Private: true}},
		{"private, invalid UTF-8", "topic=a&private=%FF", Update{Topics: []string{"a"}, Private: true}},
		// Spec: P-8, P-9
		{"unusual id and type", "topic=a&id=a%23b&type=Mercure", Update{ID: "a#b", Topics: []string{"a"}, Type: "Mercure"}},
		// Spec: P-10, W-3
		{"retry zero", "topic=a&retry=0", Update{Topics: []string{"a"}, Retry: retry(0)}},
		{"longest retry", "topic=a&retry=999999999999999", Update{Topics: []string{"a"}, Retry: retry(999999999999999)}},
		{"leading zeros", "topic=a&retry=007", Update{Topics: []string{"a"}, Retry: retry(7)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParsePublish(tc.body, mustHub(t, defaultHub), DefaultLimits())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParsePublishRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 4097)
	for _, tc := range []struct {
		name, body, field string
		tooLarge          bool
	}{
		// Spec: P-5, TP-7
		{"no topic", "data=x", "topic", false},
		{"empty body", "", "topic", false},
		{"empty topic", "topic=", "topic", false},
		{"empty alternate topic", "topic=a&topic", "topic", false},
		{"wildcard", "topic=*", "topic", false},
		{"wildcard as alternate topic", "topic=a&topic=%2A", "topic", false},
		{"control character in topic", "topic=a%00", "topic", false},
		{"format character in topic", "topic=a%E2%80%8D", "topic", false},
		// Spec: N-1
		{"reserved topic", "topic=%2F.well-known%2Fmercure%2Fsubscriptions%2Fx", "topic", false},
		{"reserved alternate topic", "topic=a&topic=mercure", "topic", false},
		// Spec: P-2
		{"invalid UTF-8 in topic", "topic=%FF", "topic", false},
		{"invalid UTF-8 in data", "topic=a&data=%C3", "data", false},
		{"overlong form in data", "topic=a&data=%C0%AF", "data", false},
		{"surrogate in data", "topic=a&data=%ED%A0%80", "data", false},
		{"invalid UTF-8 in a later id", "topic=a&id=x&id=%FF", "id", false},
		// Spec: P-8
		{"id of hubs", "topic=a&id=%23x", "id", false},
		{"id earliest", "topic=a&id=earliest", "id", false},
		{"line end in id", "topic=a&id=x%0Adata:y", "id", false},
		// Spec: P-9
		{"type mercure", "topic=a&type=mercure", "type", false},
		{"line end in type", "topic=a&type=x%0D", "type", false},
		// Spec: P-10
		{"negative retry", "topic=a&retry=-1", "retry", false},
		{"signed retry", "topic=a&retry=%2B1", "retry", false},
		{"spaced retry", "topic=a&retry=1+", "retry", false},
		{"fractional retry", "topic=a&retry=1.5", "retry", false},
		{"exponent in retry", "topic=a&retry=1e3", "retry", false},
		{"other digits in retry", "topic=a&retry=%D9%A1", "retry", false},
		{"16 digits in retry", "topic=a&retry=1000000000000000", "retry", true},
		// Spec: P-20, TP-9, Q-29
		{"long topic", "topic=a&topic=" + long, "topic", true},
		{"long id", "topic=a&id=" + long, "id", true},
		{"long type", "topic=a&type=" + long, "type", true},
		{"too many topics", strings.Repeat("topic=a&", 1001), "topic", true},
		{"long body", "topic=a&data=" + strings.Repeat("x", 1<<20), "body", true},
		// Sizes come before rules.
		{"reserved and too long", "topic=mercure&topic=" + long, "topic", true},
		{"bad type and long id", "topic=&type=mercure&id=" + long, "id", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParsePublish(tc.body, mustHub(t, defaultHub), DefaultLimits())
			wantFieldError(t, err, tc.field, tc.tooLarge)
		})
	}
}

// Spec: TP-9, P-20
func TestParsePublishLimits(t *testing.T) {
	t.Parallel()
	hub := mustHub(t, defaultHub)
	full := strings.Repeat("x", 4096)
	topics := strings.Repeat("topic=a&", 999)
	if u, err := ParsePublish(topics+"topic="+full+"&id="+full+"&type="+full, hub, DefaultLimits()); err != nil || len(u.Topics) != 2 {
		t.Errorf("at the limits: got %v", err)
	}
	// Percent-encoding does not count for fields.
	if _, err := ParsePublish("topic="+strings.Repeat("%78", 4096), hub, DefaultLimits()); err != nil {
		t.Errorf("encoded topic: got %v", err)
	}
	if _, err := ParsePublish("topic=a&data="+strings.Repeat("x", 2<<20), hub, Limits{}); err != nil {
		t.Errorf("without limits: got %v", err)
	}
	_, err := ParsePublish("topic=a&retry="+strings.Repeat("9", 30), hub, Limits{})
	wantFieldError(t, err, "retry", true)
	if fieldErr := wantFieldError(t, func() error {
		_, err := ParsePublish("topic=a&topic=b&topic=c%00", hub, DefaultLimits())
		return err
	}(), "topic", false); fieldErr.Index != 3 {
		t.Errorf("got number %d, want 3", fieldErr.Index)
	}
}

// No body makes the parser panic, and what it accepts keeps the rules.
//
// Spec: P-5, P-8, P-9, Z-4, Z-5
func FuzzParsePublish(f *testing.F) {
	for _, topic := range []string{"a", "https://shop.example/1", "http://[", "urn:x", "/.well-known/%6Dercure", `\\x\y`, "file:c|/..", "//[::1]:80/%", "https://\u00E9.example"} {
		f.Add("topic=" + url.QueryEscape(topic) + "&id=1&type=b&retry=2&data=x")
	}
	hub := mustHub(f, defaultHub)
	f.Fuzz(func(t *testing.T, body string) {
		u, err := ParsePublish(body, hub, DefaultLimits())
		if err != nil {
			if len(err.Error()) > 500 {
				t.Fatalf("long error: %v", err)
			}
			return
		}
		for _, topic := range u.Topics {
			if topic == "*" || ValidateTopic(topic) != nil || hub.Reserved(topic) {
				t.Fatalf("accepted topic %q", topic)
			}
		}
		if u.ID != "" && ValidateID(string(u.ID)) != nil || u.Type != "" && ValidateType(u.Type) != nil {
			t.Fatalf("accepted id %q, type %q", u.ID, u.Type)
		}
	})
}

// Spec: P-12, H-1, Z-18
func TestNewEventID(t *testing.T) {
	t.Parallel()
	seen := make(map[EventID]bool)
	for range 100 {
		id := NewEventID()
		if err := ValidateID(string(id)); err != nil {
			t.Fatal(err)
		}
		rest, ok := strings.CutPrefix(string(id), "urn:uuid:")
		// Position 14 holds the version: random, not derived from time.
		if !ok || len(rest) != 36 || rest[14] != '4' {
			t.Fatalf("%s is not a version 4 UUID URN", id)
		}
		if seen[id] {
			t.Fatalf("%s was returned twice", id)
		}
		seen[id] = true
	}
}
