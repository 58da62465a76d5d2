package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// HubConfig says under which URL the world sees the hub.
type HubConfig struct {
	// Path is where the hub is served; always set.
	Path string
	// PublicURL pins the URL; nil: taken from each request.
	PublicURL *protocol.HubURL
	// Resource is the audience tokens must name; empty: the URL (V-17).
	Resource string
	// TrustedProxies may say with X-Forwarded-Proto and X-Forwarded-Host what
	// the client asked for, and with X-Forwarded-For who it is (Z-15).
	TrustedProxies []netip.Prefix
}

// hubResolver finds the URL a request was made to. URLs are kept, since
// patterns that were compiled for one share its parsed topics.
type hubResolver struct {
	config HubConfig

	mu    sync.Mutex
	known map[string]*protocol.HubURL
}

// These bound the memory, and the work under a lock, that requests with invented
// Host fields cost. A name and a port are shorter.
const (
	maxKnownHubs = 256
	maxHostBytes = 300
)

func newHubResolver(config HubConfig) *hubResolver {
	return &hubResolver{config: config, known: map[string]*protocol.HubURL{}}
}

// of returns the hub URL of a request and the audience it stands for.
func (h *hubResolver) of(r *http.Request) (hub *protocol.HubURL, resource string, err error) {
	hub = h.config.PublicURL
	if hub == nil {
		if hub, err = h.fromRequest(r); err != nil {
			return nil, "", err
		}
	}
	if h.config.Resource != "" {
		return hub, h.config.Resource, nil
	}
	return hub, hub.String(), nil
}

func (h *hubResolver) fromRequest(r *http.Request) (*protocol.HubURL, error) {
	scheme, host := "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if h.trusts(r.RemoteAddr) {
		if forwarded := firstOf(r.Header.Get("X-Forwarded-Proto")); forwarded != "" {
			scheme = forwarded
		}
		if forwarded := lastOf(r.Header.Values("X-Forwarded-Host")); forwarded != "" {
			host = forwarded
		}
	}
	if len(host) > maxHostBytes {
		return nil, notAHost(fmt.Errorf("a host of %d bytes", len(host)))
	}
	raw := scheme + "://" + host + h.config.Path
	h.mu.Lock()
	defer h.mu.Unlock()
	if hub, ok := h.known[raw]; ok {
		return hub, nil
	}
	hub, err := protocol.ParseHubURL(raw)
	// A host that is empty or holds a delimiter would move the boundary between
	// host and path, and with it the reserved namespace.
	if err == nil && (host == "" || strings.ContainsAny(host, "/\\@?#") || hub.Path() != h.config.Path) {
		err = errors.New("not a host: " + strconv.Quote(host))
	}
	if err != nil {
		return nil, notAHost(err)
	}
	if len(h.known) >= maxKnownHubs {
		clear(h.known)
	}
	h.known[raw] = hub
	return hub, nil
}

func notAHost(err error) error {
	return &problem{
		status: http.StatusBadRequest, detail: "The Host field, or the X-Forwarded-Host field of a proxy, is not a host name.",
		reason: "the URL of the hub cannot be taken from the request; MERCURE_PUBLIC_URL pins it: " + err.Error(),
	}
}

func (h *hubResolver) trusts(remoteAddr string) bool {
	if len(h.config.TrustedProxies) == 0 {
		return false
	}
	peer, err := netip.ParseAddrPort(remoteAddr)
	return err == nil && h.isProxy(peer.Addr().Unmap())
}

func (h *hubResolver) isProxy(address netip.Addr) bool {
	for _, proxy := range h.config.TrustedProxies {
		if proxy.Contains(address) {
			return true
		}
	}
	return false
}

func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return strings.TrimSpace(first)
}

// lastOf is what the trusted proxy itself wrote: some append to what they were
// sent, and that may be anybody's. The host decides about aud.
//
// Spec: Z-15.
func lastOf(fields []string) string {
	list := strings.Join(fields, ",")
	return strings.TrimSpace(list[strings.LastIndexByte(list, ',')+1:])
}
