package server_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// signer is a key pair of an issuer.
type signer struct{ private, public string }

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return signer{
		private: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		public:  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
	}
}

// token is a 1.0 token that grants both actions on everything.
func (s signer) token(t *testing.T, issuer, audience string) string {
	t.Helper()
	key, err := server.ParseSigningKey(s.private, "ES256")
	if err != nil {
		t.Fatal(err)
	}
	all := []server.MatcherSpec{{Match: "*"}}
	token, err := server.MintToken(server.TokenSpec{
		Dialect: server.Dialect1, Key: key, Issuer: issuer, Audience: audience,
		Expires: time.Now().Add(time.Hour), Publish: all, Subscribe: all,
	})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func statusOf(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return http.StatusOK
	}
	refused, ok := errors.AsType[*servertest.StatusError](err)
	if !ok {
		t.Fatal(err)
	}
	return refused.Status
}

const issuerOfTests = "https://issuer.example"

// Spec: Z-22, S-16.
func TestReloadEndsStreamsOfRemovedKeys(t *testing.T) {
	t.Parallel()
	leaving, staying, coming := newSigner(t), newSigner(t), newSigner(t)
	keys := func(signers ...signer) servertest.Option {
		return func(c *server.Config) {
			c.TrustedIssuers = issuerOfTests
			c.SubscriberJWTAlg, c.SubscriberJWTKey = "ES256", ""
			for _, s := range signers {
				c.SubscriberJWTKey += server.Secret(s.public)
			}
			c.Compat = "on"
		}
	}
	hub := servertest.Start(t, dbtest.New(t), keys(leaving, staying))
	open := func(token string) (*servertest.Stream, int) {
		t.Helper()
		stream, err := hub.TrySubscribe(t.Context(), servertest.Request{Query: url.Values{"match": {"a"}}, Token: token})
		if err == nil {
			t.Cleanup(stream.Close)
		}
		return stream, statusOf(t, err)
	}
	token := func(s signer) string { return s.token(t, issuerOfTests, hub.URL) }
	gone, _ := open(token(leaving))
	stays, _ := open(token(staying))
	anonymous, _ := open("")
	if _, status := open(token(coming)); status != http.StatusUnauthorized {
		t.Fatalf("a key that is not configured yet: status %d", status)
	}

	if _, err := hub.Reload(t.Context(), keys(staying, coming)); err != nil {
		t.Fatal(err)
	}
	if event, err := gone.TryNext(t.Context()); !errors.Is(err, servertest.ErrEnded) {
		t.Errorf("the stream of the removed key got %v, %v", event, err)
	}
	if _, status := open(token(leaving)); status != http.StatusUnauthorized {
		t.Errorf("the removed key: status %d", status)
	}
	if _, status := open(token(coming)); status != http.StatusOK {
		t.Errorf("the added key: status %d", status)
	}
	hub.Publish(t, url.Values{"topic": {"a"}, "data": {"after"}, "private": {"on"}})
	hub.Publish(t, url.Values{"topic": {"a"}, "data": {"public"}})
	for stream, want := range map[*servertest.Stream]string{stays: "after", anonymous: "public"} {
		if event := stream.Next(t); event.Data != want {
			t.Errorf("got %v, want %s", event, want)
		}
	}
}

// A reload that cannot be done changes nothing.
func TestReloadIsAllOrNothing(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	stream := hub.Subscribe(t, servertest.Request{
		Query: url.Values{"match": {"a"}}, Token: servertest.Token(t, servertest.SubscriberSecret, nil, []string{"*"}),
	})
	_, err := hub.Reload(t.Context(), func(c *server.Config) {
		c.SubscriberJWTKey = "another secret, as good as the one before it"
		c.PublisherJWTAlg = "RS256" // for which the key is none
	})
	if err == nil || !strings.HasPrefix(err.Error(), "MERCURE_PUBLISHER_JWT_KEY: ") {
		t.Fatalf("got %v", err)
	}
	hub.Publish(t, url.Values{"topic": {"a"}, "data": {"x"}, "private": {"on"}})
	if event := stream.Next(t); event.Data != "x" {
		t.Fatalf("got %v", event)
	}
}

func TestReloadNamesWhatTakesARestart(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	ignored, err := hub.Reload(t.Context(), func(c *server.Config) {
		c.Heartbeat = time.Second
		c.Addr = "127.0.0.1:1"
		c.PublisherJWTKey = "another secret, as good as the one before it"
	})
	if err != nil || !slices.Equal(ignored, []string{"MERCURE_ADDR", "MERCURE_HEARTBEAT"}) {
		t.Errorf("got %v, %v", ignored, err)
	}
	if status, _ := hub.Post(t, servertest.PublisherToken(t), "topic=a"); status != http.StatusUnauthorized {
		t.Errorf("the replaced secret: status %d", status)
	}
}

// The key is removed when the token has been verified and the stream is not open
// yet, so that there is none to end.
func TestKeyIsRemovedWhileAStreamOpens(t *testing.T) { // Spec: Z-22
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	conn := connect(t, hub)
	if err := conn.SetDeadline(time.Now().Add(servertest.Deadline)); err != nil {
		t.Fatal(err)
	}
	const body = "match=a"
	token := servertest.Token(t, servertest.SubscriberSecret, nil, []string{"*"})
	if _, err := fmt.Fprintf(conn, "QUERY /.well-known/mercure HTTP/1.1\r\nHost: h\r\n%s\r\n%s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		bearer(token), form, len(body)); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	// The body is asked for after the token has been looked at.
	if line, err := reader.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := reader.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Reload(t.Context(), func(c *server.Config) {
		c.SubscriberJWTKey = "another secret of the tests, long enough for HS256"
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusUnauthorized {
		t.Errorf("a token of a key that was removed is answered %d", response.StatusCode)
	}
	_ = conn.Close() // first: closing a body waits for its end
	_ = response.Body.Close()
}
