package protocol

import (
	"fmt"
	"sync"
	"testing"
)

// Spec: M-8, TP-6
func TestTopicIsParsedOncePerBase(t *testing.T) {
	t.Parallel()
	a, b := mustHub(t, defaultHub), mustHub(t, "https://other.example/hub")
	sameAsA := mustHub(t, defaultHub)
	for _, tc := range []struct {
		name, topic string
		shared      bool
		host        string
	}{
		{"absolute", "https://shop.example/x", true, "shop.example"},
		{"relative", "x", false, "hub.example.com"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			topic := NewTopic(tc.topic)
			first := topic.resolve(a)
			if first == nil || first.hostname != tc.host {
				t.Fatalf("got %+v, want host %s", first, tc.host)
			}
			if topic.resolve(a) != first || topic.resolve(sameAsA) != first {
				t.Error("the topic was parsed again for the same base")
			}
			if shared := topic.resolve(b) == first; shared != tc.shared {
				t.Errorf("shared between bases: %t, want %t", shared, tc.shared)
			}
			if topic.resolve(a) != first {
				t.Error("another base displaced the first")
			}
			if topic.Raw() != tc.topic {
				t.Errorf("got raw topic %q, want %q", topic.Raw(), tc.topic)
			}
		})
	}
}

func TestTopicBoundsItsCache(t *testing.T) {
	t.Parallel()
	topic := NewTopic("x")
	for i := range 3 * maxResolutions {
		hub := mustHub(t, fmt.Sprintf("https://h%d.example/hub", i))
		if got, want := topic.resolve(hub).hostname, fmt.Sprintf("h%d.example", i); got != want {
			t.Fatalf("got host %s, want %s", got, want)
		}
	}
	if depth := topic.resolutions.Load().depth; depth != maxResolutions {
		t.Errorf("the topic keeps %d results, want %d", depth, maxResolutions)
	}
}

func TestUnparsableTopicIsRememberedToo(t *testing.T) {
	t.Parallel()
	hub := mustHub(t, defaultHub)
	topic := NewTopic("http://[")
	if topic.resolve(hub) != nil || topic.find(hub) == nil {
		t.Error("want a remembered failure")
	}
}

// The race detector is the judge here.
func TestTopicsAreSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	hubs := []*HubURL{mustHub(t, defaultHub), mustHub(t, "https://other.example/hub")}
	topics := NewTopics([]string{"x", "https://shop.example/x", "urn:x", "http://["})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			m, err := NewURLPattern("*:*", hubs[i%2])
			if err != nil {
				t.Error(err)
				return
			}
			for range 20 {
				for _, topic := range topics {
					if got, want := m.Match(topic), topic.Raw() != "http://["; got != want {
						t.Errorf("%s: got %t, want %t", topic.Raw(), got, want)
					}
				}
			}
		})
	}
	wg.Wait()
	for i, want := range []int{2, 1, 1, 1} {
		if got := topics[i].resolutions.Load().depth; got != want {
			t.Errorf("%s was parsed %d times, want %d", topics[i].Raw(), got, want)
		}
	}
}
