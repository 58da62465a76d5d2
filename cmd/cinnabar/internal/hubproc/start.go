package hubproc

import (
	"context"
	"net/http"
	"os"
	"strings"
)

// Path is where a hub is at the address it serves.
const Path = "/.well-known/mercure"

// WithoutSettings is an environment without any setting of a hub.
func WithoutSettings(environ []string) []string {
	var list []string
	for _, entry := range environ {
		if !strings.HasPrefix(entry, "MERCURE_") && !strings.HasPrefix(entry, "DATABASE_URL") {
			list = append(list, entry)
		}
	}
	return list
}

// Ready asks a hub whether it is. The root is its URL without the path.
func Ready(ctx context.Context, client *http.Client, root string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, root+"/readyz", http.NoBody)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode == http.StatusOK
}

// LastLine of a log says most about why a hub does not start.
func LastLine(path string) string {
	content, err := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	if err != nil || lines[len(lines)-1] == "" {
		return "its log is empty"
	}
	return "the last line of its log is: " + lines[len(lines)-1]
}
