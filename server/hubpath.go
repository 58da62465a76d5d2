package server

import (
	"fmt"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// ReservedPath returns the path under which only a hub with this MERCURE_PUBLIC_URL
// may publish, as the database is to know it.
//
// Spec: N-2.
func ReservedPath(publicURL string) (string, error) {
	hub, err := protocol.ParseHubURL(publicURL)
	if err != nil {
		return "", fmt.Errorf("MERCURE_PUBLIC_URL: %w", err)
	}
	return hub.Namespace(), nil
}
